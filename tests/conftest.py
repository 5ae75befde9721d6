import jax

# Broadcasting over ranks hides wrong axes; mav writes out every axis that it adds.
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    # What took long to compile is kept for the next run; `pytest --cache-clear` throws it away.
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

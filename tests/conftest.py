import jax

# Broadcasting across ranks hides wrong axes; mav writes out every axis that it adds.
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    # Repeated runs take what they compiled from pytest's cache; --cache-clear empties it.
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

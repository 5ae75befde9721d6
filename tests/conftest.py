import os
import pathlib
import subprocess
import sys

import jax
import pytest

# Compiling is most of what tests wait for; commands that they start read this too.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

# Broadcasting over ranks hides wrong axes; mav writes out every axis that it adds.
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tests of meshes divide work over eight; all others use the first.
jax.config.update("jax_num_cpu_devices", 8)


def pytest_configure(config):
    # What took long to compile is kept for the next run; `pytest --cache-clear` throws it away.
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_addoption(parser):
    text = "compare with the references as installed too"
    parser.addoption("--parity", action="store_true", help=text)


def pytest_generate_tests(metafunc):
    if "reference" in metafunc.fixturenames:
        kinds = ["stored", "live"] if metafunc.config.getoption("parity") else ["stored"]
        metafunc.parametrize("reference", kinds, indirect=True, scope="session")


@pytest.fixture(scope="session")
def reference(request, tmp_path_factory):
    """Folder of networks with inputs and outputs that mav did not compute."""
    stored = pathlib.Path(__file__).parent / "reference"
    if request.param == "stored":
        return stored
    folder = tmp_path_factory.mktemp("reference")
    subprocess.run([sys.executable, stored / "make.py", folder], check=True)
    return folder

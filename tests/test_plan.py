import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest

from mav import cli, plan, processes, program, sharding

CONFIG = f"{cli.__file__.rsplit('/', 2)[0]}/configs/prior.py:cutout"


def test_flops_of_products_convolutions_loops_and_branches():
    a, b = jnp.ones((30, 40)), jnp.ones((40, 50))
    product = 2 * 30 * 40 * 50
    count = lambda function, *args: program.count_flops(jax.make_jaxpr(function)(*args))
    assert count(jnp.matmul, a, b) == product
    assert count(jax.jit(jnp.matmul), a, b) == product
    loop = lambda a, b: jax.lax.scan(lambda c, _: (c, c[0] @ c[1]), (a, b), length=7)[1]
    assert count(loop, a, b) == 7 * product
    branch = lambda a, b: jax.lax.cond(True, lambda: a @ b, lambda: a @ b + a @ (2 * b))
    assert count(branch, a, b) == 2 * product
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
    convolve = lambda x, kernel: jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert count(convolve, x, kernel) == 2 * (2 * 8 * 8 * 5) * (3 * 3 * 3)


def test_the_bytes_on_one_chip_are_those_of_its_pieces():
    mesh = sharding.make_mesh(dict(fsdp=4, tensor=2))
    shapes = dict(a=dict(kernel=jax.ShapeDtypeStruct((16, 6), jnp.bfloat16)))
    assert plan.resident(sharding.placed(shapes, mesh)) == 2 * 16 * 6 / 8


@pytest.mark.parametrize("topology", ["v3:2x2", "v5e", "v5e:two", "v5e:2x2 "])
def test_an_unknown_slice_is_refused(topology):
    with pytest.raises(ValueError, match="is unknown; write a chip"):
        plan.describe(topology)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        (dict(SLURM_JOB_ID="7", SLURM_NTASKS="8"), False),  # a shell inside of an allocation
        (dict(SLURM_STEP_NUM_TASKS="8"), True),
        (dict(SLURM_STEP_NUM_TASKS="1"), False),
        (dict(OMPI_COMM_WORLD_SIZE="2"), True),
        (dict(TPU_WORKER_HOSTNAMES="a,b"), True),
        (dict(TPU_WORKER_HOSTNAMES="localhost"), False),
        (dict(KUBERNETES_SERVICE_HOST="1", JOB_COMPLETION_INDEX="0"), True),
    ],
    ids=str,
)
def test_launchers_are_told_apart(environment, expected):
    assert processes.launched_together(environment) == expected


def test_a_lost_process_is_told_from_other_errors(monkeypatch):
    wait = TimeoutError("Timed out while waiting for a barrier.")
    wait.__cause__ = RuntimeError("INTERNAL: Barrier failed because: task is set to ERROR")
    assert processes.lost(wait) is None  # there is no other
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert processes.lost(wait).startswith("INTERNAL: Barrier failed")
    assert processes.lost(ValueError("UNKNOWN: Gloo AllGather failed"))
    assert processes.lost(OSError(28, "No space left on device")) is None
    assert processes.lost(RuntimeError("RESOURCE_EXHAUSTED: Out of memory")) is None


def test_half_an_address_is_refused():
    with pytest.raises(ValueError, match="belong together"):
        processes.join("localhost:1", None, 0)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_small_step_is_planned_and_remembered(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command = ["plan", "--config", CONFIG, "--topology", "v5e:2x2", "--mesh", "fsdp=4"]
    command += ["--batch_size", "64"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "4 chips" in printed
    assert "FITS" in printed
    assert "all-gather" in printed
    assert cli.main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["cached"]
    assert report["fits"]
    assert report["limited_by"] in ("compute", "memory", "links")
    # 4 chips share what has a kernel; a v5e has 16 GB.
    assert 0 < report["memory"]["parameters"] < report["memory"]["total"] < report["limit"]

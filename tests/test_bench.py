import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import clip as clip_config
from configs import decoder as decoder_config
from configs import prior as prior_config
from mav import bench, cli, program

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"


def test_flops_are_those_of_the_matrix_products():
    a, b = jnp.ones((30, 40)), jnp.ones((40, 50))
    assert program.Program(jax.jit(jnp.matmul), a, b).flops == 2 * 30 * 40 * 50
    step = jax.jit(jax.value_and_grad(lambda a, b: jnp.sum(a @ b), argnums=(0, 1)))
    assert program.Program(step, a, b).flops == 3 * 2 * 30 * 40 * 50


def test_noise_fills_every_parameter_at_its_scale():
    shapes = dict(kernel=jnp.ones((3, 3, 20, 30)), scale=jnp.ones(500), bias=jnp.ones(500))
    found = bench.noise(jax.eval_shape(lambda: shapes), jax.random.key(0))
    assert all(np.all(leaf != 0) for leaf in found.values())
    assert found["kernel"].std() == pytest.approx(180**-0.5, rel=0.1)
    assert found["scale"].mean() == pytest.approx(1, abs=0.02)
    assert found["bias"].mean() == pytest.approx(0, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stage_is_timed_and_compared_with_single_precision(dtype):
    config = prior_config.get_config("cutout")
    config.data.batch_size, config.dtype = 4, dtype
    rows, error = bench.measure(config, clip_config.get_config("cutout"))
    forward, step = rows
    assert 0 < forward.seconds < step.seconds
    assert 2 < step.flops / forward.flops < 6  # the step looks at the pictures, too
    assert 0 < forward.bytes < step.bytes < 2**30
    assert error == 0 if dtype == "float32" else 1e-4 < error < 0.02


def test_what_does_not_fit_is_refused_before_it_takes_memory(monkeypatch, capsys):
    monkeypatch.setattr(program, "free_memory", lambda: 2**20)
    path = f"{CONFIGS / 'prior.py'}:cutout"
    assert cli.main(["bench", "--config", path, "--config.data.batch_size=4"]) == 2
    assert "GiB on each device" in capsys.readouterr().err


@pytest.mark.slow
def test_the_error_of_bfloat16_is_small_in_the_decoder():
    config = decoder_config.get_config("cutout,video")
    config.data.batch_size, config.dtype = 1, "bfloat16"
    _, error = bench.measure(config, clip_config.get_config("cutout"))
    assert error < 0.05

"""Meshes of eight devices, which conftest.py makes of one CPU."""

import functools
import importlib
import re

import jax
import numpy as np
import pytest

import noise
import tiny
from mav import cascade as cascade_lib
from mav import params as params_lib
from mav import recipe, sharding, stages

BATCH = 8
SLOW = pytest.mark.slow
MESHES = [
    dict(data=2, tensor=2, context=2),
    dict(data=8),
    dict(fsdp=4, context=2),
    dict(fsdp=8),
    dict(tensor=2),
    dict(context=8),
    dict(data=2, fsdp=2, tensor=2),
]


def make(
    stage, remat="none", scan=False, microbatches=1, trainable="all", batch_size=BATCH, **network
):
    """A recipe of the miniature cascade, CLIP's parameters, and a batch."""
    phase = "image" if stage in ("clip", "prior", "sr_768") else "video"
    config = importlib.import_module(f"configs.{stage}").get_config(f"cutout,{phase}")
    small = tiny.CONFIGS[stage]
    with config.unlocked():
        config.update({k: v for k, v in small.items() if k not in ("network", "inputs")})
        config.network, config.inputs = small["network"] | network, small.get("inputs", {})
    config.update(remat=remat, scan=scan, microbatches=microbatches)
    config.data.batch_size = batch_size
    # Keys' biases have gradients of rounding errors alone: eps keeps steps from being made of them.
    values = dict(trainable=trainable, name="adamw", warmup_steps=1, learning_rate=1e-2, eps=1e-4)
    config.optimizer.update(values)
    clip_stage = stages.build(tiny.CONFIGS["clip"])
    frozen = {"clip": clip_stage} if recipe.needs_clip(stages.build(config)) else {}
    parents = {name: tiny.params("clip") for name in frozen}
    size, frames = small.get("size", 8), small.get("frames", 1)
    rng = np.random.default_rng(0)
    batch = dict(frames=rng.integers(0, 256, (batch_size, frames, size, size, 3), np.uint8))
    if phase == "video":
        batch["fps"] = rng.uniform(1, 30, batch_size).astype(np.float32)
    else:
        batch["tokens"] = rng.integers(0, clip_stage.network.end_token, (batch_size, 12), np.int32)
        batch["tokens"][:, -1] = clip_stage.network.end_token
    return recipe.make_recipe(config, frozen), parents, batch


def compiled(trained, parents, batch, mesh):
    """The step, a state of noise and the batch on the mesh."""
    begin = lambda: trained.start(noise.params(stages.param_shapes(trained.stage), seed=0))
    layout = sharding.shard_like_parameters(jax.eval_shape(begin), mesh)
    state = jax.jit(begin, out_shardings=layout)()
    batch = sharding.shard_batch(batch, mesh, len(batch["frames"]))
    step = jax.jit(trained.step, out_shardings=(layout, None))
    return step.lower(state, batch, parents, jax.random.key(0)).compile(), state, batch


def train(trained, parents, batch, shape, steps=3):
    """Losses of the first steps on a mesh, and the parameters and moments after them."""
    mesh, found = sharding.make_mesh(shape), []
    with sharding.use(mesh):
        step, state, batch = compiled(trained, parents, batch, mesh)
        for _ in range(steps):
            state, metrics = step(state, batch, parents, jax.random.key(0))
            found.append(float(metrics["loss"]))
    return found, jax.device_get((state.params, state.opt_state))


def assert_same(found, expected):
    """The moments too, since AdamW takes the same steps with gradients twice as large."""
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)

    def close(path, leaf, other):
        bound = 1e-3 * np.abs(other).max() + 1e-6
        np.testing.assert_allclose(leaf, other, atol=bound, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(close, found[1], expected[1])


@functools.cache
def alone(stage):
    """What `train` finds on one device."""
    return train(*make(stage), dict(data=1))


@SLOW
@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_each_mesh_trains_as_one_device(shape):
    assert_same(train(*make("decoder"), shape), alone("decoder"))


@pytest.mark.parametrize("stage", ["clip", "sr_256", pytest.param("prior", marks=SLOW)])
def test_each_stage_trains_on_a_mesh_as_on_one_device(stage):
    assert_same(train(*make(stage), dict(fsdp=2, tensor=2, context=2)), alone(stage))


@SLOW
@pytest.mark.parametrize("remat", ["blocks", "products"])
def test_what_is_computed_again_is_the_same(remat):
    assert_same(train(*make("decoder", remat), dict(data=1)), alone("decoder"))


@SLOW
def test_a_loop_over_blocks_trains_on_a_mesh_as_none_does_on_one_device():
    deep = dict(depth=2)
    looped = train(*make("decoder", scan=True, **deep), dict(fsdp=2, tensor=2, context=2))
    assert_same(looped, train(*make("decoder", **deep), dict(data=1)))


def test_a_step_in_microbatches_follows_the_mean_of_their_gradients():
    whole, parents, batch = make("sr_768")
    parts, _, _ = make("sr_768", microbatches=2)
    params = noise.params(stages.param_shapes(whole.stage), seed=0)
    key = jax.random.key(0)
    gradients = lambda recipe: jax.jit(recipe._gradients)
    _, _, found = gradients(parts)(params, {}, batch, parents, key)
    halves = [{name: rows[i::2] for name, rows in batch.items()} for i in range(2)]
    expected = [
        gradients(whole)(params, {}, half, parents, k)[2]
        for half, k in zip(halves, jax.random.split(key), strict=True)
    ]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, mean)


def gathers(shape):
    """Kernels of a decoder on a mesh, and the sizes of the all-gathers that result in one's shape.

    Its batch is as long as no kernel, and its heads can be divided.
    """
    trained, parents, batch = make("decoder", batch_size=24, head_dim=4)
    mesh = sharding.make_mesh(shape)
    with sharding.use(mesh):
        program, state, _ = compiled(trained, parents, batch, mesh)
    kernels = [leaf for leaf in jax.tree.leaves(state.params) if leaf.ndim > 1]
    pattern = r"= \(?\w+\[([\d,]+)\][^\n]* all-gather(?:-start)?\("
    found = [tuple(map(int, dims.split(","))) for dims in re.findall(pattern, program.as_text())]
    shapes = {leaf.shape for leaf in kernels}
    return kernels, [np.prod(dims) for dims in found if dims in shapes]


@SLOW
@pytest.mark.parametrize("shape", [dict(tensor=2), dict(data=8), dict(context=8)], ids=str)
def test_parameters_are_not_gathered_where_each_device_has_what_it_needs(shape):
    kernels, found = gathers(shape)
    # Not nothing: the three results of the last kernel cannot be divided, and the keys of a few
    # context tokens are more than the kernel that they come from. Both happen in two passes: one is
    # for the prediction that the network is conditioned on.
    assert sum(found) < 0.15 * sum(leaf.size for leaf in kernels)


def test_divided_parameters_are_gathered_for_use_and_averages_are_not():
    kernels, found = gathers(dict(fsdp=8))
    divided = [leaf for leaf in kernels if not leaf.sharding.is_fully_replicated]
    assert len(divided) > 0.9 * len(kernels)
    for leaf in divided:
        assert leaf.addressable_shards[0].data.size == leaf.size // 8
    # Forward and backward pass read each of them; averages and moments stay where they are.
    assert 0 < len(found) <= 2 * len(divided)


@SLOW
def test_stills_count_as_much_as_frames_of_clips():
    trained, parents, batch = make("decoder")
    params = noise.params(stages.param_shapes(trained.stage), seed=0)
    stills = np.random.default_rng(1).integers(0, 256, (BATCH, 3, 8, 8, 3), np.uint8)
    frozen, key = trained.together(parents), jax.random.key(0)
    evaluate = jax.jit(
        lambda batch, key: stages.loss(trained.stage, trained.loss, params, batch, key, frozen)
    )
    found, metrics = evaluate(dict(batch, stills=stills), key)
    clips, _ = evaluate(batch, jax.random.split(key)[0])
    videos = dict(frames=stills.reshape(-1, 1, 8, 8, 3), fps=np.repeat(batch["fps"], 3))
    alone, _ = evaluate(videos, jax.random.split(key)[1])
    np.testing.assert_allclose(metrics["loss_stills"], alone, rtol=1e-5)
    np.testing.assert_allclose(found, (16 * clips + 3 * alone) / 19, rtol=1e-5)


def test_temporal_training_keeps_no_moments_of_what_it_leaves_alone():
    trained, _, _ = make("decoder", trainable="temporal")
    state = jax.eval_shape(trained.init, jax.random.key(0))
    moved = [n for n in params_lib.flatten(state.params) if params_lib.is_temporal(n)]
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert len(moments) == 2 * len(moved)


def test_a_gradient_that_is_not_finite_changes_nothing_but_the_counts():
    trained, parents, batch = make("sr_768")
    params = noise.params(stages.param_shapes(trained.stage), seed=0)
    state = trained.start(params)
    broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), params)
    step = jax.jit(trained.step)
    after, metrics = step(state.replace(params=broken), batch, parents, jax.random.key(0))
    assert not np.isfinite(metrics["loss"])
    assert (int(after.step), *after.skipped.tolist()) == (1, 1, 1)
    jax.tree.map(np.testing.assert_array_equal, after.params, broken)
    jax.tree.map(np.testing.assert_array_equal, after.ema_params, state.ema_params)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, state.opt_state)
    again, _ = step(after.replace(params=params), batch, parents, jax.random.key(0))
    assert again.skipped.tolist() == [1, 0]


@pytest.mark.parametrize(
    "shape", [dict(tensor=2, context=4), pytest.param(dict(context=8), marks=SLOW)], ids=str
)
def test_one_video_is_sampled_on_eight_devices_as_on_one(shape, tmp_path):
    tiny.write(tmp_path)
    sample = lambda cascade: cascade.text_to_video("a red ball", 3, cascade_lib.silent)
    video = sample(cascade_lib.load(tmp_path))
    assert video.shape == (76, 32, 32, 3)
    found = sample(cascade_lib.load(tmp_path, mesh=sharding.make_mesh(shape)))
    assert np.abs(found.astype(int) - video).max() <= 1


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (dict(rows=2), "unknown"),
        (dict(data=16), "16 devices, 8 are here"),
        (dict(data=-1, fsdp=-1), "at most one -1"),
        (dict(data=-1, fsdp=3), "divides the number"),
        (dict(data=0), "at least 1"),
    ],
)
def test_impossible_meshes_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(shape)


def test_the_rest_of_the_devices_goes_where_it_is_asked_to():
    assert sharding.make_mesh(dict(data=-1, tensor=2)).shape["data"] == 4
    assert sharding.make_mesh(dict(data=2)).size == 2


def test_a_mesh_is_written_as_lengths():
    assert sharding.parse_mesh("data=4, fsdp=64") == dict(data=4, fsdp=64)
    with pytest.raises(ValueError, match="is not of the form"):
        sharding.parse_mesh("data:4")


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(ValueError, match="batch_size=6 does not divide"):
        sharding.local_rows(sharding.make_mesh(dict(data=8)), 6)

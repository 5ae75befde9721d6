import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from ml_collections import ConfigDict

import noise
import tiny
from mav import diffusion, stages
from mav import params as params_lib
from noise import normal

KEY = jax.random.key(0)
FRAMES = 3


def built(name, **changes):
    """A stage in miniature, with clips of three frames."""
    config = {**tiny.CONFIGS[name], **changes}
    return stages.build(config | (dict(frames=FRAMES) if "frames" in config else {}))


@functools.cache
def random_params(stage):
    return noise.params(jax.eval_shape(functools.partial(stages.init_params, stage), KEY))


def batch_for(stage, size=4):
    side = stage.size if stage.name not in ("clip", "prior") else 8
    rng = np.random.default_rng(0)
    end = tiny.BPE.get_vocab_size() - 1
    tokens = rng.integers(0, end, (size, 12)).astype(np.int32)
    tokens[np.arange(size), 3 + np.arange(size)] = end
    return dict(
        frames=rng.integers(0, 256, (size, stage.frames, side, side, 3)).astype(np.uint8),
        tokens=tokens,
        fps=rng.uniform(1, 30, size).astype(np.float32),
    )


def frozen_clip():
    stage = built("clip")
    return {"clip": (stage, random_params(stage))}


OPTIONS = dict(
    cond_drop_prob=0.5, frame_skips=(2,), masks=dict(every=0.5, one=0.5), max_aug_level=300
)


# Configs


def test_a_config_read_from_json_and_one_from_python_build_the_same_stage():
    config = tiny.CONFIGS["decoder"]  # with lists, as JSON has them
    network = {k: tuple(v) if isinstance(v, list) else v for k, v in config["network"].items()}
    python = ConfigDict(dict(config, network=network))
    assert stages.build(config) == stages.build(python)
    assert hash(stages.build(config)) == hash(stages.build(python))  # both are one static argument


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(stage="decoder2"), "stage='decoder2' is unknown; choose one of clip, prior"),
        (
            dict(network=dict(wide=3)),
            "network of stage 'decoder' has no field wide; it has attention_le",
        ),
        (dict(process=dict(steps=3)), "process of stage 'decoder' has no field steps; it has clip"),
    ],
)
def test_unknown_names_in_a_config_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        stages.build({**tiny.CONFIGS["decoder"], **change})


@pytest.mark.parametrize(
    ("name", "table", "field"),
    [
        ("clip", "network", "text_width"),
        ("prior", "network", "head_dim"),
        ("sr_256", "network", "multipliers"),
        ("sr_256", "process", "schedule"),
        ("sr_256", "process", "num_timesteps"),
    ],
)
@pytest.mark.parametrize("kind", [dict, ConfigDict])
def test_a_field_that_is_needed_and_missing_is_named(name, table, field, kind):
    config = tiny.CONFIGS[name]
    part = {k: v for k, v in config[table].items() if k != field}
    with pytest.raises(ValueError, match=f"{table} of stage '{name}' lacks {field};"):
        stages.build(kind({**config, table: part}))
    with pytest.raises(ValueError, match=f"{table} of stage '{name}' is 5; it must be a table"):
        stages.build(kind({**config, table: 5}))
    with pytest.raises(ValueError, match="the config has no stage; set it to one of clip, prior"):
        stages.build(kind({table: part}))


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="dtype='float8' is unknown; choose one of float32, bfl"):
        stages.build(tiny.CONFIGS["decoder"], "float8")


# Conditions


def masks_of(kind, frames=16, batch=500):
    known, skip = stages.draw_masks(KEY, batch, frames, {kind: 1.0}, (3, 5))
    return np.asarray(known), np.asarray(skip)


def test_every_kth_frame_is_known_and_k_is_the_frame_skip():
    known, skip = masks_of("every")
    assert set(skip) == {3, 5}
    for row, k in zip(known, skip, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(row), np.arange(0, 16, int(k)))


@pytest.mark.parametrize("kind", ["first", "last"])
def test_the_first_or_last_few_frames_are_known(kind):
    known, skip = masks_of(kind)
    counts = known.sum(1).astype(int)
    assert set(counts) == set(range(1, 9))  # up to half of them
    for row, count in zip(known, counts, strict=True):
        assert (row[:count] if kind == "first" else row[16 - count :]).all()
    assert (skip == 1).all()


def test_both_ends_one_frame_or_none_are_known():
    known, skip = masks_of("ends")
    np.testing.assert_array_equal(known, np.tile([1] + 14 * [0] + [1], (500, 1)))
    assert (skip == 1).all()
    known, skip = masks_of("one")
    assert (known.sum(1) == 1).all()
    assert set(known.argmax(1)) == set(range(16))
    assert (skip == 1).all()
    known, skip = masks_of("none")
    assert (known == 0).all()
    assert (skip == 1).all()


def test_kinds_of_masks_are_as_frequent_as_the_mixture_says():
    mixture = dict(every=0.5, ends=0.3, none=0.2)
    known, skip = stages.draw_masks(KEY, 10_000, 16, mixture, (3,))
    counts = known.sum(1)  # 6, 2 and 0
    found = [np.mean(skip == 3), np.mean(counts == 2), np.mean(counts == 0)]
    np.testing.assert_allclose(found, [0.5, 0.3, 0.2], atol=0.02)  # four standard deviations


def test_unknown_masks_are_refused():
    with pytest.raises(ValueError, match=r"masks=\['middle'\] are unknown; choose among every"):
        stages.draw_masks(KEY, 2, 16, dict(middle=1.0), (3,))


def test_unknown_frames_are_zero_under_a_zero_mask():
    video, known = normal((2, 3, 4, 4, 3)), np.array([[1, 0, 0], [0, 1, 1]], np.float32)
    given = stages.keyframes(video, known)
    for i, j in np.ndindex(2, 3):
        assert (given["mask"][i, j] == known[i, j]).all()
        np.testing.assert_array_equal(given["keyframes"][i, j], video[i, j] * known[i, j])


def test_clip_is_shown_the_first_frame_alone():
    clip_stage, clip_params = frozen_clip()["clip"]
    video = normal((2, 3, 16, 16, 3))  # twice the size that CLIP sees
    other = video.copy()
    other[:, 1:] = 0
    embed = jax.jit(lambda video: stages.embed_first_frame(clip_stage, clip_params, video))
    np.testing.assert_array_equal(embed(video), embed(other))
    assert (embed(video) != embed(video[:, ::-1])).any()


def test_the_low_resolution_is_the_mean_over_areas():
    video = normal((2, 3, 6, 6, 3))
    low = stages.shrink(video, 3)
    for row, column in np.ndindex(2, 2):
        area = video[:, :, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        np.testing.assert_allclose(low[:, :, row, column], area.mean((2, 3)), atol=1e-6)


def test_super_resolution_is_told_the_enlarged_mean_over_areas():
    stage = built("sr_768")  # 16 to 32 pixels
    batch = batch_for(stage)
    options = dict(max_aug_level=0)
    x0, told = stages.super_resolution_example(stage, options, None, batch, KEY, {})
    np.testing.assert_allclose(x0, batch["frames"] / 127.5 - 1, atol=1e-6)
    small = np.asarray(x0).reshape(4, 1, 16, 2, 16, 2, 3).mean((3, 5))
    np.testing.assert_allclose(told["low_res"], stages.enlarge(small, 32), atol=1e-5)
    assert (told["aug_level"] == 0).all()
    # Cubic weights add up to one, and to the place itself.
    ramp = np.broadcast_to(np.arange(16.0)[:, None], (1, 1, 16, 16))[..., None].repeat(3, -1)
    wide = stages.enlarge(ramp, 32)[0, 0, 4:-4, 0, 0]
    np.testing.assert_allclose(wide, (np.arange(32)[4:-4] + 0.5) / 2 - 0.5, atol=1e-4)


def test_the_low_resolution_carries_the_noise_that_the_network_is_told():
    stage = built("sr_256")
    low, level = normal((2, FRAMES, 64, 64, 3)), np.array([0, 300])
    told = stages.low_res_condition(stage, low, 64, level, KEY)  # not enlarged
    np.testing.assert_array_equal(told["aug_level"], level)
    np.testing.assert_allclose(told["low_res"][0], low[0], atol=1e-6)
    bar = stage.process.schedule.alpha_bars[300]
    added = told["low_res"][1] - np.sqrt(bar) * low[1]
    np.testing.assert_allclose(np.mean(added), 0, atol=0.02)
    np.testing.assert_allclose(np.var(added), 1 - bar, rtol=0.05)


@pytest.mark.parametrize(("name", "shared"), [("sr_256", False), ("sr_768", True)])
def test_noise_on_the_low_resolution_is_shared_where_frames_are_seen_alone(name, shared):
    low = np.zeros((2, 4, 8, 8, 3), np.float32)
    told = stages.low_res_condition(built(name), low, 8, np.array([50, 50]), KEY)["low_res"]
    assert (told[:, :1] == told[:, 1:]).all() == shared
    assert (told[0] != told[1]).all()


# Losses


def test_timesteps_come_one_from_each_stratum_in_random_order():
    stage = built("decoder")
    draw = jax.jit(lambda key: stages.draw_timesteps(stage, key, 8))
    draws = np.stack([draw(jax.random.fold_in(KEY, i)) for i in range(200)])
    np.testing.assert_array_equal(np.sort(draws) // 125, np.tile(np.arange(8), (200, 1)))
    assert (np.diff(draws) < 0).any(axis=1).all()
    assert draws.min() < 10
    assert draws.max() > 990
    np.testing.assert_allclose(draws.mean(), 499.5, atol=3)  # of a stratum's 36 / sqrt(1600)


def test_timesteps_can_follow_a_logit_normal_distribution():
    found = np.sort(stages.draw_timesteps(built("decoder"), KEY, 1000, (0.4, 0.8)))
    borders = scipy.stats.norm(0.4, 0.8).ppf(np.arange(1001) / 1000)
    t = 1000 * scipy.special.expit(borders)
    assert (np.floor(t[:-1]) <= found).all()
    assert (found <= np.ceil(t[1:])).all()


def test_no_timestep_lies_beyond_the_last(monkeypatch):
    largest = np.nextafter(np.float32(1), np.float32(0))
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.full(shape, largest))
    assert stages.draw_timesteps(built("decoder"), KEY, 64).max() == 999


def test_every_other_step_is_told_what_the_network_predicts_of_the_noise_alone():
    def network(variables, x, t, *, last_x0, fps):
        return variables["params"] * x + 100 * last_x0 + fps[0]

    stage = types.SimpleNamespace(
        network=types.SimpleNamespace(apply=network, self_condition=True),
        process=diffusion.Process(prediction="x0"),
    )
    x, t, told = normal((2, 1, 2, 2, 3)), np.array([3, 3]), dict(fps=np.full(2, 0.25))
    draw = jax.jit(lambda scale, key: stages.draw_last_x0(stage, scale, x, t, told, key))
    draws = np.stack([draw(0.5, jax.random.key(i)) for i in range(100)])
    predicted = draws.any(axis=(1, 2, 3, 4, 5))
    assert 30 < predicted.sum() < 70
    right = np.clip(0.5 * x + 0.25, -1, 1)
    np.testing.assert_allclose(draws[predicted], np.tile(right, (predicted.sum(), 1, 1, 1, 1, 1)))
    key = jax.random.key(int(np.argmax(predicted)))
    assert jax.grad(lambda scale: draw(scale, key).sum())(0.5) == 0


# Softmax does not notice what is added to all its inputs; statistics are not trained.
UNTAUGHT = ("k/bias", "mean", "std")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("decoder", "interpolation")))
        for name in tiny.CONFIGS
    ],
)
def test_every_parameter_of_every_stage_learns(name):
    changes = {}
    if name == "decoder":  # by the hybrid loss
        process = dict(schedule="cosine", num_timesteps=1000, variance="learned_range")
        changes = dict(process=process)
    if name == "interpolation":  # the same network again: its coarsest level will do
        network = dict(tiny.CONFIGS[name]["network"], multipliers=[1], attention_levels=[0])
        changes = dict(network=network)
    stage = built(name, **changes)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(params, batch, clip_params):
        frozen = {"clip": (built("clip"), clip_params)}
        loss = lambda params: stages.loss(stage, OPTIONS, params, batch, KEY, frozen)
        return jax.value_and_grad(loss, has_aux=True)(params)

    params, clip_params = random_params(stage), frozen_clip()["clip"][1]
    (loss, metrics), slopes = run(params, batch_for(stage), clip_params)
    assert np.isfinite([loss, *metrics.values()]).all()
    if name == "clip":
        assert set(metrics) == {"accuracy"}
    else:
        assert {"mse", "mse_t0", "mse_t1", "mse_t2", "mse_t3"} <= set(metrics)
    slopes = params_lib.flatten(slopes)
    assert all(np.isfinite(slope).all() for slope in slopes.values())
    still = [name for name, slope in slopes.items() if not slope.any()]
    assert [name for name in still if not name.endswith(UNTAUGHT)] == []


def test_a_network_that_knows_the_answer_has_no_loss():
    frames = batch_for(built("sr_768"))["frames"]
    x0 = frames / np.float32(127.5) - 1
    network = types.SimpleNamespace(
        apply=lambda *arguments, **told: jnp.asarray(x0), temporal=False, aug_level=False
    )
    stage = dataclasses.replace(built("sr_768"), network=network)
    loss, _ = stages.loss(stage, OPTIONS, {}, dict(frames=frames), KEY, {})
    np.testing.assert_allclose(loss, 0, atol=1e-10)


def test_in_clips_eyes_frames_are_as_far_apart_as_their_embeddings():
    clip_stage, params = frozen_clip()["clip"]
    videos = [jnp.tanh(normal((2, 3, 12, 12, 3), seed)) for seed in (1, 2)]
    found = jax.jit(functools.partial(stages.perceptual_distance, clip_stage))(params, *videos)
    expected = np.zeros(2)
    for i, j in np.ndindex(2, 3):  # a tower of one block, of which nothing but the embedding counts
        one = [
            np.asarray(stages.embed_first_frame(clip_stage, params, v[i : i + 1, j : j + 1]))[0]
            for v in videos
        ]
        cosine = one[0] @ one[1] / np.linalg.norm(one[0]) / np.linalg.norm(one[1])
        expected[i] += (2 - 2 * cosine) / 3
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_perceptual_distance_is_added_to_the_loss():
    stage, batch = built("decoder"), batch_for(built("decoder"))
    params, frozen = random_params(stage), frozen_clip()
    loss = lambda options: jax.jit(
        lambda params: stages.loss(stage, options, params, batch, KEY, frozen)
    )(params)
    plain, _ = loss(OPTIONS)
    found, metrics = loss(OPTIONS | dict(perceptual=0.3))
    assert metrics["perceptual"] > 0
    np.testing.assert_allclose(found - plain, 0.3 * metrics["perceptual"], rtol=1e-3)


# Sampling


def test_guidance_goes_away_from_the_null_condition_and_keeps_the_conditional_variance():
    def network(variables, x, t, *, last_x0, drop_image, fps):
        assert variables == {"params": "params"}
        sizes = jnp.where(drop_image, 1.0, 10.0) * t * fps * last_x0[:, 0, 0, 0, 0]
        return jnp.broadcast_to(sizes[:, None, None, None, None], (*x.shape[:-1], 6))

    stage = types.SimpleNamespace(
        network=types.SimpleNamespace(apply=network, self_condition=True),
        process=diffusion.Process(variance="learned_range"),
    )
    told = dict(drop_image=np.array([False, False]), fps=np.array([1.0, 2.0]))
    null = dict(drop_image=np.array([True, True]))
    x, t, x0 = np.zeros((2, 1, 2, 2, 3)), np.array([3, 3]), np.ones((2, 1, 2, 2, 3))
    plain = stages.predictor(stage, "params", told, null)(x, t, x0)
    np.testing.assert_array_equal(plain[:, 0, 0, 0], [[30] * 6, [60] * 6])
    guided = stages.predictor(stage, "params", told, null, guidance_scale=2.0)(x, t, x0)
    np.testing.assert_array_equal(guided[:, 0, 0, 0], [[57] * 3 + [30] * 3, [114] * 3 + [60] * 3])

import importlib
import itertools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noise
import tiny
from mav import cascade as cascade_lib
from mav import checkpoint, export, sharding, stages, train
from mav import params as params_lib


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    path = tmp_path_factory.mktemp("cascade")
    tiny.write(path)
    return path


def small(stage, phase, parents, num_steps=4):
    """A shipped config, shrunk to seconds."""
    config = importlib.import_module(f"configs.{stage}").get_config(f"cutout,{phase}")
    config.update_from_flattened_dict({f"network.{k}": v for k, v in network(stage).items()})
    for name in ("size", "low_size", "frames"):
        if name in config and stage in tiny.CONFIGS and name in tiny.CONFIGS[stage]:
            config[name] = tiny.CONFIGS[stage][name] if phase == "video" or name != "frames" else 1
    if "inputs" in config:
        config.inputs.update(tiny.INPUTS)
    size = config.get("size", 8)
    config.data.update(dict(batch_size=2, size=size, crop=size, prefetch=2))
    if stage == "clip":
        config.data.tokenizer_captions = 200
    else:
        config.clip = str(parents)
    config.eval.update(dict(every=100, num_examples=1, num_steps=1))
    config.optimizer.warmup_steps = 1
    config.num_steps = num_steps
    config.log_every = 2
    return config


def network(stage):
    values = dict(tiny.CONFIGS[stage]["network"])
    for name in ("temporal", "fps", "keyframes"):
        values.pop(name, None)
    if stage == "clip":  # the captions give the bytes, 2 special tokens and merges
        values |= dict(vocabulary_size=330, end_token=329)
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def newest(workdir):
    """All arrays of a run's newest checkpoint."""
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(workdir.absolute() / "checkpoints") as manager:
        args = ocp.args.Composite(state=ocp.args.StandardRestore())
        return manager.restore(manager.latest_step(), args=args).state


def stopping(calls, function):
    """The function, with SIGTERM at one of its calls."""
    count = itertools.count(1)

    def call(*args):
        if next(count) == calls:
            signal.raise_signal(signal.SIGTERM)
        return function(*args)

    return call


STAGES = [("clip", "image"), ("prior", "image"), ("decoder", "video"), ("sr_256", "video")]


@pytest.mark.parametrize(("stage", "phase"), STAGES)
def test_stop_and_resume_equals_never_stopping_bit_for_bit(
    stage, phase, parents, tmp_path, monkeypatch
):
    train.run(small(stage, phase, parents), tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(sharding, "shard_batch", stopping(2, sharding.shard_batch))
        train.run(small(stage, phase, parents), tmp_path / "parts")
    assert int(newest(tmp_path / "parts")["step"]) == 2
    train.run(small(stage, phase, parents), tmp_path / "parts")
    whole, parts = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert int(whole["step"]) == 4
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_a_terminated_run_saves_where_it_is(parents, tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "shard_batch", stopping(1, sharding.shard_batch))
    train.run(small("sr_768", "image", parents), tmp_path)
    assert int(newest(tmp_path)["step"]) == 1


def test_a_run_terminated_while_it_logs_saves_after_the_next_step(parents, tmp_path, monkeypatch):
    usual = train.draw
    monkeypatch.setattr(train, "draw", lambda rows: stopping(1, usual)(rows))
    config = small("sr_768", "image", parents)
    config.eval.every = 1
    train.run(config, tmp_path)
    assert int(newest(tmp_path)["step"]) == 2


def test_interpolation_starts_as_its_decoder(parents, tmp_path):
    config = small("interpolation", "video", parents, num_steps=1)
    config.init = str(parents)
    config.optimizer.learning_rate = 0.0
    train.run(config, tmp_path)
    decoder = cascade_lib.load(parents)
    stage, params, _ = checkpoint.load_ema(tmp_path)
    video, t = noise.normal((1, 16, 8, 8, 3)), jnp.array([500])
    told = dict(image_embedding=noise.normal((1, 8)), fps=jnp.ones(1))
    filled = dict(frame_skip=jnp.ones(1), **stages.keyframes(video, jnp.ones((1, 16))))
    expected = decoder.stages["decoder"].network.apply(
        {"params": decoder.params["decoder"]}, video, t, **told
    )
    found = stage.network.apply({"params": params}, video, t, **told, **filled)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_temporal_training_leaves_all_other_parameters_alone(parents, tmp_path):
    config = small("decoder", "video", parents, num_steps=2)
    config.init = str(parents)
    config.optimizer.trainable = "temporal"
    train.run(config, tmp_path)
    before = params_lib.flatten(cascade_lib.load(parents).params["decoder"])
    after = params_lib.flatten(newest(tmp_path)["params"])
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved
    assert all(params_lib.is_temporal(name) for name in moved)


def test_the_learning_rate_rises_then_rests_then_falls_to_zero():
    config = small("decoder", "image", None).optimizer
    config.update(learning_rate=0.5, warmup_steps=4, cooldown=0.4)
    optimizer = train.make_optimizer(config, num_steps=10)
    params = dict(x=jnp.zeros(3))
    state, rates = optimizer.init(params), []
    for _ in range(11):
        update, state = optimizer.update(dict(x=jnp.ones(3)), state, params)
        rates.append(-float(update["x"][0]))  # Adam moves by the rate where gradients are constant
    falling = [0.5, 0.375, 0.25, 0.125, 0]
    np.testing.assert_allclose(rates, [0, 0.125, 0.25, 0.375, 0.5, 0.5, *falling], atol=1e-5)


def test_a_small_decoder_learns_one_batch(parents):
    config = small("decoder", "image", parents)
    config.optimizer.cooldown = 0.0
    stage = stages.build(checkpoint.to_json(config))
    loaded = cascade_lib.load(parents)
    frozen = {"clip": (loaded.stages["clip"], loaded.params["clip"])}
    colours = np.random.default_rng(0).integers(0, 256, (4, 1, 1, 1, 3)).astype(np.uint8)
    frames = np.broadcast_to(colours, (4, 1, 8, 8, 3))
    config.optimizer.learning_rate = 1e-2
    optimizer = train.make_optimizer(config.optimizer, config.num_steps)
    params = stages.init_params(stage, jax.random.key(0))
    state = train.TrainState(jnp.zeros((), int), params, params, optimizer.init(params))
    key, losses = jax.random.key(1), []
    options = dict(cond_drop_prob=0.0)
    names = {name: value[0] for name, value in frozen.items()}
    weights = {name: value[1] for name, value in frozen.items()}

    @jax.jit
    def step(state):
        batch = dict(frames=jnp.asarray(frames))
        return train.train_step(stage, options, optimizer, 0.9, state, batch, weights, names, key)

    for _ in range(200):
        state, metrics = step(state)
        losses.append(float(metrics["mse"]))
    # A network that learned nothing is left with the variance of the pixels.
    assert np.mean(losses[-50:]) < 0.4 * np.mean(losses[:5])


def test_finished_runs_become_a_cascade_that_samples(parents, tmp_path):
    for name in ("clip", "prior"):
        train.run(small(name, "image", parents, num_steps=1), tmp_path / name)
    config = small("decoder", "video", parents, num_steps=1)
    config.clip = str(tmp_path / "clip")
    train.run(config, tmp_path / "decoder")
    settings = tmp_path / "settings.json"
    params_lib.write_json(settings, dict(settings=dict(tiny.SETTINGS, size=8, frames=16)))
    runs = [tmp_path / name for name in ("clip", "prior", "decoder")]
    export.run(runs, tmp_path / "cascade", "float16", settings)
    cascade = cascade_lib.load(tmp_path / "cascade")
    video = cascade.text_to_video("a red ball", progress=cascade_lib.silent)
    assert video.shape == (16, 8, 8, 3)
    assert cascade.provenance["runs"]["decoder"]["step"] == 1

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import noise
import tiny
from mav import cascade as cascade_lib
from mav import checkpoint, export, folders, media, recipe, sharding, stages, train
from mav import params as params_lib
from mav.commands import config_files
from mav.data import sources


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    path = tmp_path_factory.mktemp("cascade")
    tiny.write(path)
    return path


def newest(workdir):
    """All arrays of a run's newest checkpoint."""
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(workdir.absolute() / "checkpoints") as manager:
        args = ocp.args.Composite(state=ocp.args.StandardRestore())
        return manager.restore(manager.latest_step(), args=args).state


def stopping(calls, function):
    """The function, with SIGTERM at one of its calls. The first batch is also compiled for."""
    count = itertools.count(1)

    def call(*args):
        if next(count) == calls:
            signal.raise_signal(signal.SIGTERM)
        return function(*args)

    return call


STAGES = [
    ("clip", "image"),
    ("prior", "image"),
    ("sr_768", "image"),
    *(
        pytest.param(*phase, marks=pytest.mark.slow)
        for phase in (
            ("decoder", "image"),
            ("decoder", "video"),
            ("interpolation", "video"),
            ("sr_256", "image"),
            ("sr_256", "video"),
        )
    ),
]


@pytest.mark.parametrize(("stage", "phase"), STAGES)
def test_stop_and_resume_equals_never_stopping_bit_for_bit(
    stage, phase, parents, tmp_path, monkeypatch
):
    train.run(tiny.small(stage, phase, parents), tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(sharding, "shard_batch", stopping(3, sharding.shard_batch))
        train.run(tiny.small(stage, phase, parents), tmp_path / "parts")
    assert int(newest(tmp_path / "parts")["step"]) == 2
    train.run(tiny.small(stage, phase, parents), tmp_path / "parts")
    whole, parts = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert int(whole["step"]) == 4
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_a_terminated_run_saves_where_it_is(parents, tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "shard_batch", stopping(2, sharding.shard_batch))
    train.run(tiny.small("sr_768", "image", parents), tmp_path)
    assert int(newest(tmp_path)["step"]) == 1


def test_a_run_terminated_while_it_logs_saves_after_the_next_step(parents, tmp_path, monkeypatch):
    usual = train.draw
    monkeypatch.setattr(train, "draw", lambda rows: stopping(1, usual)(rows))
    config = tiny.small("sr_768", "image", parents)
    config.eval.every = 1
    train.run(config, tmp_path)
    assert int(newest(tmp_path)["step"]) == 2


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(parents, tmp_path):
    config = tiny.small("sr_768", "image", parents)
    config.save_every = 1
    train.run(config, tmp_path)
    files = [f for f in (tmp_path / "checkpoints" / "4" / "state").rglob("*") if f.is_file()]
    for file in files:
        os.truncate(file, file.stat().st_size // 2)
    with pytest.warns(UserWarning, match="checkpoint .*4 is passed over, it cannot be read"):
        assert train.run(config, tmp_path) == 4
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 4]  # it went on from the third
    assert int(newest(tmp_path)["step"]) == 4
    (aside,) = (tmp_path / "damaged").iterdir()
    assert aside.name.startswith("4-")


def test_a_run_goes_on_with_its_own_config_only(parents, tmp_path):
    config = tiny.small("sr_768", "image", parents, num_steps=1)
    train.run(config, tmp_path)
    config.update(num_steps=2, log_every=1)
    config.optimizer.learning_rate = 0.5
    config.network.width = 16
    with pytest.raises(ValueError, match=r"network.width was 8, is 16; optimizer.learning_rate"):
        train.run(config, tmp_path)
    assert int(newest(tmp_path)["step"]) == 1


@pytest.mark.slow
def test_a_full_disk_ends_a_run_with_its_checkpoints_intact(parents, tmp_path):
    path, *values = tiny.train_arguments(parents)[1:]
    values.append("--config.mesh.data=1")
    long = [*values, "--config.num_steps=4"]
    train.run(config_files.read(path, [*values, "--config.num_steps=2"]), tmp_path / "run")
    # Files that may not grow stand in for a disk that is full.
    limited = ["bash", "-c", 'ulimit -f 40 && exec "$@"', "bash", sys.executable, "-m", "mav.cli"]
    full = subprocess.run(
        [*limited, "train", "--config", path, "--workdir", tmp_path / "run", *long],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert full.returncode == 2, full.stderr
    assert "a checkpoint could not be written" in full.stderr
    assert full.stderr.splitlines()[-1].startswith("mav train: ")
    assert int(newest(tmp_path / "run")["step"]) == 2
    assert train.run(config_files.read(path, long), tmp_path / "run") == 4


def test_a_run_that_cannot_go_on_stops_with_what_it_has_saved(parents, tmp_path):
    config = tiny.small("sr_768", "image", parents, num_steps=30)
    config.optimizer.learning_rate = 1e38  # so that nothing is finite after two steps
    config.max_skipped = 5
    with pytest.raises(ValueError, match=r"the gradients of [56] steps in a row were not finite"):
        train.run(config, tmp_path)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    logged = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert "loss" in logged[0]
    assert "loss" not in logged[-1]
    assert logged[-1]["skipped"] == newest(tmp_path)["skipped"][0] >= 5


@pytest.mark.slow
def test_samples_of_a_video_network_can_be_watched(parents, tmp_path):
    config = tiny.small("decoder", "video", parents, num_steps=2)
    config.eval.update(every=2, num_examples=3)
    train.run(config, tmp_path)
    video, _ = media.read(tmp_path / "samples" / "0000002.mp4")
    assert video.shape == (16, 2 * 8, 3 * 8, 3)  # real ones above those of the network


@pytest.mark.slow
def test_the_profiler_records_the_steps_that_it_is_asked_for(parents, tmp_path):
    config = tiny.small("sr_768", "image", parents, num_steps=3)
    config.profile_at = 2  # and is stopped by the end of the run
    train.run(config, tmp_path)
    assert list(tmp_path.rglob("*.xplane.pb"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_that_is_killed_twenty_times_ends_where_an_undisturbed_one_does(parents, tmp_path):
    rng = np.random.default_rng(0)
    arguments = [*tiny.train_arguments(parents), "--config.num_steps=1000", "--config.save_every=5"]

    def start(workdir):
        command = [sys.executable, "-m", "mav.cli", "train", *arguments, "--workdir", str(workdir)]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
        return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait() == 0
    for _ in range(20):
        run, steps = start(tmp_path / "parts"), tmp_path / "parts" / "checkpoints"
        before = newest_step(steps)
        while run.poll() is None and newest_step(steps) == before:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 1))  # in a step, or in the next save
        assert run.poll() is None
        run.kill()
        run.wait()
    assert start(tmp_path / "parts").wait() == 0
    whole, parts = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def newest_step(folder):
    return max((int(p.name) for p in folder.glob("*") if p.name.isdigit()), default=0)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(dict(data=2), dict(fsdp=2, tensor=2))], ids=str)
def test_a_run_goes_on_with_another_mesh(before, after, parents, tmp_path, monkeypatch):
    def run(name, mesh):
        config = tiny.small("sr_768", "image", parents)
        config.update(mesh=mesh, log_every=1)
        config.optimizer.learning_rate = 0.01
        train.run(config, tmp_path / name)
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    alone = run("alone", dict(data=1))
    with monkeypatch.context() as patch:
        patch.setattr(sharding, "shard_batch", stopping(3, sharding.shard_batch))
        assert len(run("parts", before)) == 2
    np.testing.assert_allclose(run("parts", after), alone, rtol=1e-3)
    assert abs(alone[2] / alone[0] - 1) > 0.01  # or starting anew would look alike


@pytest.mark.slow
def test_interpolation_starts_as_its_decoder(parents, tmp_path):
    config = tiny.small("interpolation", "video", parents, num_steps=1)
    config.init = str(parents)
    config.optimizer.learning_rate = 0.0
    train.run(config, tmp_path)
    decoder = cascade_lib.load(parents)
    stage, params, _ = checkpoint.load_ema(tmp_path)
    video, t = noise.normal((1, 16, 8, 8, 3)), jnp.array([500])
    told = dict(image_embedding=noise.normal((1, 8)), fps=jnp.ones(1))
    expected = decoder.stages["decoder"].network.apply(
        {"params": decoder.params["decoder"]}, video, t, **told
    )
    for known in (0, 1):  # what is known is added, see `residual` of the network
        given = dict(frame_skip=jnp.ones(1), **stages.keyframes(video, known * jnp.ones((1, 16))))
        found = stage.network.apply({"params": params}, video, t, **told, **given)
        np.testing.assert_allclose(found, expected + known * video, atol=1e-5)


def test_worker_processes_read_the_same_batches(parents):
    data = tiny.small("decoder", "video", parents).data
    tables = [ConfigDict(data.to_dict() | dict(workers=n)) for n in (0, 2)]
    source = sources.make(data, 4, 10, None)
    mesh = sharding.make_mesh(dict(data=1))
    with contextlib.ExitStack() as stack:
        open_batches = lambda table: contextlib.closing(train.load_batches(source, table, mesh, 3))
        alone, workers = (stack.enter_context(open_batches(table)) for table in tables)
        for step in range(3, 8):
            wanted, found = next(alone), next(workers)
            jax.tree.map(np.testing.assert_array_equal, found, wanted)
            np.testing.assert_array_equal(wanted["fps"][1], source[2 * step + 1]["fps"])


@pytest.mark.slow
def test_temporal_training_leaves_all_other_parameters_alone(parents, tmp_path):
    config = tiny.small("decoder", "video", parents, num_steps=2)
    config.init = str(parents)
    config.optimizer.trainable = "temporal"
    train.run(config, tmp_path)
    before = params_lib.flatten(cascade_lib.load(parents).params["decoder"])
    after = params_lib.flatten(newest(tmp_path)["params"])
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved
    assert all(params_lib.is_temporal(name) for name in moved)


def test_the_learning_rate_rises_then_rests_then_falls_to_zero():
    config = tiny.small("decoder", "image", None).optimizer
    config.update(learning_rate=0.5, warmup_steps=4, cooldown=0.4)
    rate = recipe.make_schedule(config, num_steps=10)
    expected = [0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.375, 0.25, 0.125, 0]
    np.testing.assert_allclose([rate(step) for step in range(11)], expected, atol=1e-6)
    # Adam moves by the rate where gradients are constant.
    optimizer, params = recipe.make_optimizer(config, rate), dict(x=jnp.zeros(3))
    state, moved = optimizer.init(params), []
    for _ in range(11):
        update, state = optimizer.update(dict(x=jnp.ones(3)), state, params)
        moved.append(-float(update["x"][0]))
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_muon_moves_hidden_matrices_alike_in_all_directions_and_the_rest_as_adam_does():
    config = tiny.small("decoder", "image", None).optimizer
    config.update(name="muon", clip_norm=1e9)
    rng = np.random.default_rng(0)
    steep = rng.normal(size=(36, 8)) * np.geomspace(1, 1e-2, 8)  # gradients of unlike sizes
    steep = steep.astype(np.float32)
    block = {"convolution_1": {"kernel": steep.reshape(3, 3, 4, 8), "bias": steep[0]}}
    grads = {"middle_block_0": block, "output": {"kernel": steep.reshape(3, 3, 4, 8)}}
    optimizer = recipe.make_optimizer(config, lambda step: 0.5)
    params = jax.tree.map(np.zeros_like, grads)
    moved, _ = optimizer.update(grads, optimizer.init(params), params)

    hidden = np.asarray(moved["middle_block_0"]["convolution_1"]["kernel"]).reshape(36, 8)
    lengths = np.linalg.svd(hidden, compute_uv=False)
    assert np.linalg.cond(steep) > 50
    assert lengths[0] / lengths[-1] < 2
    # Orthogonal columns of a matrix with this longest side, and AdamW's usual size of 0.2.
    np.testing.assert_allclose(np.sqrt(np.mean(hidden**2)), 0.5 * 0.2, rtol=0.3)
    assert np.sum(hidden * steep) < 0
    # Adam's first step is equally long for all values, against the sign of the gradient.
    for found, grad in (
        (moved["output"]["kernel"], grads["output"]["kernel"]),
        (moved["middle_block_0"]["convolution_1"]["bias"], block["convolution_1"]["bias"]),
    ):
        np.testing.assert_allclose(found, -np.abs(found).max() * np.sign(grad), rtol=1e-3)
    with pytest.raises(ValueError, match=r"optimizer\.name='sgd' must be 'adamw' or 'muon'"):
        recipe.make_optimizer({**config, "name": "sgd"}, lambda step: 0.5)


@pytest.mark.slow
def test_a_small_decoder_learns_one_batch(parents):
    config = tiny.small("decoder", "image", parents)
    config.optimizer.update(cooldown=0.0, learning_rate=1e-2, ema_decay=0.9)
    config.loss.cond_drop_prob = 0.0
    config.data.batch_size = 4
    clip_stage, clip_params = folders.load_stage(parents, "clip")
    decoder = recipe.make_recipe(config, {"clip": clip_stage})
    colours = np.random.default_rng(0).integers(0, 256, (4, 1, 1, 1, 3)).astype(np.uint8)
    batch = dict(frames=jnp.asarray(np.broadcast_to(colours, (4, 1, 8, 8, 3))))
    state, step, losses = decoder.init(jax.random.key(0)), jax.jit(decoder.step), []
    for _ in range(200):
        state, metrics = step(state, batch, {"clip": clip_params}, jax.random.key(1))
        losses.append(float(metrics["mse"]))
    # A network that learned nothing is left with the variance of the pixels.
    assert np.mean(losses[-50:]) < 0.4 * np.mean(losses[:5])


@pytest.mark.slow
def test_finished_runs_become_a_cascade_that_samples(parents, tmp_path):
    for name in ("clip", "prior"):
        train.run(tiny.small(name, "image", parents, num_steps=1), tmp_path / name)
    config = tiny.small("decoder", "video", parents, num_steps=1)
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

"""Invariant 8: converted weights equal the reference implementation, component by component.

The folders under `tests/reference` hold networks, inputs and outputs of diffusers and transformers,
written by `tests/reference/make.py`; with `--parity`, that makes them anew and these run on both.
"""

import functools
import importlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
from unittest import mock

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import mav
from mav import cascade, checkpoint, cli, diffusion, samplers, stages, tokenizer, train
from mav import params as params_lib
from mav.convert import clip as clip_layout
from mav.convert import torch_layout, unclip
from mav.convert.torch_layout import Component
from noise import normal

STORED = pathlib.Path(__file__).parent / "reference"


def cases(kind):
    return sorted(path.name for path in (STORED / kind).iterdir())


def arrays(folder):
    with np.load(folder / "reference.npz") as file:
        return dict(file)


def build(config, sources):
    """A converted network: its stage and parameters."""
    stage = stages.build(dict(config, process=config.get("process", PROCESS)))
    table = {name for _, table in sources for name in table}
    flat = {name: torch_layout.read(sources, name).astype(np.float32) for name in table}
    return stage, params_lib.unflatten(flat)


PROCESS = dict(schedule="cosine", num_timesteps=1000)


# Compiling takes nearly all of the time here, so XLA may save its optimisations.
@functools.partial(
    jax.jit,
    static_argnames=("network", "method"),
    compiler_options={"xla_backend_optimization_level": 0},
)
def apply(network, params, arguments, named, method):
    return network.apply({"params": params}, *arguments, **named, method=method)


def run(stage, params, *arguments, method=None, **named):
    return np.asarray(apply(stage.network, params, arguments, named, method))


def assert_close(found, wanted):
    assert found.std() > 0.05  # that there is something to compare
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=0)


@pytest.fixture
def scheduler(tmp_path):
    """A scheduler's folder as the pipeline's prior or decoder has it."""

    def write(**config):
        (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
        return tmp_path

    return write


@pytest.mark.parametrize("name", cases("prior"))
def test_the_prior_equals_the_reference(reference, scheduler, name):
    folder = reference / "prior" / name
    config, sources, _ = unclip.prior_stage(Component(folder / "prior"), scheduler())
    stage, params = build(config, sources)
    a = arrays(folder)
    text = {k: a[k] for k in ("text_embedding", "text_states", "text_mask")}
    assert_close(run(stage, params, a["x"], a["t"], **text), a["output"])
    assert_close(run(stage, params, a["x"], method="unwhiten"), a["unwhitened"])


@pytest.mark.parametrize("name", cases("decoder"))
@pytest.mark.parametrize("given", ["all", "no_image", "no_text"])
def test_the_decoder_equals_the_reference(reference, scheduler, name, given):
    folder = reference / "decoder" / name
    unet = Component(folder / "decoder")
    learned = "learned_range" if unet["out_channels"] == 6 else "fixed_small_log"
    config, sources, _ = unclip.decoder_stage(
        unet, Component(folder / "text_proj"), scheduler(variance_type=learned)
    )
    a = arrays(folder)
    cond = {k: a[k] for k in ("image_embedding", "text_embedding", "text_states", "text_mask")}
    cond["drop_image"] = np.full(2, given == "no_image")
    wanted = a["output_without_image" if given == "no_image" else "output"]
    if given == "no_text":  # a network that takes none
        config["network"]["text"] = False
        sources = [(c, {k: v for k, v in t.items() if "/text_" not in k}) for c, t in sources]
        wanted = a["output_without_text"]
    stage, params = build(config, sources)
    assert stage.network.learns_variance == (learned == "learned_range")
    x = a["x"][:, None]
    assert_close(run(stage, params, x, a["t"], **cond)[:, 0], wanted)


@pytest.mark.parametrize("name", cases("super_resolution"))
def test_the_super_resolution_equals_the_reference(reference, scheduler, name):
    folder = reference / "super_resolution" / name
    component = Component(folder / "super_res_first")
    config, sources, _ = unclip.super_resolution_stage("sr_256", component, scheduler())
    stage, params = build(config, sources)
    a = arrays(folder)
    found = run(stage, params, a["x"][:, None], a["t"], low_res=a["low_res"][:, None])
    assert_close(found[:, 0], a["output"])


@pytest.mark.parametrize("name", cases("clip"))
def test_clip_equals_the_reference(reference, name):
    component = Component(reference / "clip" / name / "clip")
    widths = dict(projection_dim=component["projection_dim"])
    parts = {}
    for kind in ("text", "vision"):
        parts[kind] = Component(component.folder, (f"{kind}_",))
        parts[kind].config = dict(component[f"{kind}_config"], **widths)
    network = clip_layout.text_fields(parts["text"], 29) | clip_layout.image_fields(parts["vision"])
    table = clip_layout.text_table(network["text_depth"])
    table |= clip_layout.image_table(network["image_depth"])
    table["logit_scale"] = ("logit_scale", torch_layout.keep)
    stage, params = build(dict(stage="clip", network=network), [(component, table)])

    a = arrays(reference / "clip" / name)
    tokens = a["tokens"]
    plain = stages.Stage("clip", stage.network.clone(normalized=False))
    mean, std = np.float32(stage.network.image_mean), np.float32(stage.network.image_std)
    images = 2 * (a["pixels"] * std + mean) - 1  # back to [-1, 1]
    embedding, states, mask = apply(plain.network, params, (tokens,), {}, "encode_text")
    np.testing.assert_array_equal(
        mask, np.arange(9)[None] <= np.argmax(tokens == 29, axis=1)[:, None]
    )
    assert_close(np.asarray(states)[mask], a["text_states"][mask])
    assert_close(np.asarray(embedding), a["text_embedding"])
    assert_close(run(plain, params, images, method="encode_image"), a["image_embedding"])
    for network in (plain, stage):
        assert_close(run(network, params, tokens, images), a["logits"])


@pytest.mark.parametrize("name", cases("scheduler"))
@pytest.mark.parametrize("num_steps", [2, 7, 25])
def test_a_sampler_step_equals_the_schedulers(reference, name, num_steps):
    """Every step of a schedule alone, with the reference's noise."""
    folder = reference / "scheduler" / name
    process = stages.build(
        dict(
            stage="sr_256",
            network=dict(width=8, multipliers=[1], depth=1),
            process=unclip.process(folder / "scheduler"),
        )
    ).process
    a = {k: v for k, v in arrays(folder).items() if k.startswith(f"{num_steps}_")}
    x, noise, outputs, wanted = (
        a[f"{num_steps}_{k}"] for k in ("x", "noise", "outputs", "stepped")
    )
    rows = samplers.table(process, "ddpm", num_steps, "linspace")
    for i in range(num_steps):
        nothing = np.zeros_like(x[:1])
        state = samplers.State(x[i : i + 1], nothing, nothing, jax.random.key(0))
        found = step(process, state, rows, i, outputs, noise).x
        np.testing.assert_allclose(found, wanted[i : i + 1], atol=1e-4, rtol=1e-5)


def step(process, state, rows, i, outputs, noise):
    """One step of a table, whose network output and noise are given."""
    row = {k: v[i : i + 1] for k, v in rows.items()}
    with mock.patch.object(jax.random, "normal", return_value=noise[i : i + 1]):
        return samplers.advance(lambda *_: outputs[i : i + 1], process, state, row)


@pytest.mark.parametrize("sampler", cases("solver"))
@pytest.mark.parametrize("num_steps", [1, 2, 5, 10])
def test_a_sampler_takes_the_way_of_the_solver(reference, sampler, num_steps):
    a = arrays(reference / "solver" / sampler)
    start, noise, outputs, way, timesteps = (
        a[f"{num_steps}_{k}"] for k in ("start", "noise", "outputs", "way", "timesteps")
    )
    process = diffusion.Process(prediction="x0", clip=None)
    rows = samplers.table(process, sampler, num_steps, "trailing")
    np.testing.assert_array_equal(rows["t"], timesteps)
    nothing = np.zeros_like(start[None])
    state = samplers.State(start[None], nothing, nothing, jax.random.key(0))
    for i in range(num_steps):
        state = step(process, state, rows, i, outputs, noise)
        np.testing.assert_allclose(state.x[0], way[i], atol=1e-4)


def test_timesteps_are_the_schedulers(reference):
    a = arrays(reference / "scheduler" / "prior")
    for n in range(2, 130):
        found = samplers.sampling_timesteps(n, 1000, "linspace")
        np.testing.assert_array_equal(found, a[f"timesteps_{n}"], err_msg=str(n))


# The whole pipeline, as users meet it


@pytest.fixture(scope="module")
def converted(reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "karlo"
    assert cli.main(["convert", "unclip", str(reference / "pipeline"), str(folder)]) == 0
    return folder


def test_a_converted_cascade_samples_the_same_images(reference, converted):
    a = arrays(reference / "pipeline")
    loaded = mav.load(converted)
    changes = dict(
        steps=dict(prior=5, decoder=6, sr_256=4),
        guidance_scale=dict(prior=2.0, decoder=3.0),
        size=32,
    )
    for seed, prompt in enumerate(a["prompts"]):
        found = loaded.text_to_image(str(prompt), seed, cascade.silent, **changes)
        wanted = a["images"][seed] * 255
        assert wanted.std() > 10
        # Of 255 levels. A random network enlarges what rounding leaves.
        assert np.abs(found - wanted).max() < 4
        assert np.abs(found - wanted).mean() < 0.4


@pytest.mark.parametrize("layout", ["tokenizer", "tokenizer_in_one_file"])
def test_ids_are_the_references(reference, layout):
    a = arrays(reference / "pipeline")
    bpe = tokenizer.read_released(reference / "pipeline" / layout)
    tokens = tokenizer.Tokenizer(bpe, a["ids"].shape[1], padding=0)
    texts = [str(text) for text in a["texts"]]
    np.testing.assert_array_equal(tokens(texts), a["ids"])


def test_a_converted_cascade_samples_from_the_command_line(converted, tmp_path, capsys):
    out = tmp_path / "ball.png"
    arguments = ["sample", "a red ball", "--cascade", str(converted), "--size", "16"]
    arguments += ["--steps", "prior=2", "--steps", "decoder=2", "--out", str(out)]
    assert cli.main([*arguments, "--image"]) == 0
    assert mav.media.read_image(out).shape == (16, 16, 3)
    assert cli.main([*arguments[:-1], str(tmp_path / "ball.mp4")]) == 2
    assert "frames=1 makes an image; say so with --image" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["decoder", "interpolation", "sr_256"])
def test_training_on_videos_starts_from_a_converted_stage(converted, tmp_path, name):
    """Inflated by `mav train`, every frame is what the image network makes of it."""
    source = name.replace("interpolation", "decoder")
    parent = params_lib.read_json(converted / source / "config.json")
    as_tuples = lambda d: {k: tuple(v) if isinstance(v, list) else v for k, v in d.items()}
    config = importlib.import_module(f"configs.{name}").get_config("karlo,video")
    config.network.update(as_tuples(parent["network"]))
    config.size, config.frames, config.dtype = 16, 2, "float32"
    if name == "sr_256":
        config.low_size = 8
    else:
        config.inputs.update(parent["inputs"])
    data = dict(videos="cutout", batch_size=1, size=16, crop=16, threads=1, prefetch=1)
    config.data.update(data)
    config.clip = config.init = str(converted)
    config.optimizer.learning_rate = 0.0
    config.num_steps = config.mesh.data = 1
    config.eval.update(num_examples=1, num_steps=1)
    train.run(config, tmp_path)

    video, params, _ = checkpoint.load_ema(tmp_path)
    cascade_before = mav.load(converted)
    image = cascade_before.stages[config.init_stage]
    x, t = normal((1, 2, 16, 16, 3)), np.array([400])
    text = cascade_before.embed_text("a red ball", 1)[0]
    told = dict(text, image_embedding=normal((1, 16)), low_res=x[:, ::-1], fps=np.ones(1))
    filled = dict(frame_skip=np.ones(1), **stages.keyframes(x, np.ones((1, 2))))
    found = run(video, params, x, t, **told, **filled)
    before = cascade_before.params[config.init_stage]
    for i in range(2):
        one = told | dict(low_res=told["low_res"][:, i : i + 1])
        right = run(image, before, x[:, i : i + 1], t, **one)
        np.testing.assert_allclose(found[:, i], right[:, 0], atol=2e-5)


def copied(reference, tmp_path):
    return pathlib.Path(shutil.copytree(reference / "pipeline", tmp_path / "pipeline"))


def convert(source, destination, *more):
    return cli.main(["convert", "unclip", str(source), str(destination), *map(str, more)])


def rewrite(path, change):
    """Changes the tensors of a weights file."""
    tensors = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(change(tensors), path)


def test_converting_again_changes_nothing_and_other_weights_are_refused(
    reference, tmp_path, capsys
):
    source, folder = copied(reference, tmp_path), tmp_path / "karlo"
    assert convert(source, folder) == 0
    state = lambda: {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}
    before = state()
    assert convert(source, folder) == 0
    assert "already made of these files" in capsys.readouterr().out

    def refused():
        assert convert(source, folder) == 2
        assert "was not made of these files" in capsys.readouterr().err
        assert state() == before

    weights = source / "prior" / "diffusion_pytorch_model.safetensors"
    usual = weights.read_bytes()
    rewrite(weights, lambda t: {k: 2 * v for k, v in t.items()})  # of the same shapes
    refused()
    weights.write_bytes(usual)
    scheduler = source / "decoder_scheduler" / "scheduler_config.json"
    settings = json.loads(scheduler.read_text())
    scheduler.write_text(json.dumps(settings | dict(num_train_timesteps=500)))
    refused()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_file_keeps_the_precision_of_its_source(reference, tmp_path, dtype):
    source = copied(reference, tmp_path)
    weights = source / "prior" / "diffusion_pytorch_model.safetensors"
    rewrite(weights, lambda t: {k: v.astype(dtype) for k, v in t.items()})
    assert convert(source, tmp_path / "karlo") == 0
    before = safetensors.numpy.load_file(weights)["proj_in.weight"]
    after = safetensors.numpy.load_file(tmp_path / "karlo" / "prior" / "params.safetensors")
    assert after["image_embedding/kernel"].dtype == dtype
    np.testing.assert_array_equal(after["image_embedding/kernel"], before.T)


def test_shards_with_an_index_are_one_network(reference, converted, tmp_path):
    source = copied(reference, tmp_path)
    folder = source / "decoder"
    whole = folder / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.numpy.load_file(whole)
    where = {}
    for i, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2])):
        shard = f"diffusion_pytorch_model-{i + 1:05d}-of-00002.safetensors"
        safetensors.numpy.save_file({name: tensors[name] for name in names}, folder / shard)
        where |= dict.fromkeys(names, shard)
    whole.unlink()
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps(dict(weight_map=where)))
    assert convert(source, tmp_path / "karlo") == 0
    found = (tmp_path / "karlo" / "decoder" / "params.safetensors").read_bytes()
    assert found == (converted / "decoder" / "params.safetensors").read_bytes()

    index.write_text(json.dumps(dict(weight_map=dict.fromkeys(tensors, "../secret.safetensors"))))
    with pytest.raises(ValueError, match=r"'\.\./secret\.safetensors', which is not a file beside"):
        Component(folder)


WEIGHTS = "prior/diffusion_pytorch_model.safetensors"


def without(name):
    return lambda path: rewrite(path, lambda t: {k: v for k, v in t.items() if k != name})


def replaced(name, change):
    return lambda path: rewrite(path, lambda t: {**t, name: change(t.get(name))})


def truncated(path):
    path.write_bytes(path.read_bytes()[:-10])


def pickled(path):
    path.with_suffix(".bin").write_bytes(b"\x80\x04.")
    path.unlink()


def changed(**entries):
    def change(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return change


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (
            WEIGHTS,
            without("proj_in.weight"),
            r"prior does not fit .*missing: proj_in\.weight \(1\)",
        ),
        (WEIGHTS, replaced("more", lambda _: np.zeros(2, np.float16)), r"unused: more \(1\)"),
        (
            WEIGHTS,
            replaced("proj_in.bias", lambda x: x[:-1]),
            r"proj_in\.bias is \(15,\), but image_embedding/bias is \(16,\)",
        ),
        (WEIGHTS, replaced("clip_std", lambda x: x * np.nan), r"clip_std has non-finite"),
        (WEIGHTS, replaced("clip_std", lambda x: x.astype(np.int32)), r"clip_std as I32"),
        (WEIGHTS, truncated, r"diffusion_pytorch_model\.safetensors is damaged"),
        (WEIGHTS, pickled, r"diffusion_pytorch_model\.bin, which can run code"),
        (WEIGHTS, pathlib.Path.unlink, r"prior holds no weights"),
        ("prior/config.json", pathlib.Path.unlink, r"prior has no config\.json"),
        (
            "prior/config.json",
            changed(norm_in_type="layer"),
            r"norm_in_type='layer'; mav's network",
        ),
        ("decoder/config.json", changed(act_fn="gelu"), r"act_fn='gelu'"),
        ("decoder/config.json", changed(mid_block_type="Other"), r"mid_block_type=Other"),
        ("decoder/config.json", changed(block_out_channels=[8, 12]), r"multiples of the first"),
        ("text_encoder/config.json", changed(hidden_act="relu"), r"hidden_act='relu'"),
        (
            "decoder_scheduler/scheduler_config.json",
            changed(variance_type="fixed_small_log"),
            r"6 output channels, which does not go with variance_type",
        ),
        (
            "prior_scheduler/scheduler_config.json",
            changed(_class_name="DDIMScheduler"),
            r"_class_name='DDIMScheduler'",
        ),
        ("model_index.json", changed(_class_name="Other"), r"holds a Other; mav converts"),
        ("tokenizer/vocab.json", lambda path: path.write_text("{}"), r"no byte pairs of CLIP"),
    ],
)
def test_what_does_not_fit_is_refused_with_names_and_nothing_is_written(
    reference, tmp_path, capsys, file, damage, message
):
    source = copied(reference, tmp_path)
    damage(source / file)
    assert convert(source, tmp_path / "karlo") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, error), error
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]


def test_the_licence_is_shown_and_kept(reference, tmp_path, capsys):
    source = copied(reference, tmp_path)
    (source / "README.md").write_text("---\nlicense: some-licence\n---\n# a model\n")
    (source / "LICENSE.txt").write_text("what one may do")
    assert convert(source, tmp_path / "a") == 0
    assert "licence of the weights: some-licence" in capsys.readouterr().out
    assert mav.load(tmp_path / "a").provenance["licence"] == "some-licence"
    assert (tmp_path / "a" / "LICENSE.txt").read_text() == "what one may do"
    (source / "README.md").unlink()
    assert convert(source, tmp_path / "b") == 0
    assert "creativeml-openrail-m" in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["none", "pipeline", "component"])
def test_the_image_tower_comes_from_where_it_lies(reference, converted, tmp_path, capsys, layout):
    source = copied(reference, tmp_path)
    other = tmp_path / "variations"
    tower = other / "image_encoder" if layout == "pipeline" else other
    other.mkdir()
    shutil.move(source / "image_encoder", tower if layout == "pipeline" else tmp_path / "tower")
    named = dict(none=[], pipeline=[other], component=[tmp_path / "tower"])[layout]
    more = ["--image_encoder", *named] if named else []
    assert convert(source, tmp_path / "karlo", *more) == 0
    assert ("no image tower" in capsys.readouterr().out) == (layout == "none")
    found = safetensors.numpy.load_file(tmp_path / "karlo" / "clip" / "params.safetensors")
    whole = safetensors.numpy.load_file(converted / "clip" / "params.safetensors")
    wanted = {k: v for k, v in whole.items() if layout != "none" or k.startswith("text/")}
    assert sorted(found) == sorted(wanted)
    for name in found:
        np.testing.assert_array_equal(found[name], wanted[name])


MEASURED = """
import resource, sys
from mav import cli
from mav.convert import unclip
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
source = unclip.pathlib.Path(sys.argv[1])
bpe = unclip.tokenizer.read_released(source / "tokenizer")
unclip.stage_shapes(unclip.read_stages(source, bpe, None)["prior"].config)
before = peak()
assert cli.main(["convert", "unclip", *sys.argv[1:]]) == 0
print("took", peak() - before)
"""


@pytest.mark.slow
def test_memory_stays_near_the_largest_component(reference, tmp_path):
    source = copied(reference, tmp_path)
    changed(num_attention_heads=16, attention_head_dim=64, num_layers=16)(
        source / "prior/config.json"
    )
    config, sources, _ = unclip.read_stages(
        source, tokenizer.read_released(source / "tokenizer"), None
    )["prior"]
    shapes = unclip.stage_shapes(config)
    as_stored = {
        torch_layout.transpose: lambda s: s[::-1],
        torch_layout.drop_first: lambda s: (1, *s),
        torch_layout.flat: lambda s: (1, *s),
        torch_layout.keep: lambda s: s,
    }
    stored = {
        tensor: (np.dtype(np.float16), as_stored[move](shapes[name].shape))
        for name, (tensor, move) in sources[0][1].items()
    }
    weights = source / "prior" / "diffusion_pytorch_model.safetensors"
    params_lib.write(weights, stored, lambda name: np.ones(stored[name][1], np.float16))
    largest = weights.stat().st_size
    assert largest > 400e6
    command = [sys.executable, "-c", MEASURED, str(source), str(tmp_path / "karlo")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(printed.split("took ")[1]) < 1.3 * largest

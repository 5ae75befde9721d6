"""Networks that judge videos: equal to the reference from frames to features, at full size.

`tests/reference/judge` holds names and shapes of the references' tensors and what they put out; the
tensors and the frames are drawn (`tests/reference/chance.py`).
"""

import hashlib
import json
import pathlib
import shutil
import sys
from unittest import mock

import flax.serialization
import jax
import numpy as np
import pytest
import safetensors.numpy
from einops import rearrange
from PIL import Image
from reference import chance

from mav import cli, folders, ops, sharding
from mav import params as params_lib
from mav.convert import features as convert
from mav.evaluate import blocks, c3d, features, preprocess
from noise import normal

VIDEOS = dict(  # of tests/reference/make.py
    inception=(1, 2, 50, 40), i3d=(1, 9, 48, 40), c3d=(1, 16, 40, 48), clip=(1, 2, 40, 57)
)
NARROW = mock.patch.object(c3d, "HIDDEN", 64)  # C3D's linear layers, 98 of 108 M numbers
CUTOUT = folders.BUILT_IN / "cutout" / "clip"


@pytest.fixture(autouse=True)
def narrow():
    with NARROW:
        yield


def stored(folder):
    with np.load(folder / "reference.npz") as file:
        found = dict(file)
    shapes = json.loads(str(found.pop("shapes"))) if "shapes" in found else None
    return shapes, found


def released(name, folder, shapes):
    """Drawn weights as a file in a released layout."""
    weights = chance.state_dict(shapes, name)
    if name != "c3d":
        safetensors.numpy.save_file(weights, folder / "weights.safetensors")
        return folder / "weights.safetensors"
    ends = dict(weight="W", bias="b")
    rename = lambda name: "/".join([name.split(".")[0], ends[name.split(".")[1]]])
    np.savez(folder / "conv3d.npz", **{rename(k): v for k, v in weights.items()})
    np.savez(folder / "mean2.npz", mean=chance.mean())
    return folder / "conv3d.npz"


def convert_file(name, source, destination, *more):
    return cli.main(["convert", name, str(source), str(destination), *map(str, more)])


@pytest.mark.parametrize("name", ["inception", "i3d", "c3d"])
def test_features_equal_the_references(reference, tmp_path, name, capsys):
    shapes, wanted = stored(reference / "judge" / name)
    live = reference / "judge" / name / "weights.pth"
    source = live if live.exists() else released(name, tmp_path, shapes)
    np.savez(source.with_name("mean2.npz"), mean=chance.mean())
    path = tmp_path / f"{name}.safetensors"
    assert convert_file(name, source, path) == 0
    assert "is no file whose checksum mav knows" in capsys.readouterr().err
    extractor = features.load(name, path)
    assert not extractor.published
    assert extractor.checksum == hashlib.sha256(path.read_bytes()).hexdigest()
    assert extractor.source == hashlib.sha256(source.read_bytes()).hexdigest()
    found = extractor(chance.video(*VIDEOS[name]))
    assert set(found) == set(wanted)
    for key, values in found.items():
        assert wanted[key].std() > 0.05  # that there is something to compare
        np.testing.assert_allclose(values, wanted[key], atol=1e-4, rtol=0)
    if (torchscript := live.with_name("torchscript.pt")).exists():
        assert convert_file(name, torchscript, tmp_path / "again.safetensors") == 0
        load = safetensors.numpy.load_file
        jax.tree.map(
            np.testing.assert_array_equal, load(path), load(tmp_path / "again.safetensors")
        )


def test_clip_sees_and_reads_as_the_reference(reference):
    folder = reference / "judge" / "clip"
    _, wanted = stored(folder)
    extractor = features.load("clip", folder / "clip")
    found = extractor(chance.video(*VIDEOS["clip"]))["embedding"]
    np.testing.assert_allclose(found, wanted["embedding"], atol=1e-4)
    texts = extractor.embed_texts([str(text) for text in wanted["texts"]])
    np.testing.assert_allclose(texts, wanted["text"], atol=1e-4)
    assert found.std() > 0.05 < texts.std()


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "merges.txt", "model.safetensors"])
def test_features_of_a_clip_are_known_by_all_files_that_make_it(reference, tmp_path, name):
    shutil.copytree(reference / "judge" / "clip" / "clip", tmp_path / "clip")
    before = features.load("clip", tmp_path / "clip")
    path = tmp_path / "clip" / name
    content = bytearray(path.read_bytes())
    if name == "model.safetensors":
        content[-5] ^= 1
    elif name == "config.json":
        content = content.replace(b"quick_gelu", b"gelu")
    elif name == "merges.txt":
        content = content.replace(b"#version: 0.2", b"#version: 0.3")
    else:
        content += b"\n"
    path.write_bytes(content)
    after = features.load("clip", tmp_path / "clip")
    assert after.checksum != before.checksum
    assert (after.preprocessing != before.preprocessing) == (name == "config.json")


# Releases


@pytest.fixture(scope="module")
def drawn():
    """I3D's weights as PyTorch names them, and by mav's paths."""
    shapes, _ = stored(pathlib.Path(__file__).parent / "reference" / "judge" / "i3d")
    weights = chance.state_dict(shapes, "i3d")
    return weights, fitted("i3d", weights)


def fitted(name, tensors):
    shapes = params_lib.flatten(features.param_shapes(name))
    shapes = {k: v.shape for k, v in shapes.items()}
    return convert.fit(tensors, convert.choose(name, tensors, shapes), shapes, "file")


HUB = dict(b0="Branch_0", b1="Branch_1", b2="Branch_2", b3="Branch_3")
HUB_LAYERS = {"": "Conv3d_0a_1x1", "a": "Conv3d_0a_1x1", "b": "Conv3d_0b_3x3"}


def as_tensorflow(weights, join, kernel):
    """The same tensors under TensorFlow's names. join: what stands before a layer of a branch."""
    parts = dict(bias="beta", running_mean="moving_mean", running_var="moving_variance")
    result = {}
    for name, values in weights.items():
        *block, kind, leaf = name.split(".")
        if kind == "bn" and leaf == "weight":
            continue
        if len(block) == 2:
            mixed, branch = block
            layer = "Conv3d_0b_1x1" if branch == "b3b" else HUB_LAYERS[branch[2:]]
            block = [mixed, HUB[branch[:2]] + join + layer]
        if kind == "bn":
            result["/".join([*block, "batch_norm", parts[leaf]])] = values[None, None, None, None]
        elif leaf == "weight":
            values = values.transpose(2, 3, 4, 1, 0)
            result["/".join([*block, "conv_3d", kernel])] = values
        else:
            result["/".join([*block, "conv_3d", "bias"])] = values
    return result


def test_the_hubs_names_are_read(drawn, tmp_path):
    weights, wanted = drawn
    hub = as_tensorflow(weights, "/", "w")
    rename = {
        "logits/conv_3d/w": "Logits/Conv3d_0c_1x1/conv_3d/w",
        "logits/conv_3d/bias": "Logits/Conv3d_0c_1x1/conv_3d/b",
    }
    slip = lambda name: name.replace("5b/Branch_2/Conv3d_0b_3x3", "5b/Branch_2/Conv3d_0a_3x3")
    hub = {f"RGB/inception_i3d/{slip(rename.get(k, k))}:0": v for k, v in hub.items()}
    np.savez(tmp_path / "hub.npz", **hub)
    found = fitted("i3d", convert.read(tmp_path / "hub.npz", sys.executable))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_magvits_names_are_read(drawn, tmp_path):
    weights, wanted = drawn
    tree = as_tensorflow(weights, ".", "kernel")
    tree = {k.replace("logits/", "Logits.Conv3d_0c_1x1/"): v for k, v in tree.items()}
    path = tmp_path / "i3d.flax"
    tree = dict(params=params_lib.unflatten(tree))
    path.write_bytes(flax.serialization.to_bytes(tree))
    found = fitted("i3d", convert.read(path, sys.executable))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_linear_layer_after_a_flattened_video_keeps_its_meaning():
    """Chainer, PyTorch and MAGVIT flatten [512, 4, 4], mav [4, 4, 512]."""
    x, kernel = normal((2, 512, 4, 4)), normal((512 * 4 * 4, 3))
    wanted = x.reshape(2, -1) @ kernel
    mine = rearrange(x, "b c h w -> b (h w c)")
    np.testing.assert_allclose(mine @ convert.channels_last(kernel), wanted, atol=1e-3)
    np.testing.assert_allclose(mine @ convert.first_linear(kernel.T), wanted, atol=1e-3)


def test_a_known_file_is_said_to_be_published(drawn, tmp_path, capsys):
    weights, _ = drawn
    source, path = tmp_path / "weights.safetensors", tmp_path / "i3d.safetensors"
    safetensors.numpy.save_file(weights, source)
    with mock.patch.dict(features.PUBLISHED, i3d={params_lib.checksum(source): "a release"}):
        assert convert_file("i3d", source, path) == 0
        printed = capsys.readouterr()
        assert "a release" in printed.out
        assert "warning" not in printed.err
        assert features.load("i3d", path).published == "a release"
    assert not features.load("i3d", path).published


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("logits.conv3d.bias"), "missing: logits.conv3d.bias (1)"),
        (lambda w: w.update(head=np.ones(3)), "unused: head (1)"),
        (
            lambda w: w.update({"logits.conv3d.bias": np.ones(600)}),
            "logits.conv3d.bias is (600,), but logits/bias is (400,)",
        ),
        (
            lambda w: w.update({"Mixed_3b.b0.bn.weight": np.full(64, 2.0)}),
            "Mixed_3b.b0.bn.weight is not 1",
        ),
        (
            lambda w: w.update({"logits.conv3d.bias": np.full(400, np.nan)}),
            "is damaged (logits.conv3d.bias has non-finite numbers)",
        ),
    ],
)
def test_a_file_of_another_network_is_refused_by_names_and_shapes(drawn, change, message):
    weights = dict(drawn[0])
    change(weights)
    with pytest.raises(ValueError, match="file") as error:
        fitted("i3d", weights)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("file", "more", "message"),
    [
        ("weights.h5", [], "is of no kind that mav reads"),
        ("weights.npz", [], "is damaged"),
        ("missing.npz", [], "is no file"),
        ("weights.pth", ["--torch_python", "{without}"], "has no torch; name a Python that has"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, capsys, file, more, message):
    for name in ("weights.h5", "weights.npz", "weights.pth"):
        (tmp_path / name).write_bytes(b"nothing")
    without = tmp_path / "python"
    without.write_text(
        "#!/bin/sh\necho \"ModuleNotFoundError: No module named 'torch'\" >&2; exit 1"
    )
    without.chmod(0o755)
    more = [text.format(without=without) for text in more]
    out = tmp_path / "i3d.safetensors"
    assert convert_file("i3d", tmp_path / file, out, *more) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not out.exists()


def test_c3d_asks_for_its_mean(tmp_path, capsys):
    np.savez(tmp_path / "conv3d.npz", **{"conv1a/W": np.ones(3)})
    assert convert_file("c3d", tmp_path / "conv3d.npz", tmp_path / "c3d.safetensors") == 2
    assert "needs TGANv2's mean2.npz, named by --mean" in capsys.readouterr().err


# Extractors


@pytest.fixture(scope="module")
def videos():
    return chance.video(3, 2, 72, 64)


def test_other_numbers_of_videos_compile_nothing_new(videos):
    extractor = features.load("clip", CUTOUT)
    whole = extractor(videos)["embedding"]
    before = features._look._cache_size()
    for i in range(3):
        alone = extractor(videos[i : i + 1, 1:])["embedding"]
        np.testing.assert_allclose(alone[0, 0], whole[i, 1], atol=1e-5)
    assert features._look._cache_size() == before


def test_devices_of_a_mesh_share_the_work(videos):
    mesh = sharding.make_mesh(dict(data=2, context=4))
    extractor = features.load("clip", CUTOUT, mesh)
    found = extractor(videos)["embedding"]
    with mock.patch.object(features, "_look", wraps=features._look) as look:
        extractor(videos)
    frames = look.call_args[0][-1]
    assert {shard.data.shape[0] for shard in frames.addressable_shards} == {len(frames) // 8}
    alone = features.load("clip", CUTOUT)(videos)["embedding"]
    np.testing.assert_allclose(found, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("i3d", (1, 8, 16, 16, 3), "frames=8; i3d wants at least 9"),
        ("c3d", (1, 17, 16, 16, 3), "frames=17; c3d was trained for 16"),
        ("inception", (1, 16, 16, 3), "wants uint8 [b, f, h, w, 3]"),
        ("inception", (0, 1, 16, 16, 3), "at least one"),
    ],
)
def test_videos_that_a_network_cannot_see_are_refused(name, shape, message):
    extractor = features.Extractor(name, None, {}, "", "")
    with pytest.raises(ValueError, match=r"wants|trained") as error:
        extractor(np.zeros(shape, np.uint8))
    assert message in str(error.value)


def test_loading_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="make it with `mav convert i3d`"):
        features.load("i3d", tmp_path / "i3d.safetensors")
    with pytest.raises(ValueError, match="choose i3d, c3d, inception or clip"):
        features.load("vgg", tmp_path)


# Preprocessing, by its definition in float64


def slowly_resized(frame, size, at):
    """Bilinear; at: index of an output pixel, old and new length -> place in the input."""
    h, w, _ = frame.shape
    result = np.zeros((size, size, 3))
    for i in range(size):
        for j in range(size):
            y, x = at(i, h, size), at(j, w, size)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            dy, dx = y - top, x - left
            upper = frame[top, left] * (1 - dx) + frame[top, right] * dx
            lower = frame[bottom, left] * (1 - dx) + frame[bottom, right] * dx
            result[i, j] = upper * (1 - dy) + lower * dy
    return result


@pytest.mark.parametrize("shape", [(40, 57), (300, 130)])
@pytest.mark.parametrize("name", ["inception", "i3d", "c3d"])
def test_frames_are_resized_by_the_references_definition(name, shape):
    frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    exact = frame.astype(np.float64)
    legacy = lambda i, old, new: i * old / new  # no half-pixel centres
    corners = lambda i, old, new: i * (old - 1) / (new - 1)
    if name == "inception":
        wanted = (slowly_resized(exact, 299, legacy) - 128) / 128
    elif name == "i3d":
        wanted = slowly_resized(exact, 224, legacy) / 255 * 2 - 1
    else:
        wanted = slowly_resized(exact, 112, corners)[..., ::-1]
    found = jax.jit(getattr(preprocess, name))(frame[None])[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=2e-2 if name == "c3d" else 2e-4)


@pytest.mark.parametrize("shape", [(40, 57), (57, 40), (224, 225), (300, 501), (64, 64)])
def test_clips_frames_are_pillows_bit_for_bit(shape):
    frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    h, w = (224 * side // min(shape) for side in shape)
    image = np.asarray(Image.fromarray(frame).resize((w, h), Image.Resampling.BICUBIC))
    top, left = round((h - 224) / 2), round((w - 224) / 2)
    square = image[top : top + 224, left : left + 224]
    found = np.asarray(jax.jit(preprocess.clip)(frame[None])[0])
    np.testing.assert_array_equal(np.rint((found + 1) * 127.5).astype(int), square)


# Blocks, by their definition in float64


def windows(x, window, strides, padding):
    """All windows of [f, h, w, c], TensorFlow's padding as NaN, and where they belong."""
    sizes = x.shape[:3]
    if padding == "SAME":
        out = [-(-n // s) for n, s in zip(sizes, strides, strict=True)]
        totals = [
            max((o - 1) * s + k - n, 0)
            for o, s, k, n in zip(out, strides, window, sizes, strict=True)
        ]
    else:
        out = [(n - k) // s + 1 for n, s, k in zip(sizes, strides, window, strict=True)]
        totals = [0, 0, 0]
    pads = [(total // 2, total - total // 2) for total in totals]
    x = np.pad(x.astype(np.float64), [*pads, (0, 0)], constant_values=np.nan)
    for index in np.ndindex(*out):
        cut = [slice(i * s, i * s + k) for i, s, k in zip(index, strides, window, strict=True)]
        yield index, x[tuple(cut)]


def slowly(x, window, strides, padding, of_window):
    found = {index: of_window(part) for index, part in windows(x, window, strides, padding)}
    shape = [max(index[axis] for index in found) + 1 for axis in range(3)]
    return np.stack(list(found.values())).reshape(*shape, -1)


CASES = [
    ((3, 3, 3), (1, 1, 1), (4, 5, 6)),
    ((3, 3, 3), (1, 1, 1), (5, 4, 4)),
    ((3, 3, 3), (1, 1, 1), (1, 3, 3)),
    ((3, 3, 3), (2, 2, 2), (5, 6, 7)),
    ((7, 7, 7), (2, 2, 2), (9, 8, 11)),
    ((1, 3, 3), (1, 2, 2), (2, 8, 7)),
    ((2, 2, 2), (2, 2, 2), (3, 7, 7)),
]


@pytest.mark.parametrize(("window", "strides", "shape"), CASES)
@pytest.mark.parametrize("form", ["chosen", "default"])
def test_convolutions_of_videos_are_their_definition(window, strides, shape, form):
    x, kernel = normal((*shape, 3)), normal((*window, 3, 4), 1)
    wanted = slowly(
        x, window, strides, "SAME", lambda part: np.tensordot(np.nan_to_num(part), kernel, 4)
    )
    convolve = ops.convolve_video if form == "chosen" else ops._convolve_video
    found = jax.jit(convolve, static_argnums=2)(x[None], kernel, strides)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("window", "strides", "shape"), [CASES[0], CASES[3], CASES[6]])
def test_pools_are_their_definition(window, strides, shape, padding):
    x = normal((*shape, 3))
    largest = slowly(x, window, strides, padding, lambda part: np.nanmax(part, (0, 1, 2)))
    found = jax.jit(blocks.max_pool, static_argnums=(1, 2, 3))(x[None], window, strides, padding)[0]
    np.testing.assert_array_equal(found, largest.astype(np.float32))
    mean = slowly(x, window, (1, 1, 1), padding, lambda part: np.nanmean(part, (0, 1, 2)))
    found = jax.jit(blocks.mean_pool, static_argnums=(1, 2))(x[None], window, padding)[0]
    np.testing.assert_allclose(found, mean, atol=1e-6)

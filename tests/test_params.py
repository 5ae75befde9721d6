import json
import struct

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from mav import params as params_lib
from noise import normal

TREE = dict(
    input=dict(space=dict(kernel=normal((4, 2, 3, 3), 1).T, bias=normal(4, 2))),  # not contiguous
    norm=dict(scale=normal(4, 3)),
    logit_scale=normal((), 4),
)


def shapes(tree=TREE):
    return jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, tree))


def assert_equal(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_parameters_come_back_bit_for_bit(tmp_path):
    params_lib.save(tmp_path / "a.safetensors", TREE)
    assert_equal(params_lib.load(tmp_path / "a.safetensors", shapes()), TREE)


def test_the_file_is_plain_safetensors_with_paths_for_names(tmp_path):
    params_lib.save(tmp_path / "a.safetensors", TREE)
    flat = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert sorted(flat) == ["input/space/bias", "input/space/kernel", "logit_scale", "norm/scale"]
    np.testing.assert_array_equal(flat["norm/scale"], TREE["norm"]["scale"])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files_are_read_as_float32(tmp_path, dtype):
    params_lib.save(tmp_path / "a.safetensors", TREE, dtype)
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(np.float32), TREE)
    assert_equal(params_lib.load(tmp_path / "a.safetensors", shapes()), rounded)


def header_claims_more(data):
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["norm/scale"]["shape"] = [9]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:100],
        lambda data: data[:-1],
        lambda data: b"<html>404 not found</html>",
        lambda data: data[:8] + b"\xff" + data[9:],
        header_claims_more,
    ],
)
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "a.safetensors"
    params_lib.save(path, TREE)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"a\.safetensors is damaged") as error:
        params_lib.load(path, shapes())
    assert "\n" not in str(error.value)


def test_numbers_that_are_none_are_damage(tmp_path):
    bad = {**TREE, "norm": dict(scale=np.array([1, np.nan, 1, 1]))}
    params_lib.save(tmp_path / "a.safetensors", bad)
    with pytest.raises(ValueError, match=r"a\.safetensors is damaged \(norm/scale"):
        params_lib.load(tmp_path / "a.safetensors", shapes())


def test_a_file_that_does_not_fit_is_refused_in_one_line_that_names_all_differences(tmp_path):
    other = dict(TREE, norm=dict(scale=normal(5)), extra=dict(bias=normal(1)))
    del other["logit_scale"]
    params_lib.save(tmp_path / "a.safetensors", other)
    with pytest.raises(ValueError, match=r"a\.safetensors does not fit") as error:
        params_lib.load(tmp_path / "a.safetensors", shapes())
    message = str(error.value)
    assert "\n" not in message
    assert "missing: logit_scale (1)" in message
    assert "surplus: extra/bias (1)" in message
    assert "differing: norm/scale is (5,), wanted (4,) (1)" in message


def test_long_lists_of_differences_are_cut():
    wanted = {f"block_{i}": (1,) for i in range(9)}
    with pytest.raises(ValueError, match=r"block_0, block_1, block_2, block_3 \.\.\. \(9\)"):
        params_lib.check_fit({}, wanted, "file")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: params_lib.save(path, dict(a=normal(3), b=np.array(["no number"]))),
        lambda path: params_lib.write_json(path, dict(a=1, b=object())),
    ],
)
def test_a_failed_write_leaves_what_was_there(tmp_path, write):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises((ValueError, TypeError)):
        write(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_cut_short_leaves_what_was_there(tmp_path):
    def full_disk(name):
        if name == "norm/scale":
            raise OSError("no space left")
        return flat[name]

    flat = params_lib.flatten(TREE)
    header = {name: (np.dtype(np.float32), leaf.shape) for name, leaf in flat.items()}
    path = tmp_path / "a.safetensors"
    path.write_text("old")
    with pytest.raises(OSError, match="no space"):
        params_lib.write(path, header, full_disk)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_comes_back_and_damaged_json_is_named(tmp_path):
    path = tmp_path / "a.json"
    params_lib.write_json(path, dict(name="größe", sizes=[1, 2]))
    assert params_lib.read_json(path) == dict(name="größe", sizes=[1, 2])
    for text, says in (
        (b'{"a": ', "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b"[1]", "holds list"),
    ):
        path.write_bytes(text)
        with pytest.raises(ValueError, match=rf"a\.json {says}"):
            params_lib.read_json(path)


def test_counts_are_products_of_shapes():
    assert params_lib.count(TREE) == params_lib.count(shapes()) == 3 * 3 * 2 * 4 + 4 + 4 + 1


VIDEO = dict(
    input=dict(
        space=dict(kernel=normal((3, 3, 6, 4), 5), bias=normal(4, 6)),
        time=dict(kernel=normal((3, 4, 4), 7)),
    ),
    norm=dict(scale=normal(4, 8)),
    logit_scale=normal((), 9),
    fps=dict(linear_1=dict(bias=normal(4, 10))),
)


def test_inflation_merges_by_name_and_pads_the_first_kernel_with_zeros():
    found = params_lib.inflate(TREE, VIDEO)
    kernel = found["input"]["space"]["kernel"]
    np.testing.assert_array_equal(kernel[:, :, :2], TREE["input"]["space"]["kernel"])
    np.testing.assert_array_equal(kernel[:, :, 2:], 0)
    np.testing.assert_array_equal(found["norm"]["scale"], TREE["norm"]["scale"])
    assert_equal(found["input"]["time"], VIDEO["input"]["time"])
    assert_equal(found["fps"], VIDEO["fps"])


def changed(tree, name, leaf):
    return params_lib.unflatten({**params_lib.flatten(tree), name: leaf})


@pytest.mark.parametrize(
    ("image", "video", "says"),
    [
        (changed(TREE, "more/bias", normal(4)), VIDEO, r"lacks more/bias \(1\)"),
        (TREE, changed(VIDEO, "deeper/bias", normal(4)), r"at random in deeper/bias \(1\)"),
        (TREE, changed(VIDEO, "norm/scale", normal(8)), r"norm/scale is \(4,\) and \(8,\)"),
        (changed(TREE, "norm/scale", normal(8)), VIDEO, r"norm/scale is \(8,\) and \(4,\)"),
        (TREE, changed(VIDEO, "norm/scale", normal((1, 4))), r"norm/scale is \(4,\) and \(1, 4\)"),
        (TREE, changed(VIDEO, "input/space/kernel", normal((3, 3, 1, 4))), "input/space/kernel is"),
        (TREE, changed(VIDEO, "input/space/kernel", normal((3, 3, 2, 5))), "input/space/kernel is"),
        (TREE, changed(VIDEO, "input/space/kernel", normal((5, 5, 2, 4))), "input/space/kernel is"),
    ],
)
def test_networks_that_differ_otherwise_are_not_inflated(image, video, says):
    with pytest.raises(ValueError, match=f"cannot inflate; .*{says}"):
        params_lib.inflate(image, video)

"""`mav convert inception|i3d|c3d`: a released network that judges becomes a file mav can load.

mav.evaluate.features reads what this writes: parameters of the network by their paths. A file is
recognised by the names of its tensors, in one of the layouts that it was released in.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.serialization
import numpy as np
import safetensors.numpy

from mav import params as params_lib
from mav.convert import torch_layout
from mav.convert.torch_layout import Move, Table
from mav.evaluate import c3d, features

Tensors = Mapping[str, np.ndarray]
LARGE_MEAN = (3, c3d.FRAMES, 128, 171)  # of TGANv2's mean2.npz, the size before the crop
MARGIN = 8  # pixels of it that TGANv2 cuts off at the top and at the left


class Layout(NamedTuple):
    """How a release names and turns tensors.

    source: path and leaf of a parameter of mav -> tensor of the release, and how to turn it.
    ones: ends of names of tensors that mav has not, because they are one everywhere.
    """

    released_by: str
    source: Callable[[str, str], tuple[str, Move]]
    ones: tuple[str, ...] = ()


def run(
    name: str,
    source: str | os.PathLike,
    path: str | os.PathLike,
    mean: str | os.PathLike | None = None,
    torch_python: str = sys.executable,
) -> None:
    """Writes the .safetensors file `path`, whole or not at all, and prints a report.

    mean: TGANv2's mean2.npz, of c3d (beside the source). torch_python: a Python that has torch, for
    files of PyTorch. Raises ValueError if the file is of another network, damaged, or cannot be
    read.
    """
    source, path = pathlib.Path(source), pathlib.Path(path)
    if not source.is_file():
        raise ValueError(f"{source} is no file; give the released weights.")
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} must end in .safetensors.")
    found = read(source, torch_python)
    shapes = {k: v.shape for k, v in params_lib.flatten(features.param_shapes(name)).items()}
    given = {}
    if name == "c3d" and "x_offset" not in found:
        given["mean"] = read_mean(source.with_name("mean2.npz") if mean is None else mean)
    wanted = {k: shape for k, shape in shapes.items() if k not in given}
    layout = choose(name, found, wanted)
    flat = fit(found, layout, wanted, source) | given

    digest = params_lib.checksum(source)
    release = features.PUBLISHED[name].get(digest)
    header = {k: (np.dtype(np.float32), shape) for k, shape in shapes.items()}
    about = dict(made_by=f"mav convert {name}", source_sha256=digest)
    params_lib.write(path, header, lambda k: flat[k].astype(np.float32), about)
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    print(f"{path}: {name}, {total / 1e6:.1f}M parameters, in the layout of {layout.released_by}")
    print(f"source sha256 {digest}: {release or 'unknown'}")
    if release is None:
        print(
            f"warning: {source} has the names and shapes of {name}, but is no file whose checksum "
            "mav knows; numbers measured with it may not be those of others",
            file=sys.stderr,
        )


# Reading


def read(source: pathlib.Path, torch_python: str) -> dict[str, np.ndarray]:
    """All tensors of a file by name: safetensors, npz, flax's msgpack, or PyTorch's."""
    kind = source.suffix.lower()
    if kind in (".pt", ".pth", ".bin", ".ckpt"):
        return read_torch(source, torch_python)
    try:
        if kind == ".safetensors":
            return safetensors.numpy.load_file(source)
        if kind == ".npz":
            with np.load(source, allow_pickle=False) as file:
                return {name.removesuffix(":0"): file[name] for name in file}  # TensorFlow's ending
        if kind in (".flax", ".msgpack"):
            tree = flax.serialization.msgpack_restore(source.read_bytes())
            return params_lib.flatten(tree.get("params", tree))
    except Exception as error:  # of four libraries
        raise ValueError(f"{source} is damaged ({error}); fetch it again.") from error
    raise ValueError(
        f"{source} is of no kind that mav reads: .safetensors, .npz, .flax, .msgpack, .pt or .pth."
    )


def read_torch(source: pathlib.Path, torch_python: str) -> dict[str, np.ndarray]:
    """Tensors of a file of PyTorch, which another process opens."""
    script = pathlib.Path(__file__).with_name("torch_file.py")
    with tempfile.TemporaryDirectory() as folder:
        passing = pathlib.Path(folder) / "tensors.safetensors"
        command = [torch_python, "-I", str(script), str(source.resolve()), str(passing)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            # PyTorch's errors go on for many lines after the one that says what is wrong.
            reason = next((line for line in lines if re.match(r"[\w.]+Error: ", line)), lines[-1])
            if "No module named 'torch'" in reason:
                reason = f"{torch_python} has no torch; name a Python that has by --torch_python"
            raise ValueError(f"{source} cannot be read: {reason}.")
        return safetensors.numpy.load_file(passing)


def read_mean(path: str | os.PathLike) -> np.ndarray:
    """The mean video of TGANv2's mean2.npz, cropped as there, [16, 112, 112, 3] in BGR."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is missing; c3d needs TGANv2's mean2.npz, named by --mean.")
    found = read(path, sys.executable)
    if "mean" not in found or found["mean"].size != np.prod(LARGE_MEAN):
        shapes = {name: value.shape for name, value in found.items()}
        raise ValueError(f"{path} holds {shapes}; wanted mean of {LARGE_MEAN}.")
    crop = slice(MARGIN, MARGIN + c3d.SIZE)
    return found["mean"].reshape(LARGE_MEAN)[:, :, crop, crop].transpose(1, 2, 3, 0)


# Fitting


def choose(name: str, found: Tensors, shapes: Mapping[str, tuple]) -> Layout:
    """The layout whose names most of the tensors have."""
    known = lambda layout: sum(tensor in found for tensor, _ in table(layout, shapes).values())
    return max(LAYOUTS[name], key=known)


def table(layout: Layout, shapes: Mapping[str, tuple]) -> Table:
    """Sources of parameters."""
    parts = {path: path.rpartition("/") for path in shapes}
    return {path: layout.source(block, leaf) for path, (block, _, leaf) in parts.items()}


def fit(
    found: Tensors, layout: Layout, shapes: Mapping[str, tuple], where: str | os.PathLike
) -> dict[str, np.ndarray]:
    """Parameters by path. Raises ValueError unless tensors and parameters are one to one."""
    sources = table(layout, shapes)
    rest = set(found) - {tensor for tensor, _ in sources.values()}
    gains = {tensor for tensor in rest if layout.ones and tensor.endswith(layout.ones)}
    counters = {tensor for tensor in rest if tensor.endswith("num_batches_tracked")}
    problems = dict(
        missing=sorted({tensor for tensor, _ in sources.values()} - set(found)),
        unused=sorted(rest - gains - counters),
        differing=[f"{tensor} is not 1" for tensor in sorted(gains) if (found[tensor] != 1).any()],
    )
    for path, (tensor, move) in sources.items():
        if tensor in found:
            turned = torch_layout.turned_shape(move, found[tensor].shape)
            if turned != tuple(shapes[path]):
                problems["differing"].append(
                    f"{tensor} is {found[tensor].shape}, but {path} is {tuple(shapes[path])}"
                )
    params_lib.refuse(
        f"{where} does not fit the network as {layout.released_by} names it", problems
    )
    flat = {path: move(found[tensor]) for path, (tensor, move) in sources.items()}
    for path, values in flat.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{where} is damaged ({sources[path][0]} has non-finite numbers).")
    return flat


# Layouts


def kernel(x: np.ndarray) -> np.ndarray:
    """[out, in, ...] -> [..., in, out], of linear layers and convolutions."""
    return np.moveaxis(x, (1, 0), (-2, -1))


def channels_last(x: np.ndarray) -> np.ndarray:
    """[in, out] of a linear layer whose inputs are [512, 4, 4] -> those as [4, 4, 512]."""
    last = c3d.BODY["conv5b"]
    side = round((len(x) / last) ** 0.5)
    return x.reshape(last, side, side, -1).transpose(1, 2, 0, 3).reshape(x.shape)


def first_linear(x: np.ndarray) -> np.ndarray:
    """[out, in] whose inputs are [512, 4, 4] -> [in, out] for [4, 4, 512]."""
    return channels_last(x.T)


def squeezed(x: np.ndarray) -> np.ndarray:
    """1x1x1 kernel [1, 1, 1, in, out] -> that of a linear layer."""
    return x.reshape(x.shape[-2:])


def squeezed_kernel(x: np.ndarray) -> np.ndarray:
    """1x1x1 kernel [out, in, 1, 1, 1] -> [in, out]."""
    return squeezed(kernel(x))


_NORM = dict(scale="weight", bias="bias", mean="running_mean", variance="running_var")
keep, flat = torch_layout.keep, torch_layout.flat


def _inception_torch(block: str, leaf: str) -> tuple[str, Move]:
    block = block.replace("/", ".")
    if block == "fc":
        return (
            f"fc.{'weight' if leaf == 'kernel' else 'bias'}",
            kernel if leaf == "kernel" else keep,
        )
    if leaf == "kernel":
        return f"{block}.conv.weight", kernel
    return f"{block}.bn.{_NORM[leaf]}", keep


def _i3d_torch(block: str, leaf: str) -> tuple[str, Move]:
    block = block.replace("/", ".")
    if leaf == "kernel":
        return f"{block}.conv3d.weight", squeezed_kernel if block == "logits" else kernel
    if block == "logits":
        return "logits.conv3d.bias", keep
    return f"{block}.bn.{_NORM[leaf]}", keep


_BRANCHES = dict(
    b0="Branch_0/Conv3d_0a_1x1",
    b1a="Branch_1/Conv3d_0a_1x1",
    b1b="Branch_1/Conv3d_0b_3x3",
    b2a="Branch_2/Conv3d_0a_1x1",
    b2b="Branch_2/Conv3d_0b_3x3",
    b3b="Branch_3/Conv3d_0b_1x1",
)
_VARIABLES = dict(bias="beta", mean="moving_mean", variance="moving_variance")


def _i3d_hub(block: str, leaf: str) -> tuple[str, Move]:
    prefix = "RGB/inception_i3d/"
    if block == "logits":
        variable, move = ("w", squeezed) if leaf == "kernel" else ("b", keep)
        return f"{prefix}Logits/Conv3d_0c_1x1/conv_3d/{variable}", move
    mixed, _, branch = block.partition("/")
    if branch:
        block = f"{mixed}/{_BRANCHES[branch]}"
    if block == "Mixed_5b/Branch_2/Conv3d_0b_3x3":
        block = "Mixed_5b/Branch_2/Conv3d_0a_3x3"  # a slip of the hub's
    if leaf == "kernel":
        return f"{prefix}{block}/conv_3d/w", keep
    return f"{prefix}{block}/batch_norm/{_VARIABLES[leaf]}", flat


def _i3d_flax(block: str, leaf: str) -> tuple[str, Move]:
    if block == "logits":
        return f"Logits.Conv3d_0c_1x1/conv_3d/{leaf}", squeezed if leaf == "kernel" else keep
    mixed, _, branch = block.partition("/")
    if branch:
        block = f"{mixed}/{_BRANCHES[branch].replace('/', '.')}"
    if leaf == "kernel":
        return f"{block}/conv_3d/kernel", keep
    return f"{block}/batch_norm/{_VARIABLES[leaf]}", flat


def _c3d(kernel_name: str, bias_name: str, separator: str) -> Callable[[str, str], tuple]:
    def source(block: str, leaf: str) -> tuple[str, Move]:
        if leaf == "bias":
            return f"{block}{separator}{bias_name}", keep
        return f"{block}{separator}{kernel_name}", first_linear if block == "fc6" else kernel

    return source


def _c3d_flax(block: str, leaf: str) -> tuple[str, Move]:
    if leaf == "mean":
        return "x_offset", np.negative
    return f"{block}/{leaf}", channels_last if (block, leaf) == ("fc6", "kernel") else keep


LAYOUTS = dict(
    inception=[Layout("pytorch-fid and torch-fidelity", _inception_torch)],
    i3d=[
        Layout("VideoGPT and pytorch-i3d", _i3d_torch, (".bn.weight",)),
        Layout("deepmind/i3d-kinetics-400", _i3d_hub),
        Layout("MAGVIT", _i3d_flax),
    ],
    c3d=[
        Layout("TGANv2", _c3d("W", "b", "/")),
        Layout("TGANv2's layers in PyTorch", _c3d("weight", "bias", ".")),
        Layout("MAGVIT", _c3d_flax),
    ],
)

"""Parameter trees on disk and between networks: safetensors, inflation, fitting by name."""

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from etils import epath
from flax import traverse_util

Params = Mapping[str, Any]
FIRST_KERNEL = "input/space/kernel"  # of a U-Net


def flatten(params: Params) -> dict[str, np.ndarray]:
    """Nested parameters -> one dict, names joined by slashes."""
    return traverse_util.flatten_dict(params, sep="/")


def unflatten(flat: Mapping[str, Any]) -> Params:
    """Inverse of `flatten`."""
    return traverse_util.unflatten_dict(flat, sep="/")


def count(params: Params) -> int:
    """Number of scalars; works on shapes as well."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def save(path: str | os.PathLike, params: Params, dtype: np.typing.DTypeLike = np.float32) -> None:
    """Writes a safetensors file, whole or not at all."""
    flat = flatten(params)
    header = {name: (np.dtype(dtype), leaf.shape) for name, leaf in flat.items()}
    write(path, header, lambda name: np.asarray(flat[name], dtype))


def checksum(*paths: str | os.PathLike) -> str:
    """SHA-256 of a file; of several, of their names and checksums, in the order given."""
    if len(paths) != 1:
        lines = [f"{epath.Path(path).name} {checksum(path)}\n" for path in paths]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    found = hashlib.sha256()
    with epath.Path(paths[0]).open("rb") as file:
        while piece := file.read(2**24):
            found.update(piece)
    return found.hexdigest()


DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}  # of parameters, in safetensors


def write(
    path: str | os.PathLike,
    header: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    tensor: Callable[[str], np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file tensor by tensor, whole or not at all.

    The library's own writer wants all tensors in memory, and copies them.
    header: dtype and shape of each. tensor: gives one when its turn comes.
    metadata: what the file says of itself beside them.
    """
    path = pathlib.Path(path)
    entries, end = {}, 0
    for name, (dtype, shape) in sorted(header.items()):
        begin, end = end, end + int(np.prod(shape)) * dtype.itemsize
        entries[name] = dict(dtype=DTYPES[dtype.name], shape=list(shape), data_offsets=[begin, end])
    about = {"__metadata__": dict(metadata)} if metadata else {}
    text = json.dumps(about | entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in entries:
                values = np.asarray(tensor(name), header[name][0], order="C")
                if values.shape != tuple(header[name][1]):
                    raise ValueError(f"{name} is {values.shape}, announced as {header[name][1]}.")
                file.write(values.reshape(-1).view(np.uint8).data)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def load(path: str | os.PathLike, shapes: Params) -> Params:
    """Reads a safetensors file as float32 parameters.

    shapes: what the network needs, as from `jax.eval_shape`. Leaves that carry a sharding are read
    by each process in the pieces that its devices hold, and become arrays on them.
    Raises ValueError if the file is damaged or does not fit, with the names on both sides.
    """
    wanted = flatten(shapes)

    def read(file, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        piece = file.get_slice(name)[index] if index else file.get_tensor(name)
        if not np.isfinite(piece.astype(np.float32)).all():
            raise ValueError(f"{path} is damaged ({name} has non-finite numbers); export it again.")
        return piece.astype(np.float32)

    def take(file, name: str) -> np.ndarray | jax.Array:
        sharding = getattr(wanted[name], "sharding", None)
        if sharding is None:
            return read(file, name)
        shape = wanted[name].shape
        return jax.make_array_from_callback(shape, sharding, lambda i: read(file, name, i))

    try:
        with local(path) as here, safetensors.safe_open(here, framework="numpy") as file:
            header = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            check_fit(header, {k: v.shape for k, v in wanted.items()}, str(path))
            return unflatten({name: take(file, name) for name in header})
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); fetch or export it again.") from error


@contextlib.contextmanager
def local(path: str | os.PathLike) -> Iterator[str]:
    """A path that other libraries can open; of a file in a bucket, that of a passing copy."""
    path = epath.Path(path)
    if "://" not in str(path):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield str(path.copy(f"{folder}/{path.name}"))


def check_fit(found: Mapping[str, tuple], wanted: Mapping[str, tuple], where: str) -> None:
    """Raises ValueError if names or shapes differ, with the first few of each kind."""
    missing = sorted(set(wanted) - set(found))
    surplus = sorted(set(found) - set(wanted))
    differing = [
        f"{name} is {found[name]}, wanted {wanted[name]}"
        for name in sorted(set(found) & set(wanted))
        if tuple(found[name]) != tuple(wanted[name])
    ]
    refuse(
        f"{where} does not fit the network",
        dict(missing=missing, surplus=surplus, differing=differing),
    )


def refuse(what: str, problems: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError with the first few names of each kind of problem, if there is any."""
    parts = [
        f"{kind}: {', '.join(names[:4])}{' ...' if len(names) > 4 else ''} ({len(names)})"
        for kind, names in problems.items()
        if names
    ]
    if parts:
        raise ValueError(f"{what}; {'; '.join(parts)}.")


def inflate(image: Params, video: Params) -> Params:
    """Image parameters merged by name into those of a fresh, larger network (MAV §3.2).

    What only the larger network has keeps its fresh values: layers over time, embeddings of numbers
    and the motion of keyframes, all of which start without effect. The first kernel gets zeros for
    input channels that its image version has not, which come last.
    Raises ValueError where the networks differ in anything else.
    """
    old, new = flatten(image), dict[str, Any](flatten(video))
    silent = lambda name: is_temporal(name) or name.startswith("aug_level/")
    surplus = sorted(set(old) - set(new))
    added = sorted(name for name in set(new) - set(old) if not silent(name))
    for names, problem in ((surplus, "lacks"), (added, "would start at random in")):
        if names:
            raise ValueError(
                f"cannot inflate; the larger network {problem} {', '.join(names[:4])}"
                f"{' ...' if len(names) > 4 else ''} ({len(names)})."
            )
    for name, leaf in old.items():
        before, after = leaf.shape, new[name].shape
        if before == after:
            new[name] = leaf
            continue
        if name != FIRST_KERNEL or not _only_inputs_added(before, after):
            raise ValueError(
                f"cannot inflate; {name} is {before} and {after}, and only input channels of "
                f"{FIRST_KERNEL} can be added."
            )
        new[name] = jnp.pad(leaf, [(0, b - a) for a, b in zip(before, after, strict=True)])
    return unflatten(new)


def _only_inputs_added(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether two shapes of a kernel [..., inputs, outputs] differ in more inputs alone."""
    same_but_inputs = before[:-2] == after[:-2] and before[-1] == after[-1]
    return len(before) == len(after) and same_but_inputs and before[-2] < after[-2]


def is_temporal(name: str) -> bool:
    """Whether a parameter, named by its path, exists in video networks only."""
    return not {"time", "fps", "frame_skip", "motion"}.isdisjoint(name.split("/"))


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a JSON object. Raises ValueError if the file holds none."""
    try:
        value = json.loads(epath.Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); fetch or export it again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__}, not an object.")
    return value


def write_json(path: str | os.PathLike, value: Mapping[str, Any]) -> None:
    """Writes an object as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file, whole or not at all."""
    path = epath.Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)

"""Where parameters, batches and activations live on a mesh. The only file that knows of one."""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# data: examples, parameters copied. fsdp: examples, parameters divided. tensor: features.
# context: rows of pixels, for videos too big for one device.
AXES = ("data", "fsdp", "tensor", "context")
PARAMETERS = (  # path -> mesh axes of the last dimensions
    (r".*/(out|mlp_2)/kernel", ("tensor", "fsdp")),
    (r".*/kernel", ("fsdp", "tensor")),
    (r".*/embedding", ("tensor", "fsdp")),
)
ACTIVATIONS = (  # axis that a network names -> mesh axes
    ("batch", ("data", "fsdp")),
    ("height", "context"),
    ("features", "tensor"),
)
_EXAMPLES = dict(ACTIVATIONS)["batch"]


def make_mesh(shape: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh of the axes data, fsdp, tensor, context; absent ones have length 1.

    One length may be -1, which takes all devices that the others leave. devices: None takes those
    that are here. Of several slices, which slow links join, each takes its part of `data`.
    Raises ValueError if the devices do not suffice, or are left over though all were named or
    belong to several processes.
    """
    unknown = sorted(set(shape) - set(AXES))
    if unknown:
        raise ValueError(f"mesh axes {unknown} are unknown; choose among {', '.join(AXES)}.")
    all_of_them = devices is not None or jax.process_count() > 1
    devices = jax.devices() if devices is None else devices
    here = len(devices)
    lengths = [shape.get(axis, 1) for axis in AXES]
    fixed = math.prod(length for length in lengths if length != -1)
    free = lengths.count(-1)
    if free > 1 or fixed < 1 or (free and here % fixed):
        raise ValueError(
            f"mesh={dict(shape)} is impossible on {here} devices; use lengths of at least 1, at "
            "most one -1, and a product that divides the number of devices."
        )
    lengths = [here // fixed if length == -1 else length for length in lengths]
    wanted = math.prod(lengths)
    if wanted > here or (wanted < here and all_of_them):
        raise ValueError(
            f"mesh={dict(shape)} asks for {wanted} devices, {here} are here; make the product "
            "of its axes equal to that, or one of them -1."
        )
    slices = 1
    if devices[0].platform == "tpu":
        slices = len({getattr(device, "slice_index", 0) for device in devices[:wanted]})
    if lengths[0] % slices:
        raise ValueError(
            f"mesh={dict(shape)} does not divide over {slices} slices; make data a multiple."
        )
    whole = dict(devices=devices[:wanted], allow_split_physical_axes=True)
    if slices == 1:
        placed = mesh_utils.create_device_mesh(lengths, **whole)
    else:
        inside = [lengths[0] // slices, *lengths[1:]]
        placed = mesh_utils.create_hybrid_device_mesh(inside, [slices, 1, 1, 1], **whole)
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def parse_mesh(text: str) -> dict[str, int]:
    """ "data=4,fsdp=64" -> lengths. Raises ValueError for another form."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {axis.strip(): int(length) for axis, length in pairs}
    except ValueError:
        raise ValueError(f"mesh={text!r} is not of the form data=4,fsdp=64.") from None


@contextlib.contextmanager
def use(mesh: Mesh | None) -> Iterator[None]:
    """Within it, networks divide their activations by the table. None changes nothing."""
    if mesh is None:
        yield
        return
    with jax.set_mesh(mesh), nn.logical_axis_rules(ACTIVATIONS):
        yield


def path_name(path: tuple) -> str:
    """A key path of a pytree as names joined by slashes."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def parameter_spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The first matching rule, on the dimensions that its axes divide."""
    for pattern, axes in PARAMETERS:
        if re.fullmatch(pattern, name):
            spec = [None] * (len(shape) - len(axes)) + list(axes)
            fits = [
                axis if axis and shape[i] % mesh.shape[axis] == 0 else None
                for i, axis in enumerate(spec)
            ]
            return PartitionSpec(*fits)
    return PartitionSpec()


def shard_like_parameters(tree: Any, mesh: Mesh) -> Any:
    """Shardings of a tree that holds parameters or copies of them (EMA, moments), by path."""
    place = lambda path, leaf: NamedSharding(
        mesh, parameter_spec("/" + path_name(path), leaf.shape, mesh)
    )
    return jax.tree_util.tree_map_with_path(place, tree)


def placed(shapes: Any, mesh: Mesh) -> Any:
    """Shapes of parameters, or of copies of them, with the shardings that the table gives them."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shard_like_parameters(shapes, mesh),
    )


def example_spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Of a batch [b], or of videos [b, f, h, w, c]; dimensions that do not divide stay whole."""
    axes = [_EXAMPLES] + [None] * (len(shape) - 1)
    if len(shape) == 5:
        axes[2] = dict(ACTIVATIONS)["height"]
    length = lambda axis: math.prod(mesh.shape[a] for a in np.atleast_1d(axis))
    fits = [
        axis if axis is not None and size % length(axis) == 0 else None
        for axis, size in zip(axes, shape, strict=True)
    ]
    return PartitionSpec(*fits)


def shard_like_examples(tree: Any, mesh: Mesh) -> Any:
    """Shardings of a tree of batched arrays."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, example_spec(leaf.shape, mesh)), tree)


def placed_examples(shapes: Any, mesh: Mesh) -> Any:
    """Shapes of batched arrays with the shardings that the table gives them."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shard_like_examples(shapes, mesh),
    )


def one_by_one(mesh: Mesh) -> NamedSharding:
    """Of examples that a network sees each for itself: divided over all devices of the mesh."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def copied(mesh: Mesh) -> NamedSharding:
    """Of what every device has a copy of."""
    return NamedSharding(mesh, PartitionSpec())


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Which examples of a batch this process has to read, in order.

    Raises ValueError if the batch cannot be divided over the mesh.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % parts:
        raise ValueError(
            f"batch_size={batch_size} does not divide by data x fsdp = {parts} of the mesh; choose "
            "a multiple."
        )
    place = NamedSharding(mesh, PartitionSpec(_EXAMPLES))
    slices = place.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in slices]))


def shard_batch(
    batch: Mapping[str, np.ndarray], mesh: Mesh, batch_size: int
) -> dict[str, jax.Array]:
    """Puts this process's rows of a batch (`local_rows`) on its devices."""

    def put(rows: np.ndarray) -> jax.Array:
        shape = (batch_size, *rows.shape[1:])
        place = NamedSharding(mesh, example_spec(shape, mesh))
        return jax.make_array_from_process_local_data(place, rows, shape)

    return {name: put(rows) for name, rows in batch.items()}

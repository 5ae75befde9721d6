"""Where parameters and batches live on a mesh. The only file that knows of one."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor", "context")
RULES = (  # parameter path -> mesh axes of its last dimensions
    (r".*/(q|k|v|mlp_1|context_k|context_v)/kernel", ("fsdp", "tensor")),
    (r".*/(out|mlp_2)/kernel", ("tensor", "fsdp")),
    (r".*/kernel", ("fsdp", "tensor")),
    (r".*/embedding", ("tensor", "fsdp")),
)
BATCH = PartitionSpec(("data", "fsdp"))


def make_mesh(shape: Mapping[str, int]) -> Mesh:
    """Mesh of the axes data, fsdp, tensor, context; absent ones have length 1.

    Raises ValueError if the lengths do not multiply to the number of devices.
    """
    unknown = sorted(set(shape) - set(AXES))
    if unknown:
        raise ValueError(f"mesh axes {unknown} are unknown; choose among {', '.join(AXES)}.")
    lengths = [shape.get(axis, 1) for axis in AXES]
    if np.prod(lengths) != jax.device_count():
        raise ValueError(
            f"mesh={dict(shape)} asks for {np.prod(lengths)} devices, {jax.device_count()} are "
            "here; make the product of its axes equal to that."
        )
    return jax.make_mesh(lengths, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def path_name(path: tuple) -> str:
    """A key path of a pytree as names joined by slashes."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def parameter_spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The first matching rule, on the dimensions that its axes divide."""
    for pattern, axes in RULES:
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


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this process's share of a batch on its devices."""
    sharding = NamedSharding(mesh, BATCH)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}

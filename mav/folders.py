"""A cascade's folder on disk: an index, and of each stage its config and parameters.

cascades/mine/cascade.json          stages in order, sampling settings, provenance
cascades/mine/tokenizer.json
cascades/mine/decoder/config.json
cascades/mine/decoder/params.safetensors
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from mav import params as params_lib
from mav import sharding, stages

BUILT_IN = pathlib.Path(__file__).parent / "cascades"
FORMAT = 1


def save_stage(root: pathlib.Path, name: str, config, params, dtype=np.float32) -> None:
    """Writes one stage of a cascade folder: config.json and params.safetensors."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    params_lib.write_json(folder / "config.json", config)
    params_lib.save(folder / "params.safetensors", params, dtype)


def write_index(root: pathlib.Path, name: str, settings: Mapping, provenance: Mapping) -> None:
    """Writes cascade.json for the stages whose folders are there."""
    present = [stage for stage in stages.STAGES if (root / stage / "config.json").is_file()]
    index = dict(
        format=FORMAT,
        name=name,
        stages=present,
        settings=dict(settings),
        provenance=dict(provenance),
    )
    params_lib.write_json(root / "cascade.json", index)


def built_in() -> Sequence[str]:
    """Names of the cascades that ship with mav."""
    return sorted(path.parent.name for path in BUILT_IN.glob("*/cascade.json"))


def resolve(name_or_path: str | os.PathLike) -> epath.Path:
    """The folder of a shipped cascade's name, or the path itself, of a bucket too."""
    shipped = str(name_or_path) in built_in()
    return epath.Path(BUILT_IN / name_or_path if shipped else name_or_path)


def read_index(root: epath.Path) -> dict[str, Any]:
    """What cascade.json says. Raises ValueError if there is none that this mav can read."""
    if not (root / "cascade.json").is_file():
        raise ValueError(
            f"cascade {str(root)!r} is neither shipped ({', '.join(built_in())}) nor a folder with "
            "a cascade.json."
        )
    index = params_lib.read_json(root / "cascade.json")
    if index.get("format") != FORMAT:
        raise ValueError(
            f"{root / 'cascade.json'} has format {index.get('format')}, this mav reads {FORMAT}."
        )
    return index


def load_stage(
    root: epath.Path, name: str, dtype: str = "float32", mesh: Mesh | None = None
) -> tuple[stages.Stage, stages.Params]:
    """One stage of a cascade folder. Raises ValueError if it is not there or damaged."""
    present = read_index(root)["stages"]
    if name not in present:
        raise ValueError(f"cascade {root} has no stage {name}; it has {', '.join(present)}.")
    stage = stages.build(params_lib.read_json(root / name / "config.json"), dtype)
    shapes = stages.param_shapes(stage)
    if mesh is not None:
        shapes = sharding.placed(shapes, mesh)
    return stage, params_lib.load(root / name / "params.safetensors", shapes)


def checksum(name_or_path: str | os.PathLike) -> str:
    """SHA-256 of all files that make a cascade, so that changed ones are not taken for it."""
    root = resolve(name_or_path)
    names = ["cascade.json", "tokenizer.json"]
    for stage in read_index(root)["stages"]:
        names += [f"{stage}/config.json", f"{stage}/params.safetensors"]
    return params_lib.checksum(*(root / name for name in names))

"""A cascade's folder on disk: an index, and of each stage its config and parameters.

cascades/mine/cascade.json          stages in order, sampling settings, provenance
cascades/mine/tokenizer.json
cascades/mine/decoder/config.json
cascades/mine/decoder/params.safetensors
"""

import dataclasses
import os
import pathlib
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from mav import params as params_lib
from mav import sharding, stages
from mav.settings import Settings

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
    """What cascade.json says. Raises ValueError if there is none that this mav can read whole."""
    if not (root / "cascade.json").is_file():
        raise ValueError(
            f"cascade {str(root)!r} is neither shipped ({', '.join(built_in())}) nor a folder with "
            "a cascade.json."
        )
    file = root / "cascade.json"
    index = params_lib.read_json(file)
    if index.get("format") != FORMAT:
        raise ValueError(f"{file} has format {index.get('format')}, this mav reads {FORMAT}.")
    missing = [key for key in ("name", "stages", "settings", "provenance") if key not in index]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}; fetch or export it again.")
    present = index["stages"]
    if not isinstance(present, list) or any(name not in stages.STAGES for name in present):
        raise ValueError(
            f"{file} has stages={present!r}; it must be a list of some of "
            f"{', '.join(stages.STAGES)}."
        )
    check_about(index, file)
    return index


def check_about(index: Mapping[str, Any], file: str | os.PathLike) -> None:
    """Raises ValueError if settings or provenance that a file gives to a cascade are of no use."""
    for key in ("settings", "provenance"):
        if not isinstance(index[key], Mapping):
            raise ValueError(f"{file} has {key}={index[key]!r}; it must be an object.")
    settings, fields = index["settings"], dataclasses.fields(Settings)
    known = [field.name for field in fields]
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise ValueError(
            f"{file} has the unknown setting {', '.join(unknown)}; choose among {', '.join(known)}."
        )
    needed = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
    missing = [name for name in needed if name not in settings]
    if missing:
        raise ValueError(
            f"{file} lacks the setting {', '.join(missing)}; {', '.join(needed)} are needed."
        )
    for field in fields:
        value = settings.get(field.name, {})
        if typing.get_origin(field.type) is Mapping and not isinstance(value, Mapping):
            raise ValueError(f"{file} has {field.name}={value!r}; it must be a table by stage.")


def load_stage(
    root: epath.Path, name: str, dtype: str = "float32", mesh: Mesh | None = None
) -> tuple[stages.Stage, stages.Params]:
    """One stage of a cascade folder. Raises ValueError if it is not there or damaged."""
    present = read_index(root)["stages"]
    if name not in present:
        raise ValueError(f"cascade {root} has no stage {name}; it has {', '.join(present)}.")
    parts = [f"{name}/config.json", f"{name}/params.safetensors"]
    if name == "clip":
        parts.append("tokenizer.json")  # without which it reads nothing
    for part in parts:
        if not (root / part).is_file():
            raise ValueError(f"cascade {root} lacks {part}; fetch or export it again.")
    file = root / name / "config.json"
    config = params_lib.read_json(file)
    if config.get("stage") != name:
        raise ValueError(
            f"{file} has stage={config.get('stage')!r}, it must be {name!r}; export it again."
        )
    stage = stages.build(config, dtype)
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

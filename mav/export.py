"""`mav export`: the averaged parameters of training runs become a cascade folder."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from mav import checkpoint, folders, stages
from mav import params as params_lib


def run(
    workdirs: Sequence[str | os.PathLike],
    path: str | os.PathLike,
    dtype: str = "float32",
    settings: str | os.PathLike | None = None,
) -> None:
    """Writes one stage per run into the cascade folder, which is made or added to.

    dtype: of the file, "float32" or "float16". settings: JSON of `settings.Settings` and, under
    "provenance", anything to be kept with the cascade; needed once, for a new folder.
    Raises ValueError if a run has no checkpoint or the folder has no settings, or impossible ones.
    """
    root = pathlib.Path(path)
    index = dict(name=root.name, settings=None, provenance={})
    if (root / "cascade.json").is_file():
        index = folders.read_index(epath.Path(root))
    if settings is not None:
        index |= params_lib.read_json(settings)
    if index["settings"] is None:
        raise ValueError(f"{root} is a new cascade; give its sampling settings by --settings.")
    folders.check_about(index, root / "cascade.json" if settings is None else settings)

    runs = [(epath.Path(workdir), *checkpoint.load_ema(workdir)) for workdir in workdirs]
    provenance = dict(index["provenance"])
    for workdir, stage, params, config in runs:
        folders.save_stage(root, stage.name, stage_config(config), params, np.dtype(dtype))
        if (workdir / "log.jsonl").is_file():
            (workdir / "log.jsonl").copy(root / stage.name / "log.jsonl", overwrite=True)
        provenance.setdefault("runs", {})[stage.name] = describe(stage, config)
        if stage.name == "clip":
            (workdir / "tokenizer.json").copy(root / "tokenizer.json", overwrite=True)
            provenance |= params_lib.read_json(workdir / "words.json")
    folders.write_index(root, index["name"], index["settings"], provenance)


def stage_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `stages.build` needs of a training config."""
    keys = ("stage", "size", "low_size", "frames", "inputs", "network", "process")
    return {key: config[key] for key in keys if key in config}


def describe(stage: stages.Stage, config: Mapping[str, Any]) -> dict[str, Any]:
    """Where a stage's weights come from."""
    data = pathlib.PurePath(config["data"].get("images") or config["data"]["videos"])
    return dict(
        step=config["step"],
        seed=config["seed"],
        batch_size=config["data"]["batch_size"],
        data="/".join(data.parts[-3:]),  # a prepared set's name, size and version, or a name
    )

"""Features on disk, in parts by number, so that runs can stop, go on, and share the work.

A folder holds facts.json and a safetensors file per part. Parts appear whole or not at all, in any
order and from any process; when all are there, the features are.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float, Int

from mav import media
from mav import params as params_lib

FORMAT = 2
PART = 8  # clips, which is also what goes through a network at once


@dataclasses.dataclass(frozen=True)
class Store:
    """Features of `total` clips. facts: all that they depend on."""

    folder: pathlib.Path
    facts: Mapping[str, Any]
    total: int

    @property
    def num_parts(self) -> int:
        return -(-self.total // PART)

    def rows(self, part: int) -> range:
        """Numbers of the clips of a part."""
        return range(PART * part, min(PART * (part + 1), self.total))

    def has(self, part: int) -> bool:
        return self._path(part).is_file()

    def missing(self) -> list[int]:
        """Parts that are not there yet."""
        return [part for part in range(self.num_parts) if not self.has(part)]

    def write(
        self,
        part: int,
        index: Int[np.ndarray, "n"],
        features: Float[np.ndarray, "n ..."],
        fps: Float[np.ndarray, "n"],
        left_out: Sequence[str] = (),
    ) -> None:
        """index: numbers of the clips that there are. fps: frames per second of their videos, NaN
        where unknown. left_out: which videos have no clip, and why."""
        arrays = dict(
            index=np.asarray(index, np.int64),
            features=np.asarray(features, np.float32),
            fps=np.asarray(fps, np.float32),
        )
        about = dict(left_out=json.dumps(list(left_out)))
        with media.written_aside(self._path(part)) as path:
            safetensors.numpy.save_file(arrays, path, about)

    def read(self) -> Iterator[tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n ..."]]]:
        """What parts hold, in order, as far as there are clips. Raises ValueError if damaged."""
        for part in range(self.num_parts):
            with self._open(part) as file:
                index, features = file.get_tensor("index"), file.get_tensor("features")
            if not np.isfinite(features).all():
                raise ValueError(f"{self._path(part)} has numbers that are not finite.")
            if len(index):
                yield index, features

    def all(self) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n ..."]]:
        """All at once. Raises ValueError if there are none."""
        parts = list(self.read())
        if not parts:
            raise ValueError(f"{self.folder} has no clips: all videos are too short, or damaged.")
        index, features = zip(*parts, strict=True)
        return np.concatenate(index), np.concatenate(features)

    def sources(self) -> tuple[Float[np.ndarray, "n"], list[str]]:
        """Frames per second of all videos, and which have no clip, and why."""
        fps, left_out = [], []
        for part in range(self.num_parts):
            with self._open(part) as file:
                fps.append(file.get_tensor("fps"))
                left_out += json.loads(file.metadata()["left_out"])
        return np.concatenate(fps), left_out

    @contextlib.contextmanager
    def _open(self, part: int) -> Iterator[Any]:
        """A part's file. Raises ValueError if it is damaged."""
        path = self._path(part)
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                yield file
        except (safetensors.SafetensorError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); remove it and run again.") from error

    def _path(self, part: int) -> pathlib.Path:
        return self.folder / f"{part:06d}.safetensors"


def open_store(folder: str | os.PathLike, facts: Mapping[str, Any], total: int) -> Store:
    """Opens a folder of features, or begins one.

    Raises ValueError, naming both sides, if it was begun with other facts.
    """
    folder = pathlib.Path(folder)
    facts = json.loads(json.dumps(dict(facts, format=FORMAT, total=total)))
    file = folder / "facts.json"
    if file.exists():
        check_facts(folder, params_lib.read_json(file), facts)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        params_lib.write_json(file, facts)
    return Store(folder, facts, total)


def open_finished(folder: str | os.PathLike, facts: Mapping[str, Any]) -> Store:
    """Opens features that are complete, of videos that need not be here.

    facts: what must be so; others may be whatever they are. Raises ValueError if it is not.
    """
    folder = pathlib.Path(folder)
    if not (folder / "facts.json").is_file():
        raise ValueError(f"{folder} holds no statistics; name the real videos by --real.")
    found = params_lib.read_json(folder / "facts.json")
    wanted = json.loads(json.dumps(dict(facts, format=FORMAT)))
    check_facts(folder, {name: found.get(name) for name in wanted}, wanted)
    store = Store(folder, found, found["total"])
    if store.missing():
        raise ValueError(
            f"{folder} lacks {len(store.missing())} of {store.num_parts} parts; name the real "
            "videos by --real."
        )
    return store


def check_facts(folder: pathlib.Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises ValueError with the first fact that differs, on both sides."""
    found, wanted = _flat(found), _flat(wanted)
    for name in sorted(set(found) | set(wanted), key=lambda name: (name.count("."), name)):
        a, b = found.get(name), wanted.get(name)
        if a != b:
            raise ValueError(
                f"{folder} has features of {name}={a!r}, and this run is of {name}={b!r}; name "
                "another folder."
            )


def _flat(facts: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested facts as one table, names joined by dots."""
    table = {}
    for name, value in facts.items():
        inner = _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else None
        table |= {f"{before}{name}": value} if inner is None else inner
    return table

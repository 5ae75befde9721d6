"""What protocols look at: clips of real and of generated videos, by number."""

import csv
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from mav import bars, media
from mav import cascade as cascade_lib

Video = UInt8[np.ndarray, "f h w 3"]
ENDS = 2**16  # bytes at either end of a file that tell it from others
SEEDS = 100_000  # samples that a seed has room for


@dataclasses.dataclass(frozen=True)
class View:
    """What of a video is measured.

    frames: how many. size: of the square in the middle, resized by Lanczos' method. fps: at which
    frames are chosen, the nearest ones; None takes each of the file. which: "middle" or "first".
    """

    frames: int = 16
    size: int = 256
    fps: float | None = None
    which: str = "middle"

    def check(self) -> None:
        """Raises ValueError for impossible values."""
        if self.frames < 1 or self.size < 1:
            raise ValueError(f"frames={self.frames}, size={self.size} must each be at least 1.")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ValueError(
                f"real_fps={self.fps} must be above 0 and finite, or left out for the file's own."
            )
        if self.which not in ("middle", "first"):
            raise ValueError(f"which={self.which!r} is unknown; choose middle or first.")

    def cut(self, video: Video, fps: float | None) -> Video | None:
        """The clip of a video, None if it is too short. fps: of the video, where it is known."""
        step = 1.0 if self.fps is None or fps is None else fps / self.fps
        spare = len(video) - 1 - round(step * (self.frames - 1))
        if spare < 0:
            return None
        start = spare // 2 if self.which == "middle" else 0
        chosen = start + np.rint(step * np.arange(self.frames)).astype(int)
        return media.fit(video[chosen], self.size)


class Clip(NamedTuple):
    """What is measured of a video. fps: frames per second of that, None where unknown."""

    frames: Video
    fps: float | None


class LeftOutError(Exception):
    """Which real video has no clip, and why."""


@dataclasses.dataclass(frozen=True)
class Clips:
    """Clips by number.

    facts: what they are, in terms of JSON; the same facts are the same clips. labels: what each
    shows. read: gives clip n, or raises LeftOutError.
    """

    facts: Mapping[str, Any]
    labels: Sequence[str | None]
    read: Callable[[int], Clip]

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, num: int) -> "Clips":
        """So many of them, evenly spaced. Raises ValueError if there are fewer."""
        if not 1 <= num <= len(self):
            raise ValueError(f"{num} videos are asked for; there are {len(self)}.")
        rows = np.arange(num) * len(self) // num
        facts = dict(self.facts, chosen=f"{num} of {len(self)}, evenly spaced")
        return Clips(facts, [self.labels[n] for n in rows], lambda n: self.read(int(rows[n])))


def read_video(path: pathlib.Path) -> tuple[Video, float | None]:
    """A video and its frames per second, where they are known.

    path: what `media.read` reads, an .npz with the array "video", or a folder of pictures in the
    order of their names.
    """
    if path.is_dir():
        frames = [media.read_image(file) for file in sorted(path.iterdir()) if _is_picture(file)]
        if not frames:
            raise ValueError(f"{path} holds no pictures: .png, .jpg or .jpeg.")
        sizes = {frame.shape[:2] for frame in frames}
        if len(sizes) > 1:
            raise ValueError(f"{path} has frames of several sizes: {sorted(sizes)}.")
        return np.stack(frames), None
    if path.suffix.lower() != ".npz":
        return media.read(path)
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            video = arrays["video"]
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no array 'video' that can be read ({error}).") from error
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
        raise ValueError(
            f"{path}: video is {video.dtype} {list(video.shape)}; wanted uint8 [frames, height, "
            "width, 3]."
        )
    return video, None


def of_files(
    paths: Sequence[pathlib.Path],
    labels: Sequence[str | None],
    view: View,
    facts: Mapping[str, Any],
    strict: bool,
) -> Clips:
    """Clips of video files. strict: a short or damaged one is an error, else it is left out."""

    def cut(path: pathlib.Path) -> Clip:
        video, fps = read_video(path)
        clip = view.cut(video, fps)
        if clip is None:
            short = f"{path} is too short: {len(video)} frames; the view takes {view.frames}."
            raise ValueError(short) if strict else LeftOutError(short)
        return Clip(clip, fps)

    def read(n: int) -> Clip:
        try:
            return cut(paths[n])
        except ValueError:
            if strict:
                raise
        try:
            _read_through(paths[n])  # it may be the disk that fails, and not the video
            return cut(paths[n])
        except ValueError as error:
            raise LeftOutError(str(error)) from error

    told = dict(facts, files=len(paths), hash=fingerprint(paths), view=dataclasses.asdict(view))
    return Clips(told, labels, read)


def of_folder(folder: str | os.PathLike, view: View) -> Clips:
    """Generated videos of anyone, one per sample, below a folder.

    Their captions, where a measure needs them: captions.csv in the folder with the columns file and
    caption, which then also says which files there are and in what order; else NAME.txt beside
    NAME.mp4; else the prompt that a file of mav keeps. Without captions.csv the order is that of
    the names. Raises ValueError if there are none.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder of videos.")
    table = folder / "captions.csv"
    if table.is_file():
        paths, labels = _listed(table)
    else:
        paths = _videos(folder)
        labels = [_caption(path) for path in paths]
    if not paths:
        raise ValueError(
            f"{folder} holds no videos: .mp4, .avi, .gif, .npz, or folders of pictures."
        )
    facts = dict(kind="files", name=folder.name)
    return of_files(paths, labels, dataclasses.replace(view, fps=None), facts, strict=True)


def _read_through(path: pathlib.Path) -> None:
    """Raises OSError unless the disk gives all bytes."""
    for file in _files([path]):
        with open(file, "rb") as opened:
            while opened.read(2**24):
                pass


def _files(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """Files, and those in folders."""
    files = []
    for path in paths:
        files += [f for f in sorted(path.iterdir()) if f.is_file()] if path.is_dir() else [path]
    return files


def _listed(table: pathlib.Path) -> tuple[list[pathlib.Path], list[str | None]]:
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:  # Excel's begin with a mark
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} is no CSV in UTF-8 ({error}).") from error
    if not rows or not {"file", "caption"} <= set(rows[0]):
        raise ValueError(f"{table} needs a first line of names, with file and caption, and rows.")
    paths = [table.parent / (row["file"] or "") for row in rows]
    missing = [path for path in paths if not path.exists() or path == table.parent]
    if missing:
        raise ValueError(f"{table} names {missing[0]}, which is not there ({len(missing)} such).")
    return paths, [row["caption"] or None for row in rows]


def _videos(folder: pathlib.Path) -> list[pathlib.Path]:
    """Video files, and the folders that hold pictures and no videos, by name."""
    suffixes = (*media.CONTAINERS, *media.ANIMATIONS, ".npz")
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = [pathlib.Path(root, name) for name in sorted(names) if not name.startswith(".")]
        videos = [path for path in here if path.suffix.lower() in suffixes]
        # mav lays a sheet beside a video: pictures among videos are no frames.
        if not videos and not folders and any(map(_is_picture, here)):
            videos = [pathlib.Path(root)]
        found += videos
    return sorted(found)


def _is_picture(path: pathlib.Path) -> bool:
    return path.suffix.lower() in (".png", ".jpg", ".jpeg") and not path.name.startswith(".")


def _caption(path: pathlib.Path) -> str | None:
    beside = path.with_suffix(".txt")
    if beside.is_file():
        try:
            return " ".join(beside.read_text(encoding="utf-8").split()) or None
        except UnicodeDecodeError as error:
            raise ValueError(f"{beside} is no text in UTF-8 ({error}).") from error
    if path.is_dir():
        path = next(file for file in sorted(path.iterdir()) if _is_picture(file))
    prompt = media.read_metadata(path).get("prompt")
    return prompt if isinstance(prompt, str) else None


def of_cascade(
    cascade: cascade_lib.Cascade,
    checksum: str,
    prompts: Sequence[str],
    view: View,
    seed: int,
    settings: Mapping[str, Any],
) -> Clips:
    """Videos that a cascade makes when they are asked for: sample n with seed SEEDS * seed + n.

    checksum: `folders.checksum` of its files. Raises ValueError for settings that are impossible.
    """
    if len(prompts) > SEEDS:
        raise ValueError(f"{len(prompts)} prompts are too many; seeds have room for {SEEDS}.")
    settings = dict(settings, frames=view.frames, size=view.size)
    checked = cascade.check(settings)

    fps = cascade.output_fps(checked)

    def read(n: int) -> Clip:
        pieces = cascade.stream(prompts[n], SEEDS * seed + n, cascade_lib.silent, **settings)
        return Clip(np.concatenate(list(pieces)), fps)

    facts = dict(
        kind="cascade",
        name=cascade.name,
        checksum=checksum,
        dtype=jnp.dtype(cascade.stages["decoder"].network.dtype).name,
        prompts=digest(prompts),
        seed=seed,
        fps=fps,
        settings=dataclasses.asdict(checked),
    )
    return Clips(facts, list(prompts), read)


def digest(value: Any) -> str:
    """SHA-256 of what JSON can hold."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(paths: Iterable[pathlib.Path]) -> str:
    """SHA-256 of videos in order: their names, sizes, and the bytes at both ends.

    Hours of video need not be read whole: the table of frames that a container keeps at one of its
    ends changes with all between.
    """
    files = _files(paths)
    found = hashlib.sha256()
    for path in bars.bar(files, desc="files", unit="file", disable=len(files) < 1000):
        size = path.stat().st_size
        found.update(f"{path.name}\0{size}\0".encode())
        with open(path, "rb") as file:
            found.update(file.read(ENDS))
            file.seek(max(ENDS, size - ENDS))
            found.update(file.read(ENDS))
    return found.hexdigest()

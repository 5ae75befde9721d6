"""Endless training examples by index: captioned images, and clips without text.

Example i is a pure function of (seed, i), so the position in the data is one number, and a resumed
run sees what it would have seen. The sources suit `grain.MapDataset.source`.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float64, Int

from mav.data import cutout
from mav.tokenizer import Tokenizer

HELD_FPS = (
    120.0  # of a picture that is held: the higher the fps, the less moves from frame to frame
)
TRIES = 1000  # damaged records in a row: then it is no accident


class DamagedError(ValueError):
    """A record that cannot be read. Examples are made without it."""


class ImageSource(Protocol):
    """Captioned images with random access. Reading raises `DamagedError`."""

    def __len__(self) -> int: ...
    def caption(self, index: int) -> str: ...
    def image(self, index: int, size: int, window: tuple[float, float, float]) -> np.ndarray:
        """uint8 [size, size, 3] of a window as in `cutout.svg`."""


@dataclasses.dataclass(frozen=True)
class Video:
    """One video. No text.

    times: of its frames, seconds, rising. show: of the numbers of frames, a size and a window gives
    uint8 [frames, size, size, 3].
    """

    times: Float64[np.ndarray, "n"]
    show: Callable[[Sequence[int], int, tuple[float, float, float]], np.ndarray]


class VideoSource(Protocol):
    """Videos with random access to their frames. Reading raises `DamagedError`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Video: ...


@dataclasses.dataclass(frozen=True)
class CutoutImages:
    """`ImageSource` of the cutout world."""

    split: str

    def __len__(self) -> int:
        return cutout.NUM_IMAGES[self.split]

    def caption(self, index: int) -> str:
        return cutout.image_caption(self.split, index)

    def image(self, index: int, size: int, window: tuple[float, float, float]) -> np.ndarray:
        return cutout.image(self.split, index, size, window)


@dataclasses.dataclass(frozen=True)
class CutoutVideos:
    """`VideoSource` of the cutout world."""

    split: str

    def __len__(self) -> int:
        return cutout.NUM_VIDEOS[self.split]

    def __getitem__(self, index: int) -> Video:
        times = np.arange(cutout.VIDEO_FRAMES) / cutout.NATIVE_FPS
        return Video(times, functools.partial(cutout.video, self.split, index))


IMAGES = dict(cutout=CutoutImages)
VIDEOS = dict(cutout=CutoutVideos)


def open_source(kind: str, name: str, split: str) -> ImageSource | VideoSource:
    """The source that a config's `data.images` or `data.videos` names.

    kind: "images" or "videos". name: a name in the table of that kind, or the folder of a data set
    that `mav data build` prepared, as ".../cutout_images/64/1.0.0"."""
    named = dict(images=IMAGES, videos=VIDEOS)[kind]
    if name in named:
        return named[name](split)
    from mav.data import builders  # imports tensorflow-datasets, which only this needs

    reader = dict(images=builders.ArrayRecordImages, videos=builders.ArrayRecordVideos)[kind]
    return reader(name, split)


@dataclasses.dataclass(frozen=True)
class FpsCurriculum:
    """fps of training clips: 1 + 29 Beta(a, b), from mostly high fps to mostly low (MAV §3.4).

    start, end: (a, b) at the first and the last step; in between they move linearly.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    num_steps: int

    def draw(self, step: float, rng: np.random.Generator) -> float:
        """Frames per second, in [1, 30]."""
        progress = min(step / self.num_steps, 1.0)
        a, b = (s + (e - s) * progress for s, e in zip(self.start, self.end, strict=True))
        return 1 + 29 * rng.beta(a, b)


CROPS = ("random", "centre")


@dataclasses.dataclass(frozen=True)
class View:
    """What a network sees of pictures.

    size: pixels of a square picture, and of the shorter side of any other. crop: side of the window
    that is kept. crop_at: where, a name in CROPS. flip_prob: chance that it is mirrored, left and
    right.
    """

    size: int
    crop: int
    crop_at: str = "random"
    flip_prob: float = 0.0

    def __post_init__(self):
        if self.crop_at not in CROPS:
            raise ValueError(f"crop_at={self.crop_at!r} is unknown; choose {' or '.join(CROPS)}.")
        if not 1 <= self.crop <= self.size:
            raise ValueError(f"crop={self.crop} must lie between 1 and size={self.size}.")

    def draw_window(self, rng: np.random.Generator) -> tuple[float, float, float]:
        """A window as in `cutout.svg`. Those of square pictures fall on pixels."""
        room = self.size - self.crop
        if self.crop_at == "centre":
            place = (0.5, 0.5)
        else:
            place = rng.integers(room + 1, size=2) / room if room else rng.random(2)
        return float(place[0]), float(place[1]), self.crop / self.size

    def look(self, rng: np.random.Generator, show: Callable) -> np.ndarray:
        """Frames uint8 [..., crop, crop, 3]. show: (size, window) -> frames."""
        frames = show(self.crop, self.draw_window(rng))
        if rng.random() < self.flip_prob:
            frames = np.ascontiguousarray(frames[..., ::-1, :])
        return frames


@dataclasses.dataclass(frozen=True)
class Captioned:
    """Examples {"frames": uint8 [1, crop, crop, 3], "tokens": int32 [n]}.

    tokenizer: None leaves the tokens out, for stages that are not told of text. caption_drop_prob:
    chance of an empty caption, for classifier-free guidance. damaged: collects what is said of
    records that cannot be read, in whose place others are drawn.
    """

    images: ImageSource
    tokenizer: Tokenizer | None
    seed: int
    view: View
    caption_drop_prob: float = 0.0
    damaged: set[str] = dataclasses.field(default_factory=set)

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, int(i)))
        return first_whole(functools.partial(self._draw, rng), self.damaged)

    def _draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        index = int(rng.integers(len(self.images)))
        frames = self.view.look(rng, functools.partial(self.images.image, index))
        example = dict(frames=frames[None])
        if self.tokenizer is not None:
            dropped = rng.random() < self.caption_drop_prob
            text = "" if dropped else self.images.caption(index)
            example["tokens"] = self.tokenizer([text])[0]
        return example


@dataclasses.dataclass(frozen=True)
class Clips:
    """Examples {"frames": uint8 [f, crop, crop, 3], "fps": float32}, without text.

    tokenizer: adds "tokens" of an empty caption, for networks that also read text (UNCLIP.md 2.5).
    batch_size: turns an index into a training step, by which the fps curriculum moves. damaged: as
    in `Captioned`.
    """

    videos: VideoSource
    seed: int
    num_frames: int
    view: View
    curriculum: FpsCurriculum
    batch_size: int
    tokenizer: Tokenizer | None = None
    damaged: set[str] = dataclasses.field(default_factory=set)

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, int(i)))
        return first_whole(functools.partial(self._draw, i / self.batch_size, rng), self.damaged)

    def _draw(self, step: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
        video = self.videos[int(rng.integers(len(self.videos)))]
        times = video.times
        # A short video cannot be sampled at so low an fps that the clip would outlast it.
        slowest = (self.num_frames - 1) / (times[-1] - times[0])
        fps = max(self.curriculum.draw(step, rng), slowest)
        offsets = np.arange(self.num_frames) / fps
        half = (times[-1] - times[0]) / (len(times) - 1) / 2  # of a mean step
        fitting = np.searchsorted(times, times[-1] + half - offsets[-1])
        first = int(rng.integers(max(1, fitting)))
        shown = nearest(times, times[first] + offsets)
        frames = self.view.look(rng, functools.partial(video.show, shown))
        example = dict(frames=frames, fps=np.float32(fps))
        if self.tokenizer is not None:
            example["tokens"] = self.tokenizer([""])[0]
        return example


@dataclasses.dataclass(frozen=True)
class WithStills:
    """Clips, each with "stills", uint8 [k, crop, crop, 3], of another set beside it.

    What a network has learned of pictures is so not lost while it learns of motion.
    held_prob: chance that a clip gives way to the first of its stills, held for as many frames at
    `HELD_FPS`. Layers over time so see what no video shows, and learn to leave its shape alone.
    """

    clips: Clips
    images: Captioned
    stills: int
    held_prob: float = 0.0

    def __len__(self) -> int:
        return len(self.clips) // self.stills

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        chosen = range(int(i) * self.stills, (int(i) + 1) * self.stills)
        stills = np.concatenate([self.images[k]["frames"] for k in chosen])
        clip = dict(self.clips[i], stills=stills)
        if np.random.default_rng((self.clips.seed, int(i), 1)).random() < self.held_prob:
            held = np.repeat(stills[:1], self.clips.num_frames, axis=0)
            clip |= dict(frames=held, fps=np.float32(HELD_FPS))
        return clip


@dataclasses.dataclass(frozen=True)
class Rows:
    """Of every batch the rows that one process reads; batches are made of consecutive examples."""

    source: Captioned | Clips
    batch_size: int
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.source) // self.batch_size * len(self.rows)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        step, n = divmod(int(i), len(self.rows))
        return self.source[step * self.batch_size + int(self.rows[n])]


def first_whole(draw: Callable[[], dict], damaged: set[str]) -> dict[str, np.ndarray]:
    """An example of records that can be read. What cannot is added to `damaged`, and told of.

    Raises ValueError after `TRIES` damaged ones.
    """
    for _ in range(TRIES):
        try:
            return draw()
        except DamagedError as error:
            told = str(error)
        if told not in damaged:
            damaged.add(told)
            if len(damaged).bit_count() == 1:  # 1, 2, 4, 8...: a lost disk does not flood the log
                warnings.warn(f"{told}; damaged and left out so far: {len(damaged)}", stacklevel=2)
    raise ValueError(f"{TRIES} records in a row are damaged; the last one: {told}")


def nearest(
    times: Float64[np.ndarray, "n"], wanted: Float64[np.ndarray, "f"]
) -> Int[np.ndarray, "f"]:
    """Numbers of the frames whose times come nearest to the wanted ones."""
    return np.searchsorted((times[1:] + times[:-1]) / 2, wanted)


def make(
    config: Mapping[str, Any], stage_frames: int, num_steps: int, tokenizer: Tokenizer | None
) -> Captioned | Clips | WithStills:
    """The source that a config's `data` table describes.

    `images` or `videos` names the set; `stills` per clip, if any, come from `stills_from`.
    """
    seed = config["seed"]
    view = View(config["size"], config["crop"], config["crop_at"], config["flip_prob"])
    kind = "images" if "images" in config else "videos"
    if config[kind] is None:
        raise ValueError(f"there are no {kind} to learn from; name them by --config.data.{kind}.")
    if kind == "images":
        images = open_source("images", config["images"], config["split"])
        drop = config["caption_drop_prob"]
        return Captioned(images, tokenizer, seed, view, drop)
    videos = open_source("videos", config["videos"], config["split"])
    curriculum = FpsCurriculum(tuple(config["fps_start"]), tuple(config["fps_end"]), num_steps)
    batch_size = config["batch_size"]
    clips = Clips(videos, seed, stage_frames, view, curriculum, batch_size, tokenizer)
    if not config["stills"]:
        return clips
    if config["stills_from"] is None:
        raise ValueError(
            "there are no stills to learn from; name them by --config.data.stills_from."
        )
    images = open_source("images", config["stills_from"], config["split"])
    stills = Captioned(images, None, seed, view)
    return WithStills(clips, stills, config["stills"], config["held_prob"])

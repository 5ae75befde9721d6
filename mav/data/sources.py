"""Endless training examples by index: captioned images, and clips without text.

Example i is a pure function of (seed, i), so the position in the data is one number, and a resumed
run sees what it would have seen. The sources suit `grain.MapDataset.source`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mav.data import cutout
from mav.tokenizer import Tokenizer


class ImageSource(Protocol):
    """Captioned images with random access."""

    def __len__(self) -> int: ...
    def caption(self, index: int) -> str: ...
    def image(self, index: int, size: int, window: tuple[float, float, float]) -> np.ndarray:
        """uint8 [size, size, 3] of a square window: left, top, extent in [0, 1] of the picture."""


class VideoSource(Protocol):
    """Videos with random access to their frames. No text."""

    native_fps: float

    def __len__(self) -> int: ...
    def num_frames(self, index: int) -> int: ...
    def frames(
        self, index: int, frames: Sequence[int], size: int, window: tuple[float, float, float]
    ) -> np.ndarray:
        """uint8 [frames, size, size, 3] of the frames with these numbers."""


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
    native_fps: float = cutout.NATIVE_FPS

    def __len__(self) -> int:
        return cutout.NUM_VIDEOS[self.split]

    def num_frames(self, index: int) -> int:
        return cutout.VIDEO_FRAMES

    def frames(
        self, index: int, frames: Sequence[int], size: int, window: tuple[float, float, float]
    ) -> np.ndarray:
        return cutout.video(self.split, index, frames, size, window)


IMAGES = dict(cutout=CutoutImages)
VIDEOS = dict(cutout=CutoutVideos)


def open_source(kind: str, name: str, split: str) -> ImageSource | VideoSource:
    """The source that a config's `data.images` or `data.videos` names.

    kind: "images" or "videos". name: a name in the table of that kind, or the folder of a data set
    that `builders.build` prepared, as ".../cutout_images/64/1.0.0"."""
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


@dataclasses.dataclass(frozen=True)
class Captioned:
    """Examples {"frames": uint8 [1, crop, crop, 3], "tokens": int32 [n]}.

    tokenizer: None leaves the tokens out, for stages that are not told of text. size: at which
    pictures are rendered. crop: side of the window that is kept, at random.
    caption_drop_prob: chance of an empty caption, for classifier-free guidance.
    """

    images: ImageSource
    tokenizer: Tokenizer | None
    seed: int
    size: int
    crop: int
    caption_drop_prob: float = 0.0

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, int(i)))
        index = int(rng.integers(len(self.images)))
        window = draw_window(rng, self.size, self.crop)
        example = dict(frames=self.images.image(index, self.crop, window)[None])
        if self.tokenizer is not None:
            dropped = rng.random() < self.caption_drop_prob
            text = "" if dropped else self.images.caption(index)
            example["tokens"] = self.tokenizer([text])[0]
        return example


@dataclasses.dataclass(frozen=True)
class Clips:
    """Examples {"frames": uint8 [f, crop, crop, 3], "fps": float32}, without text.

    tokenizer: adds "tokens" of an empty caption, for networks that also read text (UNCLIP.md 2.5).
    batch_size: turns an index into a training step, by which the fps curriculum moves.
    """

    videos: VideoSource
    seed: int
    num_frames: int
    size: int
    crop: int
    curriculum: FpsCurriculum
    batch_size: int
    tokenizer: Tokenizer | None = None

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, int(i)))
        index = int(rng.integers(len(self.videos)))
        available = self.videos.num_frames(index)
        # A short video cannot be sampled at so low an fps that the clip would outlast it.
        slowest = (self.num_frames - 1) * self.videos.native_fps / (available - 1)
        fps = max(self.curriculum.draw(i / self.batch_size, rng), slowest)
        offsets = np.round(np.arange(self.num_frames) * self.videos.native_fps / fps).astype(int)
        first = int(rng.integers(available - offsets[-1]))
        window = draw_window(rng, self.size, self.crop)
        frames = self.videos.frames(index, first + offsets, self.crop, window)
        example = dict(frames=frames, fps=np.float32(fps))
        if self.tokenizer is not None:
            example["tokens"] = self.tokenizer([""])[0]
        return example


def draw_window(rng: np.random.Generator, size: int, crop: int) -> tuple[float, float, float]:
    """A random window of crop x crop pixels of a picture of size x size, in fractions of it."""
    left, top = rng.integers(size - crop + 1, size=2)
    return float(left / size), float(top / size), crop / size


def make(config: Mapping[str, Any], stage_frames: int, num_steps: int, tokenizer) -> Any:
    """The source that a config's `data` table describes: `images` or `videos` names the set."""
    size, crop = config["size"], config["crop"]
    kind = "images" if "images" in config else "videos"
    if config[kind] is None:
        raise ValueError(f"there are no {kind} to learn from; name them by --config.data.{kind}.")
    if kind == "images":
        images = open_source("images", config["images"], config["split"])
        drop = config["caption_drop_prob"]
        return Captioned(images, tokenizer, config["seed"], size, crop, drop)
    videos = open_source("videos", config["videos"], config["split"])
    curriculum = FpsCurriculum(tuple(config["fps_start"]), tuple(config["fps_end"]), num_steps)
    batch_size = config["batch_size"]
    return Clips(
        videos, config["seed"], stage_frames, size, crop, curriculum, batch_size, tokenizer
    )

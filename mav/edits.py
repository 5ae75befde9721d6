"""What one does with a cascade besides telling it a sentence (MAV §3.2.3 and §4.3).

    pieces = edits.animate(cascade, image, seed=1)      # Cascade.animate gives them as one video

Pictures and videos are uint8 of any size, of which the square in the middle is used. All give the
frames of a video in pieces, as `Cascade.stream` does, so that memory stays bounded, and refuse bad
input by ValueError before the first network runs. Frames that are given come back unchanged where
the cascade stops at the decoder's size, and where it does not, as it enlarges them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mav import clip, media, windows

if TYPE_CHECKING:
    from mav.cascade import Cascade, Progress

Picture = UInt8[np.ndarray, "h w 3"]
Video = UInt8[np.ndarray, "f h w 3"]


def animate(
    cascade: Cascade,
    image: Picture,
    seed: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> Iterator[Video]:
    """A video that begins with an image; all other frames are filled in."""
    return _fill_around(cascade, {0: image}, seed, progress, settings)


def tween(
    cascade: Cascade,
    first: Picture,
    last: Picture,
    seed: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> Iterator[Video]:
    """A video that leads from one image to another, its first and last frame."""
    checked = cascade.check(settings)
    length = cascade.stages["decoder"].frames
    whole = (length - 1) * checked.frame_skip + 1
    if checked.frames not in (length, whole):
        raise ValueError(
            f"frames={checked.frames} is impossible between two images; choose {length} or {whole}."
        )
    return _fill_around(cascade, {0: first, length - 1: last}, seed, progress, settings)


def _fill_around(
    cascade: Cascade,
    images: Mapping[int, Picture],
    seed: int,
    progress: Progress | None,
    settings: Mapping[str, Any],
) -> Iterator[Video]:
    """A video of which some of the decoder's frames are given, the first among them."""
    checked, keys, report = cascade.begin(seed, progress, settings, ("prior", "decoder"))
    stage = _interpolation(cascade)
    if checked.frames == 1:
        raise ValueError(f"frames=1 leaves nothing to fill in; choose {stage.frames} or more.")
    video = jnp.zeros((1, stage.frames, stage.size, stage.size, 3))
    known = np.zeros((1, stage.frames), np.float32)
    for frame, image in images.items():
        video = video.at[:, frame].set(fit(image[None], stage.size)[:, 0])
        known[:, frame] = 1

    def pieces():
        embedding = cascade.embed_first_frame(video)
        key = keys["decoder"]
        made = cascade.fill(video, jnp.asarray(known), embedding, key, checked, report)
        yield from cascade.finish(made, [embedding], keys, checked, report)

    return pieces()


def vary(
    cascade: Cascade,
    video: Video,
    seed: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> Iterator[Video]:
    """Another video of the same: the decoder is told the mean of the embeddings of its frames."""
    _check_frames(video)
    checked, keys, report = cascade.begin(seed, progress, settings, ("prior",))
    size = cascade.stages["decoder"].size
    if not cascade.stages["clip"].network.image_size:
        raise ValueError(f"{cascade.name} cannot look at videos, as its CLIP has no image tower.")

    def pieces():
        each = [cascade.embed_first_frame(fit(frame[None], size)) for frame in video]
        embedding = jnp.mean(jnp.concatenate(each), axis=0, keepdims=True)
        if cascade.stages["clip"].network.normalized:
            embedding = clip.normalize(embedding)
        made, _ = cascade.decode(embedding, keys["decoder"], checked, report)
        yield from cascade.finish(made, [embedding], keys, checked, report)

    return pieces()


def extend(
    cascade: Cascade,
    video: Video,
    fps: float,
    seconds: float,
    before: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> Iterator[Video]:
    """A video, and how it goes on for some seconds; or how it came to begin, and it.

    fps: of the video. What comes has `Cascade.output_fps` frames a second, the given ones too.
    """
    _check_frames(video)
    checked, keys, report = cascade.begin(seed, progress, settings, ("prior", "decoder"))
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds={seconds} must be above 0, and finite.")
    skip, rate = checked.frame_skip, checked.fps * checked.frame_skip
    given = fit(at_rate(video, fps, rate), _interpolation(cascade).size)
    slow = given[:, ::skip] if before else given[:, ::-1][:, ::skip][:, ::-1]  # as the decoder's
    ends = slow[:, : checked.overlap] if before else slow[:, -checked.overlap :]
    added = math.ceil(seconds * rate)
    number = math.ceil(added / skip)  # of the decoder's frames

    def pieces():
        embedding = cascade.embed_first_frame(slow)
        keys_ = jax.random.split(keys["interpolation"])
        options = (checked, report)
        made = cascade.extrapolate(
            ends, ends.shape[1] + number, [embedding], keys_[0], *options, before
        )
        next(made)  # the ends
        if not before:
            yield given
            made = windows.take(itertools.chain([ends[:, -1:]], made), number + 1)
            made = cascade.interpolate(made, number + 1, keys_[1], *options)
            yield from windows.take(windows.drop(made, 1), added)
            return
        earlier = jnp.concatenate(list(made)[::-1], axis=1)[:, -number:]
        earlier = jnp.concatenate([earlier, ends[:, :1]], axis=1)
        made = cascade.interpolate([earlier], number + 1, keys_[1], *options)
        yield jnp.concatenate(list(made), axis=1)[:, -added - 1 : -1]
        yield given

    return cascade.enlarge(pieces(), given.shape[1] + added, keys, checked, report)


def smooth(
    cascade: Cascade,
    video: Video,
    fps: float,
    seed: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> Iterator[Video]:
    """A video with `frame_skip` - 1 new frames between each two (F).

    fps: of the video; what comes has frame_skip times as many.
    """
    _check_frames(video)
    if len(video) == 1:
        raise ValueError("a video of 1 frame has nothing between its frames.")
    stage = _interpolation(cascade)
    told = told_fps(fps, cascade.check(settings).frame_skip)
    checked, keys, report = cascade.begin(
        seed, progress, dict(settings, fps=told), ("prior", "decoder")
    )
    frames = (len(video) - 1) * checked.frame_skip + 1
    given = (fit(frame[None], stage.size) for frame in video)
    pieces = cascade.interpolate(given, len(video), keys["interpolation"], checked, report)
    return cascade.enlarge(pieces, frames, keys, checked, report)


def told_fps(fps: float, frame_skip: int) -> float:
    """What `smooth` tells the network of a video's frames per second: it has seen up to 30."""
    return float(np.clip(fps, 1, max(1, 30 / frame_skip)))


def upscale(
    cascade: Cascade,
    video: Video,
    seed: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> Iterator[Video]:
    """A video in the size of the settings (SR_l^t and SR_h alone).

    One that has the 256 pixels already is not made smaller first.
    """
    _check_frames(video)
    skipped = ("prior", "decoder", "interpolation")
    checked, keys, report = cascade.begin(seed, progress, settings, skipped)
    sizes = [
        cascade.stages[name].low_size for name in checked.path(cascade.stages) if "sr_" in name
    ]
    if not sizes:
        raise ValueError(f"size={checked.size} needs no super-resolution; choose a larger one.")
    check_enlarges(video, checked.size)
    size = max(s for s in sizes if s <= max(min(video.shape[1:3]), min(sizes)))
    given = (fit(frame[None], size) for frame in video)
    return cascade.enlarge(given, len(video), keys, checked, report, size)


def check_enlarges(video: Video, size: int) -> None:
    """Raises ValueError if a video has so many pixels already."""
    side = min(video.shape[1:3])
    if side >= size:
        raise ValueError(f"size={size} is no larger than the video, which has {side} pixels.")


def _check_frames(video: Video) -> None:
    if not len(video):
        raise ValueError("the video has no frames.")


def _interpolation(cascade: Cascade):
    stage = cascade.stages.get("interpolation")
    if stage is None:
        raise ValueError(f"{cascade.name} has no interpolation, which fills in frames.")
    return stage


def fit(video: Video, size: int) -> Float[Array, "1 f size size 3"]:
    """The square in the middle of each frame, as networks take it."""
    return jnp.asarray(media.to_float(media.fit(video, size)))[None]


def at_rate(video: Video, fps: float, rate: float) -> Video:
    """The video with another number of frames per second, the nearest of those there are."""
    if not fps > 0:
        raise ValueError(f"fps={fps} must be above 0.")
    number = math.floor((len(video) - 1) / fps * rate + 1e-6) + 1
    nearest = np.round(np.arange(number) * fps / rate).astype(int)
    return video[np.minimum(nearest, len(video) - 1)]

"""Measures of one video of the cutout world. Positions are fractions of the frame's width."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mav.evaluate import classifier
from mav.evaluate.cutout_prompts import Prompt, Video

SHARES = ("object", "colour", "setting", "both")  # names of what `recognised` measures
MOTIONS = ("path", "net", "range", "horizontal")  # `motion`
FLICKERS = ("change", "detail", "second_difference")  # `flicker`
TRACKING_FPS = 3  # positions are averaged down to this rate, or the judge's jitter adds to paths


def recognised(verdict: classifier.Verdict, prompt: Prompt) -> dict[str, Any]:
    """Shares of frames in which the judge sees what the prompt says; what else it mostly saw."""
    right, mostly = {}, {}
    for name, classes in classifier.CLASSES.items():
        seen = getattr(verdict, name)
        right[name] = seen == classes.index(getattr(prompt, name))
        mostly[name] = classes[np.bincount(seen, minlength=len(classes)).argmax()]
    shares = {name: float(frames.mean()) for name, frames in right.items()}
    both = float((right["object"] & right["colour"]).mean())
    return shares | dict(both=both, mostly=mostly)


def motion(position: Float[np.ndarray, "f 2"], fps: float) -> dict[str, float]:
    """How the centre of a thing moves.

    path: its length per second. net: from first to last. range: diagonal of the box that holds the
    path. horizontal: share of all movement, from 0 (up and down) to 1 (left and right).
    """
    window = max(1, min(round(fps / TRACKING_FPS), len(position) // 4))
    whole = len(position) // window * window
    steady = position[:whole].reshape(-1, window, 2).mean(1)
    steps = np.diff(steady, axis=0)
    seconds = len(steps) * window / fps
    across, along = np.abs(steps).sum(0)
    return dict(
        path=float(np.linalg.norm(steps, axis=1).sum() / seconds),
        net=float(np.linalg.norm(steady[-1] - steady[0])),
        range=float(np.linalg.norm(np.ptp(steady, axis=0))),
        horizontal=float(across / max(across + along, 1e-9)),
    )


def flicker(video: Video) -> dict[str, float]:
    """Mean absolute differences between neighbouring frames, in grey levels of 255.

    change: of pixels. detail: of pixels less the mean around them. second_difference: of changes,
    |x[t-1] - 2 x[t] + x[t+1]|, which steady movement leaves small.
    """
    totals = np.zeros(3)
    before, fine_before, difference_before = None, None, None
    for frame in video:
        x = frame.astype(np.float32)
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
        around = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
        fine, difference = x - around, None
        if before is not None:
            difference = x - before
            totals[:2] += np.abs(difference).mean(), np.abs(fine - fine_before).mean()
        if difference_before is not None:
            totals[2] += np.abs(difference - difference_before).mean()
        before, fine_before, difference_before = x, fine, difference
    change, detail, second = totals / (len(video) - 1, len(video) - 1, len(video) - 2)
    return dict(change=float(change), detail=float(detail), second_difference=float(second))


def judged(verdict: classifier.Verdict, video: Video, prompt: Prompt, fps: float) -> dict[str, Any]:
    """All measures of a video that the judge has looked at. Flicker is measured at its own size."""
    return recognised(verdict, prompt) | motion(verdict.position, fps) | flicker(video)


def mean(values: Sequence[float]) -> dict[str, float] | None:
    """Mean over videos, and its standard error; None without videos."""
    if not len(values):
        return None
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return dict(mean=float(values.mean()), error=float(error), videos=len(values))

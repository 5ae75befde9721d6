"""Videos in pieces, cut into windows that overlap, so that memory does not grow with length."""

import math
from collections.abc import Iterable, Iterator

import jax.numpy as jnp
from jaxtyping import Array, Float

Piece = Float[Array, "b f h w 3"]


def cut(pieces: Iterable[Piece], length: int, overlap: int = 0) -> Iterator[tuple[Piece, int]]:
    """Windows of `length` frames, and how many of its frames each shares with the one before.

    That is none in the first, `overlap` in the others, and more in the last, which reaches back, so
    that all have one shape. A video that is shorter than `length` is one window.
    """
    held, first, done = None, 0, 0  # frames in hand, number of the first, frames in windows so far
    for piece in pieces:
        held = piece if held is None else jnp.concatenate([held, piece], axis=1)
        while True:
            start = max(0, done - overlap)
            if first + held.shape[1] < start + length:
                break
            yield held[:, start - first : start - first + length], done - start
            done = start + length
            held, first = held[:, start - first :], start  # the last window may want them again
    if held is not None and done < first + held.shape[1]:
        start = max(0, first + held.shape[1] - length)
        yield held[:, start - first :], max(0, done - start)


def count(frames: int, length: int, overlap: int = 0) -> int:
    """Number of windows that `cut` makes."""
    return 1 + max(0, math.ceil((frames - length) / (length - overlap)))


def take(pieces: Iterable[Piece], frames: int) -> Iterator[Piece]:
    """The first frames of a video in pieces."""
    left = frames
    for piece in pieces:
        yield piece[:, :left]
        left -= piece.shape[1]
        if left <= 0:
            return


def drop(pieces: Iterable[Piece], frames: int) -> Iterator[Piece]:
    """All but the first frames of a video in pieces."""
    left = frames
    for piece in pieces:
        yield piece[:, left:]
        left = max(0, left - piece.shape[1])


def fade(windows: Iterable[tuple[Piece, int]], overlap: int) -> Iterator[Piece]:
    """The video of which `cut` made the windows: where two overlap, one fades into the other."""
    tail = None
    for window, seen in windows:
        if tail is not None:
            share = jnp.arange(1, overlap + 1)[None, :, None, None, None] / (overlap + 1)
            yield (1 - share) * tail + share * window[:, seen - overlap : seen]
            window = window[:, seen:]
        split = max(0, window.shape[1] - overlap)
        yield window[:, :split]
        tail = window[:, split:]
    yield tail

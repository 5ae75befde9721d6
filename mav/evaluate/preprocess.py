"""From frames as they lie in files to what each network that judges them was published with.

Resizing is where published numbers part (Parmar et al. 2022): no two of these are alike.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from mav.evaluate import c3d as c3d_lib
from mav.evaluate import i3d as i3d_lib
from mav.evaluate import inception as inception_lib


def inception(frames: UInt8[Array, "*b h w 3"]) -> Float[Array, "*b 299 299 3"]:
    """TensorFlow 1's bilinear, squashed to a square; (value - 128) / 128 (torch-fidelity)."""
    size = (inception_lib.SIZE, inception_lib.SIZE)
    return (bilinear(frames.astype(jnp.float32), size) - 128) / 128


def i3d(frames: UInt8[Array, "*b h w 3"]) -> Float[Array, "*b 224 224 3"]:
    """TensorFlow 1's bilinear, squashed to a square; [-1, 1] (frechet_video_distance)."""
    return bilinear(frames.astype(jnp.float32), (i3d_lib.SIZE, i3d_lib.SIZE)) * (2 / 255) - 1


def c3d(frames: UInt8[Array, "*b h w 3"]) -> Float[Array, "*b 112 112 3"]:
    """Bilinear with aligned corners (Chainer), squashed to a square; BGR in [0, 255] (TGANv2).

    The network subtracts the mean itself.
    """
    size = (c3d_lib.SIZE, c3d_lib.SIZE)
    return bilinear(frames.astype(jnp.float32), size, align_corners=True)[..., ::-1]


def clip(frames: UInt8[Array, "*b h w 3"], size: int = 224) -> Float[Array, "*b size size 3"]:
    """Pillow's bicubic to the shorter side, then the square in the middle; [-1, 1].

    As torchvision does it for OpenAI's CLIP. Where an odd number of pixels is cut, transformers
    has the square up to one pixel nearer to the corner. `mav.clip` normalises colours itself.
    """
    h, w, _ = frames.shape[-3:]
    short = min(h, w)
    y, x = (size * side // short for side in (h, w))
    resized = bicubic(frames, (y, x))
    top, left = (round((side - size) / 2) for side in (y, x))
    square = resized[..., top : top + size, left : left + size, :]
    return square.astype(jnp.float32) / 127.5 - 1


def bilinear(
    x: Float[Array, "*b h w c"], size: tuple[int, int], align_corners: bool = False
) -> Float[Array, "*b y x c"]:
    """Between the two nearest pixels along each axis, without smoothing when it shrinks.

    align_corners: whether the first and last pixels of both pictures coincide, as Chainer has it;
    else pixel i is read at i * (old / new), as TensorFlow 1 does, and later versions do not.
    """
    for axis, new in ((-2, size[1]), (-3, size[0])):  # rows first, as TensorFlow rounds
        old = x.shape[axis]
        if align_corners:
            at = np.linspace(0, old - 1, new)
        else:
            at = np.arange(new, dtype=np.float32) * np.float32(old / new)
        low = np.minimum(at.astype(int), old - 1)
        high = np.minimum(low + 1, old - 1)
        before, after = jnp.take(x, low, axis), jnp.take(x, high, axis)
        x = before + (after - before) * _along(np.float32(at - low), axis, x.ndim)
    return x


def bicubic(x: UInt8[Array, "*b h w c"], size: tuple[int, int]) -> UInt8[Array, "*b y x c"]:
    """Pillow's bicubic, which smooths when it shrinks, to the last bit: whole numbers throughout.

    Along rows, and then along columns, each rounded to 8 bits; so does Pillow where not one side
    grows and the other shrinks.
    """
    for axis, new in ((-2, size[1]), (-3, size[0])):
        if new == x.shape[axis]:
            continue
        first, weights = _bicubic_weights(x.shape[axis], new)
        total = jnp.int32(1 << (_BITS - 1))
        for i in range(weights.shape[1]):
            at = np.minimum(first + i, x.shape[axis] - 1)
            weight = _along(weights[:, i], axis, x.ndim)
            total += jnp.take(x, at, axis).astype(jnp.int32) * weight
        x = jnp.clip(total >> _BITS, 0, 255).astype(jnp.uint8)
    return x


def _along(values: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """A vector as an array of `ndim` axes, along one of them."""
    return values.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])


_BITS = 22  # of the fraction of Pillow's weights


@functools.cache
def _bicubic_weights(
    old: int, new: int
) -> tuple[Int[np.ndarray, "new"], Int[np.ndarray, "new taps"]]:
    """First pixel under each output's kernel, and the weights from there on."""
    scale = old / new
    stretch = max(scale, 1.0)
    centre = (np.arange(new) + 0.5) * scale
    first = np.maximum((centre - 2 * stretch + 0.5).astype(int), 0)
    last = np.minimum((centre + 2 * stretch + 0.5).astype(int), old)
    at = first[:, None] + np.arange((last - first).max())[None]
    weights = _cubic((at - centre[:, None] + 0.5) / stretch) * (at < last[:, None])
    weights /= weights.sum(1, keepdims=True)
    return first, np.trunc(weights * (1 << _BITS) + np.copysign(0.5, weights)).astype(np.int32)


def _cubic(x: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Keys' kernel with a = -1/2."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))

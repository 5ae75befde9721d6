"""Blocks of the networks that judge images and videos: convolution with stored statistics, pools.

All run forward only, in float32, on images [b, h, w, c] and on videos [b, f, h, w, c] alike; a
window, a stride or a kernel has one number per axis between b and c.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from mav import ops


class ConvNorm(nn.Module):
    """Convolution without bias, normalisation by the statistics of training, ReLU."""

    features: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...] | None = None  # None is 1 everywhere
    padding: str = "SAME"  # as TensorFlow has it, or VALID
    scale: bool = False  # whether the normalisation has a gain
    epsilon: float = 1e-3  # added to the variance

    @nn.compact
    def __call__(self, x: Float[Array, "b *n c"]) -> Float[Array, "b *m d"]:
        vector = lambda name, init: self.param(name, init, (self.features,))
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        kernel = self.param(
            "kernel",
            nn.initializers.he_normal(),
            (*self.kernel, x.shape[-1], self.features),
        )
        factor = jax.lax.rsqrt(vector("variance", ones) + self.epsilon)
        if self.scale:
            factor *= vector("scale", ones)
        offset = vector("bias", zeros) - vector("mean", zeros) * factor
        y = convolve(x, kernel, self.strides or (1,) * len(self.kernel), self.padding)
        along = (None,) * (x.ndim - 1)
        return nn.relu(y * factor[along] + offset[along])


def convolve(
    x: Float[Array, "b *n c"],
    kernel: Float[Array, "*k c d"],
    strides: tuple[int, ...],
    padding: str = "SAME",
) -> Float[Array, "b *m d"]:
    """Convolution over all axes between b and c; of videos always with SAME."""
    if max(kernel.shape[:-2] + strides) == 1:
        return x @ kernel.reshape(kernel.shape[-2:])
    if x.ndim == 5:
        return ops.convolve_video(x, kernel, strides)
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=dimensions)


def max_pool(
    x: Float[Array, "b *n c"],
    window: tuple[int, ...],
    strides: tuple[int, ...],
    padding: str = "SAME",
) -> Float[Array, "b *m c"]:
    """Largest in each window.

    One axis after the other: XLA walks over a window of several axes number by number.
    """
    for axis, size, stride in zip(itertools.count(1), window, strides, strict=False):
        x = functools.reduce(jnp.maximum, _taps(x, axis, size, stride, padding, -jnp.inf))
    return x


def mean_pool(
    x: Float[Array, "b *n c"], window: tuple[int, ...], padding: str = "SAME"
) -> Float[Array, "b *m c"]:
    """Mean of each window, of what lies inside of the picture alone."""
    for axis, size in zip(itertools.count(1), window, strict=False):
        inside = np.ones([x.shape[axis] if i == axis else 1 for i in range(x.ndim)], np.float32)
        counts = sum(map(np.asarray, _taps(inside, axis, size, 1, padding, 0, np)))
        x = sum(_taps(x, axis, size, 1, padding, 0)) / counts
    return x


def _taps(x, axis, size, stride, padding, outside, xp=jnp):
    """What lies at each place of a window along one axis, for all windows at once."""
    [ends] = jax.lax.padtype_to_pads((x.shape[axis],), (size,), (stride,), padding)
    x = xp.pad(x, [ends if i == axis else (0, 0) for i in range(x.ndim)], constant_values=outside)
    span = (x.shape[axis] - size) // stride * stride + 1
    index = (slice(None),) * axis
    return [x[(*index, slice(i, i + span, stride))] for i in range(size)]

"""Random inputs and parameters for tests, drawn by NumPy."""

import jax
import numpy as np


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def params(shapes, seed=0):
    """Noise for every parameter of a network; a fresh one would answer zero, whatever it is asked.

    shapes: from `jax.eval_shape`, which takes no time, while XLA compiles for half a minute what
    draws the fresh parameters of a U-Net. Kernels keep the size of what passes through them.
    """
    rng = np.random.default_rng(seed)

    def draw(leaf):
        scale = np.prod(leaf.shape[:-1], dtype=float) ** -0.5
        return (scale * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree.map(draw, shapes)

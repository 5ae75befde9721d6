"""I3D (Carreira & Zisserman 2017), as the module deepmind/i3d-kinetics-400 of TensorFlow's hub.

The Fréchet video distance is measured in its logits (Unterthiner et al. 2018). Names of layers are
the hub's; b0 to b3b are the branches of a block as PyTorch's ports name them.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mav.evaluate import blocks

CLASSES = 400
SIZE = 224
MIN_FRAMES = 9  # with fewer, no two steps in time are left for the last pool
EPSILON = 1e-3  # Sonnet's default, which the module has; some ports have 1e-5

# Block -> features of b0, b1a, b1b, b2a, b2b, b3b; and pools, as window and strides.
BODY = {
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "Conv3d_2b_1x1": (64, (1, 1, 1)),
    "Conv3d_2c_3x3": (192, (3, 3, 3)),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


class Mixed(nn.Module):
    """Four branches side by side."""

    features: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f h w d"]:
        one, three = (1, 1, 1), (3, 3, 3)
        names = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")
        kernels = (one, one, three, one, three, one)
        b0, b1a, b1b, b2a, b2b, b3b = (
            blocks.ConvNorm(features, kernel, epsilon=EPSILON, name=name)
            for features, kernel, name in zip(self.features, kernels, names, strict=True)
        )
        pooled = blocks.max_pool(x, three, one)
        return jnp.concatenate([b0(x), b1b(b1a(x)), b2b(b2a(x)), b3b(pooled)], axis=-1)


class I3D(nn.Module):
    """Logits of Kinetics' 400 actions."""

    @nn.compact
    def __call__(self, x: Float[Array, "b f 224 224 3"]) -> Float[Array, "b 400"]:
        """x: RGB in [-1, 1], at least 9 frames. Returns logits, averaged over time."""
        conv = lambda features, kernel, strides, name: blocks.ConvNorm(
            features, kernel, strides, epsilon=EPSILON, name=name
        )
        x = conv(64, (7, 7, 7), (2, 2, 2), "Conv3d_1a_7x7")(x)
        for name, what in BODY.items():
            if name.startswith("MaxPool"):
                x = blocks.max_pool(x, *what)
            elif name.startswith("Mixed"):
                x = Mixed(what, name=name)(x)
            else:
                x = conv(*what, None, name)(x)
        x = blocks.mean_pool(x, (2, 7, 7), "VALID")
        return nn.Dense(CLASSES, name="logits")(x).mean((1, 2, 3))

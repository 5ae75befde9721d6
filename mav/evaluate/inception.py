"""Inception-v3 (Szegedy et al. 2016), the graph of 2015-12-05 by which FID is defined.

It differs from later releases: average pools leave out what lies beyond the edges, the last block
has a max pool where the others have an average, and there are 1008 logits. Names of layers are
those of pytorch-fid and torch-fidelity, which carry the graph's weights.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mav.evaluate import blocks

CLASSES = 1008
FEATURES = 2048
SIZE = 299
EPSILON = 1e-3
ONE, THREE, TWO = (1, 1), (3, 3), (2, 2)
ROW, COLUMN = (1, 7), (7, 1)


def chain(x: Float[Array, "b h w c"], *layers: tuple) -> Float[Array, "b y x d"]:
    """One convolution after the other: name, features, kernel and, if not 1, strides.

    Those with strides keep inside of the picture.
    """
    for name, features, kernel, *strides in layers:
        x = blocks.ConvNorm(
            features,
            kernel,
            *strides,
            padding="VALID" if strides else "SAME",
            scale=True,
            epsilon=EPSILON,
            name=name,
        )(x)
    return x


def join(*branches: Float[Array, "b h w _"]) -> Float[Array, "b h w d"]:
    """Features of all branches."""
    return jnp.concatenate(branches, axis=-1)


class Block5(nn.Module):
    """On 35 x 35 pixels."""

    pooled: int  # features of the pool's branch

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        return join(
            chain(x, ("branch1x1", 64, ONE)),
            chain(x, ("branch5x5_1", 48, ONE), ("branch5x5_2", 64, (5, 5))),
            chain(
                x,
                ("branch3x3dbl_1", 64, ONE),
                ("branch3x3dbl_2", 96, THREE),
                ("branch3x3dbl_3", 96, THREE),
            ),
            chain(blocks.mean_pool(x, THREE), ("branch_pool", self.pooled, ONE)),
        )


class Reduction6(nn.Module):
    """From 35 x 35 to 17 x 17 pixels."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b y x d"]:
        return join(
            chain(x, ("branch3x3", 384, THREE, TWO)),
            chain(
                x,
                ("branch3x3dbl_1", 64, ONE),
                ("branch3x3dbl_2", 96, THREE),
                ("branch3x3dbl_3", 96, THREE, TWO),
            ),
            blocks.max_pool(x, THREE, TWO, "VALID"),
        )


class Block6(nn.Module):
    """On 17 x 17 pixels."""

    width: int  # features inside of the branches with kernels of 7

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        width = self.width
        return join(
            chain(x, ("branch1x1", 192, ONE)),
            chain(
                x,
                ("branch7x7_1", width, ONE),
                ("branch7x7_2", width, ROW),
                ("branch7x7_3", 192, COLUMN),
            ),
            chain(
                x,
                ("branch7x7dbl_1", width, ONE),
                ("branch7x7dbl_2", width, COLUMN),
                ("branch7x7dbl_3", width, ROW),
                ("branch7x7dbl_4", width, COLUMN),
                ("branch7x7dbl_5", 192, ROW),
            ),
            chain(blocks.mean_pool(x, THREE), ("branch_pool", 192, ONE)),
        )


class Reduction7(nn.Module):
    """From 17 x 17 to 8 x 8 pixels."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b y x d"]:
        return join(
            chain(x, ("branch3x3_1", 192, ONE), ("branch3x3_2", 320, THREE, TWO)),
            chain(
                x,
                ("branch7x7x3_1", 192, ONE),
                ("branch7x7x3_2", 192, ROW),
                ("branch7x7x3_3", 192, COLUMN),
                ("branch7x7x3_4", 192, THREE, TWO),
            ),
            blocks.max_pool(x, THREE, TWO, "VALID"),
        )


class Block7(nn.Module):
    """On 8 x 8 pixels."""

    max: bool  # the last one's pool, probably an oversight, but the weights were trained with it

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w 2048"]:
        pooled = blocks.max_pool(x, THREE, ONE) if self.max else blocks.mean_pool(x, THREE)
        single = chain(x, ("branch3x3_1", 384, ONE))
        double = chain(x, ("branch3x3dbl_1", 448, ONE), ("branch3x3dbl_2", 384, THREE))
        return join(
            chain(x, ("branch1x1", 320, ONE)),
            chain(single, ("branch3x3_2a", 384, (1, 3))),
            chain(single, ("branch3x3_2b", 384, (3, 1))),
            chain(double, ("branch3x3dbl_3a", 384, (1, 3))),
            chain(double, ("branch3x3dbl_3b", 384, (3, 1))),
            chain(pooled, ("branch_pool", 192, ONE)),
        )


class Inception(nn.Module):
    """Features of the last pool, and logits."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b 299 299 3"]
    ) -> tuple[Float[Array, "b 2048"], Float[Array, "b 1008"]]:
        """x: RGB, (value - 128) / 128."""
        x = chain(
            x,
            ("Conv2d_1a_3x3", 32, THREE, TWO),
            ("Conv2d_2a_3x3", 32, THREE, ONE),
            ("Conv2d_2b_3x3", 64, THREE),
        )
        x = blocks.max_pool(x, THREE, TWO, "VALID")
        x = chain(x, ("Conv2d_3b_1x1", 80, ONE), ("Conv2d_4a_3x3", 192, THREE, ONE))
        x = blocks.max_pool(x, THREE, TWO, "VALID")
        for name, pooled in (("b", 32), ("c", 64), ("d", 64)):
            x = Block5(pooled, name=f"Mixed_5{name}")(x)
        x = Reduction6(name="Mixed_6a")(x)
        for name, width in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
            x = Block6(width, name=f"Mixed_6{name}")(x)
        x = Reduction7(name="Mixed_7a")(x)
        for name, is_last in (("b", False), ("c", True)):
            x = Block7(is_last, name=f"Mixed_7{name}")(x)
        x = x.mean((1, 2))
        return x, nn.Dense(CLASSES, name="fc")(x)

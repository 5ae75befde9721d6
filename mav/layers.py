"""Blocks that the networks share: space-time convolution and attention, residual block, embeddings.

Every temporal part starts as the identity, so that a network with them, fresh from an image
network, treats each frame as that image network would (MAV §3.2).
"""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mav import ops


def sinusoids(values: Float[Array, "*b"], features: int) -> Float[Array, "*b features"]:
    """Cosines, then sines, of a number at frequencies from 1 down to 1/10000 (DDPM §4).

    features: even. Frequencies are 10000^(-i / (features / 2)), as in the released unCLIP weights.
    """
    half = features // 2
    frequencies = np.exp(-np.log(10000) * np.arange(half) / half).astype(np.float32)
    angles = jnp.multiply.outer(jnp.asarray(values, jnp.float32), frequencies)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class Embedding(nn.Module):
    """MLP over the sinusoids of a number: timestep, fps, frame skip, noise level."""

    sinusoids: int  # how many enter
    features: int
    zero: bool = False  # start without effect, for conditions that are added to a trained network
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, values: Float[Array, "*b"]) -> Float[Array, "*b c"]:
        last_init = nn.initializers.zeros if self.zero else nn.linear.default_kernel_init
        x = sinusoids(values, self.sinusoids).astype(self.dtype)
        x = nn.silu(nn.Dense(self.features, dtype=self.dtype, name="linear_1")(x))
        return nn.Dense(self.features, kernel_init=last_init, dtype=self.dtype, name="linear_2")(x)


REMAT = ("none", "blocks", "products")
_PRODUCTS = ("dot_general", "conv_general_dilated")


def checkpointed(block: type[nn.Module], remat: str, static: tuple[int, ...] = ()):
    """The block, computed a second time in the backward pass, so that it keeps less in memory.

    remat: "none" keeps all; "blocks" only what enters a block; "products" also the results of
    matrix products and convolutions, so that only cheap work is done twice.
    static: positions of arguments that are no arrays, counted from 1.
    """
    if remat == "none":
        return block
    policies = dict(
        blocks=jax.checkpoint_policies.nothing_saveable,
        products=lambda primitive, *_, **__: primitive.name in _PRODUCTS,
    )
    return nn.remat(block, policy=policies[remat], static_argnums=static)


def divisible(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Names the axes of an activation by which a mesh may divide it; without a mesh, as it was."""
    names = {3: ("batch", None, "features"), 5: ("batch", None, "height", None, "features")}
    return nn.with_logical_constraint(x, names[x.ndim])


class Dropout(nn.Module):
    """As `nn.Dropout`, under the rng "dropout", with a mask that is drawn once.

    XLA draws it anew inside of all that uses it, which took 13 of the 63 s of processor time that a
    residual block of 512 features at 64 x 64 pixels took to compile for a v5e on two cores.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], train: bool) -> Float[Array, "*shape"]:
        if not (train and self.rate):
            return x
        keep = 1 - self.rate
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, x.shape)
        return jnp.where(jax.lax.optimization_barrier(kept), x / keep, 0)


def fold_frames(x: Float[Array, "b f h w c"]) -> Float[Array, "bf h w c"]:
    """Frames join the batch, so that what follows sees single images."""
    return rearrange(x, "b f h w c -> (b f) h w c")


def space_to_depth(x: Float[Array, "b f h w c"], patch: int) -> Float[Array, "b f h w c"]:
    """Moves blocks of patch x patch pixels into the channels."""
    return rearrange(x, "b f (h p) (w q) c -> b f h w (p q c)", p=patch, q=patch)


def depth_to_space(x: Float[Array, "b f h w c"], patch: int) -> Float[Array, "b f h w c"]:
    """Inverse of `space_to_depth`."""
    return rearrange(x, "b f h w (p q c) -> b f (h p) (w q) c", p=patch, q=patch)


class GroupNorm(nn.Module):
    """Group normalisation with the statistics of each frame alone, in float32."""

    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f h w c"]:
        c = x.shape[-1]
        if c % self.groups:
            raise ValueError(f"{c} features do not divide into {self.groups} groups.")
        scale = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        return ops.group_norm(fold_frames(x), scale, bias, self.groups).reshape(x.shape)


def centre_tap(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Temporal kernel [3, c, c] that passes every frame on unchanged (MAV §3.2.1)."""
    del key
    taps, rows, columns = shape
    return jnp.zeros(shape, dtype).at[taps // 2].set(jnp.eye(rows, columns, dtype=dtype))


class Convolution(nn.Module):
    """Convolution with a bias, over pixels (a window of two lengths) or frames (of one)."""

    features: int
    window: tuple[int, ...]
    kernel_init: nn.initializers.Initializer
    # Whether a mesh divides what enters and what leaves. It must divide by rows and features, or by
    # neither: of what is divided by rows alone XLA can compute multiples of the right values or
    # gradients (jaxlib 0.10.2).
    divided: tuple[bool, bool] = (True, True)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        shape = (*self.window, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        kernel = kernel.reshape(self.window[0], -1, *shape[-2:])
        whole = ("batch", None, None, None)
        parts = {
            2: ("batch", "height", None, "features"),
            1: ("batch", None, "height", "features"),
        }[len(self.window)]
        enter, leave = (parts if divided else whole for divided in self.divided)
        x = nn.with_logical_constraint(x.astype(self.dtype), enter)
        return nn.with_logical_constraint(ops.convolve(x, kernel, bias), leave)


class Pseudo3DConv(nn.Module):
    """Pseudo-3D convolution: over the pixels of each frame, then over frames (MAV Eq. 2)."""

    features: int
    temporal: bool
    kernel_init: nn.initializers.Initializer = nn.linear.default_kernel_init
    divided: tuple[bool, bool] = (True, True)  # as in `Convolution`
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f h w d"]:
        b, f, h, w, _ = x.shape
        part = lambda window, init, divided, name: Convolution(
            self.features, window, init, divided, self.dtype, name=name
        )
        x = part((3, 3), self.kernel_init, self.divided, "space")(fold_frames(x))
        if self.temporal:
            leave = self.divided[1]
            x = part((3,), centre_tap, (leave, leave), "time")(x.reshape(b, f, h * w, -1))
        return x.reshape(b, f, h, w, -1)


class SpatialAttention(nn.Module):
    """Pixels of a frame attend to added context, then to each other, under one softmax (GLIDE)."""

    head_dim: int
    groups: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b f h w c"],
        context: Float[Array, "b n d"] | None,
        context_mask: Bool[Array, "b n"] | None,
    ) -> Float[Array, "b f h w c"]:
        b, f, h, w, c = x.shape
        dense = lambda name: nn.Dense(c, dtype=self.dtype, name=name)
        y = GroupNorm(self.groups, name="norm")(x).reshape(b * f, h * w, c)
        q, k, v = dense("q")(y), dense("k")(y), dense("v")(y)
        mask = None
        if context is not None:
            each_frame = lambda a: repeat(a, "b ... -> (b f) ...", f=f)
            k = jnp.concatenate([each_frame(dense("context_k")(context)), k], axis=1)
            v = jnp.concatenate([each_frame(dense("context_v")(context)), v], axis=1)
            if context_mask is not None:
                pixels = jnp.ones((b * f, h * w), bool)
                mask = jnp.concatenate([each_frame(context_mask), pixels], axis=1)[:, None]
        y = dense("out")(ops.attend(q, k, v, self.head_dim, mask))
        return divisible(x + y.reshape(x.shape))


class TemporalAttention(nn.Module):
    """Every pixel attends to itself in all frames; starts as the identity (MAV Eq. 3)."""

    head_dim: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f h w c"]:
        f, c = x.shape[1], x.shape[-1]
        dense = lambda name, **kw: nn.Dense(c, dtype=self.dtype, name=name, **kw)
        y = nn.LayerNorm(dtype=jnp.float32, name="norm")(x).astype(self.dtype)
        # Without positions attention could not tell the order of frames; the paper names none.
        position = nn.Dense(c, use_bias=False, dtype=self.dtype, name="position")
        y += position(sinusoids(jnp.arange(f), c).astype(self.dtype))[None, :, None, None]
        # Pixels stay in rows, which a mesh may divide.
        y = rearrange(y, "b f h w c -> b h w f c")
        y = ops.attend(dense("q")(y), dense("k")(y), dense("v")(y), self.head_dim)
        y = dense("out", kernel_init=nn.initializers.zeros)(y)
        return divisible(x + rearrange(y, "b h w f c -> b f h w c"))


class SpaceTimeAttention(nn.Module):
    """Attention over the pixels of each frame, then over frames (MAV Eq. 3)."""

    head_dim: int
    groups: int  # of the normalisation
    temporal: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b f h w c"],
        context: Float[Array, "b n d"] | None = None,
        context_mask: Bool[Array, "b n"] | None = None,
    ) -> Float[Array, "b f h w c"]:
        """context: tokens that every pixel sees too; context_mask: False hides one."""
        space = SpatialAttention(self.head_dim, self.groups, self.dtype, name="space")
        x = space(x, context, context_mask)
        if self.temporal:
            x = TemporalAttention(self.head_dim, self.dtype, name="time")(x)
        return x


def pool(x: Float[Array, "b f h w c"]) -> Float[Array, "b f h2 w2 c"]:
    """Halves height and width by averaging."""
    return rearrange(x, "b f (h p) (w q) c -> b f h w p q c", p=2, q=2).mean((-3, -2))


def upsample(x: Float[Array, "b f h w c"]) -> Float[Array, "b f h2 w2 c"]:
    """Doubles height and width by repeating pixels."""
    return repeat(x, "b f h w c -> b f (h p) (w q) c", p=2, q=2)


class ResidualBlock(nn.Module):
    """Residual block of ADM (Dhariwal & Nichol 2021), with pseudo-3D convolutions."""

    features: int
    groups: int
    temporal: bool
    scale_shift: bool  # embedding scales and shifts after the norm; False adds it before (Karlo SR)
    resample: str | None = None  # "down" or "up": halves or doubles height and width
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b f h w c"], embedding: Float[Array, "b e"], train: bool
    ) -> Float[Array, "b f h2 w2 d"]:
        y = nn.silu(GroupNorm(self.groups, name="norm_1")(x))
        if self.resample is not None:
            resample = {"down": pool, "up": upsample}[self.resample]
            x, y = resample(x), resample(y)
        y = Pseudo3DConv(self.features, self.temporal, dtype=self.dtype, name="convolution_1")(y)

        size = self.features * (2 if self.scale_shift else 1)
        embedding = nn.Dense(size, dtype=self.dtype, name="embedding")(nn.silu(embedding))
        embedding = embedding[:, None, None, None]  # the same for all frames and pixels
        if self.scale_shift:
            scale, shift = jnp.split(embedding, 2, axis=-1)
            y = GroupNorm(self.groups, name="norm_2")(y) * (1 + scale) + shift
        else:
            y = GroupNorm(self.groups, name="norm_2")(y + embedding)

        y = Dropout(self.dropout)(nn.silu(y), train)
        y = Pseudo3DConv(
            self.features,
            self.temporal,
            kernel_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="convolution_2",
        )(y)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, dtype=self.dtype, name="shortcut")(x)
        return divisible(x + y)


ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),  # of OpenAI's CLIP
}


class TransformerBlock(nn.Module):
    """Pre-norm transformer block, as in the prior and in both towers of CLIP."""

    head_dim: int
    activation: str  # of the MLP, a name in ACTIVATIONS
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], mask: Bool[Array, "b n n"] | None, train: bool = False
    ) -> Float[Array, "b n c"]:
        c = x.shape[-1]
        dense = lambda size, name: nn.Dense(size, dtype=self.dtype, name=name)
        norm = lambda name: nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name=name)
        drop = Dropout(self.dropout)
        y = norm("norm_1")(x).astype(self.dtype)
        q, k, v = (dense(c, name)(y) for name in "qkv")
        x = divisible(x + drop(dense(c, "out")(ops.attend(q, k, v, self.head_dim, mask)), train))
        y = norm("norm_2")(x).astype(self.dtype)
        y = ACTIVATIONS[self.activation](dense(4 * c, "mlp_1")(y))
        return divisible(x + drop(dense(c, "mlp_2")(y), train))


def neighbours(
    keyframes: Float[Array, "b f h w 3"], mask: Float[Array, "b f h w 1"]
) -> tuple[Float[Array, "b f h w 3"], Float[Array, "b f h w 3"], Float[Array, "b f 1 1 1"]]:
    """The nearest known frames (mask 1) before and after each frame, and where it lies.

    A known frame is its own neighbours. Between two, where it lies is the share of the way from the
    one before to the one after. Outside of them both are the nearest, and it is how far off that
    is, in lengths of the video, negative before it. Zeros where none is known.
    """
    f = keyframes.shape[1]
    known, i = mask[:, :, 0, 0, 0] > 0, jnp.arange(f)[None]
    last = jax.lax.cummax(jnp.where(known, i, -1), axis=1)
    following = jax.lax.cummin(jnp.where(known, i, f), axis=1, reverse=True)
    before, after = (
        jnp.where(last < 0, following, last),
        jnp.where(following == f, last, following),
    )
    place = (i - before) / jnp.where(after > before, after - before, f)
    place = jnp.where(jnp.any(known, axis=1, keepdims=True), place, 0)
    pick = lambda j: jnp.take_along_axis(
        keyframes, jnp.clip(j, 0, f - 1)[:, :, None, None, None], axis=1
    )
    return pick(before), pick(after), place[:, :, None, None, None]


def warp(
    images: Float[Array, "*n h w c"], offsets: Float[Array, "*n h w 2"]
) -> Float[Array, "*n h w c"]:
    """Images whose every pixel comes from another place, bilinearly; edges repeat outside.

    offsets: how far that lies from the pixel's own place, in pixels down and to the right.
    """
    h, w, c = images.shape[-3:]
    own = jnp.stack(jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij"))

    def sample(image, offset):
        places = list(own + jnp.moveaxis(offset, -1, 0))
        channel = lambda x: jax.scipy.ndimage.map_coordinates(x, places, order=1, mode="nearest")
        return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)

    flat = jax.vmap(sample)(images.reshape(-1, h, w, c), offsets.reshape(-1, h, w, 2))
    return flat.reshape(images.shape)

"""SpaceTimeUNet: decoder, interpolation and both super-resolutions are this one class."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mav import layers

MOTION = 8  # pixels, what a 1 of the network stands for


def alike(arrays: Sequence[Array | None]) -> int:
    """How many, from the first on, have its shape."""
    shapes = [np.shape(array) for array in arrays]
    return len(list(itertools.takewhile(lambda shape: shape == shapes[0], shapes)))


class Conditioning(nn.Module):
    """Image embedding, and text where the network takes it, as one vector and as context tokens.

    As in unCLIP §2.1: the image embedding is added to the timestep embedding and also enters as
    extra context tokens. Text is optional, since videos come without (MAV §3.1).
    """

    features: int  # of the vector
    context_features: int
    num_tokens: int
    text: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        image_embedding: Float[Array, "b d"],
        drop_image: Bool[Array, "b"] | None,
        text_embedding: Float[Array, "b d"] | None,
        text_states: Float[Array, "b n e"] | None,
        text_mask: Bool[Array, "b n"] | None,
    ) -> tuple[Float[Array, "b e"], Float[Array, "b n c"], Bool[Array, "b n"] | None]:
        dense = lambda size, name: nn.Dense(size, dtype=self.dtype, name=name)
        null = self.param("null_image", nn.initializers.zeros, image_embedding.shape[-1:])
        if drop_image is not None:
            image_embedding = jnp.where(drop_image[:, None], null[None], image_embedding)
        vector = dense(self.features, "image_vector")(image_embedding)
        tokens = dense(self.num_tokens * self.context_features, "image_tokens")(image_embedding)
        tokens = rearrange(tokens, "b (n c) -> b n c", n=self.num_tokens)
        if not self.text:
            return vector, tokens, None

        vector += dense(self.features, "text_vector")(text_embedding)
        states = dense(self.context_features, "text_tokens")(text_states)
        states = nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name="text_norm")(states)
        tokens = jnp.concatenate([tokens, states.astype(self.dtype)], axis=1)
        image_mask = jnp.ones((len(tokens), self.num_tokens), bool)
        return vector, tokens, jnp.concatenate([image_mask, text_mask], axis=1)


class SpaceTimeUNet(nn.Module):
    """The U-Net of ADM and unCLIP, with time layers where `temporal` is set (MAV §3.2).

    Its image form (temporal=False, keyframes=False) has a subset of the parameters of its video
    form, under the same names, and both agree on every frame when the video form is fresh from it.
    A length of one frame is an image.
    """

    width: int  # features are width * multiplier; the embedding has 4 * width
    multipliers: tuple[int, ...]  # one per level, finest first
    depth: int  # residual blocks per level on the way down, one more on the way up
    attention_levels: tuple[int, ...] = ()  # levels with attention; if any, the middle has it too
    head_dim: int = 64  # features of each head of attention
    groups: int = 32  # of the normalisations
    scale_shift: bool = True  # how residual blocks take the embedding, see there
    dropout: float = 0.0  # in residual blocks
    patch: int = 1  # space-to-depth stem: pixels of a patch x patch block enter as channels
    learns_variance: bool = False
    image_tokens: int = 0  # context tokens made from the image embedding; 0 takes no embedding
    context_features: int = 0  # of every context token
    text: bool = False  # takes text embedding and states as well
    low_res: bool = False  # takes a low-resolution input, already upsampled
    residual: bool = False  # what it puts out is added to low_res, or to keyframes that it moves
    aug_level: bool = False  # is told how much noise was put on the low-resolution input
    temporal: bool = False  # has layers over time
    fps: bool = False  # is told the frames per second
    self_condition: bool = False  # takes the clean video that the sampler's last step predicted
    keyframes: bool = False  # takes 4 more channels, masked frames and mask, and the frame skip
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"  # what the backward pass computes again, a name in layers.REMAT
    scan: bool = False  # loop over blocks of one shape, which are then compiled once

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b f h w 3"],
        t: Int[Array, "b"],
        *,
        image_embedding: Float[Array, "b d"] | None = None,
        drop_image: Bool[Array, "b"] | None = None,
        text_embedding: Float[Array, "b d"] | None = None,
        text_states: Float[Array, "b n e"] | None = None,
        text_mask: Bool[Array, "b n"] | None = None,
        low_res: Float[Array, "b f h w 3"] | None = None,
        aug_level: Float[Array, "b"] | None = None,
        fps: Float[Array, "b"] | None = None,
        last_x0: Float[Array, "b f h w 3"] | None = None,
        keyframes: Float[Array, "b f h w 3"] | None = None,
        mask: Float[Array, "b f h w 1"] | None = None,
        frame_skip: Float[Array, "b"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b f h w o"]:
        """Predicts what the diffusion process asks for, at every pixel.

        t: timesteps. drop_image: where True, the learned null embedding replaces the image's.
        low_res: resized to the size of x. aug_level: in timesteps. fps: frames per second of x.
        last_x0: predicted at more noise, or none, like zero, at first (Chen et al. 2022, §2.2).
        keyframes: known frames, zero where unknown; mask: 1 where known. frame_skip: source frames
        per kept frame. train: turns dropout on, under the rng "dropout".
        Returns 3 channels, or 6 where the variance is learned.
        """
        # One embedding for all that does not vary within a video.
        size = 4 * self.width
        embed = lambda name, zero: layers.Embedding(self.width, size, zero, self.dtype, name=name)
        embedding = embed("timestep", False)(t)
        context, context_mask = None, None
        if self.image_tokens:
            vector, context, context_mask = Conditioning(
                size,
                self.context_features,
                self.image_tokens,
                self.text,
                self.dtype,
                name="conditioning",
            )(image_embedding, drop_image, text_embedding, text_states, text_mask)
            embedding += vector
        if self.aug_level:
            embedding += embed("aug_level", True)(aug_level)
        if self.fps:
            embedding += embed("fps", True)(fps)
        if self.keyframes:
            embedding += embed("frame_skip", True)(frame_skip)

        # Inputs keep their own channels, so that those of a video network come last.
        inputs = [x]
        if self.low_res:
            inputs.append(low_res)
        if self.self_condition:
            inputs.append(jnp.zeros_like(x) if last_x0 is None else last_x0)
        if self.keyframes:
            inputs += [keyframes, mask]
        moves = self.keyframes and self.residual
        if moves:
            before, after, place = layers.neighbours(keyframes, mask)
            inputs += [before, after, jnp.broadcast_to(place, mask.shape)]
        inputs = [layers.space_to_depth(a.astype(self.dtype), self.patch) for a in inputs]

        convolution = lambda features, **kw: layers.Pseudo3DConv(
            features, self.temporal, dtype=self.dtype, **kw
        )

        def block(features, resample=None, **place):
            return layers.checkpointed(layers.ResidualBlock, self.remat, static=(3,))(
                features,
                self.groups,
                self.temporal,
                self.scale_shift,
                resample,
                self.dropout,
                self.dtype,
                **place,
            )

        def attention(**place):
            return layers.checkpointed(layers.SpaceTimeAttention, self.remat)(
                self.head_dim, self.groups, self.temporal, self.dtype, **place
            )

        def part(kind, features, **place):
            return block(features, **place) if kind == "block" else attention(**place)

        def unit(y, skip, block, *attention):
            y = y if skip is None else jnp.concatenate([y, skip], axis=-1)
            y = block(y, embedding, train)
            for attend in attention:
                y = attend(y, context, context_mask)
            return y

        def unrolled(y, skips, features, units):
            results = []
            for skip, names in zip(skips, units, strict=True):
                y = unit(y, skip, *(part(kind, features, name=names[kind]) for kind in names))
                results.append(y)
            return y, results

        def scanned(y, skips, features, units):
            stack = lambda *trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
            all_params = self.variables["params"]
            params = [{kind: all_params[names[kind]] for kind in names} for names in units]
            keys = None
            if self.has_rng("dropout"):
                keys = jax.random.split(self.make_rng("dropout"), len(units))

            def body(y, inputs):
                params, skip, key = inputs
                rngs = {} if key is None else {"dropout": key}
                bound = lambda kind: part(kind, features, parent=None).bind(
                    {"params": params[kind]}, rngs=rngs
                )
                y = unit(y, skip, *map(bound, units[0]))
                return y, y

            y, results = jax.lax.scan(body, y, (stack(*params), stack(*skips), keys))
            return y, list(results)

        def level_of(way, level, y, skips):
            """Blocks, with their attention, of a level; returns what comes out of each."""
            kinds = ("block", "attention") if level in self.attention_levels else ("block",)
            units = [
                {kind: f"{way}_{level}_{kind}_{i}" for kind in kinds} for i in range(len(skips))
            ]
            results = []
            while skips:
                number = alike(skips) if self.scan and y.shape[-1] == widths[level] else 1
                run = scanned if number > 1 and not self.is_initializing() else unrolled
                y, new = run(y, skips[:number], widths[level], units[:number])
                results, skips, units = results + new, skips[number:], units[number:]
            return y, results

        widths = [self.width * m for m in self.multipliers]
        last = len(widths) - 1
        inputs = jnp.concatenate(inputs, axis=-1)
        y = convolution(widths[0], divided=(False, True), name="input")(inputs)
        skips = [y]
        for level, features in enumerate(widths):
            y, results = level_of("down", level, y, [None] * self.depth)
            skips += results
            if level < last:
                y = block(features, "down", name=f"down_{level}_resample")(y, embedding, train)
                skips.append(y)

        y = block(widths[-1], name="middle_block_0")(y, embedding, train)
        if self.attention_levels:
            y = attention(name="middle_attention")(y, context, context_mask)
        y = block(widths[-1], name="middle_block_1")(y, embedding, train)

        for level, features in reversed(list(enumerate(widths))):
            entering = [skips.pop() for _ in range(self.depth + 1)]
            y, _ = level_of("up", level, y, entering)
            if level > 0:
                y = block(features, "up", name=f"up_{level}_resample")(y, embedding, train)

        y = nn.silu(layers.GroupNorm(self.groups, name="output_norm")(y))

        def pixels(channels, name):
            last = dict(kernel_init=nn.initializers.zeros, divided=(True, False), name=name)
            at = convolution(channels * self.patch**2, **last)(y)
            return layers.depth_to_space(at, self.patch).astype(jnp.float32)

        output = pixels(6 if self.learns_variance else 3, "output")
        if moves:
            # Where each pixel comes from in both neighbours, and how much more of the later one it
            # takes than a linear fade (after Deep Voxel Flow, Liu et al. 2017, §3).
            motion = pixels(5, "motion")
            share = place + motion[..., 4:]
            output += (1 - share) * layers.warp(before, MOTION * motion[..., :2])
            output += share * layers.warp(after, MOTION * motion[..., 2:4])
        elif self.residual:
            output += low_res
        return output

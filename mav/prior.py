"""The prior P: from text to the CLIP embedding of an image (unCLIP §2.2)."""

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mav import layers


class PriorTransformer(nn.Module):
    """Causal transformer over text states, text embedding, timestep and noisy image embedding.

    The token after those, a learned query, is read out. It works on image embeddings whitened by
    the parameters `mean` and `std`, which are statistics and not trained.
    """

    embedding_features: int  # of CLIP's text and image embeddings
    width: int
    depth: int  # blocks
    head_dim: int  # features of each head of attention
    max_tokens: int  # length of the text states
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"  # what the backward pass computes again, a name in layers.REMAT

    def setup(self):
        d = self.embedding_features
        self.mean = self.param("mean", nn.initializers.zeros, (d,))
        self.std = self.param("std", nn.initializers.ones, (d,))
        dense = lambda size: nn.Dense(size, dtype=self.dtype)
        self.timestep = layers.Embedding(self.width, self.width, dtype=self.dtype)
        self.text_states = dense(self.width)
        self.text_embedding = dense(self.width)
        self.image_embedding = dense(self.width)
        small = nn.initializers.normal(0.02)
        self.query = self.param("query", small, (self.width,))
        self.positions = self.param("positions", small, (self.max_tokens + 4, self.width))
        block = layers.checkpointed(layers.TransformerBlock, self.remat, static=(3,))
        self.blocks = [
            block(self.head_dim, "gelu", self.dropout, self.dtype) for i in range(self.depth)
        ]
        self.output_norm = nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32)
        self.output = dense(d)

    def whiten(self, image_embedding: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """CLIP image embedding -> the space in which diffusion runs."""
        return (image_embedding - self._fixed(self.mean)) / self._fixed(self.std)

    def unwhiten(self, x: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """Inverse of `whiten`."""
        return x * self._fixed(self.std) + self._fixed(self.mean)

    def _fixed(self, statistic: Float[Array, "d"]) -> Float[Array, "1 d"]:
        return lax.stop_gradient(statistic)[None]

    def __call__(
        self,
        x: Float[Array, "b d"],
        t: Int[Array, "b"],
        text_embedding: Float[Array, "b d"],
        text_states: Float[Array, "b n e"],
        text_mask: Bool[Array, "b n"],
        train: bool = False,
    ) -> Float[Array, "b d"]:
        """Predicts the whitened image embedding from its noisy version x at timesteps t."""
        b, n, _ = text_states.shape
        x = x.astype(self.dtype)
        tokens = [
            self.text_states(text_states),
            self.text_embedding(text_embedding)[:, None],
            self.timestep(t)[:, None],
            self.image_embedding(x)[:, None],
            jnp.broadcast_to(self.query.astype(self.dtype), (b, 1, self.width)),
        ]
        y = jnp.concatenate(tokens, axis=1) + self.positions.astype(self.dtype)[None]
        seen = jnp.concatenate([text_mask, jnp.ones((b, 4), bool)], axis=1)
        mask = seen[:, None] & jnp.tril(jnp.ones((n + 4, n + 4), bool))[None]
        for block in self.blocks:
            y = block(y, mask, train)
        return self.output(self.output_norm(y[:, -1])).astype(jnp.float32)

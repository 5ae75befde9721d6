"""CLIP (Radford et al. 2021): a text and an image tower that meet in one embedding space."""

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mav import layers


def text_mask(tokens: Int[Array, "b n"], end_token: int) -> Bool[Array, "b n"]:
    """True up to and with the first end token; what follows is padding."""
    ended = jnp.cumsum(tokens == end_token, axis=1)
    return (ended - (tokens == end_token)) == 0


class TextTower(nn.Module):
    """Causal transformer, read at the end token."""

    embedding_features: int
    vocabulary_size: int
    max_tokens: int
    end_token: int
    width: int
    depth: int
    head_dim: int
    activation: str
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "b n"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b n c"]]:
        """Returns the text embedding (not normalised) and the states of all tokens."""
        b, n = tokens.shape
        table = nn.Embed(
            self.vocabulary_size,
            self.width,
            embedding_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            name="tokens",
        )
        positions = self.param("positions", nn.initializers.normal(0.01), (n, self.width))
        x = table(tokens) + positions.astype(self.dtype)[None]
        # Padding stands behind the end token, where no token that is read can see it.
        mask = jnp.broadcast_to(jnp.tril(jnp.ones((n, n), bool)), (b, n, n))
        for i in range(self.depth):
            x = layers.checkpointed(layers.TransformerBlock, self.remat)(
                self.head_dim, self.activation, dtype=self.dtype, name=f"block_{i}"
            )(x, mask)
        x = nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name="norm")(x)
        end = jnp.argmax(tokens == self.end_token, axis=1)
        pooled = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        embedding = nn.Dense(
            self.embedding_features, use_bias=False, dtype=self.dtype, name="projection"
        )(pooled)
        return embedding.astype(jnp.float32), x


class ImageTower(nn.Module):
    """Vision transformer, read at the class token."""

    embedding_features: int
    image_size: int
    patch: int
    width: int
    depth: int
    head_dim: int
    activation: str
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Returns the image embedding (not normalised) of images in CLIP's normalised colours."""
        p = self.patch
        x = rearrange(images, "b (h p) (w q) c -> b (h w) (p q c)", p=p, q=p)
        x = nn.Dense(self.width, use_bias=False, dtype=self.dtype, name="patches")(x)
        small = nn.initializers.normal(self.width**-0.5)
        class_token = self.param("class", small, (self.width,)).astype(self.dtype)
        x = jnp.concatenate([jnp.broadcast_to(class_token, (len(x), 1, self.width)), x], axis=1)
        positions = self.param("positions", small, x.shape[1:]).astype(self.dtype)
        norm = lambda name: nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name=name)
        x = norm("input_norm")(x + positions[None]).astype(self.dtype)
        for i in range(self.depth):
            x = layers.checkpointed(layers.TransformerBlock, self.remat)(
                self.head_dim, self.activation, dtype=self.dtype, name=f"block_{i}"
            )(x, None)
        x = norm("norm")(x[:, 0]).astype(self.dtype)
        projection = nn.Dense(
            self.embedding_features, use_bias=False, dtype=self.dtype, name="projection"
        )
        return projection(x).astype(jnp.float32)


class CLIP(nn.Module):
    """Both towers and the temperature of the contrastive loss, or the text tower alone."""

    embedding_features: int
    vocabulary_size: int
    max_tokens: int
    end_token: int
    text_width: int
    text_depth: int
    text_head_dim: int = 64
    image_size: int | None = None  # pixels; None leaves the image tower out
    patch: int = 0
    image_width: int = 0
    image_depth: int = 0
    image_head_dim: int = 64
    activation: str = "quick_gelu"
    # Embeddings get the length sqrt(features), entries of about 1, so that they weigh as much as
    # other inputs where they enter a network; Karlo works on them as they come.
    normalized: bool = True
    image_mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)  # of colours in [0, 1]
    image_std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"  # what the backward pass computes again, a name in layers.REMAT

    def setup(self):
        self.text = TextTower(
            self.embedding_features,
            self.vocabulary_size,
            self.max_tokens,
            self.end_token,
            self.text_width,
            self.text_depth,
            self.text_head_dim,
            self.activation,
            self.dtype,
            self.remat,
        )
        if self.image_size is None:
            return
        self.image = ImageTower(
            self.embedding_features,
            self.image_size,
            self.patch,
            self.image_width,
            self.image_depth,
            self.image_head_dim,
            self.activation,
            self.dtype,
            self.remat,
        )
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(2.6593), ())

    def encode_text(
        self, tokens: Int[Array, "b n"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b n c"], Bool[Array, "b n"]]:
        """Returns text embeddings, the states of all tokens, and which of them are text."""
        embedding, states = self.text(tokens)
        if self.normalized:
            embedding = normalize(embedding)
        return embedding, states, text_mask(tokens, self.end_token)

    def encode_image(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Returns image embeddings. images: in [-1, 1], of the tower's size."""
        mean, std = jnp.asarray(self.image_mean), jnp.asarray(self.image_std)
        embedding = self.image(((images + 1) / 2 - mean[None, None, None]) / std[None, None, None])
        return normalize(embedding) if self.normalized else embedding

    def __call__(
        self, tokens: Int[Array, "b n"], images: Float[Array, "b h w 3"]
    ) -> Float[Array, "b b"]:
        """Returns logits: rows are texts, columns images."""
        text, _, _ = self.encode_text(tokens)
        cosines = normalize(text) @ normalize(self.encode_image(images)).T / text.shape[-1]
        return jnp.exp(self.logit_scale) * cosines


def normalize(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """Scales vectors to length sqrt(d)."""
    return x / jnp.maximum(jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True)), 1e-12)


def slerp(a: Float[Array, "b d"], b: Float[Array, "b d"], weight: float) -> Float[Array, "b d"]:
    """From one embedding to another along the sphere (unCLIP §3.2); weight 0 is a, 1 is b."""
    length = lambda x: jnp.linalg.norm(x, axis=-1, keepdims=True)
    unit_a, unit_b = a / length(a), b / length(b)
    cosine = jnp.clip(jnp.sum(unit_a * unit_b, axis=-1, keepdims=True), -1, 1)
    angle = jnp.maximum(jnp.arccos(cosine), 1e-4)  # nearly equal ones need no sphere
    parts = jnp.sin((1 - weight) * angle) * unit_a + jnp.sin(weight * angle) * unit_b
    return parts / jnp.sin(angle) * ((1 - weight) * length(a) + weight * length(b))


# Released models, as fields of `CLIP`: OpenAI's, and H/14 of LAION. All read the same 49408 tokens.
_TEXT = dict(vocabulary_size=49408, max_tokens=77, end_token=49407)
_BASE = dict(_TEXT, embedding_features=512, text_width=512, text_depth=12)
_LARGE = dict(_TEXT, embedding_features=768, text_width=768, text_depth=12)
_HUGE = dict(_TEXT, embedding_features=1024, text_width=1024, text_depth=24, activation="gelu")
_L14 = dict(patch=14, image_width=1024, image_depth=24)
MODELS = {
    "ViT-B/32": dict(_BASE, image_size=224, patch=32, image_width=768, image_depth=12),
    "ViT-B/16": dict(_BASE, image_size=224, patch=16, image_width=768, image_depth=12),
    "ViT-L/14": dict(_LARGE, image_size=224, **_L14),
    "ViT-L/14-336": dict(_LARGE, image_size=336, **_L14),
    "ViT-H/14": dict(
        _HUGE, image_size=224, patch=14, image_width=1280, image_depth=32, image_head_dim=80
    ),
}

"""Single modules of mav in a project of your own: Flax, no trainer, no cascade.

    python examples/modules.py            # fresh parameters
    python examples/modules.py cutout     # and a trained decoder of a cascade, by name or folder

`docs/modules.md` goes through it.
"""

import sys

import jax
import jax.numpy as jnp
from flax import linen as nn

import mav
from mav import diffusion, params, samplers


class VideoClassifier(nn.Module):
    """A network of somebody else, with two of mav's layers in it."""

    @nn.compact
    def __call__(self, video):
        x = mav.Pseudo3DConv(16, temporal=True)(video)
        x = mav.SpaceTimeAttention(head_dim=8, groups=4, temporal=True)(nn.silu(x))
        return nn.Dense(10)(x.mean((1, 2, 3)))


def layers(key):
    """Layers inside another network."""
    video = jax.random.normal(key, (2, 5, 16, 16, 3))  # [batch, frames, height, width, 3]
    logits, _ = VideoClassifier().init_with_output(key, video)
    print("classifier:", logits.shape)


def unet(key):
    """An image U-Net becomes a video U-Net that treats each frame as the image U-Net would."""
    config = dict(
        width=16, multipliers=(1, 2), depth=1, attention_levels=(1,), head_dim=8, groups=4
    )
    image, video = mav.SpaceTimeUNet(**config), mav.SpaceTimeUNet(**config, temporal=True)
    x, t = jax.random.normal(key, (1, 4, 16, 16, 3)), jnp.array([500])
    image_params = jax.jit(image.init)(key, x[:, :1], t)["params"]
    # As if trained: a fresh U-Net answers zero.
    image_params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(key, p.shape), image_params)
    fresh = jax.jit(video.init)(key, x[:, :1], t)["params"]
    video_params = params.inflate(image_params, fresh)
    apply = jax.jit(image.apply)
    by_frame = [apply({"params": image_params}, x[:, i : i + 1], t) for i in range(4)]
    found = jax.jit(video.apply)({"params": video_params}, x, t)
    print("inflated:", found.shape, "differs by", abs(found - jnp.concatenate(by_frame, 1)).max())

    process = diffusion.Process(diffusion.Schedule("cosine"), prediction="v")
    predict = lambda x, t, last_x0: video.apply({"params": video_params}, x, t)
    sample = samplers.sample(predict, process, key, x.shape, num_steps=4, sampler="dpm++")
    print("sampled:", sample.shape)


def prior(key):
    """A transformer that predicts image embeddings from text."""
    network = mav.PriorTransformer(
        embedding_features=32, width=64, depth=2, head_dim=16, max_tokens=7
    )
    x, states = jax.random.normal(key, (2, 32)), jax.random.normal(key, (2, 7, 48))
    mask = jnp.arange(7)[None] < jnp.array([[3], [7]])  # which tokens are text
    found, _ = jax.jit(network.init_with_output)(key, x, jnp.array([3, 900]), x, states, mask)
    print("prior:", found.shape)


def trained(key, cascade):
    """A stage of a cascade folder, embedded, trained or converted: module and parameters."""
    loaded = mav.load(cascade)
    stage, weights = loaded.stages["decoder"], loaded.params["decoder"]
    text, _ = loaded.embed_text("a red ball", 1)
    told = dict(text, image_embedding=text["text_embedding"], fps=jnp.array([3.0]))
    x = jax.random.normal(key, (1, stage.frames, stage.size, stage.size, 3))
    found = jax.jit(stage.network.apply)({"params": weights}, x, jnp.array([999]), **told)
    print(f"{cascade}: {params.count(weights):,} parameters ->", found.shape)


if __name__ == "__main__":
    key = jax.random.key(0)
    layers(key)
    unet(key)
    prior(key)
    if len(sys.argv) > 1:
        trained(key, sys.argv[1])

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noise
import slow
from mav import clip, layers, stages
from mav import params as params_lib
from noise import normal

KEY = jax.random.key(0)
END = 9
TINY = clip.CLIP(
    embedding_features=6,
    vocabulary_size=10,
    max_tokens=7,
    end_token=END,
    text_width=8,
    text_depth=2,
    image_size=8,
    patch=4,
    image_width=12,
    image_depth=2,
    text_head_dim=4,
    image_head_dim=4,
)
TOKENS = np.array([[8, 1, 2, 3, END, 0, 0], [8, 5, END, 0, 0, 0, 0], [8, 1, 2, 3, 4, 5, END]])
IMAGES = np.clip(normal((3, 8, 8, 3)), -1, 1)


@functools.cache
def params():
    return noise.params(jax.eval_shape(TINY.init, jax.random.key(0), TOKENS, IMAGES)["params"])


@functools.partial(jax.jit, static_argnames="method")
def apply(*arguments, method):
    return TINY.apply({"params": params()}, *arguments, method=method)


def encode_text(tokens):
    return apply(np.asarray(tokens), method="encode_text")


def encode_image(images):
    return apply(images, method="encode_image")


def test_a_later_token_does_not_change_an_earlier_state():
    changed = TOKENS.copy()
    changed[:, 3] = 7
    _, before, _ = encode_text(TOKENS)
    _, after, _ = encode_text(changed)
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert (np.abs(before[:, 3:] - after[:, 3:]).max(-1) > 0).all()


def test_padding_does_not_matter():
    padded = np.where(np.asarray(encode_text(TOKENS)[2]), TOKENS, END)  # as OpenAI pads
    assert (padded != TOKENS).any()
    for found, right in zip(encode_text(padded), encode_text(TOKENS), strict=True):
        if found.ndim == 3:  # states
            found, right = (
                np.where(encode_text(TOKENS)[2][..., None], x, 0) for x in (found, right)
            )
        np.testing.assert_array_equal(found, right)


def test_text_reaches_up_to_and_with_the_first_end_token():
    lengths = [5, 3, 7]
    mask = np.arange(7)[None] < np.array(lengths)[:, None]
    np.testing.assert_array_equal(clip.text_mask(TOKENS, END), mask)
    np.testing.assert_array_equal(clip.text_mask(np.where(mask, TOKENS, END), END), mask)


def test_the_text_embedding_is_read_at_the_end_token_and_has_entries_of_mean_square_one():
    embedding, states, _ = encode_text(TOKENS)
    kernel = params()["text"]["projection"]["kernel"].astype(np.float64)
    for i, end in enumerate([4, 2, 6]):
        right = np.asarray(states[i, end]) @ kernel
        np.testing.assert_allclose(embedding[i], right / np.sqrt(np.mean(right**2)), atol=1e-4)


def test_embeddings_stay_as_they_come_where_the_network_says():
    network = TINY.clone(normalized=False)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, params()["text"]["projection"])
    twice = {**params(), "text": {**params()["text"], "projection": doubled}}
    text = lambda network, params: network.apply(
        {"params": params}, TOKENS, method=lambda clip, tokens: clip.encode_text(tokens)[0]
    )
    np.testing.assert_allclose(text(network, twice), 2 * text(network, params()), rtol=1e-5)
    np.testing.assert_allclose(text(TINY, twice), text(TINY, params()), rtol=1e-5)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_a_transformer_block_equals_loops(activation):
    block = layers.TransformerBlock(head_dim=4, activation=activation)
    x, mask = normal((2, 5, 8)), np.tril(np.ones((2, 5, 5), bool))
    weights = noise.params(jax.eval_shape(block.init, jax.random.key(0), x, mask)["params"])
    found = block.apply({"params": weights}, x, mask)
    for i in range(2):
        y = slow.layer_norm(x[i], **weights["norm_1"])
        q, k, v = (slow.dense(y, weights[name]) for name in "qkv")
        y = x[i] + slow.dense(slow.attention(q, k, v, 4, mask[i]), weights["out"])
        z = slow.dense(slow.layer_norm(y, **weights["norm_2"]), weights["mlp_1"])
        z = getattr(slow, activation)(z)
        np.testing.assert_allclose(found[i], y + slow.dense(z, weights["mlp_2"]), atol=1e-5)


def test_the_image_tower_sees_every_pixel():
    size = lambda images: jnp.sum(
        TINY.apply({"params": params()}, images, method="encode_image")[0]
    )
    assert (jax.jit(jax.grad(size))(IMAGES[:1]) != 0).all()


def test_images_reach_the_tower_in_normalised_colours():
    colours = (IMAGES.astype(np.float64) + 1) / 2
    colours = (colours - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    found = TINY.bind({"params": params()}).image(colours.astype(np.float32))
    plain = TINY.clone(normalized=False)
    plain = plain.apply({"params": params()}, IMAGES, method="encode_image")
    np.testing.assert_allclose(plain, found, atol=1e-5)
    right = found / np.sqrt(np.mean(found**2, axis=1, keepdims=True))
    np.testing.assert_allclose(encode_image(IMAGES), right, atol=1e-4)


def test_logits_are_scaled_cosines_with_texts_for_rows():
    logits = apply(TOKENS[:2], IMAGES, method="__call__")
    text, image = encode_text(TOKENS)[0][:2], encode_image(IMAGES)
    size = np.linalg.norm
    cosines = [[t @ i / (size(t) * size(i)) for i in np.asarray(image)] for t in np.asarray(text)]
    scale = np.exp(params()["logit_scale"])
    np.testing.assert_allclose(logits, scale * np.array(cosines), atol=1e-5)


def contrastive_loss(logits):
    network = types.SimpleNamespace(apply=lambda *arguments: jnp.asarray(logits))
    stage = stages.Stage("clip", network)
    batch = dict(tokens=None, frames=np.zeros((len(logits), 1, 8, 8, 3), np.uint8))
    return stages.clip_loss(stage, {}, {}, batch, None, {})


def test_the_contrastive_loss_of_guessing_is_log_n_and_of_knowing_is_zero():
    loss, _ = contrastive_loss(np.ones((8, 8)))
    np.testing.assert_allclose(loss, np.log(8), rtol=1e-6)
    loss, metrics = contrastive_loss(50 * np.eye(8))
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    assert metrics["accuracy"] == 1
    assert contrastive_loss(50 * np.roll(np.eye(8), 1, axis=0))[1]["accuracy"] == 0


def test_the_contrastive_loss_is_the_mean_over_rows_and_columns():
    logits = normal((5, 5)).astype(np.float64)
    total = 0
    for i in range(5):
        for line in (logits[i], logits[:, i]):
            total -= np.log(np.exp(line[i]) / np.exp(line).sum()) / 10
    np.testing.assert_allclose(contrastive_loss(logits)[0], total, rtol=1e-5)


def test_the_temperature_starts_at_that_of_clip():
    scale = jax.jit(lambda: TINY.init(jax.random.key(0), TOKENS, IMAGES)["params"]["logit_scale"])()
    np.testing.assert_allclose(np.exp(scale), 1 / 0.07, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "millions"),  # open_clip's table of models; OpenAI's own state dicts
    [
        ("ViT-B/32", 151.28),
        ("ViT-B/16", 149.62),
        ("ViT-L/14", 427.62),
        ("ViT-L/14-336", 427.94),
        ("ViT-H/14", 986.11),
    ],
)
def test_released_models_have_their_published_sizes(name, millions):
    network = clip.CLIP(**clip.MODELS[name])
    shapes = jax.eval_shape(lambda: stages.init_params(stages.Stage("clip", network), KEY))
    assert round(params_lib.count(shapes) / 1e6, 2) == millions


def test_a_text_tower_alone_has_the_published_size_of_karlos():
    """UNCLIP.md 2.2."""
    network = clip.CLIP(**{**clip.MODELS["ViT-L/14"], "image_size": None})
    shapes = jax.eval_shape(lambda: stages.init_params(stages.Stage("clip", network), KEY))
    assert round(params_lib.count(shapes) / 1e6, 2) == 123.65

import functools

import jax
import jax.numpy as jnp
import numpy as np

import noise
from mav import params as params_lib
from mav import prior
from noise import normal

TINY = prior.PriorTransformer(embedding_features=6, width=8, depth=2, head_dim=4, max_tokens=5)
TOLD = dict(
    x=normal((2, 6), 1),
    t=np.array([10, 900]),
    text_embedding=normal((2, 6), 2),
    text_states=normal((2, 5, 7), 3),
    text_mask=np.arange(5)[None] < np.array([[2], [4]]),
)


@functools.cache
def params():
    return noise.params(jax.eval_shape(TINY.init, jax.random.key(0), **TOLD)["params"])


@jax.jit
def run(told):
    return TINY.apply({"params": params()}, **told)


def test_masked_text_does_not_matter():
    mask = TOLD["text_mask"][..., None]
    states = TOLD["text_states"]
    found = run({**TOLD, "text_states": np.where(mask, states, 1e3)})
    np.testing.assert_array_equal(found, run(TOLD))
    assert (run({**TOLD, "text_states": np.where(mask, 1.0, states)}) != run(TOLD)).all()


def test_every_condition_matters():
    right = run(TOLD)
    assert right.shape == (2, 6)
    for name in ("x", "t", "text_embedding"):
        assert (run({**TOLD, name: TOLD[name] + 1}) != right).all()


def test_text_does_not_see_what_comes_after_it():
    def states(told):
        _, variables = TINY.apply({"params": params()}, **told, capture_intermediates=True)
        return variables["intermediates"]["blocks_1"]["__call__"][0]

    before = states(TOLD)
    after = states({**TOLD, "x": TOLD["x"] + 1})
    # Tokens: 5 of text, then text embedding, timestep, noisy image embedding, query.
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert (np.abs(before[:, 7:] - after[:, 7:]).max(-1) > 0).all()


def test_whitening_uses_the_statistics_and_is_undone():
    image = normal((4, 6), 5)
    white = TINY.apply({"params": params()}, image, method="whiten")
    np.testing.assert_allclose(white, (image - params()["mean"]) / params()["std"], rtol=1e-5)
    back = TINY.apply({"params": params()}, white, method="unwhiten")
    np.testing.assert_allclose(back, image, atol=1e-5)


def test_the_statistics_are_not_trained():
    def loss(params):
        variables = {"params": params}
        white = TINY.apply(variables, TOLD["x"], method="whiten")
        y = TINY.apply(variables, **{**TOLD, "x": white})
        return jnp.sum(TINY.apply(variables, y, method="unwhiten") ** 2)

    slopes = params_lib.flatten(jax.jit(jax.grad(loss))(params()))
    assert {name for name, slope in slopes.items() if (slope == 0).all()} == {"mean", "std"}

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax._src.cudnn import fused_attention_stablehlo

import slow
from mav import ops
from noise import normal


@pytest.fixture(params=["cpu", "default"])
def platform(request, monkeypatch):
    """Each of the forms between which the platform chooses."""

    def choose(*arguments, **forms):
        return forms.get(request.param, forms["default"])(*arguments)

    monkeypatch.setattr(jax.lax, "platform_dependent", choose)


def convolved(x, kernel):
    """A convolution in float64, tap by tap."""
    (_, h, w, _), (rows, columns) = x.shape, kernel.shape[:2]
    top, left = (rows - 1) // 2, (columns - 1) // 2
    edges = ((0, 0), (top, rows - 1 - top), (left, columns - 1 - left), (0, 0))
    padded = np.pad(x.astype(np.float64), edges)
    taps = np.ndindex(rows, columns)
    return sum(padded[:, i : i + h, j : j + w] @ kernel[i, j] for i, j in taps)


SHAPES = [  # of the input, the kernel's window
    ((3, 6, 5), (3, 3)),
    ((2, 1, 7), (3, 1)),
    ((2, 16, 9), (3, 1)),
    ((2, 5, 4), (2, 1)),
]


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize(("shape", "window"), SHAPES)
def test_a_convolution_and_its_gradients_equal_a_sum_over_taps(shape, window):
    x, kernel, bias = normal((*shape, 4), 1), normal((*window, 4, 6), 2), normal(6, 3)
    y, gradients = jax.vjp(ops.convolve, x, kernel, bias)
    np.testing.assert_allclose(y, convolved(x, kernel) + bias, atol=1e-4)

    # The convolution is linear in input and kernel: its gradients are its transposes.
    dy = normal(y.shape, 4)
    found = gradients(dy)
    for i, direction in enumerate((normal(x.shape, 5), normal(kernel.shape, 6))):
        pair = (direction, kernel) if i == 0 else (x, direction)
        np.testing.assert_allclose(
            np.vdot(found[i], direction), np.vdot(dy, convolved(*pair)), 1e-3
        )
    np.testing.assert_allclose(found[2], dy.sum((0, 1, 2)), atol=1e-3)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize(("features", "groups"), [(12, 4), (6, 6), (8, 1)])
def test_group_norm_and_its_gradients_equal_those_of_flax(features, groups):
    x, dy = 2 * normal((3, 4, 5, features), 1) + 1, normal((3, 4, 5, features), 2)
    scale, bias = normal(features, 3), normal(features, 4)
    module = nn.GroupNorm(groups, epsilon=1e-5, use_fast_variance=False)
    right = lambda x, *p: module.apply({"params": dict(zip(("scale", "bias"), p, strict=True))}, x)
    y, gradients = jax.vjp(lambda *a: ops.group_norm(*a, groups), x, scale, bias)
    right_y, right_gradients = jax.vjp(right, x, scale, bias)
    np.testing.assert_allclose(y, right_y, atol=1e-5)
    for found, wanted in zip(gradients(dy), right_gradients(dy), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_half_precision_keeps_statistics_in_single():
    x = (normal((2, 64, 64, 4)) * 0.01 + 3).astype(jnp.bfloat16)
    found = ops.group_norm(x, jnp.ones(4), jnp.zeros(4), 2)
    right = [slow.group_norm(np.asarray(v, np.float64), 2, np.ones(4), np.zeros(4)) for v in x]
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), right, atol=0.05)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize(("queries", "keys"), [(5, 7), (370, 360)])
@pytest.mark.parametrize("rows", [0, 1, "each query's"])
def test_attention_and_its_gradients_equal_those_of_jax(queries, keys, rows):
    shapes = [(2, n, 3, 8) for n in (queries, keys, keys)]
    q, k, v = (normal(shape, i) for i, shape in enumerate(shapes))
    mask = None
    if rows:
        mask = np.random.default_rng(4).random((2, 1 if rows == 1 else queries, keys)) < 0.6
        mask[..., 0] = True
    flat = lambda x: x.reshape(*x.shape[:2], -1)
    y, gradients = jax.vjp(lambda *a: ops.attend(*map(flat, a), 8, mask), q, k, v)
    right = lambda *a: jax.nn.dot_product_attention(
        *a, mask=None if mask is None else mask[:, None]
    )
    right_y, right_gradients = jax.vjp(right, q, k, v)
    np.testing.assert_allclose(y, flat(right_y), atol=1e-5)
    for found, wanted in zip(gradients(y), right_gradients(right_y), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.fixture
def cudnn(monkeypatch):
    """As if this process had a GPU with cuDNN: enough to lower programs for one."""
    monkeypatch.setattr(ops, "has_cudnn", lambda: True)
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91300)


def calls_cudnn(platform, dtype, head_dim, queries, keys, masked):
    """Whether attention and its gradients, lowered for a platform, call cuDNN."""
    shape = lambda n: jax.ShapeDtypeStruct((2, n, 2 * head_dim), dtype)
    mask = jax.ShapeDtypeStruct((2, 1, keys), bool) if masked else None

    def gradients(q, k, v, mask):
        total = lambda *a: ops.attend(*a, head_dim, mask).astype(jnp.float32).sum()
        return jax.grad(total, argnums=(0, 1, 2))(q, k, v)

    traced = jax.jit(gradients).trace(shape(queries), shape(keys), shape(keys), mask)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return "__cudnn$fmha" in text and "Backward" in text


@pytest.mark.usefixtures("cudnn")
@pytest.mark.parametrize("masked", [True, False])
def test_attention_of_the_decoder_is_fused_on_a_gpu_and_nowhere_else(masked):
    sizes = dict(head_dim=64, queries=1024, keys=1024 + 81, masked=masked)  # Karlo's, at 32 pixels
    assert calls_cudnn("cuda", jnp.bfloat16, **sizes)
    assert not calls_cudnn("cpu", jnp.bfloat16, **sizes)
    assert not calls_cudnn("tpu", jnp.bfloat16, **sizes)
    assert not calls_cudnn("rocm", jnp.bfloat16, **sizes)


@pytest.mark.usefixtures("cudnn")
@pytest.mark.parametrize(
    ("dtype", "head_dim", "keys"),
    [(jnp.float32, 64, 1024), (jnp.bfloat16, 12, 1024), (jnp.bfloat16, 64, 16)],
)
def test_attention_that_cudnn_does_not_take_is_not_fused(dtype, head_dim, keys):
    assert not calls_cudnn("cuda", dtype, head_dim, 256, keys, masked=False)


@pytest.mark.parametrize(
    ("queries", "keys", "rows"), [(5, 7, 1), (5, 7, 5), (4, 6, 1), (5, 7, 0), (5, 6, 0)]
)
def test_what_cudnn_is_given_beyond_the_edges_changes_nothing(queries, keys, rows):
    q, k, v = normal((2, queries, 2, 8), 1), normal((2, keys, 2, 8), 2), normal((2, keys, 2, 8), 3)
    mask = None
    if rows:
        mask = np.random.default_rng(4).random((2, 1, rows, keys)) < 0.6
        mask[..., 0] = True
    fused = functools.partial(ops._fused, implementation="xla")
    y, gradients = jax.vjp(lambda *a: fused(*a, mask), q, k, v)
    right, right_gradients = jax.vjp(lambda *a: ops._plain(*a, mask), q, k, v)
    np.testing.assert_allclose(y, right, atol=1e-6)
    for found, wanted in zip(gradients(y), right_gradients(y), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.usefixtures("platform")
def test_gradients_are_the_same_where_numbers_are_double_by_default():
    arguments = normal((2, 6, 5, 4), 1), normal((3, 3, 4, 6), 2), normal(6, 3)

    def loss(x, kernel, bias):
        y = ops.convolve(x, kernel, bias)
        return (ops.group_norm(y, bias, bias, 2) ** 2).sum()

    gradients = jax.grad(loss, (0, 1, 2))
    wanted = gradients(*arguments)
    with jax.enable_x64(True):
        found = gradients(*arguments)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)

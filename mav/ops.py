"""Attention, convolution and normalisation, each in the form that suits platform and shape."""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jaxtyping import Array, Bool, Float

# Attention

TILE = 128  # keys that a fused kernel works on at a time; with fewer it mostly waits
LARGE = 2**17  # scores of one head beyond which a CPU is faster with one head at a time


def attend(
    q: Float[Array, "*b n c"],
    k: Float[Array, "*b m c"],
    v: Float[Array, "*b m c"],
    head_dim: int,
    mask: Bool[Array, "*b #n m"] | None = None,
) -> Float[Array, "*b n c"]:
    """Multi-head attention; True in the mask lets a query see a key. Softmax in float32.

    Fused where cuDNN can do it, so that the scores never lie in memory; on CPUs long rows are
    worked on head by head, so that the scores stay in the caches. On TPUs XLA's own form is used at
    all sizes: it can be partitioned over a mesh as it is, and the longest rows that mav has are
    those of 1024 pixels.
    """
    q, k, v = (rearrange(x, "... n (h d) -> ... n h d", d=head_dim) for x in (q, k, v))
    mask = None if mask is None else mask[..., None, :, :]
    if has_cudnn() and fits_cudnn(q, k):
        y = jax.lax.platform_dependent(q, k, v, mask, cuda=_fused, default=_plain)
    elif q.ndim == 4 and q.shape[1] * k.shape[1] >= LARGE:
        y = jax.lax.platform_dependent(q, k, v, mask, cpu=_head_by_head, default=_plain)
    else:
        y = _plain(q, k, v, mask)
    return rearrange(y, "... n h d -> ... n (h d)")


def has_cudnn() -> bool:
    """Whether this process has a GPU with cuDNN's fused attention (Ampere or newer)."""
    if jax.default_backend() != "gpu":
        return False
    device = jax.local_devices()[0]
    return "cuda" in device.client.platform_version and float(device.compute_capability) >= 8


def fits_cudnn(q: Float[Array, "*b n h d"], k: Float[Array, "*b m h d"]) -> bool:
    """Whether the fused kernel takes these types and sizes, and gains by it."""
    head_dim, keys = k.shape[-1], k.shape[-3]
    halves = q.ndim == 4 and q.dtype in (jnp.bfloat16, jnp.float16)
    return halves and head_dim % 8 == 0 and head_dim <= 128 and keys >= TILE


def _plain(q, k, v, mask):
    # XLA:CPU runs this up to 4 times as fast as the library's form of it, which transposes inside
    # of its products (two cores with AVX-512, 68 to 1105 keys).
    q, k, v = (rearrange(x, "... n h d -> ... h n d") for x in (q, k, v))
    product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
    scores = product(q, k.swapaxes(-1, -2)) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    highest = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.exp(scores - highest)
    y = product(weights.astype(v.dtype), v) / weights.sum(-1, keepdims=True)
    return rearrange(y.astype(v.dtype), "... h n d -> ... n h d")


def _head_by_head(q, k, v, mask):
    # 1.3 to 2.6 times as fast as `_plain` from 400 x 400 scores on, half as fast with 256 x 337
    # (two cores without AVX-512).
    heads = q.shape[2]
    q, k, v = (rearrange(x, "b n h d -> (b h) n 1 d") for x in (q, k, v))
    if mask is not None:
        mask = repeat(
            jnp.broadcast_to(mask, (len(q) // heads, *mask.shape[1:])),
            "b 1 n m -> (b h) 1 n m",
            h=heads,
        )
    y = jax.lax.map(lambda head: _plain(*head), (q, k, v, mask))
    return rearrange(y, "(b h) n 1 d -> b n h d", h=heads)


def _fused(q, k, v, mask, implementation="cudnn"):
    # cuDNN's gradients want even lengths. The mask hides keys that are added.
    n, m = q.shape[1], k.shape[1]
    if mask is None and m % 2:
        mask = jnp.ones((1, 1, 1, m), bool)
    if mask is not None:
        mask = jnp.broadcast_to(mask, (len(q), 1, n, m))
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, n % 2), (0, m % 2)))
    even = lambda x: jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))
    q, k, v = even(q), even(k), even(v)
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=implementation)[:, :n]


# Convolution


@jax.custom_vjp
def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "i j c d"], bias: Float[Array, "d"]
) -> Float[Array, "b h w d"]:
    """Convolution over h and w with zeros beyond the edges. Differentiable in reverse mode."""
    return _convolve(x, kernel) + bias[None, None, None]


def _convolve(x, kernel):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions)


def _convolve_forward(x, kernel, bias):
    return convolve(x, kernel, bias), (x, kernel)


def _convolve_backward(residuals, dy):
    x, kernel = residuals
    (dx,) = jax.linear_transpose(lambda x: _convolve(x, kernel), x)(dy)
    (dkernel,) = jax.linear_transpose(lambda kernel: _convolve(x, kernel), kernel)(dy)
    dbias = _sum_pixels(dy.reshape(1, -1, 1, dy.shape[-1]))[0]
    return dx, dkernel, dbias.astype(dy.dtype)


convolve.defvjp(_convolve_forward, _convolve_backward)


def _sum_pixels(x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
    """Sum over h and w.

    As a product on CPUs, where XLA computes all that leads to x again inside of a plain sum.
    """
    product = lambda x: (jnp.ones((1, x.shape[1]), x.dtype) @ x)[:, 0]
    total = lambda x: x.sum(1)
    x = x.reshape(len(x), -1, x.shape[-1]).astype(jnp.float32)
    return jax.lax.platform_dependent(x, cpu=product, default=total)


def convolve_video(
    x: Float[Array, "b f h w c"],
    kernel: Float[Array, "t i j c d"],
    strides: tuple[int, int, int] = (1, 1, 1),
) -> Float[Array, "b g y x d"]:
    """Convolution over f, h and w, of which TensorFlow's SAME is the padding. For inference.

    On CPUs as a convolution of images, for which XLA has a library, as it has none for videos.
    """
    folded = _winograd if kernel.shape[0] == 3 and strides[0] == 1 else _stacked
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(folded, strides=strides),
        default=functools.partial(_convolve_video, strides=strides),
    )


def _convolve_video(x, kernel, strides):
    dimensions = ("NDHWC", "DHWIO", "NDHWC")
    return jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=dimensions)


def _convolve_frames(x, kernel, strides):
    y = jax.lax.conv_general_dilated(
        rearrange(x, "b f h w c -> (b f) h w c"),
        kernel,
        strides,
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return rearrange(y, "(b f) h w d -> b f h w d", b=len(x))


def _stacked(x, kernel, strides):
    # The frames under the kernel become channels of one.
    t, step = kernel.shape[0], strides[0]
    [ends] = jax.lax.padtype_to_pads((x.shape[1],), (t,), (step,), "SAME")
    length = -(-x.shape[1] // step)
    x = jnp.pad(x, ((0, 0), ends, (0, 0), (0, 0), (0, 0)))
    taps = [x[:, i : i + (length - 1) * step + 1 : step] for i in range(t)]
    kernel = rearrange(kernel, "t i j c d -> i j (t c) d")
    return _convolve_frames(jnp.concatenate(taps, axis=-1), kernel, strides[1:])


def _winograd(x, kernel, strides):
    # Two frames of the output by four convolutions of images instead of six (Lavin & Gray 2016,
    # F(2, 3) along time). All of I3D was 1.1 times as fast as by stacked frames (two shared cores).
    f = x.shape[1]
    pairs = -(-f // 2)
    x = jnp.pad(x, ((0, 0), (1, 1 + f % 2), (0, 0), (0, 0), (0, 0)))
    a, b, c, d = (x[:, i : i + 2 * pairs - 1 : 2] for i in range(4))
    first, middle, last = kernel
    half = (first + last) / 2
    products = [
        _convolve_frames(frames, taps, strides[1:])
        for frames, taps in (
            (a - c, first),
            (b + c, half + middle / 2),
            (c - b, half - middle / 2),
            (b - d, last),
        )
    ]
    even = products[0] + products[1] + products[2]
    odd = products[1] - products[2] - products[3]
    y = jnp.stack([even, odd], axis=2)
    return rearrange(y, "b p two h w d -> b (p two) h w d")[:, :f]


# Normalisation

EPSILON = 1e-5  # added to the variance


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def group_norm(
    x: Float[Array, "b h w c"], scale: Float[Array, "c"], bias: Float[Array, "c"], groups: int
) -> Float[Array, "b h w c"]:
    """Group normalisation (Wu & He 2018), computed in float32. Differentiable in reverse mode."""
    return _group_norm_forward(x, scale, bias, groups)[0]


def _group_means(x: Float[Array, "b c"], groups: int) -> Float[Array, "b c"]:
    """Every entry becomes the mean of its group."""
    means = x.reshape(len(x), groups, -1).mean(-1)
    return jnp.repeat(means, x.shape[-1] // groups, axis=-1)


def _at_pixels(x: Float[Array, "b c"]) -> Float[Array, "b 1 1 c"]:
    return x[:, None, None]


def _group_norm_forward(x, scale, bias, groups):
    wide = x.astype(jnp.float32)
    mean = _group_means(wide.mean((1, 2)), groups)
    variance = _group_means(((wide - _at_pixels(mean)) ** 2).mean((1, 2)), groups)
    inverse = jax.lax.rsqrt(variance + EPSILON)
    factor = inverse * scale[None]
    y = wide * _at_pixels(factor) + _at_pixels(bias[None] - mean * factor)
    return y.astype(x.dtype), (x, scale, mean, inverse)


def _group_norm_backward(groups, residuals, dy):
    x, scale, mean, inverse = residuals
    wide, dy = x.astype(jnp.float32), dy.astype(jnp.float32)
    pixels = x.shape[1] * x.shape[2]
    dbias = _sum_pixels(dy)  # of each example
    dscale = _sum_pixels(dy * (wide - _at_pixels(mean))) * inverse
    # What moves the mean or the length of a whole group changes nothing, and is taken out.
    by_mean = inverse * _group_means(scale[None] * dbias, groups) / pixels
    by_length = inverse**2 * _group_means(scale[None] * dscale, groups) / pixels
    dx = dy * _at_pixels(inverse * scale[None]) - wide * _at_pixels(by_length)
    dx -= _at_pixels(by_mean - mean * by_length)
    return dx.astype(x.dtype), dscale.sum(0), dbias.sum(0)


group_norm.defvjp(_group_norm_forward, _group_norm_backward)

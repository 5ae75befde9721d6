"""How near videos come to the true ones, and what simpler means than networks make of them."""

import importlib.util
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

Video = UInt8[np.ndarray, "f h w 3"]

HAS_FLOW = importlib.util.find_spec("cv2") is not None
WITHOUT_FLOW = "not measured: pip install 'mav[evaluate]' for OpenCV's optical flow"
MOST_PSNR = 10 * np.log10(255**2 * 12)  # dB, the error of rounding to 8 bits
SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # of the window, in pixels (Wang et al. 2004, §III-B)
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # for values between 0 and 1


def psnr(found: Video, true: Video) -> float:
    """Peak signal-to-noise ratio in dB, of the squared error over all frames.

    At most `MOST_PSNR`, so that frames that are equal leave a mean finite."""
    error = np.mean((found.astype(np.float32) - true.astype(np.float32)) ** 2, dtype=np.float64)
    return float(min(10 * np.log10(255**2 / max(error, 1e-12)), MOST_PSNR))


def ssim(found: Video, true: Video) -> float:
    """Structural similarity (Wang et al. 2004), the mean over frames, channels and the places where
    the window fits whole. Frames have at least 11 x 11 pixels.
    """
    return float(np.mean([_ssim(a, b) for a, b in zip(found, true, strict=True)]))


@jax.jit
def _ssim(a: UInt8[Array, "h w 3"], b: UInt8[Array, "h w 3"]) -> Float[Array, ""]:
    taps = np.exp(-(np.arange(-SSIM_RADIUS, SSIM_RADIUS + 1) ** 2) / (2 * SSIM_SIGMA**2))
    taps /= taps.sum()
    h, w, c = a.shape

    def local(x):
        # All numbers in a row, which a CPU does in half the time; what wraps around is cut off.
        x = x.reshape(-1)
        for stride in (c, w * c):
            end = len(x) - 2 * SSIM_RADIUS * stride
            moved = (x[i * stride : i * stride + end] for i in range(len(taps)))
            x = sum(float(tap) * part for tap, part in zip(taps, moved, strict=True))
        return jnp.pad(x, (0, h * w * c - len(x))).reshape(h, w, c)[
            : h - 2 * SSIM_RADIUS, : w - 2 * SSIM_RADIUS
        ]

    # Around 0, where float32 loses least in the differences of squares.
    a, b = (x.astype(jnp.float32) / 255 - 0.5 for x in (a, b))
    mean_a, mean_b = local(a), local(b)
    variances = local(a * a) - mean_a**2 + local(b * b) - mean_b**2
    covariance = local(a * b) - mean_a * mean_b
    mean_a, mean_b = mean_a + 0.5, mean_b + 0.5
    structure = (2 * covariance + SSIM_C2) / (variances + SSIM_C2)
    return jnp.mean((2 * mean_a * mean_b + SSIM_C1) / (mean_a**2 + mean_b**2 + SSIM_C1) * structure)


# Frames between frames.


def blend(video: Video, skip: int) -> Video:
    """The video with skip - 1 frames between each two: each fades into the next."""
    return _between(video, skip, lambda a, b: lambda share: (1 - share) * a + share * b)


def flow(video: Video, skip: int) -> Video:
    """The video with skip - 1 frames between each two, along optical flow; needs OpenCV.

    Dense inverse search (Kroeger et al. 2016) as OpenCV has it, to full resolution. Flow is taken
    to be steady from a frame to the next, and what it brings from both is faded (Super SloMo, Jiang
    et al. 2018, Eqs. 1 and 4, without its networks).
    """
    import cv2  # belongs to evaluation

    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(0)
    height, width = video.shape[1:3]
    here = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)

    def warp(x, by):
        return cv2.remap(x, here + by, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def between(a, b):
        grey = [cv2.cvtColor(x.astype(np.uint8), cv2.COLOR_RGB2GRAY) for x in (a, b)]
        there, back = search.calc(*grey, None), search.calc(*grey[::-1], None)

        def at(share):
            rest = 1 - share
            to_a = share**2 * back - share * rest * there
            to_b = rest**2 * there - share * rest * back
            return rest * warp(a, to_a) + share * warp(b, to_b)

        return at

    return _between(video, skip, between)


def _between(video, skip, between):
    """All frames: those of the video, and what `between` gives for shares of the way."""
    frames = []
    for a, b in itertools.pairwise(video):
        at = between(a.astype(np.float32), b.astype(np.float32))
        frames += [a, *(np.rint(at(i / skip)).clip(0, 255) for i in range(1, skip))]
    return np.stack([*frames, video[-1]]).astype(np.uint8)

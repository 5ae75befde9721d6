"""Distances between sets of features, and scores of samples; NumPy, in float64.

Frechet distance: FID (Heusel et al. 2017), FVD (Unterthiner et al. 2018). Kernel distance: KID
(Bińkowski et al. 2018), KVD. CMMD (Jayasumana et al. 2024). Inception Score (Salimans et al. 2016).
CLIPSIM (Wu et al. 2021). Which features go in decides which of them comes out.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Float64, Int

Features = Float[np.ndarray, "n d"]
Kernel = Callable[[Features, Features], Float64[np.ndarray, "m n"]]

FEW = 2048  # samples, below which a Frechet distance is mostly its bias
SIGMA, SCALE = 10.0, 1000.0  # of CMMD
ROWS = 1024  # of a kernel's matrix at once
Z95 = 1.959964  # 95 % of a normal distribution lie within so many standard deviations


@dataclasses.dataclass(frozen=True)
class Moments:
    """Mean and covariance of feature vectors that come in batches, in any order.

    scatter: sum of the outer products of deviations from the mean.
    """

    count: int
    mean: Float64[np.ndarray, "d"]
    scatter: Float64[np.ndarray, "d d"]

    @classmethod
    def of(cls, x: Features) -> "Moments":
        """Raises ValueError for numbers that are not finite."""
        x = np.asarray(x, np.float64)
        if x.ndim != 2 or not len(x):
            raise ValueError(f"features are {list(x.shape)}; wanted [n, d], at least one.")
        if not np.isfinite(x).all():
            raise ValueError("features have numbers that are not finite.")
        mean = x.mean(0)
        away = x - mean[None]
        return cls(len(x), mean, away.T @ away)

    def merged(self, other: "Moments") -> "Moments":
        """Of both sets together, exactly (Chan, Golub and LeVeque 1983)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter = scatter + np.outer(apart, apart) * (self.count * other.count / count)
        return Moments(count, self.mean + apart * (other.count / count), scatter)

    def covariance(self, ddof: int = 1) -> Float64[np.ndarray, "d d"]:
        """ddof: 1 divides by n - 1, as numpy.cov and tfgan; 0 by n, as StyleGAN-V."""
        if self.count <= ddof:
            raise ValueError(f"a covariance needs more than {ddof} samples; found {self.count}.")
        return self.scatter / (self.count - ddof)


def merge(parts: Sequence[Moments]) -> Moments:
    """Of all parts together."""
    return functools.reduce(Moments.merged, parts)


def frechet_to(real: Moments, ddof: int = 1) -> Callable[[Moments], float]:
    """A function that gives the Frechet distance of other moments to these.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)). The last trace is the sum of the roots of the
    eigenvalues of the symmetric S2^(1/2) S1 S2^(1/2), which are real, and at least 0 but for
    rounding, however singular S1 and S2 are.
    """
    covariance = real.covariance(ddof)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))[None]) @ vectors.T

    def distance(other: Moments) -> float:
        theirs = other.covariance(ddof)
        product = root @ theirs @ root
        found = np.linalg.eigvalsh((product + product.T) / 2)
        shared = np.sqrt(np.maximum(found, 0)).sum()
        apart = ((other.mean - real.mean) ** 2).sum()
        return float(apart + np.trace(theirs) + np.trace(covariance) - 2 * shared)

    return distance


def frechet(a: Moments, b: Moments, ddof: int = 1) -> float:
    """Frechet distance between Gaussians of these moments: FID or FVD, by the features."""
    return frechet_to(b, ddof)(a)


def polynomial(x: Features, y: Features) -> Float64[np.ndarray, "m n"]:
    """The kernel of KID: (x y / d + 1)^3."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(x: Features, y: Features) -> Float64[np.ndarray, "m n"]:
    """The kernel of CMMD, of width `SIGMA`."""
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T
    return np.exp(-np.maximum(squares, 0) / (2 * SIGMA**2))


def mmd(
    x: Features, y: Features, kernel: Kernel, unbiased: bool, groups: int = 1
) -> tuple[float, float | None]:
    """Squared maximum mean discrepancy (Gretton et al. 2012, Eq. 3; biased: Eq. 5), and its error.

    groups: of neighbours in x. Its standard error over x is the jackknife's, of the values without
    one of them each (Efron & Stein 1981); None of fewer than two.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if unbiased and min(len(x), len(y)) < 2:
        raise ValueError(f"an unbiased MMD needs two samples a side; found {len(x)}, {len(y)}.")
    starts = np.arange(groups) * len(x) // groups
    group = np.repeat(np.arange(groups), np.diff([*starts, len(x)]))

    def sums(a, b, by=None):
        """By rows; of pairs that share a group; without those of a sample and itself."""
        rows, shared = np.empty(len(a)), np.zeros(groups)
        for start in range(0, len(a), ROWS):
            block = kernel(a[start : start + ROWS], b)
            here = np.arange(len(block))
            if a is b and unbiased:
                block[here, start + here] = 0
            rows[start : start + ROWS] = block.sum(1)
            if by is not None:
                own = np.add.reduceat(block, starts, axis=1)[here, by[start : start + ROWS]]
                shared += np.bincount(by[start : start + ROWS], own, groups)
        return rows, shared

    within, shared = sums(x, x, group)
    across, _ = sums(x, y)
    pairs = lambda n: n * (n - 1 if unbiased else n)
    real = sums(y, y)[0].sum() / pairs(len(y))
    mean = lambda n, own, other: own / pairs(n) + real - 2 * other / (n * len(y))
    value = float(mean(len(x), within.sum(), across.sum()))
    sizes = np.bincount(group, minlength=groups)
    if groups < 2 or (len(x) - sizes < 2).any():
        return value, None
    of_group = lambda rows: np.bincount(group, rows, groups)
    without = mean(
        len(x) - sizes,
        within.sum() - 2 * of_group(within) + shared,
        across.sum() - of_group(across),
    )
    return value, float(np.sqrt((groups - 1) * without.var()))


def kernel_distance(x: Features, y: Features, groups: int = 1) -> tuple[float, float | None]:
    """KID or KVD, by the features, and its error: unbiased, so that it may be below 0."""
    return mmd(x, y, polynomial, True, groups)


def cmmd(x: Features, y: Features, groups: int = 1) -> tuple[float, float | None]:
    """Of CLIP's image embeddings, and its error.

    They are brought to length 1; biased as its authors have it.
    """
    value, error = mmd(unit(x), unit(y), gaussian, False, groups)
    return SCALE * value, None if error is None else SCALE * error


def unit(x: Float[np.ndarray, "... d"]) -> Float64[np.ndarray, "... d"]:
    """Vectors of length 1."""
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def inception_score(logits: Float[np.ndarray, "n c"], splits: int = 1) -> tuple[float, float]:
    """Exponential of the mean KL(p(y|x) || p(y)): mean and deviation over consecutive splits.

    A split's own mean stands for p(y); many small splits lower the score.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"splits={splits} is impossible with {len(logits)} samples.")
    x = np.asarray(logits, np.float64)
    x = x - x.max(1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    scores = []
    for part in np.array_split(log_p, splits):
        p = np.exp(part)
        log_mean = np.log(np.maximum(p.mean(0), 1e-300))
        scores.append(np.exp((p * (part - log_mean[None])).sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def clipsim(
    images: Float[np.ndarray, "n f d"], texts: Float[np.ndarray, "n d"]
) -> Float64[np.ndarray, "n"]:
    """Of each video the mean over frames of the cosine to its caption; their mean is CLIPSIM."""
    return np.einsum("nfd,nd->nf", unit(images), unit(texts)).mean(1)


def bootstrap_error(
    statistic: Callable[[Int[np.ndarray, "n"]], float], n: int, repeats: int, seed: int = 0
) -> float | None:
    """Standard error of a statistic of samples 0..n-1, drawn again with repetition.

    Repetitions raise a Frechet distance, so that percentiles of the redrawn values would not hold
    the value itself: an interval is the value ± `Z95` errors. None of fewer than two samples or
    repeats.
    """
    if min(n, repeats) < 2:
        return None
    rng = np.random.default_rng(seed)
    return float(np.std([statistic(rng.integers(n, size=n)) for _ in range(repeats)], ddof=1))


def bias_remark(name: str, samples: int) -> str | None:
    """A warning where so few samples make a Frechet distance mostly its own bias."""
    if samples >= FEW:
        return None
    return (
        f"{name} is of {samples} samples: below {FEW} it is biased upwards so much that it can be "
        "compared only with numbers of as many."
    )

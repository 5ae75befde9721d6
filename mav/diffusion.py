"""Diffusion processes: noise schedules, training targets and losses, guidance.

Notation as in DDPM (Ho et al. 2020) and VDM (Kingma et al. 2021): x_t = alpha_t x_0 + sigma_t eps,
alpha_t^2 + sigma_t^2 = 1, at integer timesteps 0..T-1; 0 is (nearly) clean.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

SCHEDULES = ("cosine", "linear")
PREDICTIONS = ("eps", "x0", "v")
VARIANCES = ("fixed_small", "learned_range")


def _require(name: str, value, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(allowed)}.")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How fast noise grows with the timestep.

    kind: "cosine" (Improved DDPM Eq. 17, betas capped at 0.999) or "linear" (DDPM §4, betas from
      1e-4 to 0.02 for 1000 timesteps, scaled for other lengths).
    """

    kind: str = "cosine"
    num_timesteps: int = 1000

    def __post_init__(self):
        _require("schedule", self.kind, SCHEDULES)
        if self.num_timesteps < 2:
            raise ValueError(f"num_timesteps={self.num_timesteps} must be at least 2.")

    @functools.cached_property
    def betas(self) -> Float[np.ndarray, "T"]:
        """Noise variance added by each step, float64."""
        n = self.num_timesteps
        if self.kind == "linear":
            return np.linspace(1e-4, 0.02, n) * (1000 / n)
        f = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - f[1:] / f[:-1], 0.999)

    @functools.cached_property
    def alpha_bars(self) -> Float[np.ndarray, "T"]:
        """alpha_t^2 of every timestep, float64."""
        return np.cumprod(1 - self.betas)

    def alpha(self, t: Int[Array, "*b"]) -> Float[Array, "*b"]:
        """Signal scale."""
        return jnp.asarray(np.sqrt(self.alpha_bars), jnp.float32)[t]

    def sigma(self, t: Int[Array, "*b"]) -> Float[Array, "*b"]:
        """Noise scale."""
        return jnp.asarray(np.sqrt(1 - self.alpha_bars), jnp.float32)[t]

    def snr(self, t: Int[Array, "*b"]) -> Float[Array, "*b"]:
        """alpha_t^2 / sigma_t^2."""
        return jnp.asarray(self.alpha_bars / (1 - self.alpha_bars), jnp.float32)[t]


def expand(scale: Float[Array, "b"], like: Array) -> Array:
    """Appends axes to a per-example number so that it multiplies an array of examples."""
    return scale.reshape(scale.shape + (1,) * (like.ndim - scale.ndim))


@dataclasses.dataclass(frozen=True)
class Process:
    """What a network predicts, how it is judged in training and read in sampling.

    prediction: what the network outputs, "eps", "x0" or "v".
    variance: of the reverse process in DDPM sampling; "learned_range" adds as many output
      channels (Improved DDPM Eq. 15) and trains them by the variational bound (hybrid loss).
    weight_cap: None weighs the error of what is predicted alike at all timesteps (DDPM Eq. 14). A
      number weighs the x0 error by 1 / sigma^2, the weight of v (Salimans & Ho 2022), but at most
      by it. Never by less than 1: at much noise the condition is all there is to learn from.
    clip: x0 is kept in [-clip, clip] while sampling; None leaves it free.
    dynamic_threshold: percentile in (0, 1) of |x0| to which a sample is scaled back instead of
      clipped (Imagen §2.3); None clips.
    shared_noise: share of the noise's variance that all frames of a video have in common. What is
      equal in all frames then starts out equal (the mixed noise of PYoCo, Ge et al. 2023); with 1,
      networks that see one frame at a time put the same details into each (MAV §3.2.2).
    """

    schedule: Schedule = Schedule()
    prediction: str = "eps"
    variance: str = "fixed_small"
    weight_cap: float | None = None
    clip: float | None = 1.0
    dynamic_threshold: float | None = None
    shared_noise: float = 0.0

    def __post_init__(self):
        _require("prediction", self.prediction, PREDICTIONS)
        _require("variance", self.variance, VARIANCES)
        if not 0 <= self.shared_noise <= 1:
            raise ValueError(f"shared_noise={self.shared_noise} must lie between 0 and 1.")

    @property
    def learns_variance(self) -> bool:
        return self.variance == "learned_range"

    def noise(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Array:
        """Standard normal noise [b, f, ...], some of it shared by the frames of each video."""
        share = self.shared_noise
        if share == 0:
            return jax.random.normal(key, shape)
        if share == 1:
            return jnp.broadcast_to(jax.random.normal(key, (shape[0], 1, *shape[2:])), shape)
        keys = jax.random.split(key)
        together = jax.random.normal(keys[0], (shape[0], 1, *shape[2:]))
        return np.sqrt(share) * together + np.sqrt(1 - share) * jax.random.normal(keys[1], shape)

    def diffuse(self, x0: Array, t: Int[Array, "b"], eps: Array) -> Array:
        """x_t for given noise, q(x_t | x_0) of DDPM Eq. 4."""
        return expand(self.schedule.alpha(t), x0) * x0 + expand(self.schedule.sigma(t), x0) * eps

    def split(self, output: Array) -> tuple[Array, Array | None]:
        """Network output -> prediction, and the variance channels or None."""
        if not self.learns_variance:
            return output, None
        prediction, variance = jnp.split(output, 2, axis=-1)
        return prediction, variance

    def target(self, x0: Array, t: Int[Array, "b"], eps: Array) -> Array:
        """What the network should predict; v = alpha eps - sigma x0 (Salimans & Ho 2022)."""
        if self.prediction == "eps":
            return eps
        if self.prediction == "x0":
            return x0
        return expand(self.schedule.alpha(t), x0) * eps - expand(self.schedule.sigma(t), x0) * x0

    def to_x0(self, prediction: Array, x_t: Array, t: Int[Array, "b"]) -> Array:
        """The clean sample that a prediction implies, neither clipped nor thresholded."""
        if self.prediction == "x0":
            return prediction
        alpha, sigma = expand(self.schedule.alpha(t), x_t), expand(self.schedule.sigma(t), x_t)
        if self.prediction == "eps":
            return (x_t - sigma * prediction) / alpha
        return alpha * x_t - sigma * prediction

    def bound(self, x0: Array) -> Array:
        """Clips or dynamically thresholds x0 as the process asks."""
        if self.dynamic_threshold is not None:
            limit = 1.0 if self.clip is None else self.clip
            sizes = jnp.abs(x0).reshape(x0.shape[0], -1)
            s = jnp.maximum(jnp.quantile(sizes, self.dynamic_threshold, axis=1), limit)
            s = expand(s, x0)
            return jnp.clip(x0, -s, s) / s * limit
        return x0 if self.clip is None else jnp.clip(x0, -self.clip, self.clip)

    def loss(
        self, output: Array, x0: Array, t: Int[Array, "b"], eps: Array
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """Loss of each example, and its parts ("mse", and "vlb" in bits where variance is learned).

        The hybrid loss is L_simple + 0.001 L_vlb of Improved DDPM Eq. 16, with L_vlb estimated from
        one timestep as T L_t, and no gradient from it to the mean.
        """
        prediction, variance = self.split(output)
        mse = mean_over_example((prediction - self.target(x0, t, eps)) ** 2)
        parts = {"mse": mse}
        total = mse * self.loss_weight(t)
        if self.learns_variance:
            x_t = self.diffuse(x0, t, eps)
            frozen = jax.lax.stop_gradient(prediction)
            parts["vlb"] = self.variational_bound(frozen, variance, x0, x_t, t)
            total += parts["vlb"] * (self.schedule.num_timesteps / 1000)
        return total, parts

    def loss_weight(self, t: Int[Array, "b"]) -> Float[Array, "b"]:
        """Weight of the squared error of what the network predicts."""
        if self.weight_cap is None:
            return jnp.ones(t.shape, jnp.float32)
        snr = self.schedule.snr(t)
        weight = jnp.minimum(snr + 1, self.weight_cap)  # of the x0 error
        return weight / {"x0": jnp.ones_like(snr), "eps": snr, "v": snr + 1}[self.prediction]

    def variational_bound(
        self, prediction: Array, variance: Array, x0: Array, x_t: Array, t: Int[Array, "b"]
    ) -> Float[Array, "b"]:
        """L_t of the variational bound in bits per dimension (Improved DDPM Eq. 4-6)."""
        rows = step_rows(self.schedule, np.arange(self.schedule.num_timesteps)[::-1])
        rows = jax.tree.map(lambda row: jnp.asarray(row[::-1])[t], rows)  # one row per example
        mean_x, mean_0 = expand(rows["mean_x"], x0), expand(rows["mean_0"], x0)
        true_mean = mean_0 * x0 + mean_x * x_t
        mean = mean_0 * self.to_x0(prediction, x_t, t) + mean_x * x_t
        # The posterior variance at t = 0 is zero; it takes the next one's value (Improved DDPM).
        floor = np.log(step_rows(self.schedule, np.array([1, 0]))["variance"][0])
        true_log = expand(jnp.where(t == 0, floor, jnp.log(rows["variance"] + 1e-30)), x0)
        log = learned_log_variance(variance, true_log, jnp.log(expand(rows["beta"], x0)))
        kl = log - true_log + jnp.exp(true_log - log) + (true_mean - mean) ** 2 * jnp.exp(-log) - 1
        nll = -discretized_gaussian_log_likelihood(x0, mean, log / 2)
        bits = jnp.where(expand(t, x0) == 0, nll, kl / 2) / np.log(2)
        return mean_over_example(bits)


def mean_over_example(x: Float[Array, "b *rest"]) -> Float[Array, "b"]:
    """Mean over all axes but the first."""
    return jnp.mean(x.reshape(x.shape[0], -1), axis=1)


def step_rows(schedule: Schedule, timesteps: Int[np.ndarray, "n"]) -> dict[str, np.ndarray]:
    """The reverse step from each timestep to the next in the list, the last one to clean data.

    timesteps: falling. Returns float64 arrays of length n: alpha, sigma and next_alpha, next_sigma;
    beta, the noise variance between the two; the posterior q(x_next | x_t, x_0) as mean_x, mean_0
    (its mean is mean_x x_t + mean_0 x_0) and variance (DDPM Eq. 6-7, for any two timesteps).
    """
    bar = schedule.alpha_bars[timesteps]
    next_bar = np.append(bar[1:], 1.0)
    beta = 1 - bar / next_bar
    return dict(
        alpha=np.sqrt(bar),
        sigma=np.sqrt(1 - bar),
        next_alpha=np.sqrt(next_bar),
        next_sigma=np.sqrt(1 - next_bar),
        beta=beta,
        mean_0=np.sqrt(next_bar) * beta / (1 - bar),
        mean_x=np.sqrt(1 - beta) * (1 - next_bar) / (1 - bar),
        variance=beta * (1 - next_bar) / (1 - bar),
    )


def learned_log_variance(channels: Array, low: Array, high: Array) -> Array:
    """Log variance between its bounds, by channels in [-1, 1] (Improved DDPM Eq. 15)."""
    fraction = (channels + 1) / 2
    return fraction * high + (1 - fraction) * low


def discretized_gaussian_log_likelihood(x: Array, mean: Array, log_scale: Array) -> Array:
    """Log probability of the 8-bit level that x in [-1, 1] stands for (DDPM Eq. 13)."""
    upper = jax.scipy.stats.norm.cdf((x - mean + 1 / 255) * jnp.exp(-log_scale))
    lower = jax.scipy.stats.norm.cdf((x - mean - 1 / 255) * jnp.exp(-log_scale))
    inside = jnp.where(x < -0.999, upper, jnp.where(x > 0.999, 1 - lower, upper - lower))
    return jnp.log(jnp.maximum(inside, 1e-12))


def guide(cond: Array, uncond: Array, guidance_scale: float | Array, rescale: float = 0.0) -> Array:
    """Classifier-free guidance (Ho & Salimans 2022); a scale of 1 is plain conditional.

    rescale: how much of the way each example goes back to the deviation that it has without
    guidance, which makes contrasts too strong (Lin et al. 2023, Eq. 14-16); 0 leaves it.
    """
    guided = uncond + guidance_scale * (cond - uncond)
    if not rescale:
        return guided
    deviation = lambda x: jnp.std(x, axis=tuple(range(1, x.ndim)), keepdims=True)
    return guided * (rescale * deviation(cond) / deviation(guided) + 1 - rescale)

"""Samplers: DDPM, DDIM and DPM-Solver++(2M), each a table of coefficients for one scan.

Every step of all three is linear in the current sample, the predicted clean sample, the one
predicted before, and fresh noise; the table holds the four coefficients, computed in float64.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from mav import diffusion

SAMPLERS = ("ddpm", "ddim", "dpm++")
SPACINGS = ("linspace", "trailing")


class State(NamedTuple):
    """Where a sampler stands: the noisy sample, the last predicted clean one, the key."""

    x: Array
    x0: Array
    key: Key[Array, ""]


def sampling_timesteps(num_steps: int, total: int, spacing: str = "linspace") -> np.ndarray:
    """Evenly spaced timesteps [num_steps], noisiest first.

    spacing: "linspace" ends at 0 (DDIM §4.2, unCLIP); "trailing" stops one stride before the end,
      which wastes no network call where steps are few (Lin et al. 2023, §3.3).
    Raises ValueError unless 1 <= num_steps <= total.
    """
    if not 1 <= num_steps <= total:
        raise ValueError(f"steps={num_steps} must lie between 1 and {total}.")
    if spacing == "linspace":
        # Counted from 0, as unCLIP does: where a half is rounded, rounding errors decide.
        t = np.round(np.linspace(0, total - 1, num_steps)).astype(int)[::-1]
        return t if num_steps > 1 else np.array([total - 1])
    if spacing == "trailing":
        return np.round(total - np.arange(num_steps) * total / num_steps).astype(int) - 1
    raise ValueError(f"spacing={spacing!r} is unknown; choose one of {', '.join(SPACINGS)}.")


def table(
    process: diffusion.Process, sampler: str, num_steps: int, spacing: str = "linspace"
) -> dict[str, np.ndarray]:
    """One row per network call: t, x, x0, last_x0, noise, low and high, each [num_steps].

    x_next = x * x_t + x0 * x0_t + last_x0 * x0_{t+1} + noise * z. low and high are the bounds of
    the log variance, read only where the variance is learned.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler={sampler!r} is unknown; choose one of {', '.join(SAMPLERS)}.")
    t = sampling_timesteps(num_steps, process.schedule.num_timesteps, spacing)
    rows = diffusion.step_rows(process.schedule, t)
    zeros = np.zeros(num_steps)
    if sampler == "ddpm":  # DDPM Algorithm 2
        x, x0, last, noise = rows["mean_x"], rows["mean_0"], zeros, np.sqrt(rows["variance"])
    elif sampler == "ddim":  # DDIM Eq. 12 with eta = 0
        x = rows["next_sigma"] / rows["sigma"]
        x0, last, noise = rows["next_alpha"] - x * rows["alpha"], zeros, zeros
    else:
        x, x0, last = _multistep(rows)
        noise = zeros
    result = dict(
        t=t,
        x=x,
        x0=x0,
        last_x0=last,
        noise=noise,
        low=np.log(np.maximum(rows["variance"], 1e-20)),
        high=np.log(rows["beta"]),
    )
    return {
        name: np.asarray(v, np.int32 if name == "t" else np.float32) for name, v in result.items()
    }


def _multistep(rows: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2); first and last step are of first order.

    So is a step more than twice as long as the one before, as the last but one of "linspace" is:
    from predictions that close together it would overshoot.
    """
    half_logsnr = np.log(rows["alpha"] / rows["sigma"])
    h = np.diff(half_logsnr)  # of every step but the last, which ends at infinity
    ratio = h[1:] / h[:-1]
    x = rows["next_sigma"] / rows["sigma"]
    total = rows["next_alpha"] - x * rows["alpha"]  # = -alpha_next (e^-h - 1), also for h = inf
    last = np.zeros_like(total)
    last[1:-1] = np.where(ratio > 2, 0, -total[1:-1] * ratio / 2)
    return x, total - last, last


def start(process: diffusion.Process, key: Key[Array, ""], shape: tuple[int, ...]) -> State:
    """Pure noise."""
    first, rest = jax.random.split(key)
    return State(process.noise(first, shape), jnp.zeros(shape), rest)


def advance(
    predict: Callable[[Array, Int[Array, "b"], Array], Array],
    process: diffusion.Process,
    state: State,
    rows: dict[str, Array],
    project: Callable[[Array], Array] = lambda x0: x0,
) -> State:
    """Runs the sampler over the given rows of a table, as one scan.

    predict: (x_t, timesteps, last predicted x0) -> network output, guidance included.
    project: applied to each predicted clean sample, to hold known frames in place.
    """

    def step(state: State, row: dict[str, Array]) -> tuple[State, None]:
        t = jnp.full(state.x.shape[0], row["t"])
        prediction, variance = process.split(predict(state.x, t, state.x0))
        x0 = project(process.bound(process.to_x0(prediction, state.x, t)))
        key, draw = jax.random.split(state.key)
        z = process.noise(draw, state.x.shape)
        scale = row["noise"]
        if variance is not None:
            log = diffusion.learned_log_variance(variance, row["low"], row["high"])
            scale = jnp.where(scale > 0, jnp.exp(log / 2), 0)
        x = row["x"] * state.x + row["x0"] * x0 + row["last_x0"] * state.x0 + scale * z
        return State(x, x0, key), None

    return jax.lax.scan(step, state, rows)[0]


def sample(
    predict: Callable[[Array, Int[Array, "b"], Array], Array],
    process: diffusion.Process,
    key: Key[Array, ""],
    shape: tuple[int, ...],
    *,
    num_steps: int,
    sampler: str = "ddim",
    spacing: str = "linspace",
    project: Callable[[Array], Array] = lambda x0: x0,
) -> Array:
    """A sample of the given shape from pure noise: `start`, then `advance` over the whole table."""
    rows = table(process, sampler, num_steps, spacing)
    return advance(predict, process, start(process, key, shape), rows, project).x

"""Samplers, each a table of coefficients for one scan: DDPM, DDIM, DPM-Solver++ and UniPC.

Every step of all of them is linear in the current sample, the predicted clean sample, the two
predicted before, and fresh noise; the table holds the five coefficients, computed in float64.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from mav import diffusion

SPACINGS = ("linspace", "trailing", "shifted")
SHIFT = 3.0  # of "shifted"


class State(NamedTuple):
    """Where a sampler stands: the noisy sample, the last two predicted clean ones, the key."""

    x: Array
    x0: Array
    older_x0: Array
    key: Key[Array, ""]


def sampling_timesteps(num_steps: int, total: int, spacing: str = "linspace") -> np.ndarray:
    """Timesteps [num_steps], noisiest first.

    spacing: "linspace" is even and ends at 0 (DDIM §4.2, unCLIP); "trailing" is even and stops one
      stride before the end, which wastes no network call where steps are few (Lin et al. 2023,
      §3.3); "shifted" is that with logit(t / T) raised by log(SHIFT), since frames, like pixels,
      tell of each other and so are decided in more noise (Esser et al. 2024, Eq. 23).
    Raises ValueError unless 1 <= num_steps <= total, of "shifted" total / SHIFT.
    """
    most = int(total / SHIFT) if spacing == "shifted" else total
    if not 1 <= num_steps <= most:
        raise ValueError(f"steps={num_steps} must lie between 1 and {most}.")
    if spacing == "linspace":
        # Counted from 0, as unCLIP does: where a half is rounded, rounding errors decide.
        t = np.round(np.linspace(0, total - 1, num_steps)).astype(int)[::-1]
        return t if num_steps > 1 else np.array([total - 1])
    t = total - np.arange(num_steps) * total / num_steps
    if spacing == "shifted":
        t = SHIFT * t / (1 + (SHIFT - 1) * t / total)
    if spacing in ("trailing", "shifted"):
        return np.round(t).astype(int) - 1
    raise ValueError(f"spacing={spacing!r} is unknown; choose one of {', '.join(SPACINGS)}.")


Rows = dict[str, np.ndarray]


def _ddpm(rows: Rows) -> Rows:
    """DDPM Algorithm 2."""
    return dict(x=rows["mean_x"], x0=rows["mean_0"], noise=np.sqrt(rows["variance"]))


def _ddim(rows: Rows) -> Rows:
    """DDIM Eq. 12 with eta = 0."""
    x = rows["next_sigma"] / rows["sigma"]
    return dict(x=x, x0=rows["next_alpha"] - x * rows["alpha"])  # = -alpha_next (e^-h - 1)


def _lengths(rows: Rows) -> np.ndarray:
    """How much log(alpha / sigma) grows in every step but the last, where it ends at infinity."""
    return np.diff(np.log(rows["alpha"] / rows["sigma"]))


def _multistep(rows: Rows, first_order: Callable[[Rows], Rows] = _ddim) -> Rows:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2); first and last step are of first order.

    So is a step more than twice as long as the one before, as the last but one of "linspace" is:
    from predictions that close together it would overshoot.
    """
    columns = first_order(rows)
    h = _lengths(rows)
    ratio = h[1:] / h[:-1]
    last = np.zeros(len(rows["alpha"]))
    last[1:-1] = np.where(ratio > 2, 0, -columns["x0"][1:-1] * ratio / 2)
    return columns | dict(x0=columns["x0"] - last, last_x0=last)


def _multistep_sde(rows: Rows) -> Rows:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, Appendix): DDPM, of second order in x0."""
    return _multistep(rows, _ddpm)


def _singlestep(rows: Rows) -> Rows:
    """DPM-Solver++(2S) (Lu et al. 2022, Algorithm 1): two calls a step, by way of the timestep
    between. The last one or two calls are of first order."""
    columns = _ddim(rows)
    x, x0 = columns["x"], columns["x0"].copy()
    h, last = _lengths(rows), np.zeros(len(x))
    via = np.arange(1, len(x) - 1, 2)  # reached from via - 1, left for via + 1
    share = h[via - 1] / (h[via - 1] + h[via])
    whole = rows["next_alpha"][via] - x[via] * x[via - 1] * rows["alpha"][via - 1]
    last[via] = whole * (1 - 1 / (2 * share)) - x[via] * x0[via - 1]  # x_t by x_s and its x0
    x0[via] = whole / (2 * share)
    return dict(x=x, x0=x0, last_x0=last)


def _unipc(rows: Rows) -> Rows:
    """UniPC-2 with B(h) = e^h - 1 (Zhao et al. 2023, Algorithms 5 and 7).

    A step of DPM-Solver++(2M), which is what UniP-2 is; the next call corrects where it led (UniC).
    """
    total, columns = _ddim(rows)["x0"], _multistep(rows)
    n, h = len(total), _lengths(rows)
    now, last, older = np.zeros((3, n))  # what the correction adds of each predicted clean sample
    if n > 1:
        now[1], last[1] = total[0] / 2, -total[0] / 2
    if n > 2:
        step, before = -h[1:], -h[1:] / h[:-1]  # 1 / before: of the last call but one, in steps
        phi_1 = np.expm1(step)
        phi_2 = phi_1 / step - 1
        phi_3 = phi_2 / step - 1 / 2
        older_share = (phi_2 - 2 * phi_3) / phi_1 / (1 - 1 / before)
        now_share = phi_2 / phi_1 - older_share
        weight = total[1:-1]
        now[2:] = weight * now_share
        older[2:] = weight * older_share * before - columns["last_x0"][1:-1]
        last[2:] = weight - now[2:] - weight * older_share * before - columns["x0"][1:-1]
    return dict(
        x=columns["x"],
        x0=columns["x0"] + columns["x"] * now,
        last_x0=columns["last_x0"] + columns["x"] * last,
        older_x0=columns["x"] * older,
    )


SAMPLERS: dict[str, Callable[[Rows], Rows]] = {
    "ddpm": _ddpm,
    "ddim": _ddim,
    "dpm++": _multistep,
    "dpm++2s": _singlestep,
    "dpm++sde": _multistep_sde,
    "unipc": _unipc,
}


def table(
    process: diffusion.Process, sampler: str, num_steps: int, spacing: str = "linspace"
) -> Rows:
    """One row per network call: t, x, x0, last_x0, older_x0, noise, low, high, each [num_steps].

    x_next = x * x_t + x0 * x0_t + last_x0 * x0_{t+1} + older_x0 * x0_{t+2} + noise * z. low and
    high are the bounds of the log variance, read only where the variance is learned.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler={sampler!r} is unknown; choose one of {', '.join(SAMPLERS)}.")
    t = sampling_timesteps(num_steps, process.schedule.num_timesteps, spacing)
    rows = diffusion.step_rows(process.schedule, t)
    absent = dict.fromkeys(("last_x0", "older_x0", "noise"), np.zeros(num_steps))
    columns = absent | SAMPLERS[sampler](rows)
    # What is learned is the variance of DDPM's steps.
    low, high = rows["variance"], rows["beta"] if sampler == "ddpm" else rows["variance"]
    columns |= dict(low=np.log(np.maximum(low, 1e-20)), high=np.log(np.maximum(high, 1e-20)))
    return dict(t=t.astype(np.int32)) | {k: v.astype(np.float32) for k, v in columns.items()}


def start(process: diffusion.Process, key: Key[Array, ""], shape: tuple[int, ...]) -> State:
    """Pure noise."""
    first, rest = jax.random.split(key)
    # Single precision whatever the default is (jax_enable_x64): networks and tables have it too.
    nothing = jnp.zeros(shape, jnp.float32)
    return State(process.noise(first, shape).astype(jnp.float32), nothing, nothing, rest)


def advance(
    predict: Callable[[Array, Int[Array, "b"], Array], Array],
    process: diffusion.Process,
    state: State,
    rows: Mapping[str, Any],
    project: Callable[[Array], Array] = lambda x0: x0,
) -> State:
    """Runs the sampler over the given rows of a table, as one scan.

    predict: (x_t, timesteps, last predicted x0) -> network output, guidance included.
    project: applied to each predicted clean sample, to hold known frames in place.
    """

    def step(state: State, row: Mapping[str, Any]) -> tuple[State, None]:
        t = jnp.full(state.x.shape[0], row["t"])
        prediction, variance = process.split(predict(state.x, t, state.x0))
        x0 = project(process.bound(process.to_x0(prediction, state.x, t)))
        key, draw = jax.random.split(state.key)
        z = process.noise(draw, state.x.shape).astype(state.x.dtype)
        scale = row["noise"]
        if variance is not None:
            log = diffusion.learned_log_variance(variance, row["low"], row["high"])
            scale = jnp.where(scale > 0, jnp.exp(log / 2), 0)
        x = row["x"] * state.x + row["x0"] * x0 + scale * z
        x += row["last_x0"] * state.x0 + row["older_x0"] * state.older_x0
        return State(x, x0, state.x0, key), None

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

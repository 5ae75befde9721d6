import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mav import diffusion, samplers
from noise import normal

KEY = jax.random.key(0)
SHAPE = (4, 2, 64, 64, 1)  # 32768 numbers: their mean is known to 0.6 %, their variance to 0.8 %
COSINE = diffusion.Process(prediction="x0", clip=None)
EVEN = ("linspace", "trailing")  # the last steps of "shifted" are too long to show an order

# For pixels drawn from N(MEAN, DEVIATION^2) the ideal denoiser is known, E[x0 | x_t].
MEAN, DEVIATION = 0.3, 0.7


def scales(process, t):
    alpha, sigma = process.schedule.alpha(t), process.schedule.sigma(t)
    return alpha[:, None, None, None, None], sigma[:, None, None, None, None]


def denoise(x, t, last_x0=None, process=COSINE):
    alpha, sigma = scales(process, t)
    gain = alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)
    return MEAN + gain * (x - alpha * MEAN)


def noise_of(x, t, last_x0=None, process=COSINE):
    alpha, sigma = scales(process, t)
    return (x - alpha * denoise(x, t, process=process)) / sigma


@functools.partial(jax.jit, static_argnums=(0, 1, 3, 4, 5, 6))
def sample(predict, process, key, shape, num_steps, sampler, spacing="linspace"):
    return samplers.sample(
        predict, process, key, shape, num_steps=num_steps, sampler=sampler, spacing=spacing
    )


def test_timesteps_fall_evenly():
    assert samplers.sampling_timesteps(5, 1000).tolist() == [999, 749, 500, 250, 0]
    assert samplers.sampling_timesteps(1, 1000).tolist() == [999]
    assert samplers.sampling_timesteps(4, 1000, "trailing").tolist() == [999, 749, 499, 249]
    assert samplers.sampling_timesteps(3, 1000, "trailing").tolist() == [999, 666, 332]
    for spacing in EVEN:
        every = samplers.sampling_timesteps(1000, 1000, spacing)
        np.testing.assert_array_equal(every, np.arange(999, -1, -1))
        for num_steps in (7, 64, 999):
            assert (np.diff(samplers.sampling_timesteps(num_steps, 1000, spacing)) < 0).all()


def test_shifted_timesteps_are_trailing_ones_with_higher_logits():
    logit = lambda t: np.log((t + 1) / (999 - t))
    for num_steps in (5, 10, 50):
        even = samplers.sampling_timesteps(num_steps, 1000, "trailing")
        found = samplers.sampling_timesteps(num_steps, 1000, "shifted")
        assert found[0] == even[0] == 999
        risen = logit(found[1:]) - logit(even[1:])
        np.testing.assert_allclose(risen, np.log(3), atol=0.05)
    for num_steps in (7, 64, 333):
        found = samplers.sampling_timesteps(num_steps, 1000, "shifted")
        assert (np.diff(found) < 0).all()
        assert found[-1] >= 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: samplers.sampling_timesteps(0, 1000), "steps=0 must lie between 1 and 1000"),
        (lambda: samplers.sampling_timesteps(1001, 1000), "steps=1001"),
        (
            lambda: samplers.sampling_timesteps(334, 1000, "shifted"),
            "steps=334 must lie between 1 and 333",
        ),
        (lambda: samplers.sampling_timesteps(5, 1000, "karras"), "spacing='karras'"),
        (lambda: samplers.table(COSINE, "euler", 5), "sampler='euler'.*ddpm, ddim"),
    ],
)
def test_impossible_settings_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize("kind", diffusion.SCHEDULES)
@pytest.mark.parametrize(
    ("sampler", "num_steps"),
    [
        ("ddpm", 1000),
        ("ddim", 250),
        ("dpm++", 50),
        ("dpm++2s", 100),
        ("dpm++sde", 100),
        ("unipc", 20),
    ],
)
def test_the_ideal_denoiser_gives_samples_with_the_mean_and_variance_of_the_data(
    kind, sampler, num_steps
):
    process = diffusion.Process(diffusion.Schedule(kind), clip=None)  # predicts eps
    x = sample(
        functools.partial(noise_of, process=process), process, KEY, SHAPE, num_steps, sampler
    )
    np.testing.assert_allclose(np.mean(x), MEAN, atol=0.015)
    np.testing.assert_allclose(np.var(x), DEVIATION**2, rtol=0.04)


def exact_end(x, t):
    """Where the probability-flow ODE of the Gaussian data leads from x at t."""
    bar = COSINE.schedule.alpha_bars[t]
    scale = DEVIATION / np.sqrt(bar * DEVIATION**2 + 1 - bar)
    return MEAN + scale * (np.asarray(x, np.float64) - np.sqrt(bar) * MEAN)


def ode_error(sampler, num_steps, spacing="linspace"):
    shape = (1, 1, 8, 8, 1)
    x_T = samplers.start(COSINE, KEY, shape).x
    found = sample(denoise, COSINE, KEY, shape, num_steps, sampler, spacing)
    return np.abs(found - exact_end(x_T, 999)).max()


def test_ddim_is_of_first_order():
    errors = [ode_error("ddim", n) for n in (20, 40, 80)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 1, atol=0.1)


@pytest.mark.parametrize("spacing", samplers.SPACINGS)
def test_dpm_solver_is_of_second_order(spacing):
    coarse, fine = ode_error("dpm++", 10, spacing), ode_error("dpm++", 160, spacing)
    order = np.log(coarse / fine) / np.log(16)  # over a wide range, since the error changes sign
    assert 1.8 < order < 2.3


@pytest.mark.parametrize("spacing", EVEN)
def test_single_steps_are_of_nearly_second_order(spacing):
    coarse, fine = ode_error("dpm++2s", 10, spacing), ode_error("dpm++2s", 160, spacing)
    assert 1.5 < np.log(coarse / fine) / np.log(16) < 2.3


@pytest.mark.parametrize("spacing", EVEN)
def test_unipc_is_of_third_order(spacing):
    """Until rounding and the first step, from a logsnr of -20, are all that is left."""
    coarse, fine = ode_error("unipc", 5, spacing), ode_error("unipc", 20, spacing)
    assert np.log(coarse / fine) / np.log(4) > 3


@pytest.mark.parametrize("spacing", samplers.SPACINGS)
@pytest.mark.parametrize("num_steps", [5, 10, 20, 50])
@pytest.mark.parametrize("sampler", ["dpm++", "dpm++2s", "unipc"])
def test_solvers_are_nearer_to_the_exact_end_than_ddim(sampler, num_steps, spacing):
    assert ode_error(sampler, num_steps, spacing) < ode_error("ddim", num_steps, spacing)


@pytest.mark.parametrize("num_steps", [5, 10])
def test_unipc_is_nearer_than_dpm_solver(num_steps):
    assert ode_error("unipc", num_steps, "trailing") < ode_error("dpm++", num_steps, "trailing")


@pytest.mark.parametrize(
    ("sampler", "differs"),
    [(name, name in ("ddpm", "dpm++sde")) for name in samplers.SAMPLERS],
)
def test_only_two_samplers_add_noise_on_the_way(sampler, differs):
    rows = samplers.table(COSINE, sampler, 5)
    x = normal((1, 1, 4, 4, 1))
    nothing = jnp.zeros_like(x)
    ends = [
        samplers.advance(
            denoise, COSINE, samplers.State(x, nothing, nothing, jax.random.key(seed)), rows
        ).x
        for seed in (1, 2)
    ]
    assert (ends[0] != ends[1]).any() == differs


def test_learned_variances_make_few_steps_of_ddpm_exact():
    """With the true variance of q(x_next | x_t), even 10 steps keep the variance of the data."""
    process = dataclasses.replace(COSINE, variance="learned_range")
    rows = diffusion.step_rows(process.schedule, samplers.sampling_timesteps(10, 1000))
    spread = (DEVIATION * rows["sigma"]) ** 2 / (
        rows["alpha"] ** 2 * DEVIATION**2 + rows["sigma"] ** 2
    )
    true = rows["variance"] + rows["mean_0"] ** 2 * spread  # by x0's own uncertainty
    low, high = np.log(rows["variance"][:-1]), np.log(rows["beta"][:-1])
    channels = np.zeros(1000, np.float32)
    times = samplers.sampling_timesteps(10, 1000)[:-1]
    channels[times] = 2 * (np.log(true[:-1]) - low) / (high - low) - 1
    assert (np.abs(channels) <= 1).all()

    def predict(x, t, last_x0):
        wanted = jnp.asarray(channels)[t][:, None, None, None, None]
        return jnp.concatenate([denoise(x, t), jnp.broadcast_to(wanted, x.shape)], axis=-1)

    learned = np.var(sample(predict, process, KEY, SHAPE, 10, "ddpm"))
    fixed = np.var(sample(denoise, COSINE, KEY, SHAPE, 10, "ddpm"))
    np.testing.assert_allclose(learned, DEVIATION**2, rtol=0.04)
    assert fixed < 0.7 * DEVIATION**2


def one_frame_at_a_time(x, t, last_x0):
    del t
    y = jnp.tanh(x + jnp.roll(x, 1, axis=3))
    return jnp.concatenate([y, y], axis=-1)


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_shared_noise_keeps_equal_frames_bit_identical(sampler):
    """Invariant 4: the initial noise, and all that a stochastic sampler adds."""
    process = diffusion.Process(variance="learned_range", shared_noise=1.0)
    x = sample(one_frame_at_a_time, process, KEY, (2, 5, 8, 8, 3), 4, sampler)
    np.testing.assert_array_equal(x, np.repeat(x[:, :1], 5, axis=1))
    assert (x[0] != x[1]).any()


def test_noise_that_is_not_shared_differs_between_frames():
    process = diffusion.Process(variance="learned_range")
    x = sample(one_frame_at_a_time, process, KEY, (2, 5, 8, 8, 3), 4, "ddpm")
    assert (x[:, 0] != x[:, 1]).any()


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_projected_frames_come_back_unchanged(sampler):
    known = normal((1, 4, 8, 8, 1))
    here = np.array([True, False, False, True])[None, :, None, None, None]
    project = lambda x0: jnp.where(here, known, x0)
    x = samplers.sample(
        denoise, COSINE, KEY, known.shape, num_steps=5, sampler=sampler, project=project
    )
    np.testing.assert_array_equal(x[:, [0, 3]], known[:, [0, 3]])
    assert (x[:, 1:3] != known[:, 1:3]).all()


def test_predictions_are_clipped_on_the_way():
    x = samplers.sample(
        lambda x, t, last_x0: 9 * jnp.sign(x),
        diffusion.Process(prediction="x0", clip=0.5),
        KEY,
        (1, 1, 8, 8, 1),
        num_steps=5,
    )
    np.testing.assert_allclose(np.abs(x), 0.5, atol=1e-6)


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_one_scan_over_the_table_equals_a_call_for_every_row(sampler):
    advance = jax.jit(lambda state, rows: samplers.advance(denoise, COSINE, state, rows))
    rows = samplers.table(COSINE, sampler, 6)
    state = samplers.start(COSINE, KEY, (1, 2, 8, 8, 1))
    whole = advance(state, rows)
    for i in range(6):
        state = advance(state, {name: column[i : i + 1] for name, column in rows.items()})
    np.testing.assert_allclose(state.x, whole.x, atol=1e-6)
    np.testing.assert_allclose(state.x0, whole.x0, atol=1e-6)


def test_every_call_is_told_the_timestep_of_its_row_and_the_last_clean_sample():
    seen = []

    def predict(x, t, last_x0):
        jax.debug.callback(lambda *told: seen.append(told), t, last_x0, ordered=True)
        return jnp.broadcast_to(t[:, None, None, None, None], x.shape) / 500

    process = diffusion.Process(prediction="x0")  # clips at 1
    samplers.sample(predict, process, KEY, (2, 1, 4, 4, 1), num_steps=4, spacing="trailing")
    jax.effects_barrier()
    assert [t.tolist() for t, _ in seen] == [[999, 999], [749, 749], [499, 499], [249, 249]]
    for (_, last_x0), value in zip(seen, (0, 1, 1, 0.998), strict=True):
        np.testing.assert_allclose(last_x0, value, rtol=1e-6)


@pytest.mark.parametrize("share", [0, 0.5, 1])
@pytest.mark.parametrize("prediction", ["x0", "eps"])
def test_samples_are_single_precision_where_numbers_are_double_by_default(prediction, share):
    process = diffusion.Process(prediction=prediction, clip=None, shared_noise=share)
    ideal = dict(x0=denoise, eps=noise_of)[prediction]
    # A network computes in single precision, whatever it is given.
    predict = lambda x, t, last_x0: ideal(x, t, process=process).astype(jnp.float32)
    with jax.enable_x64(True):
        x = sample(predict, process, KEY, SHAPE, 50, "dpm++sde")
    assert x.dtype == jnp.float32
    np.testing.assert_allclose((x.mean(), x.std()), (MEAN, DEVIATION), atol=0.05)

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mav import diffusion
from noise import normal

COSINE, LINEAR = diffusion.Schedule("cosine"), diffusion.Schedule("linear")
TIMES = np.array([0, 1, 30, 400, 800, 998])


def videos(seed, times=TIMES):
    return normal((len(times), 2, 4, 4, 3), seed)


def coefficients(schedule, times=TIMES):
    """alpha and sigma as columns that multiply videos, float64."""
    bar = schedule.alpha_bars[times].reshape(-1, 1, 1, 1, 1)
    return np.sqrt(bar), np.sqrt(1 - bar)


def noised(schedule, x0, eps, times=TIMES):
    alpha, sigma = coefficients(schedule, times)
    return alpha * x0 + sigma * eps


def test_cosine_keeps_the_squared_cosine_of_the_signal():
    t = np.arange(1, 1000)  # after t of 1000 steps; the last step is capped
    closed = np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    closed /= np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(COSINE.alpha_bars[:-1], closed, rtol=1e-9)
    assert COSINE.betas.max() == COSINE.betas[-1] == 0.999


def test_linear_betas_are_those_of_ddpm():
    assert LINEAR.betas[0] == 1e-4
    assert LINEAR.betas[-1] == 0.02
    np.testing.assert_allclose(np.diff(LINEAR.betas), 0.0199 / 999, rtol=1e-9)
    bar = 1.0
    for t, beta in enumerate(LINEAR.betas):
        bar *= 1 - beta
        np.testing.assert_allclose(LINEAR.alpha_bars[t], bar, rtol=1e-12)


@pytest.mark.parametrize("schedule", [COSINE, LINEAR])
def test_scales_of_signal_and_noise_are_float32_of_the_closed_form(schedule):
    alpha, sigma = coefficients(schedule)
    np.testing.assert_allclose(schedule.alpha(TIMES), alpha.ravel(), rtol=1e-6)
    np.testing.assert_allclose(schedule.sigma(TIMES), sigma.ravel(), rtol=1e-6)
    np.testing.assert_allclose(schedule.snr(TIMES), (alpha / sigma).ravel() ** 2, rtol=1e-5)


@pytest.mark.parametrize("schedule", [COSINE, LINEAR])
@pytest.mark.parametrize("times", [np.arange(9, -1, -1), np.array([999, 700, 250, 3])])
def test_the_posterior_follows_from_bayes_rule(schedule, times):
    rows = diffusion.step_rows(schedule, times)
    for i in range(len(times) - 1):
        # q(next | x_t, x_0) is the product of q(next | x_0) and q(x_t | next), both Gaussian.
        bar, next_bar = schedule.alpha_bars[times[i : i + 2]]
        kept = bar / next_bar  # of the signal's variance, between the two
        precision_0, precision_t = 1 / (1 - next_bar), kept / (1 - kept)
        variance = 1 / (precision_0 + precision_t)
        mean_0 = variance * precision_0 * np.sqrt(next_bar)
        mean_x = variance * precision_t / np.sqrt(kept)
        np.testing.assert_allclose(rows["beta"][i], 1 - kept, rtol=1e-9)
        np.testing.assert_allclose(rows["variance"][i], variance, rtol=1e-9)
        np.testing.assert_allclose(rows["mean_0"][i], mean_0, rtol=1e-9)
        np.testing.assert_allclose(rows["mean_x"][i], mean_x, rtol=1e-8)
    last = {name: row[-1] for name, row in rows.items()}
    assert (last["mean_x"], last["mean_0"], last["variance"]) == (0, 1, 0)  # ends at x_0 itself


def test_noise_is_added_as_in_ddpm():
    x0, eps = videos(1), videos(2)
    x_t = diffusion.Process(COSINE).diffuse(x0, TIMES, eps)
    np.testing.assert_allclose(x_t, noised(COSINE, x0, eps), atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_frames_share_the_variance_of_their_noise_that_they_are_told_to(share):
    noise = diffusion.Process(shared_noise=share).noise(jax.random.key(5), (3, 4, 50, 50, 8))
    flat = np.asarray(noise, np.float64).reshape(12, -1)
    same_video = np.kron(np.eye(3), np.ones((4, 4)))
    expected = share * same_video + (1 - share) * np.eye(12)
    np.testing.assert_allclose(np.cov(flat), expected, atol=0.03)  # three standard errors


@pytest.mark.parametrize("prediction", diffusion.PREDICTIONS)
def test_a_right_prediction_of_any_kind_gives_back_the_clean_video(prediction):
    process = diffusion.Process(LINEAR, prediction)
    x0, eps = videos(1), videos(2)
    x_t = noised(LINEAR, x0, eps).astype(np.float32)
    found = process.to_x0(process.target(x0, TIMES, eps), x_t, TIMES)
    alpha, _ = coefficients(LINEAR)  # at its smallest 0.006, by which eps is divided
    assert (np.abs(found - x0) < 1e-6 / alpha).all()


def test_v_is_the_derivative_of_the_noisy_video_by_the_angle():
    process = diffusion.Process(COSINE, "v")
    x0, eps = videos(1), videos(2)
    alpha, sigma = coefficients(COSINE)
    angle, step = np.arctan2(sigma, alpha), 1e-5
    at = lambda angle: np.cos(angle) * x0 + np.sin(angle) * eps
    slope = (at(angle + step) - at(angle - step)) / (2 * step)
    np.testing.assert_allclose(process.target(x0, TIMES, eps), slope, atol=1e-5)


@pytest.mark.parametrize("prediction", diffusion.PREDICTIONS)
def test_capped_weights_weigh_the_same_error_of_x0_alike_in_all_predictions(prediction):
    process = diffusion.Process(LINEAR, prediction, weight_cap=5.0)
    times = np.array([1, 30, 200, 400, 600])
    x0, eps = videos(1, times), videos(2, times)
    alpha, sigma = coefficients(LINEAR, times)
    wrong = x0 + 0.1 * videos(3, times)
    implied = (noised(LINEAR, x0, eps, times) - alpha * wrong) / sigma  # the noise if x0 were wrong
    output = {"x0": wrong, "eps": implied, "v": alpha * implied - sigma * wrong}[prediction]
    loss, _ = process.loss(output.astype(np.float32), x0, times, eps)
    weight = np.minimum(1 / sigma**2, 5.0).ravel()
    error = ((wrong - x0) ** 2).mean((1, 2, 3, 4))
    np.testing.assert_allclose(loss, weight * error, rtol=1e-3)


HYBRID = diffusion.Process(COSINE, variance="learned_range")


def hybrid_parts(eps_hat, channels, x0, eps, times, process=HYBRID):
    output = np.concatenate([eps_hat, channels], axis=-1).astype(np.float32)
    loss, parts = process.loss(output, x0, times, eps)
    return np.asarray(loss), {name: np.asarray(part) for name, part in parts.items()}


def test_the_bound_is_the_divergence_of_two_gaussians_in_bits():
    t = np.array([300])
    x0, eps, eps_hat, channels = (0.5 * videos(seed, t) for seed in range(4))
    _, parts = hybrid_parts(eps_hat, channels, x0, eps, t)
    bar, before = COSINE.alpha_bars[300], COSINE.alpha_bars[299]
    beta = 1 - bar / before
    variance = beta * (1 - before) / (1 - bar)
    x_t = noised(COSINE, x0, eps, t)
    mean = lambda x0: (
        (np.sqrt(before) * beta * x0 + np.sqrt(bar / before) * (1 - before) * x_t) / (1 - bar)
    )
    guess = mean((x_t - np.sqrt(1 - bar) * eps_hat) / np.sqrt(bar))
    guessed = beta ** ((channels + 1) / 2) * variance ** ((1 - channels) / 2)
    kl = 0.5 * (np.log(guessed / variance) + (variance + (mean(x0) - guess) ** 2) / guessed - 1)
    np.testing.assert_allclose(parts["vlb"], kl.mean() / np.log(2), rtol=1e-4)


def test_the_bound_at_the_last_step_is_a_likelihood_under_the_variance_of_the_step_before():
    t = np.array([0])
    x0 = (np.random.default_rng(0).integers(1, 255, (1, 1, 4, 4, 3)) / 127.5 - 1).astype(np.float32)
    eps, eps_hat = videos(1, t)[:, :1], videos(2, t)[:, :1]
    _, parts = hybrid_parts(eps_hat, -np.ones_like(x0), x0, eps, t)
    bar, bar_1 = COSINE.alpha_bars[:2]
    variance = (1 - bar_1 / bar) * (1 - bar) / (1 - bar_1)  # at t = 0 it would be zero
    mean = (noised(COSINE, x0, eps, t) - np.sqrt(1 - bar) * eps_hat) / np.sqrt(bar)
    below = np.vectorize(lambda x: (1 + math.erf(x / np.sqrt(2 * variance))) / 2)
    likelihood = below(x0 - mean + 1 / 255) - below(x0 - mean - 1 / 255)
    np.testing.assert_allclose(parts["vlb"], -np.log2(likelihood).mean(), rtol=1e-3)


def test_the_hybrid_loss_adds_a_thousandth_of_the_bound_over_all_timesteps():
    x0, eps, eps_hat, channels = (0.5 * videos(seed) for seed in range(4))
    process = dataclasses.replace(HYBRID, schedule=diffusion.Schedule("cosine", 4000))
    loss, parts = hybrid_parts(eps_hat, channels, x0, eps, TIMES, process)
    mse = ((eps_hat - eps) ** 2).mean((1, 2, 3, 4))
    np.testing.assert_allclose(parts["mse"], mse, rtol=1e-5)
    np.testing.assert_allclose(loss, mse + 0.001 * 4000 * parts["vlb"], rtol=1e-5)


def test_the_bound_is_smaller_for_the_right_noise_than_for_any_other():
    levels = np.random.default_rng(0).integers(0, 256, videos(0).shape)
    x0, eps = (levels / 127.5 - 1).astype(np.float32), videos(1)
    low = -np.ones_like(x0)  # the posterior's own variance
    _, right = hybrid_parts(eps, low, x0, eps, TIMES)
    _, wrong = hybrid_parts(eps + 0.3 * videos(2), low, x0, eps, TIMES)
    assert (right["vlb"] < wrong["vlb"]).all()
    np.testing.assert_allclose(right["vlb"][1:], 0, atol=1e-3)  # at t = 0 it is a likelihood


def test_the_bound_teaches_the_variance_and_not_the_mean():
    x0, eps, eps_hat, channels = (0.5 * videos(seed) for seed in range(4))

    def bound(output):
        return HYBRID.loss(output, x0, TIMES, eps)[1]["vlb"].sum()

    slope = jax.grad(bound)(jnp.concatenate([eps_hat, channels], axis=-1))
    assert np.isfinite(slope).all()
    assert (slope[..., :3] == 0).all()
    assert (slope[1:, ..., 3:] != 0).all()


@pytest.mark.parametrize("mean", [-1.0, -0.3, 0.999])
@pytest.mark.parametrize("scale", [0.003, 0.1, 3.0])
def test_the_likelihoods_of_all_256_levels_add_up_to_one(mean, scale):
    levels = np.arange(256) / 127.5 - 1
    log = diffusion.discretized_gaussian_log_likelihood(levels, mean, np.log(scale))
    np.testing.assert_allclose(np.exp(log).sum(), 1, atol=1e-4)
    # Within the range, a level's probability is its width, 2 / 255, times the density.
    if scale == 0.1:
        density = np.exp(-0.5 * ((levels - mean) / scale) ** 2) / (scale * np.sqrt(2 * np.pi))
        inner = slice(1, -1)
        np.testing.assert_allclose(np.exp(log)[inner], (density * 2 / 255)[inner], atol=2e-5)


def test_a_dynamic_threshold_scales_what_exceeds_the_percentile():
    x0 = np.stack([0.5 * videos(1)[0], 3 * videos(2)[0]])  # one fits, one does not
    found = diffusion.Process(dynamic_threshold=0.9).bound(jnp.asarray(x0))
    for example, bounded in zip(x0, np.asarray(found), strict=True):
        sizes = np.sort(np.abs(example).ravel())
        place = 0.9 * (len(sizes) - 1)  # between two entries: interpolate
        below, part = int(place), place % 1
        limit = max(1.0, sizes[below] * (1 - part) + sizes[below + 1] * part)
        for value, got in zip(example.ravel(), bounded.ravel(), strict=True):
            np.testing.assert_allclose(got, max(-limit, min(limit, value)) / limit, atol=1e-6)


def test_x0_is_clipped_where_the_process_says():
    x0 = np.array([[-7.0, -0.5, 2.0]])
    np.testing.assert_array_equal(diffusion.Process(clip=5.0).bound(x0), [[-5, -0.5, 2]])
    np.testing.assert_array_equal(diffusion.Process(clip=None).bound(x0), x0)


def test_a_guidance_scale_of_one_is_conditional_and_zero_is_not():
    cond, uncond = videos(1), videos(2)
    np.testing.assert_allclose(diffusion.guide(cond, uncond, 1.0), cond, atol=1e-6)
    np.testing.assert_array_equal(diffusion.guide(cond, uncond, 0.0), uncond)
    farther = diffusion.guide(cond, uncond, 3.0)
    np.testing.assert_allclose(farther - cond, 2 * (cond - uncond), atol=1e-5)


def test_rescaled_guidance_has_the_deviation_of_the_condition():
    cond, uncond = videos(1), videos(2)
    deviations = lambda x: np.std(x, axis=(1, 2, 3, 4))
    farther = diffusion.guide(cond, uncond, 3.0)
    back = diffusion.guide(cond, uncond, 3.0, rescale=1.0)
    np.testing.assert_allclose(deviations(back), deviations(cond), rtol=1e-5)
    assert (deviations(farther) > 1.5 * deviations(cond)).all()
    halfway = diffusion.guide(cond, uncond, 3.0, rescale=0.5)
    np.testing.assert_allclose(halfway, (farther + back) / 2, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: diffusion.Schedule("sqrt"), "schedule='sqrt'.*cosine, linear"),
        (lambda: diffusion.Schedule("cosine", 1), "num_timesteps=1"),
        (lambda: diffusion.Process(prediction="score"), "prediction='score'.*eps, x0, v"),
        (lambda: diffusion.Process(variance="large"), "variance='large'"),
        (lambda: diffusion.Process(shared_noise=1.5), "shared_noise=1.5 must lie between 0 and 1"),
    ],
)
def test_impossible_processes_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()

"""Against scipy's matrix root, closed forms and double loops."""

import numpy as np
import pytest
import scipy.linalg

from mav.evaluate import metrics


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def slow_frechet(x, y, ddof):
    a, b = np.cov(x.T, ddof=ddof), np.cov(y.T, ddof=ddof)
    root = scipy.linalg.sqrtm(a @ b).real
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)


@pytest.mark.parametrize("ddof", [0, 1])
def test_frechet_distance_equals_that_by_scipy(ddof):
    x = normal((200, 12)) @ normal((12, 12), 1)
    y = normal((150, 12), 2) @ normal((12, 12), 3) + 1
    found = metrics.frechet(metrics.Moments.of(x), metrics.Moments.of(y), ddof)
    assert found == pytest.approx(slow_frechet(x, y, ddof), rel=1e-9)


def gaussian(mean, covariance, count=1000):
    return metrics.Moments(count, np.array(mean), np.array(covariance) * (count - 1))


def test_frechet_distance_of_known_gaussians():
    # Diagonal: the sum of (difference of means)^2 + (difference of deviations)^2.
    a = gaussian([0.0, 1, 2], np.diag([1.0, 4, 9]))
    b = gaussian([1.0, 1, 0], np.diag([4.0, 4, 1]))
    assert metrics.frechet(a, b) == pytest.approx((1 + 0 + 4) + (1 + 0 + 4))
    # Commuting, not diagonal: the same along common axes.
    turn = np.linalg.qr(normal((3, 3)))[0]
    a = gaussian(np.zeros(3), turn @ np.diag([1.0, 4, 9]) @ turn.T)
    b = gaussian(np.zeros(3), turn @ np.diag([4.0, 4, 1]) @ turn.T)
    assert metrics.frechet(a, b) == pytest.approx(5)


@pytest.mark.parametrize("samples", [2, 5, 63, 64, 65])
def test_frechet_distance_of_few_samples_is_real_and_that_of_the_nonzero_part(samples):
    # Features in a plane of d dimensions: the distance is that within the plane.
    x, y = normal((samples, 4)), normal((samples, 4), 1) + 2
    plane = np.linalg.qr(normal((64, 4), 2))[0]
    found = metrics.frechet(metrics.Moments.of(x @ plane.T), metrics.Moments.of(y @ plane.T))
    a, b = np.cov(x.T), np.cov(y.T)
    roots = np.linalg.eigvals(a @ b)
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b)
    wanted -= 2 * np.sqrt(np.maximum(roots.real, 0)).sum()
    assert found == pytest.approx(wanted, abs=1e-5)


def test_frechet_distance_to_itself_is_zero_even_if_nearly_singular():
    x = normal((500, 40)) * np.logspace(0, -9, 40)[None]
    own = metrics.Moments.of(x)
    assert metrics.frechet(own, own) == pytest.approx(0, abs=1e-7)
    moved = metrics.Moments.of(x + 3)
    assert metrics.frechet(own, moved) == pytest.approx(9 * 40, rel=1e-9)


def test_moments_of_batches_in_any_order_are_those_of_all():
    x = normal((1000, 7)) * 100 + 1e4
    whole = np.cov(x.T, ddof=1)
    cuts = np.split(x, [1, 2, 30, 31, 700])
    parts = [metrics.Moments.of(part) for part in cuts]
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 0, 4, 1, 2]):
        merged = metrics.merge([parts[i] for i in order])
        assert merged.count == 1000
        np.testing.assert_allclose(merged.mean, x.mean(0), rtol=1e-14)
        np.testing.assert_allclose(merged.covariance(), whole, rtol=1e-9, atol=1e-7)
        np.testing.assert_allclose(merged.covariance(0), whole * 0.999, rtol=1e-9, atol=1e-7)


def slow_mmd(x, y, kernel, unbiased):
    def mean(a, b, skip):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (skip and i == j)]
        return np.mean([kernel(a[i], b[j]) for i, j in pairs])

    return mean(x, x, unbiased) + mean(y, y, unbiased) - 2 * mean(x, y, False)


def test_kernel_distance_equals_double_loops(monkeypatch):
    monkeypatch.setattr(metrics, "ROWS", 5)
    x, y = normal((13, 6)), normal((17, 6), 1) + 0.5
    kernel = lambda a, b: (sum(a * b) / 6 + 1) ** 3
    found, error = metrics.kernel_distance(x, y)
    assert found == pytest.approx(slow_mmd(x, y, kernel, True), rel=1e-12)
    assert error is None


@pytest.mark.parametrize("unbiased", [True, False])
def test_the_error_of_a_kernel_distance_is_the_jackknifes(monkeypatch, unbiased):
    monkeypatch.setattr(metrics, "ROWS", 5)
    x, y = normal((13, 6)), normal((17, 6), 1) + 0.5
    groups = np.arange(4) * 13 // 4  # where they begin
    kernel = lambda a, b: (sum(a * b) / 6 + 1) ** 3
    without = [
        slow_mmd(np.concatenate([x[:start], x[end:]]), y, kernel, unbiased)
        for start, end in zip(groups, [*groups[1:], 13], strict=True)
    ]
    wanted = np.sqrt(3 / 4 * np.sum((without - np.mean(without)) ** 2))
    found, error = metrics.mmd(x, y, metrics.polynomial, unbiased, 4)
    assert found == pytest.approx(slow_mmd(x, y, kernel, unbiased), rel=1e-12)
    assert error == pytest.approx(wanted, rel=1e-9)


def test_cmmd_equals_double_loops_and_is_zero_for_equal_sets(monkeypatch):
    monkeypatch.setattr(metrics, "ROWS", 4)
    x, y = normal((9, 6)), normal((11, 6), 1)
    along = lambda a: a / np.sqrt(sum(a * a))
    kernel = lambda a, b: np.exp(-sum((along(a) - along(b)) ** 2) / 200)
    assert metrics.cmmd(x, y)[0] == pytest.approx(1000 * slow_mmd(x, y, kernel, False), rel=1e-9)
    assert metrics.cmmd(x, x[::-1])[0] == pytest.approx(0, abs=1e-9)


def test_kernel_distance_is_unbiased_on_equal_distributions():
    found = [
        metrics.kernel_distance(normal((20, 3), 2 * i), normal((20, 3), 2 * i + 1))[0]
        for i in range(300)
    ]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(300)


@pytest.mark.parametrize("splits", [1, 5])
def test_inception_score_of_sure_and_of_unsure_predictions(splits):
    sure = 1000.0 * np.eye(10)[np.tile(np.arange(10), 10)]
    assert metrics.inception_score(sure, splits) == pytest.approx((10, 0))
    assert metrics.inception_score(np.zeros((100, 10)), splits) == pytest.approx((1, 0))
    # Half of the classes are possible for each sample: ln 10 less ln 5.
    half = np.where(np.add.outer(np.arange(100), np.arange(10)) % 2, 0.0, -1000)
    assert metrics.inception_score(half, splits)[0] == pytest.approx(2)


def test_inception_score_equals_a_loop():
    logits = normal((30, 4)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1)[:, None]
    scores = []
    for part in (p[:10], p[10:20], p[20:]):
        marginal = sum(part) / 10
        divergences = [sum(row * np.log(row / marginal)) for row in part]
        scores.append(np.exp(sum(divergences) / 10))
    found = metrics.inception_score(logits, 3)
    assert found == pytest.approx((np.mean(scores), np.std(scores)))


def test_clipsim_is_the_mean_cosine_and_blind_to_lengths():
    text = np.array([[2.0, 0], [0, 3]])
    images = np.array([[[5.0, 0], [0, 1]], [[1, 1], [0, -1]]])
    wanted = [(1 + 0) / 2, (np.sqrt(0.5) - 1) / 2]
    np.testing.assert_allclose(metrics.clipsim(images, text), wanted)


def test_bootstrap_error_of_a_mean_is_the_known_one():
    x = normal(400) * 3
    error = metrics.bootstrap_error(lambda chosen: x[chosen].mean(), 400, repeats=1000)
    assert error == pytest.approx(x.std() / 20, rel=0.1)
    assert metrics.bootstrap_error(lambda chosen: 0.0, 1, repeats=3) is None


def test_few_samples_are_remarked():
    assert "FVD is of 10 samples: below 2048" in metrics.bias_remark("FVD", 10)
    assert metrics.bias_remark("FVD", 2048) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.Moments.of(np.array([[1, np.nan]])), "not finite"),
        (lambda: metrics.Moments.of(np.zeros((0, 3))), r"\[0, 3\]"),
        (lambda: metrics.Moments.of(np.zeros((1, 3))).covariance(), "needs more than 1 samples"),
        (lambda: metrics.kernel_distance(np.ones((1, 2)), np.ones((2, 2))), "two samples a side"),
        (lambda: metrics.inception_score(np.ones((3, 2)), 4), "splits=4 is impossible with 3"),
    ],
)
def test_impossible_input_gets_a_clear_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()

import dataclasses
import json
import threading
import time
import types
import warnings

import jax
import numpy as np
import pytest
import scipy.stats

import tiny
from mav import cascade, diffusion, media, params
from mav.evaluate import (
    classifier,
    cutout,
    cutout_measures,
    cutout_prompts,
    cutout_stages,
    cutout_verdict,
    fidelity,
    video_classifier,
)
from mav.settings import Settings

PROMPTS = cutout_prompts.prompts(24)


@pytest.fixture(scope="module")
def judge():
    return classifier.load()


@pytest.fixture(scope="module")
def watcher():
    return video_classifier.load()


# How near a video is to the true one.


def pictures():
    """A smooth picture, and what becomes of it."""
    y, x = np.mgrid[:40, :48]
    waves = [127.5 + 100 * np.sin(x / 9 + c) * np.cos(y / 7 - c) for c in range(3)]
    smooth = np.stack(waves, axis=-1)
    true = smooth.clip(0, 255).astype(np.uint8)
    noise = np.random.default_rng(0).normal(0, 12, smooth.shape)
    changed = dict(
        noisy=(smooth + noise).clip(0, 255).astype(np.uint8),
        moved=np.roll(true, 2, axis=1),
        dark=true // 3,
        flat=np.full_like(true, 255),
    )
    return true, changed


# structural_similarity(changed, true, channel_axis=2, gaussian_weights=True, sigma=1.5,
# use_sample_covariance=False, data_range=255) of scikit-image 0.26.0.
SSIM = dict(
    noisy=0.720195324002761,
    moved=0.9588199329139352,
    dark=0.4229400723043908,
    flat=0.2114160657147335,
)


@pytest.mark.parametrize("kind", SSIM)
def test_ssim_is_that_of_scikit_image(kind, request):
    true, changed = pictures()
    expected = SSIM[kind]
    if request.config.getoption("--parity"):
        metrics = pytest.importorskip("skimage.metrics")
        options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        expected = metrics.structural_similarity(
            changed[kind], true, channel_axis=2, data_range=255, **options
        )
    assert fidelity.ssim(changed[kind][None], true[None]) == pytest.approx(expected, abs=1e-5)
    assert fidelity.ssim(true[None], true[None]) == pytest.approx(1, abs=1e-6)


def test_psnr_of_a_steady_error_and_of_none():
    grey = np.full((3, 8, 8, 3), 100, np.uint8)
    assert fidelity.psnr(grey + 5, grey) == pytest.approx(20 * np.log10(255 / 5))
    assert fidelity.psnr(grey, grey) == fidelity.MOST_PSNR


def test_blending_is_right_where_all_fades_and_flow_where_things_move():
    ramp = (np.arange(11)[:, None, None, None] * 10 * np.ones((16, 16, 3))).astype(np.uint8)
    np.testing.assert_array_equal(fidelity.blend(ramp[::5], 5), ramp)

    y, x = np.mgrid[:64, :64]
    at = lambda t: 128 + 60 * np.sin((x - 1.5 * t) / 5) * np.cos((y - t) / 6)
    waves = np.stack([at(t) for t in range(11)]).astype(np.uint8)[..., None].repeat(3, -1)
    flow, blend = (means(waves[::5], 5) for means in (fidelity.flow, fidelity.blend))
    np.testing.assert_array_equal(flow[::5], waves[::5])
    inside = np.s_[:, 12:-12, 12:-12]  # at the border nobody knows what comes in
    assert fidelity.psnr(flow[inside], waves[inside]) > 35
    assert fidelity.psnr(blend[inside], waves[inside]) < 30


# The watcher.


def test_the_shipped_watcher_is_right_on_fresh_clips(judge, watcher):
    clips = video_classifier.draw_many(judge, 987_654, 40)
    found = video_classifier.measure(
        watcher, video_classifier.shuffled(clips, np.random.default_rng(0))
    )
    assert min(found[name] for name in classifier.CLASSES) >= 0.9
    assert found["order"] >= 0.85
    assert min(found["way"], found["pace"]) >= 0.5  # by chance 0.11 and 0.25
    for path in (video_classifier.SHIPPED, classifier.SHIPPED):
        assert path.stat().st_size <= 2**20


def test_ways_and_paces_of_straight_paths():
    time = np.arange(16)[:, None]
    named = lambda path: {
        name: video_classifier.CLASSES[name][index]
        for name, index in video_classifier.movement(path).items()
    }
    assert named(0.5 + 0.02 * time * [[1.0, 0.0]]) == dict(way="right", pace="brisk")
    assert named(0.5 - 0.05 * time * [[0.0, 1.0]]) == dict(way="up", pace="fast")
    assert named(0.5 + 0.007 * time * [[-1.0, 1.0]]) == dict(way="down left", pace="slow")
    assert named(0.5 + 0 * time * [[1.0, 1.0]]) == dict(way="nowhere", pace="still")
    circle = np.stack([np.cos(time[:, 0] * np.pi / 7.5), np.sin(time[:, 0] * np.pi / 7.5)], axis=1)
    assert named(0.5 + 0.2 * circle) == dict(way="nowhere", pace="fast")


def test_shuffled_clips_keep_their_frames_and_every_other_keeps_its_order():
    seen = np.arange(4 * 16).reshape(4, 16, 1).astype(np.float32)
    clips = dict(seen=seen, position=np.concatenate([seen, seen], axis=-1), way=np.arange(4))
    found = video_classifier.shuffled(clips, np.random.default_rng(0))
    np.testing.assert_array_equal(found["seen"][::2], seen[::2])
    np.testing.assert_array_equal(np.sort(found["seen"], axis=1), seen)
    assert (found["seen"][1::2] != seen[1::2]).any(1).all()
    np.testing.assert_array_equal(found["position"][..., :1], found["seen"])
    np.testing.assert_array_equal(found["order"], [0, 1, 0, 1])


@pytest.mark.slow
def test_faults_lie_farther_from_real_videos_than_real_videos_do(judge, watcher, monkeypatch):
    monkeypatch.setattr(cutout, "RESAMPLES", 3)
    rng = np.random.default_rng(0)
    noisy = lambda video: (video + rng.normal(0, 40, video.shape)).clip(0, 255).astype(np.uint8)
    faults = dict(
        none=lambda video: video,
        frozen=lambda video: np.repeat(video[:1], len(video), axis=0),
        shuffled=lambda video: video[rng.permutation(len(video))],
        recoloured=lambda video: video[..., ::-1],
        noisy=noisy,
    )
    drawn = [
        [cutout_prompts.real_video(p, (n, k), 3, 16, 64) for n, p in enumerate(PROMPTS)]
        for k in range(3)
    ]
    watched = lambda videos: [watcher(judge(video)) for video in videos]
    real, other = watched(drawn[0]), watched(drawn[1])
    found = {
        name: cutout.distances(watched(map(fault, drawn[2])), real, other)
        for name, fault in faults.items()
    }
    assert found["none"]["fvd"]["real"] == found["noisy"]["fvd"]["real"]
    floor = found["none"]["fvd"]
    assert floor["generated"]["mean"] == pytest.approx(floor["real"]["mean"], rel=0.5)
    for name in ("frozen", "shuffled", "recoloured", "noisy"):
        assert found[name]["fvd"]["generated"]["mean"] > 1.3 * floor["generated"]["mean"], name
    scores = found["none"]["inception_score"]
    assert 8 < scores["generated"]["mean"] <= 12  # each of 12 objects twice
    assert cutout.distances([real[0]] * 4, real[:4], other[:4])["inception_score"]["generated"][
        "mean"
    ] == pytest.approx(1)
    assert cutout.distances(real[:1], real[:1], other[:1]) is None


# Stages, by stand-ins of which the answers are known.


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    for _ in range(5):
        ranks = rng.permutation(6)
        expected = 1 - 6 * ((ranks - np.arange(6)) ** 2).sum() / (6 * 35)
        found = cutout_stages.rank_correlation(np.arange(6) ** 2, np.exp(ranks))
        assert found == pytest.approx(expected)
    ties = [3.0, 1, 1, 2, 2, 2]
    expected = scipy.stats.spearmanr(np.arange(6), ties).statistic
    assert cutout_stages.rank_correlation(np.arange(6), ties) == pytest.approx(expected)
    assert cutout_stages.rank_correlation(np.arange(6), np.ones(6)) == 0  # nothing responds


@dataclasses.dataclass(frozen=True)
class Simple:
    """A cascade whose interpolation blends and whose super-resolutions are bicubic."""

    stages: dict
    settings: Settings

    def begin(self, seed, progress, changes):
        return self.settings.updated(changes), {}, progress

    def smooth(self, video, fps, seed, progress, size):
        return fidelity.blend(video, self.settings.frame_skip)

    def upscale(self, video, seed, progress, size):
        large = media.resize(video, size, "bicubic").astype(int)
        if not self.stages["sr_768"].process.shared_noise:
            large += np.random.default_rng(0).integers(-20, 20, large.shape)
        return large.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def simple(judge):
    stage = lambda **fields: types.SimpleNamespace(**fields)
    built = dict(
        interpolation=stage(size=64, frames=16),
        sr_768=Upscaler(64, 32, diffusion.Process(shared_noise=1.0)),
    )
    found = Simple(built, Settings(**tiny.SETTINGS))
    return cutout_stages.Bench(found, judge, PROMPTS, 0, {}, cascade.silent)


@dataclasses.dataclass(frozen=True)
class Upscaler:
    size: int
    low_size: int
    process: diffusion.Process


def test_an_interpolation_that_blends_gains_nothing_over_blending(simple):
    found = cutout_stages.interpolation(simple, 2)
    for measure in ("psnr", "ssim"):
        assert found[measure]["gain"]["blend"] == dict(mean=0, error=0, videos=2)
        assert found[measure]["gain"]["flow"]["mean"] < 0
    assert 20 < found["psnr"]["found"]["mean"] < 40


def test_a_bicubic_super_resolution_gains_nothing_and_unshared_noise_flickers(simple):
    found = cutout_stages.super_resolution(simple, "sr_768", 2)
    assert found["psnr"]["gain"]["bicubic"] == dict(mean=0, error=0, videos=2)
    flicker = {kind: found["flicker"][kind]["mean"] for kind in found["flicker"]}
    assert flicker["found"] == flicker["bicubic"]
    assert flicker["independent"] > 5 * flicker["true"]
    assert 0.5 < flicker["bicubic"] / flicker["true"] < 1.1


def test_two_prompts_are_measured_at_once_and_found_in_order(simple):
    told, second = [], threading.Event()
    bench = dataclasses.replace(simple, report=lambda *call: told.append(call))

    def measure(n):
        if n == 0:
            assert second.wait(30)  # which never comes if one waits for the other
        second.set()
        return n

    assert bench.each("fps", 4, measure) == [0, 1, 2, 3]
    assert told == [("fps", n, 4) for n in range(5)]


def test_what_stops_one_measurement_stops_the_rest(simple):
    begun = []

    def measure(n):
        begun.append(n)
        if n == 0:
            raise ValueError("prompt 0 cannot be drawn.")
        time.sleep(0.05)

    with pytest.raises(ValueError, match="prompt 0"):
        simple.each("fps", 50, measure)
    assert len(begun) < 10


# The whole, in miniature.


@pytest.fixture(scope="module")
def report(tmp_path_factory, judge):
    folder = tmp_path_factory.mktemp("tiny")
    tiny.write(folder)
    for name in ("decoder", "interpolation", "sr_256", "sr_768"):  # SSIM's window wants 11 pixels
        path = folder / name / "config.json"
        config = params.read_json(path)
        doubled = {key: 2 * config[key] for key in ("size", "low_size") if key in config}
        params.write_json(path, config | doubled)
    out, told = folder / "out", []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of words that it has never seen
        found = cutout.run(
            cascade.load(folder),
            out,
            num_prompts=2,
            size=16,
            frames=16,
            clips=1,
            frame_skip=3,
            judge=judge,
            progress=lambda *call: told.append(call),
        )
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(found))
    return found, (out / "report.md").read_text(), told


@pytest.mark.slow
def test_every_stage_has_its_own_numbers(report):
    found, page, told = report
    lines = {(line["stage"], line["name"]): line for line in found["verdict"]}
    for stage in ("prior", "decoder", "interpolation", "sr_256", "sr_768"):
        own = [line for (name, _), line in lines.items() if name == stage]
        assert own
        assert all(np.isfinite(line["value"]) for line in own)
    rows = ["prior", "decoder", "both, of text", "interpolation", "sr_256", "sr_768"]
    assert [row[0] for row in found["by_stage"]] == rows
    assert "| sr_768 | PSNR above bicubic |" in page
    assert "| fps | 1.5 | 3 | 6 | 12 |" in page
    assert found["stages"]["sr_256"]["flicker"]["independent"] is None
    assert [call for call in told if call[1] == call[2]] == [
        ("evaluate", 2, 2),
        ("prior", 2, 2),
        ("decoder", 1, 1),
        ("fps", 1, 1),
        ("interpolation", 1, 1),
        ("sr_256", 1, 1),
        ("sr_768", 1, 1),
    ]


@pytest.mark.slow
def test_goals_are_beside_targets(report):
    found, page, _ = report
    lines = {line["name"]: line for line in found["verdict"]}
    recognised = lines["object recognised"]
    assert (recognised["target"], recognised["goal"]) == ("at least 80 %", "at least 92 %")
    for gain, words, least in (
        (1.9, "PSNR above linear blending", "interpolation"),
        (2.1, "PSNR above linear blending", "interpolation"),
    ):
        stages = json.loads(json.dumps(found["stages"]))
        stages[least]["psnr"]["gain"]["blend"]["mean"] = gain
        [line] = [
            line
            for line in cutout_verdict.verdict({**found, "stages": stages})
            if line.name == words
        ]
        assert (line.target, line.reached, line.passed) == (None, gain >= 2, None)
    assert not found["passed"]
    assert "| target |  | goal |  |" in page


@pytest.mark.slow
def test_a_cascade_without_a_stage_says_that_it_was_not_measured(report):
    found, _, _ = report
    stages = dict(found["stages"], sr_768=None, interpolation=None)
    summary = {**found, "stages": stages}
    shown = {
        line.shown
        for line in cutout_verdict.verdict(summary)
        if line.stage in ("sr_768", "interpolation")
    }
    assert shown == {"not measured"}
    rows = [row[0] for row in cutout_verdict.by_stage(summary)]
    assert rows == ["prior", "decoder", "both, of text", "sr_256"]


def test_the_share_of_the_way_is_that_of_the_squared_error():
    half = dict(mean=10 * np.log10(2), error=0.0, videos=4)
    means = dict(mean=30.0, error=0.1, videos=4)
    measured = dict(psnr=dict(found=means, blend=means, gain=dict(blend=half)))
    share = lambda value: dict(both=dict(mean=value, error=0.0, videos=4))
    none = dict.fromkeys(("prior", "decoder", "sr_256", "sr_768"))
    summary = dict(stages=none | dict(interpolation=measured))
    summary["recognised"] = dict(all=share(0.5), real=share(1.0))
    text, row = cutout_verdict.by_stage(summary)
    assert row == ("interpolation", "PSNR in dB", "30.00 ± 0.10", "30.00", "-", "50 ± 0 %")
    assert text[2:] == ("50.0 ± 0.0", "1.0", "100.0", "49 ± 0 %")


def test_measures_of_the_prior_know_the_prompts_own_pictures(judge):
    """A prior that gives the embedding of a real picture comes as near as pictures do."""

    @dataclasses.dataclass(frozen=True)
    class Told:
        stages: dict
        prompts: list

        def begin(self, seed, progress, changes):
            return None, dict(prior=jax.random.key(0)), progress

        def embed_first_frame(self, video):
            return np.asarray(video).mean((1, 2, 3))  # the mean colour stands for CLIP

        def embed_prompt(self, text, key, settings):
            [n] = [n for n, prompt in enumerate(self.prompts) if prompt.text == text]
            picture = cutout_prompts.real_video(self.prompts[n], (9, n), 1, 1, 16)
            return self.embed_first_frame(media.to_float(picture)[None])

    stages = dict(decoder=types.SimpleNamespace(size=16))
    bench = cutout_stages.Bench(Told(stages, PROMPTS), judge, PROMPTS, 0, {}, cascade.silent)
    found = cutout_stages.prior(bench)
    assert found["found"]["mean"] == pytest.approx(found["among"]["mean"], abs=0.03)
    assert found["other"]["mean"] < found["among"]["mean"] - 0.3
    assert cutout_measures.mean([]) is None

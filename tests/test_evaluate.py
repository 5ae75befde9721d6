import dataclasses
import hashlib
import json

import jax
import numpy as np
import pytest

from mav.data import cutout
from mav.evaluate import classifier, cutout_measures, cutout_prompts, cutout_verdict
from mav.evaluate import cutout as protocol

FPS, FRAMES = 3.0, 16
PROMPTS = cutout_prompts.prompts(24)  # each object twice


@dataclasses.dataclass(frozen=True)
class Settings:
    size: int
    frames: int
    fps: float = FPS


class World:
    """Stands for a cascade that has learned everything: its videos are real ones."""

    name = "world"

    def __init__(self):
        self.by_text = {prompt.text: prompt for prompt in cutout_prompts.prompts(96)}
        self.asked = []

    def check(self, changes):
        return Settings(**changes)

    def output_fps(self, settings):
        return settings.fps

    def text_to_video(self, prompt, seed, progress, size, frames):
        self.asked.append((prompt, seed))
        return cutout_prompts.real_video(self.by_text[prompt], (77, seed), FPS, frames, size)


@pytest.fixture(scope="module")
def judge():
    return classifier.load()


@pytest.fixture(scope="module")
def videos():
    return [World().text_to_video(p.text, n, None, 64, FRAMES) for n, p in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def records(judge, videos):
    """Records of a report in which generated videos are real ones, too."""
    found = []
    for n, (prompt, video) in enumerate(zip(PROMPTS, videos, strict=True)):
        real = [cutout_prompts.real_video(prompt, (n, k), FPS, FRAMES, 64) for k in range(2)]
        seen = [video, *real]
        found.append(protocol.record(prompt, n, FPS, seen, [judge(video) for video in seen]))
    return found


def judged(judge, video, prompt):
    return cutout_measures.judged(judge(video), video, prompt, FPS)


def failing(records):
    lines = cutout_verdict.verdict(protocol.summarise(records))
    return {line.name for line in lines if line.passed is False}


# The prompts.


def test_prompts_cover_everything_evenly_and_a_quarter_is_held_out():
    prompts = cutout_prompts.prompts(96)
    assert len({prompt.text for prompt in prompts}) == 96
    for attribute, classes in classifier.CLASSES.items():
        names = [getattr(prompt, attribute) for prompt in prompts]
        assert {names.count(name) for name in classes} == {96 // len(classes)}
    assert len({(p.object, p.setting) for p in prompts}) == 96
    pairs = [(p.object, p.colour) for p in prompts if p.held_out_pair]
    assert {pairs.count(pair) for pair in cutout.HELD_OUT_PAIRS} == {3}
    assert sum(prompt.held_out_mover for prompt in prompts) == 16
    assert {prompt.size for prompt in prompts} == {None, *cutout.SIZES}


def test_prompts_are_captions_of_the_world():
    rng = np.random.default_rng(0)
    for prompt in PROMPTS[::3]:
        scene = cutout.make_scene(
            prompt.setting, prompt.object, prompt.colour, prompt.size or "small"
        )
        assert prompt.text in {cutout.caption(scene, rng) for _ in range(3000)}
    assert cutout_prompts.sentence("ball", "red", "meadow") == "a red ball over a green meadow"


# The judge.


def test_the_shipped_judge_is_right_on_fresh_pictures(judge):
    found = classifier.measure(judge, *classifier.draw_many(987_654, 300))
    assert min(found[name] for name in classifier.CLASSES) >= 0.98
    assert found["position_error"] < 0.015
    assert judge.card["num_parameters"] <= 500_000
    assert classifier.SHIPPED.stat().st_size <= 1_000_000


def test_the_judge_sees_the_same_in_large_frames(judge):
    small, large = (
        judge(cutout_prompts.real_video(PROMPTS[0], 5, FPS, 4, size)) for size in (64, 256)
    )
    np.testing.assert_array_equal(small.object, large.object)
    np.testing.assert_array_equal(small.colour, large.colour)
    np.testing.assert_allclose(small.position, large.position, atol=0.01)


def test_augmentation_moves_the_picture_and_its_position_together():
    # A bright dot is found again where the position says.
    x = -np.ones((16, 64, 64, 3), np.float32)
    x[:, 20, 31] = 1
    position = np.tile(np.float32([[31.5 / 64, 20.5 / 64]]), (16, 1))
    x, position = jax.device_get(jax.jit(classifier.augment)(jax.random.key(0), x, position))
    assert len({tuple(row) for row in position}) > 10
    for picture, (column, row) in zip(x.mean(-1), position, strict=True):
        found = np.unravel_index(picture.argmax(), picture.shape)
        np.testing.assert_allclose((np.array(found) + 0.5) / 64, (row, column), atol=1e-6)


@pytest.mark.slow
def test_a_tiny_classifier_learns_a_few_pictures():
    network = classifier.Classifier(widths=(16, 24), depths=(1, 1))
    pictures, answers = classifier.draw_many(0, 16)
    params = classifier.train(network, pictures, answers, seed=0, num_steps=400, batch_size=16)
    found = classifier.measure(classifier.Judge(network, params, {}), pictures, answers)
    assert min(found[name] for name in classifier.CLASSES) >= 0.9
    assert found["position_error"] < 0.08


# Measures, against closed forms.


@pytest.mark.parametrize(("fps", "frames"), [(3, 16), (15, 76)])
def test_a_straight_path_has_its_speed_at_any_rate(fps, frames):
    time = np.arange(frames) / fps
    found = cutout_measures.motion(np.stack([0.2 + 0.03 * time, 0.5 + 0.04 * time], axis=1), fps)
    assert found["path"] == pytest.approx(0.05)
    assert found["net"] == pytest.approx(found["range"])
    assert found["net"] == pytest.approx(0.25, abs=0.02)
    assert found["horizontal"] == pytest.approx(3 / 7)


def test_jitter_of_the_judge_is_not_taken_for_movement():
    jitter = np.random.default_rng(0).normal(0.5, 0.008, (76, 2))
    assert cutout_measures.motion(jitter, 15)["range"] < cutout_verdict.STILL / 2
    assert cutout_measures.motion(jitter, 15)["path"] < 0.03  # a boat's is 0.055


def test_change_detail_and_second_difference_of_known_videos():
    steps = np.arange(6)[:, None, None, None] * np.ones((8, 8, 3))
    board = np.indices((8, 8)).sum(0)[None, ..., None] % 2 * np.ones((6, 1, 1, 3))
    blinking = np.abs((np.arange(6) % 2)[:, None, None, None] - board)
    as_video = lambda x: (10 * x).astype(np.uint8)
    assert cutout_measures.flicker(as_video(steps)) == dict(
        change=10, detail=0, second_difference=0
    )
    assert cutout_measures.flicker(as_video(board)) == dict(change=0, detail=0, second_difference=0)
    found = cutout_measures.flicker(as_video(blinking))
    assert (found["change"], found["second_difference"]) == (10, 20)
    assert found["detail"] > 15  # 20 but for the border


# The verdict: real videos pass, and each fault fails its own line.


def test_real_videos_pass_every_line(records):
    summary = protocol.summarise(records)
    assert not failing(records)
    bounded = [line for line in cutout_verdict.verdict(summary) if line.target]
    assert all(line.passed and line.reached is not False for line in bounded)
    for kind in ("all", "held_out_pairs", "real"):
        assert min(found["mean"] for found in summary["recognised"][kind].values()) > 0.97
    for name in cutout_measures.FLICKERS:
        assert summary["flicker"][name]["ratio"] == pytest.approx(1, abs=0.25)


def frozen(video, n):
    return np.repeat(video[:1], len(video), axis=0)


def shuffled(video, n):
    return video[np.random.default_rng(n).permutation(len(video))]


def recoloured(video, n):
    return video[..., ::-1]


def noisy(video, n):
    noise = np.random.default_rng(n).normal(0, 8, video.shape)
    return np.clip(video + noise, 0, 255).astype(np.uint8)


def turned(video, n):
    return np.rot90(video, axes=(1, 2))


def wandering(video, n):
    if PROMPTS[n].object != "house":
        return video
    return np.stack([np.roll(frame, i // 2, axis=1) for i, frame in enumerate(video)])


def uncomposed(video, n):
    """In place of a held-out pair, the object in a colour that it has in training."""
    p = PROMPTS[n]
    if not p.held_out_pair:
        return video
    seen = next(c for c in cutout.COLOURS if (p.object, c) not in cutout.HELD_OUT_PAIRS)
    return cutout_prompts.real_video(dataclasses.replace(p, colour=seen), n, FPS, FRAMES, 64)


def unmoved(video, n):
    return frozen(video, n) if PROMPTS[n].held_out_mover else video


@pytest.mark.parametrize(
    ("fault", "caught", "untouched"),
    [
        (frozen, {"range of what moves", "change between frames"}, {"object recognised"}),
        (shuffled, {"path per second of what moves"}, {"object recognised", "range of what moves"}),
        (recoloured, {"colour recognised"}, {"range of what moves", "change between frames"}),
        (noisy, {"flicker of fine detail", "flicker, second difference"}, set()),
        (turned, {"direction of what moves, left-right share"}, {"change between frames"}),
        (wandering, {"houses stand still"}, {"object recognised", "range of what moves"}),
        (uncomposed, {"seen less held-out pairs, object and colour"}, {"object recognised"}),
        (unmoved, {"range of held-out movers"}, {"range of what moves", "object recognised"}),
    ],
)
def test_a_fault_fails_its_line(fault, caught, untouched, judge, videos, records):
    faulty = []
    for n, (record, video) in enumerate(zip(records, videos, strict=True)):
        generated = judged(judge, fault(video, n), PROMPTS[n])
        faulty.append(record | dict(generated=generated))
    found = failing(faulty)
    assert caught <= found
    assert not untouched & found


def test_nothing_seen_gives_no_credit_for_composition_or_motion(judge, records):
    grey = np.full((FRAMES, 64, 64, 3), 128, np.uint8)
    blank = [
        record | dict(generated=judged(judge, grey, prompt))
        for record, prompt in zip(records, PROMPTS, strict=True)
        if prompt.object not in ("house", judge_name(judge, grey))
    ]
    lines = {line.name: line.passed for line in cutout_verdict.verdict(protocol.summarise(blank))}
    assert lines["object recognised"] is False
    assert lines["seen less held-out pairs, object and colour"] is None
    assert lines["range of what moves"] is None


def judge_name(judge, frames):
    """What the judge takes most frames for."""
    return cutout.OBJECTS[np.bincount(judge(frames).object).argmax()]


# The run.


def test_a_run_writes_a_report_and_says_how_to_draw_a_video_again(tmp_path, judge):
    world, told = World(), []
    run = lambda out: protocol.run(
        world,
        out,
        num_prompts=3,
        frames=4,
        seed=2,
        clips=0,
        judge=judge,
        progress=lambda *a: told.append(a),
    )
    report = run(tmp_path / "a" / "b")
    written = json.loads((tmp_path / "a" / "b" / "report.json").read_text())
    assert written == report
    assert [(p["text"], p["seed"]) for p in written["prompts"]] == world.asked
    assert told == [("evaluate", done, 3) for done in range(4)]
    page = (tmp_path / "a" / "b" / "report.md").read_text()
    assert "3 prompts, 4 frames of 64 x 64 at 3 fps, seed 2" in page
    assert report["passed"] is None  # too few prompts for every line, and no line fails
    row = "| text to video | houses stand still | not measured | range at most 0.05 | - |  |  |"
    assert row in page
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [
        "report.json",
        "report.md",
        "sheet.png",
    ]
    assert run(tmp_path) == report
    sha256 = hashlib.sha256(classifier.SHIPPED.read_bytes()).hexdigest()
    assert report["judge"]["sha256"] == sha256
    assert sha256 in page


def test_a_report_that_cannot_be_written_is_refused_before_the_first_video(tmp_path):
    world = World()
    (tmp_path / "report.md").mkdir()
    with pytest.raises(OSError, match=r"report\.md: it is not a file"):
        protocol.run(world, tmp_path, num_prompts=2, frames=4, clips=0)
    assert not world.asked


@pytest.mark.parametrize("bad", [dict(num_prompts=0), dict(frames=1), dict(clips=-1)])
def test_impossible_settings_are_refused_before_the_first_video(bad, tmp_path):
    world = World()
    with pytest.raises(ValueError, match=r"must be at least|too short to see"):
        protocol.run(world, tmp_path / "out", **bad)
    assert not world.asked
    assert not (tmp_path / "out").exists()

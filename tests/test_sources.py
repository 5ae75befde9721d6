import dataclasses

import numpy as np
import pytest

from mav.data import cutout, sources


@dataclasses.dataclass(frozen=True)
class NumberedFrames:
    """Videos whose frames show their number (red * 256 + green) and the video's (blue)."""

    length: int = 480
    native_fps: float = 30.0

    def __len__(self):
        return 5

    def __getitem__(self, index):
        def show(frames, size, window):
            assert all(0 <= frame < self.length for frame in frames)
            colours = np.array([(frame // 256, frame % 256, index) for frame in frames], np.uint8)
            return np.broadcast_to(colours[:, None, None], (len(frames), size, size, 3))

        return sources.Video(self.times(), show)

    def times(self):
        return np.arange(self.length) / self.native_fps


def numbers(example):
    """The numbers of the frames that an example of `NumberedFrames` shows."""
    return example["frames"][:, 0, 0, :2] @ np.array([256, 1])


def tokenizer(texts):
    """Each text as the codes of its letters, padded."""
    return np.array([list(text.encode().ljust(80, b"\0")) for text in texts], np.int32)


def steady(a, b):
    return sources.FpsCurriculum((a, b), (a, b), 1)


def clips(videos, curriculum, seed=0, num_frames=16):
    return sources.Clips(videos, seed, num_frames, sources.View(64, 48), curriculum, batch_size=4)


def captioned(seed=0, **options):
    return sources.Captioned(
        sources.CutoutImages("train"), tokenizer, seed, sources.View(64, 48), **options
    )


@pytest.mark.parametrize(
    "make", [captioned, lambda seed=0: clips(sources.CutoutVideos("train"), steady(2, 2), seed, 2)]
)
def test_examples_are_pure_functions_of_seed_and_index(make):
    order = (7, 2**33, 0)
    first = {i: make()[i] for i in order}
    source = make()  # asked in another order, after other questions
    for i in (1, *reversed(order)):
        for name, value in first.get(i, {}).items():
            np.testing.assert_array_equal(source[i][name], value)
    for other in (make()[1], make(seed=1)[0]):
        assert not np.array_equal(other["frames"], first[0]["frames"])


def test_images_come_as_videos_of_one_frame_with_their_caption(monkeypatch):
    monkeypatch.setitem(cutout.NUM_IMAGES, "train", 3)
    captions = {cutout.image_caption("train", i) for i in range(3)}
    few = captioned()
    for i in range(4):
        example = few[i]
        assert example["frames"].shape == (1, 48, 48, 3)
        assert example["frames"].dtype == np.uint8
        assert example["tokens"].astype(np.uint8).tobytes().rstrip(b"\0").decode() in captions


def test_captions_are_dropped_at_the_rate_asked_for(monkeypatch):
    monkeypatch.setattr(cutout, "image", lambda *_: np.zeros((48, 48, 3), np.uint8))
    source = captioned(caption_drop_prob=0.25)
    dropped = [not source[i]["tokens"].any() for i in range(1000)]
    assert abs(np.mean(dropped) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 1000)


@pytest.mark.parametrize("step", [0, 300, 1000, 5000])
def test_fps_curriculum_has_the_mean_of_its_beta(step):
    curriculum = sources.FpsCurriculum(start=(3.0, 1.0), end=(0.5, 1.5), num_steps=1000)
    a, b = {0: (3, 1), 300: (2.25, 1.15), 1000: (0.5, 1.5), 5000: (0.5, 1.5)}[step]
    rng = np.random.default_rng(0)
    fps = [curriculum.draw(step, rng) for _ in range(4000)]
    spread = 29 * np.sqrt(a * b / ((a + b) ** 2 * (a + b + 1)))
    assert abs(np.mean(fps) - (1 + 29 * a / (a + b))) < 4 * spread / np.sqrt(4000)
    assert 1 <= min(fps) <= max(fps) <= 30


def test_clips_follow_the_curriculum_by_the_step_that_uses_them():
    # Both ends have next to no spread: 24.2 fps first, 6.8 fps from step 50 on; 4 clips per step.
    curriculum = sources.FpsCurriculum((8e5, 2e5), (2e5, 8e5), 50)
    source = clips(NumberedFrames(), curriculum)
    assert source[0]["fps"] == pytest.approx(1 + 29 * 0.8, abs=0.1)
    assert source[100]["fps"] == pytest.approx(1 + 29 * 0.5, abs=0.1)
    assert source[200]["fps"] == pytest.approx(1 + 29 * 0.2, abs=0.1)


@pytest.mark.parametrize("native_fps", [30.0, 24.0])
def test_frames_of_a_clip_are_as_far_apart_as_its_fps_says(native_fps):
    source = clips(NumberedFrames(native_fps=native_fps), steady(0.7, 1.0))
    starts = set()
    for i in range(100):
        example = source[i]
        frames = numbers(example)
        wanted = np.arange(16) / example["fps"]  # seconds after the first
        late = (frames - frames[0]) / native_fps - wanted
        assert np.abs(late).max() <= 0.5 / native_fps + 1e-6  # half a native frame
        assert example["frames"].shape == (16, 48, 48, 3)
        assert len(np.unique(example["frames"][..., 2])) == 1  # of one video
        starts.add(frames[0])
    assert len(starts) > 50


def test_frames_of_a_variable_rate_are_the_nearest_in_time():
    class Uneven(NumberedFrames):
        def times(self):
            return np.cumsum(np.random.default_rng(0).choice([0.02, 0.05, 0.2], self.length))

    times = Uneven().times()
    for i in range(50):
        example = clips(Uneven(), steady(0.7, 1.0))[i]
        frames = numbers(example)
        wanted = times[frames[0]] + np.arange(16) / example["fps"]
        off = np.abs(times[frames] - wanted)
        np.testing.assert_allclose(off, np.abs(times[:, None] - wanted).min(0), atol=1e-6)


def test_a_short_video_limits_how_slow_a_clip_is():
    videos = NumberedFrames(length=40)
    slow = clips(videos, steady(1, 1e6))[0]
    assert slow["fps"] == pytest.approx(15 / (39 / 30))  # 15 steps in the 39/30 s that it lasts
    np.testing.assert_array_equal(numbers(slow)[[0, -1]], (0, 39))
    assert clips(NumberedFrames(length=480), steady(1, 1e6))[0]["fps"] == pytest.approx(1, abs=0.01)
    assert clips(videos, steady(1e6, 1))[0]["fps"] == pytest.approx(30, abs=0.01)


def test_clips_start_anywhere_they_fit():
    source = clips(NumberedFrames(length=18), steady(1e6, 1))  # 16 frames at 30 fps
    frames = np.array([numbers(source[i]) for i in range(60)])
    assert set(frames[:, 0]) == {0, 1, 2}
    assert set(frames[:, -1]) == {15, 16, 17}


def test_windows_stay_inside_and_fall_on_pixels():
    rng = np.random.default_rng(0)
    windows = np.array([sources.View(64, 61).draw_window(rng) for _ in range(400)])
    across, down, extent = windows.T
    for place in (across, down):  # in the three pixels of room
        assert set(np.round(place * 3, 9)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(extent, 61 / 64)
    assert sources.View(64, 61, "centre").draw_window(rng) == (0.5, 0.5, 61 / 64)
    assert sources.View(64, 64).draw_window(rng)[2] == 1


def test_some_pictures_are_mirrored():
    picture = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    view, rng = sources.View(2, 2, flip_prob=0.25), np.random.default_rng(0)
    seen = [view.look(rng, lambda size, window: picture) for _ in range(400)]
    flipped = [np.array_equal(frames, picture[:, :, ::-1]) for frames in seen]
    assert all(flip or np.array_equal(f, picture) for flip, f in zip(flipped, seen, strict=True))
    assert np.mean(flipped) == pytest.approx(0.25, abs=0.06)  # three deviations of 400


@pytest.mark.parametrize(
    ("view", "says"),
    [(dict(crop_at="top"), "crop_at='top' is unknown"), (dict(crop=65), "between 1 and size=64")],
)
def test_impossible_views_are_refused(view, says):
    with pytest.raises(ValueError, match=says):
        sources.View(**dict(size=64, crop=64) | view)


@pytest.mark.parametrize("kind", ["images", "videos"])
def test_a_config_makes_its_source(kind):
    config = dict(split="test", seed=3, batch_size=2, size=64, crop=32, caption_drop_prob=0.5)
    config |= {kind: "cutout", "stills": 0, "fps_start": [3.0, 1.0], "fps_end": [1.0, 1.0]}
    config |= dict(crop_at="random", flip_prob=0.0)
    source = sources.make(config, 4, 100, tokenizer)
    assert source[5]["frames"].shape == (1 if kind == "images" else 4, 32, 32, 3)
    assert source.view == sources.View(64, 32)


def test_held_stills_stand_in_for_clips_as_often_as_asked():
    config = dict(split="test", seed=3, batch_size=2, size=16, crop=16, crop_at="centre")
    config |= dict(flip_prob=0.0, fps_start=(1.0, 1.0), fps_end=(1.0, 1.0))
    config |= dict(videos="cutout", stills=2, stills_from="cutout", held_prob=0.5)
    source = sources.make(config, 3, 100, None)
    examples = [source[i] for i in range(64)]
    for example in examples:
        held = (example["frames"] == example["stills"][0]).all()
        assert held == (example["fps"] > 30)  # what moves is never told more than the native fps
    share = np.mean([example["fps"] == sources.HELD_FPS for example in examples])
    assert share == pytest.approx(0.5, abs=0.19)  # three deviations of 64

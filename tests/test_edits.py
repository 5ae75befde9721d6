"""Edits, by a cascade in miniature: what is given comes back, and the rest has its place."""

import numpy as np
import pytest
from PIL import Image

import tiny
from mav import cascade as cascade_lib
from mav import edits

QUIET = dict(progress=cascade_lib.silent)
SMALL = dict(QUIET, size=8)  # pixels, where the tiny decoder stops


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cascade")
    tiny.write(folder)
    return cascade_lib.load(folder)


def pictures(frames, height=8, width=8, seed=0):
    shape = (frames, height, width, 3)
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def middle(picture, size):
    """The square in the middle, by Pillow alone."""
    height, width = picture.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(picture).crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (24, 24), (31, 20), (9, 64), (5, 5)])
def test_an_animated_image_is_the_first_frame(cascade, height, width):
    image = pictures(1, height, width)[0]
    video = cascade.animate(image, seed=1, **SMALL)
    assert video.shape == (76, 8, 8, 3)
    np.testing.assert_array_equal(video[0], middle(image, 8))
    assert (video[1:] != video[0]).any((1, 2, 3)).all()


def test_edits_take_the_settings_and_the_seed(cascade):
    image = pictures(1)[0]
    animate = lambda **kw: cascade.animate(image, **{**SMALL, **kw})
    np.testing.assert_array_equal(animate(seed=3), animate(seed=3))
    assert (animate(seed=3) != animate(seed=4)).any()
    assert animate(size=32, frames=16).shape == (16, 32, 32, 3)
    assert animate(frames=100).shape == (100, 8, 8, 3)


@pytest.mark.parametrize("frames", [16, 76])
def test_between_two_images_both_ends_are_kept(cascade, frames):
    first, last = pictures(1)[0], pictures(1, seed=1)[0]
    video = cascade.tween(first, last, frames=frames, **SMALL)
    assert len(video) == frames
    np.testing.assert_array_equal(video[0], first)
    np.testing.assert_array_equal(video[-1], last)
    assert (video[1:-1] != last).any((1, 2, 3)).all()


def test_a_variation_is_told_of_all_frames_and_is_another_video(cascade):
    video = pictures(5, 12, 8)
    found = cascade.vary(video, seed=1, **SMALL)
    assert found.shape == (76, 8, 8, 3)
    np.testing.assert_array_equal(cascade.vary(video[::-1], seed=1, **SMALL), found)  # the mean
    assert (cascade.vary(video[:4], seed=1, **SMALL) != found).any()
    assert (cascade.vary(video, seed=2, **SMALL) != found).any()


@pytest.mark.parametrize("number", [1, 7, 40])
@pytest.mark.parametrize("seconds", [0.2, 1, 5.5])
def test_a_video_goes_on_or_begins_earlier(cascade, number, seconds):
    video = pictures(number)
    added = int(np.ceil(seconds * 15))
    extend = lambda before: cascade.extend(video, 15, seconds, before=before, **SMALL)
    after, before = extend(False), extend(True)
    assert len(after) == len(before) == number + added
    np.testing.assert_array_equal(after[:number], video)
    np.testing.assert_array_equal(before[-number:], video)
    assert (after[number:] != after[number - 1]).any((1, 2, 3)).all()
    assert (before[:added] != before[added]).any((1, 2, 3)).all()


def test_what_goes_on_comes_at_the_rate_of_the_cascade(cascade):
    video = pictures(30)
    found = cascade.extend(video, 30, 1.0, **SMALL)  # 3 fps, interpolated to 15
    assert len(found) == 15 + 15
    np.testing.assert_array_equal(found[:15], video[::2])


def test_between_smoothed_frames_are_new_ones(cascade):
    video = pictures(9)
    found = cascade.smooth(video, 6, frame_skip=3, **SMALL)
    assert found.shape == (8 * 3 + 1, 8, 8, 3)
    np.testing.assert_array_equal(found[::3], video)
    assert cascade.smooth(video[:2], 6, size=16, **QUIET).shape == (6, 16, 16, 3)


@pytest.mark.parametrize(
    ("side", "stages"), [(6, ["sr_256", "sr_768"]), (12, ["sr_256", "sr_768"]), (24, ["sr_768"])]
)
def test_a_video_is_enlarged_from_the_size_that_it_has(cascade, side, stages):
    seen = set()
    progress = lambda stage, *_: seen.add(stage)
    assert cascade.upscale(pictures(6, side, side), progress=progress).shape == (6, 32, 32, 3)
    assert sorted(seen) == stages


def test_frames_of_another_rate_are_the_nearest():
    video = np.arange(10, dtype=np.uint8)[:, None, None, None]
    at_rate = lambda fps, rate: edits.at_rate(video, fps, rate).ravel().tolist()
    assert at_rate(10, 10) == list(range(10))
    assert at_rate(10, 5) == [0, 2, 4, 6, 8]
    assert at_rate(10, 20) == [0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 6, 6, 7, 8, 8, 8, 9]
    assert at_rate(29.97, 15) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda c, v: edits.animate(c, v[0], frames=1), "frames=1 leaves nothing to fill in"),
        (lambda c, v: edits.animate(c, v[0], size=9), "size=9 is impossible"),
        (lambda c, v: edits.tween(c, v[0], v[1], frames=100), "frames=100 is impossible between"),
        (lambda c, v: edits.extend(c, v, 15, 0), "seconds=0 must be above 0"),
        (lambda c, v: edits.extend(c, v, 0, 1), "fps=0 must be above 0"),
        (lambda c, v: edits.smooth(c, v[:1], 15), "a video of 1 frame has nothing between"),
        (lambda c, v: edits.upscale(c, v, size=8), "size=8 needs no super-resolution"),
        (lambda c, v: edits.upscale(c, pictures(2, 40, 40)), "size=32 is no larger than the video"),
        (lambda c, v: edits.upscale(c, v[:0]), "the video has no frames"),
        (lambda c, v: edits.smooth(c, v[:0], 15), "the video has no frames"),
        (lambda c, v: edits.smooth(c, v, 15, frame_skip=0), "frame_skip=0 is impossible"),
        (lambda c, v: edits.extend(c, v, 15, np.inf), "seconds=inf must be above 0, and finite"),
        (lambda c, v: edits.vary(c, v, seed=-1), "seed=-1 is impossible; choose a whole number"),
        (lambda c, v: edits.vary(c, v, seed=2**32), "seed=4294967296 is impossible"),
    ],
)
def test_what_cannot_be_edited_is_refused_at_once(cascade, edit, says):
    with pytest.raises(ValueError, match=says):
        edit(cascade, pictures(4))

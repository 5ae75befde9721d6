import itertools

import numpy as np
import pytest

from mav import windows


def video(frames):
    return np.arange(frames, dtype=np.float32).reshape(1, frames, 1, 1, 1)


def pieces(frames, sizes):
    """A video of numbered frames in pieces of the given sizes, in turn."""
    first, i = 0, 0
    while first < frames:
        yield video(frames)[:, first : first + sizes[i % len(sizes)]]
        first, i = first + sizes[i % len(sizes)], i + 1


@pytest.mark.parametrize("frames", [1, 3, 8, 9, 13, 14, 40])
@pytest.mark.parametrize("sizes", [[100], [1], [3, 0, 7]])
@pytest.mark.parametrize("overlap", [0, 1, 3])
def test_windows_hold_all_frames_in_one_shape(frames, sizes, overlap):
    found = list(windows.cut(pieces(frames, sizes), 8, overlap))
    assert len(found) == windows.count(frames, 8, overlap)
    assert {window.shape[1] for window, _ in found} == {min(frames, 8)}
    assert [seen for _, seen in found[:-1]] == [0, *[overlap] * (len(found) - 2)][: len(found) - 1]
    new = np.concatenate([window[:, seen:] for window, seen in found], axis=1)
    np.testing.assert_array_equal(new, video(frames))
    for (last, _), (window, seen) in itertools.pairwise(found):
        assert seen >= overlap
        np.testing.assert_array_equal(window[:, :seen], last[:, 8 - seen :])


@pytest.mark.parametrize("frames", [1, 8, 9, 40])
def test_equal_windows_fade_into_the_same_video(frames):
    found = list(windows.fade(windows.cut(pieces(frames, [5]), 8, 3), 3))
    np.testing.assert_allclose(np.concatenate(found, axis=1), video(frames), rtol=1e-6)


def test_a_window_fades_into_the_next_evenly():
    shades = [(np.zeros((1, 8, 1, 1, 1)), 0), (np.ones((1, 8, 1, 1, 1)), 3)]
    found = np.concatenate(list(windows.fade(shades, 3)), axis=1).ravel()
    np.testing.assert_allclose(found, [0] * 5 + [0.25, 0.5, 0.75] + [1] * 5)


def test_the_first_frames_of_pieces():
    found = list(windows.take(pieces(40, [3, 5]), 9))
    np.testing.assert_array_equal(np.concatenate(found, axis=1), video(9))

import io
import itertools
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

import numbered
from mav.data import decode
from mav.data.readers import UnusableError


def steady(fps, count):
    return np.arange(count) / fps


def clips(path, size=64, **options):
    with decode.open_video(path) as video:
        return list(video.clips(size, **options))


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mp4", "mpeg4", "yuv420p"),
        ("a.mkv", "libx264", "yuv444p"),
        ("a.mkv", "ffv1", "yuv420p10le"),
        ("a.mkv", "libx265", "yuv420p10le"),
        ("a.webm", "libvpx", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.mov", "mjpeg", "yuvj420p"),
        ("a.ts", "mpeg2video", "yuv420p"),
        ("a.flv", "flv", "yuv420p"),
    ],
)
def test_frames_come_back_at_their_times(tmp_path, name, codec, pix_fmt):
    rate = 25 if codec == "mpeg2video" else 20  # MPEG-2 has a list of rates
    times = steady(rate, 30)
    path = tmp_path / name
    if codec in ("mpeg2video", "mpeg4", "flv"):  # of a constant rate
        constant_rate(path, codec, rate, 30)
    else:
        numbered.video(str(path), times, codec, pix_fmt=pix_fmt)
    (clip,) = clips(path)
    assert numbered.numbers(clip.frames) == list(range(30))
    np.testing.assert_allclose(clip.times, times, atol=1.1e-3)
    assert clip.fps == pytest.approx(rate, rel=0.01)


def constant_rate(path, codec, rate, count):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height = stream.width = 64
        stream.pix_fmt = "yuv420p"
        for i in range(count):
            picture = av.VideoFrame.from_ndarray(numbered.frame(i), format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p")))
        container.mux(stream.encode(None))


def test_avi_and_gif_too(tmp_path):
    constant_rate(tmp_path / "a.avi", "mpeg4", 25, 30)  # has no timestamps of its own
    (clip,) = clips(tmp_path / "a.avi")
    assert numbered.numbers(clip.frames) == list(range(30))
    np.testing.assert_allclose(clip.times, steady(25, 30), atol=1e-3)
    frames = [Image.fromarray(numbered.frame(i)) for i in range(20)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=40)
    (clip,) = clips(tmp_path / "a.gif")
    assert numbered.numbers(clip.frames) == list(range(20))
    np.testing.assert_allclose(clip.times, steady(25, 20), atol=1e-3)


def test_a_variable_rate_stays_what_it_is(tmp_path):
    gaps = np.random.default_rng(0).choice([0.02, 0.033, 0.05, 0.2, 1.0], 60)
    times = np.round(np.cumsum(gaps), 3) - 0.02
    found = clips(numbered.video(str(tmp_path / "a.mp4"), times))
    seen = np.concatenate([clip.start + clip.times for clip in found])
    np.testing.assert_allclose(seen, times - times[0], atol=1.1e-3)
    assert [n for clip in found for n in numbered.numbers(clip.frames)] == list(range(60))
    assert all(clip.times[0] == 0 and clip.times[-1] <= 20 for clip in found)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_phone_videos_come_upright(tmp_path, rotation):
    path = numbered.video(str(tmp_path / "a.mp4"), steady(20, 4), width=96, rotation=rotation)
    (clip,) = clips(path)
    wanted = np.rot90(numbered.frame(1, 64, 96), rotation // 90).astype(float)
    with Image.open(io.BytesIO(clip.frames[1])) as picture:
        assert np.abs(np.asarray(picture) - wanted).mean() < 12


@pytest.mark.parametrize(
    ("height", "width", "shape"),
    [(64, 96, (48, 72)), (90, 64, (68, 48)), (51, 67, (48, 63)), (48, 48, (48, 48))],
)
def test_the_shorter_side_becomes_the_size(tmp_path, height, width, shape):
    codec, pix_fmt = ("ffv1", "yuv444p") if height % 2 else ("libx264", "yuv420p")
    path = numbered.video(
        str(tmp_path / "a.mkv"), steady(20, 4), codec, height, width, pix_fmt=pix_fmt
    )
    (clip,) = clips(path, 48)
    with Image.open(io.BytesIO(clip.frames[3])) as picture:
        assert (picture.height, picture.width) == shape
    assert numbered.numbers(clip.frames) == [0, 1, 2, 3]


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    path = numbered.video(str(tmp_path / "a.mp4"), steady(20, 2), aspect=Fraction(3, 2))
    with decode.open_video(path) as video:
        assert (video.width, video.height) == (96, 64)
        _, frame = next(video.frames(64))
    assert frame.shape == (64, 96, 3)


def test_videos_are_cut_where_the_scene_changes(tmp_path):
    looks = [0] * 12 + [1] * 20 + [2] * 7
    found = clips(numbered.video(str(tmp_path / "a.mp4"), steady(20, 39), looks=looks))
    ends = np.cumsum([len(clip.frames) for clip in found])
    assert list(ends) == [12, 32, 39]
    assert [n for clip in found for n in numbered.numbers(clip.frames)] == list(range(39))
    assert found[-1].start == pytest.approx(32 / 20, abs=2e-3)


def test_long_scenes_and_gaps_are_cut(tmp_path):
    path = numbered.video(str(tmp_path / "a.mp4"), steady(4, 200))
    assert [len(clip.frames) for clip in clips(path)] == [81, 81, 38]
    path = numbered.video(str(tmp_path / "b.mp4"), [0, 0.1, 0.2, 5, 5.1])
    assert [len(clip.frames) for clip in clips(path)] == [3, 2]


@pytest.mark.parametrize(
    ("fps", "step"), [(1000, 19), (240, 5), (120, 3), (60, 2), (50, 1), (1, 1)]
)
def test_more_frames_than_thirty_a_second_are_thinned(tmp_path, fps, step):
    count = min(fps, 120) if fps > 1 else 10
    with decode.open_video(
        numbered.video(str(tmp_path / "a.mkv"), steady(fps, count), "ffv1")
    ) as video:
        found = [(time, numbered.number(frame)) for time, frame in video.frames(64)]
    assert {b - a for (_, a), (_, b) in itertools.pairwise(found)} == {step}
    for time, number in found:
        assert time == pytest.approx(number / fps, abs=1.1e-3)


def test_a_span_gives_its_frames_and_no_others(tmp_path):
    path = numbered.video(str(tmp_path / "a.mp4"), steady(20, 100), options=dict(g="30"))
    for start, end in ((0, 1), (1.75, 2.5), (4.0, 9.0)):
        (clip,) = clips(path, span=(start, end))
        wanted = [i for i in range(100) if start <= i / 20 < end]
        assert numbered.numbers(clip.frames) == wanted
        assert clip.start == pytest.approx(start, abs=1.1e-3)
    with pytest.raises(UnusableError, match="no frames"):
        clips(path, span=(50, 60))


def test_bytes_are_as_good_as_files(tmp_path):
    path = tmp_path / "a.webm"
    numbered.video(str(path), steady(20, 10), "libvpx")
    (file,), (memory,) = clips(path), clips(path.read_bytes())
    assert file.frames == memory.frames


def test_png_frames_are_exact(tmp_path):
    path = numbered.video(str(tmp_path / "a.mkv"), steady(20, 3), "ffv1", pix_fmt="bgr0")
    (clip,) = clips(path, encoding="png")
    for i, encoded in enumerate(clip.frames):
        np.testing.assert_array_equal(Image.open(io.BytesIO(encoded)), numbered.frame(i))


def test_motion_tells_stills_from_videos(tmp_path):
    moving = clips(numbered.video(str(tmp_path / "a.mp4"), steady(20, 20)))
    still = clips(numbered.video(str(tmp_path / "b.mp4"), [0.0]))
    assert still[0].motion == 0
    assert max(clip.motion for clip in moving) > 10


def test_copies_in_other_sizes_and_qualities_have_close_hashes(tmp_path):
    options = [dict(height=64, width=64), dict(height=128, width=128, options=dict(crf="35"))]
    hashes = []
    for i, option in enumerate(options):
        path = numbered.video(str(tmp_path / f"{i}.mp4"), steady(20, 9), **option)
        (clip,) = clips(path)
        hashes.append(clip.hash)
    (other,) = clips(numbered.video(str(tmp_path / "c.mp4"), steady(20, 9), first=300))
    assert (hashes[0] ^ hashes[1]).bit_count() <= 3
    assert (hashes[0] ^ other.hash).bit_count() > 3


# What is wrong with them.


def test_damage_is_told_by_kind(tmp_path):
    good = tmp_path / "good.mp4"
    numbered.video(str(good), steady(20, 60))
    content = good.read_bytes()
    numbered.sound(tmp_path / "sound.m4a")
    Image.new("RGB", (64, 64)).save(tmp_path / "one.png")
    with pytest.raises(UnusableError, match="not a video"):
        clips(b"")
    with pytest.raises(UnusableError, match="not a video"):
        clips(b"no video at all")
    with pytest.raises(UnusableError, match="not a video"):
        clips(content[: len(content) // 2])  # its index is at the end
    with pytest.raises(UnusableError, match="no video in it"):
        clips(tmp_path / "sound.m4a")


def test_absurd_dimensions_are_refused_before_decoding(tmp_path, monkeypatch):
    path = numbered.video(str(tmp_path / "a.mp4"), steady(20, 2))
    monkeypatch.setattr(decode, "MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(UnusableError, match="absurd dimensions"):
        clips(path)
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "png")
    with pytest.raises(UnusableError, match="absurd dimensions"):
        decode.read_picture(bomb.getvalue())


def test_sound_is_left_out(tmp_path):
    (clip,) = clips(numbered.video(str(tmp_path / "a.mp4"), steady(20, 10), sound=True))
    assert len(clip.frames) == 10


def test_pictures_come_upright_in_rgb_and_shrunk():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    buffer = io.BytesIO()
    Image.fromarray(numbered.frame(77, 90, 120)).save(buffer, "png", exif=exif)
    picture = decode.shrink(decode.read_picture(buffer.getvalue()), 45)
    assert picture.size == (45, 60)
    assert numbered.number(np.rot90(np.asarray(picture))) == 77
    for content in (b"", b"text", buffer.getvalue()[:200]):
        with pytest.raises(UnusableError, match=r"an image|damaged image"):
            decode.read_picture(content)

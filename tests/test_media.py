import io
import itertools
import pathlib
import time
import zipfile

import av
import numpy as np
import pytest
from PIL import Image, ImageFont, features

from mav import media


def moving_hills(frames=12, height=64, width=96):
    """A smooth video in full colour: three waves that travel."""
    f, y, x = np.meshgrid(*map(np.arange, (frames, height, width)), indexing="ij")
    waves = [np.sin((x + 2 * f) / 15), np.cos(y / 11 + f / 5), np.sin((x + y) / 23 - f / 7)]
    return np.rint(127.5 + 110 * np.stack(waves, axis=-1)).astype(np.uint8)


def few_colours(frames=12, height=32, width=48):
    """A square that moves over a plain field."""
    video = np.full((frames, height, width, 3), (30, 160, 60), np.uint8)
    for f in range(frames):
        video[f, 8:16, f : f + 8] = (220, 20, 10)
    return video


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2))


def psnr_of_step(step, gain=1.0):
    """The PSNR that rounding to multiples of `step` leaves; gain: error energy added afterwards."""
    return 10 * np.log10(255**2 / (gain * step**2 / 12))


# Of Y, U and V errors of one size, BT.709 to RGB makes 4 times the energy, averaged over R, G, B:
# 1.164**2 + (1.793**2 + 0.534**2 + 0.213**2 + 2.115**2) / 3. H.264 at QP 22 has steps of 8.
YUV_GAIN = 1.164**2 + (1.793**2 + 0.534**2 + 0.213**2 + 2.115**2) / 3
AT_LEAST = {
    "mp4": psnr_of_step(8, YUV_GAIN),  # 34.8 dB; read as BT.601 it is 26.8 dB
    "webp": psnr_of_step(8, YUV_GAIN),
    "gif": psnr_of_step(51),  # 24.8 dB: the 216 colours of old browsers, the same for each picture
}


@pytest.mark.parametrize("suffix", AT_LEAST)
def test_a_video_comes_back_close(tmp_path, suffix):
    video = moving_hills()
    media.write(tmp_path / f"hills.{suffix}", video, fps=15)
    back, fps = media.read(tmp_path / f"hills.{suffix}")
    assert back.shape == video.shape
    assert psnr(back, video) > AT_LEAST[suffix]
    assert fps == 15


@pytest.mark.parametrize("suffix", ["mp4", "webp", "gif"])
@pytest.mark.parametrize("fps", [3, 8, 12.5, 24, 30])
def test_fps_comes_back(tmp_path, suffix, fps):
    media.write(tmp_path / f"a.{suffix}", few_colours(16), fps=fps)
    back, fps_back = media.read(tmp_path / f"a.{suffix}")
    assert len(back) == 16
    assert fps_back == pytest.approx(fps, rel=0.01)  # a gif rounds to hundredths of a second


def test_the_rate_of_american_television_is_exact(tmp_path):
    media.write(tmp_path / "a.mp4", few_colours(4), fps=30000 / 1001)
    assert media.read(tmp_path / "a.mp4")[1] == 30000 / 1001


def test_a_gif_of_few_colours_is_exact(tmp_path):
    media.write(tmp_path / "a.gif", few_colours(), fps=10)
    np.testing.assert_array_equal(media.read(tmp_path / "a.gif")[0], few_colours())


@pytest.mark.parametrize("suffix", ["webp", "gif"])
def test_a_pause_keeps_its_length(tmp_path, suffix):
    moves = few_colours(5)
    video = moves[[0, 1, 2, 2, 2, 2, 3, 4, 4]]
    media.write(tmp_path / f"a.{suffix}", video, fps=15)
    back, fps = media.read(tmp_path / f"a.{suffix}")
    assert len(back) == len(video)
    assert fps == pytest.approx(15, rel=0.02)
    np.testing.assert_array_equal(back[3], back[5])
    assert (back[5] != back[6]).any()


@pytest.mark.parametrize("suffix", ["mp4", "webp", "gif"])
def test_a_video_of_one_frame_is_a_video(tmp_path, suffix):
    media.write(tmp_path / f"a.{suffix}", few_colours(1), fps=15)
    assert media.read(tmp_path / f"a.{suffix}")[0].shape == (1, 32, 48, 3)


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40)])
def test_mp4_stores_the_luma_of_bt709(tmp_path, colour):
    media.write(tmp_path / "a.mp4", np.full((2, 32, 32, 3), colour, np.uint8), fps=15)
    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0))
    luma = 16 + 219 * np.dot(colour, (0.2126, 0.7152, 0.0722)) / 255
    assert np.abs(frame.to_ndarray()[:32].astype(float) - luma).max() <= 1.5
    assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (1,) * 4


def test_mp4_plays_in_browsers(tmp_path):
    media.write(tmp_path / "a.mp4", moving_hills(), fps=15)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    data = (tmp_path / "a.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")  # the index before the frames


def test_chunks_make_the_same_file_as_the_whole(tmp_path):
    video = moving_hills()
    media.write(tmp_path / "whole.mp4", video, fps=15)
    media.write(tmp_path / "chunks.mp4", iter([video[:5], video[5], video[6:]]), fps=15)
    assert (tmp_path / "chunks.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_mp4_pads_odd_sides_with_their_last_row_and_column(tmp_path):
    video = moving_hills(4, 33, 47)
    media.write(tmp_path / "a.mp4", video, fps=15)
    back, _ = media.read(tmp_path / "a.mp4")
    assert (
        psnr(back, np.pad(video, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")) > AT_LEAST["mp4"]
    )


def test_reading_stops_at_max_frames(tmp_path):
    for name in ("a.mp4", "a.gif", "a.webp"):
        media.write(tmp_path / name, few_colours(), fps=10)
        whole, _ = media.read(tmp_path / name)
        back, fps = media.read(tmp_path / name, max_frames=5)
        np.testing.assert_array_equal(back, whole[:5])
        assert fps == 10


def test_a_phone_video_comes_upright(tmp_path):
    landscape = moving_hills(2, 32, 64)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=15, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(90)  # counter-clockwise
        for frame in landscape:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    back, _ = media.read(tmp_path / "a.mp4")
    assert psnr(back, np.rot90(landscape, axes=(1, 2))) > 30


@pytest.mark.parametrize("suffix", ["mp4", "gif", "webp", "npz"])
def test_an_interrupted_write_leaves_the_folder_as_it_was(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_text("the old file")

    def interrupted():
        yield moving_hills(4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        media.write(path, interrupted(), fps=15)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "the old file"


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "a.npz", "a"])
def test_a_video_of_no_frames_is_refused_and_leaves_nothing(tmp_path, name):
    with pytest.raises(ValueError, match="no frames"):
        media.write(tmp_path / name, [], fps=15)
    assert not list(tmp_path.iterdir())


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "file.png")
    media.write_image(tmp_path / "link.png", few_colours()[0])
    assert (tmp_path / "link.png").is_symlink()
    np.testing.assert_array_equal(media.read_image(tmp_path / "file.png"), few_colours()[0])


@pytest.mark.parametrize("suffix", ["mp4", "gif", "webp", "png", "jpg", "still.webp"])
def test_metadata_comes_back(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    metadata = {"title": "a “red” ball, 球", "seed": "7", "settings": '{"steps": 25}' * 40}
    if suffix in ("png", "jpg", "still.webp"):
        media.write_image(path, few_colours()[0], metadata)
        media.write_image(tmp_path / f"bare.{suffix}", few_colours()[0])
    else:
        media.write(path, few_colours(), 15, metadata)
        media.write(tmp_path / f"bare.{suffix}", few_colours(), 15)
    assert media.read_metadata(path) == metadata
    assert media.read_metadata(tmp_path / f"bare.{suffix}") == {}


def test_an_npz_holds_exactly_the_frames(tmp_path):
    metadata = {"prompt": "a “red” ball"}
    media.write(tmp_path / "a.npz", iter(moving_hills()), 15, metadata)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file.files == ["video"]
        assert file["video"].dtype == np.uint8
        np.testing.assert_array_equal(file["video"], moving_hills())
    assert media.read_metadata(tmp_path / "a.npz") == {**metadata, "fps": 15.0}
    video, fps = media.read(tmp_path / "a.npz", max_frames=5)
    np.testing.assert_array_equal(video, moving_hills()[:5])
    assert fps == 15


@pytest.mark.parametrize("array", [np.zeros((2, 8, 8, 3)), np.zeros((2, 8, 8, 3), np.uint8).T])
def test_an_npz_of_anything_but_frames_is_refused(tmp_path, array):
    np.savez(tmp_path / "a.npz", video=array)
    with pytest.raises(ValueError, match="not uint8 frames in RGB"):
        media.read(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", frames=array)
    with pytest.raises(ValueError, match="no array named video"):
        media.read(tmp_path / "a.npz")


def test_an_npz_that_promises_more_than_it_has_takes_no_memory_for_it(tmp_path):
    header = dict(descr="|u1", fortran_order=False, shape=(10**9, 64, 64, 3))
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w") as archive,
        archive.open("video.npy", "w") as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(64 * 64 * 3 + 5))
    with pytest.raises(ValueError, match=r"a\.npz"):
        media.read(tmp_path / "a.npz")


def test_a_folder_holds_exactly_the_frames(tmp_path):
    media.write(tmp_path / "a", moving_hills(), 15, {"prompt": "a ball"})
    paths = sorted((tmp_path / "a").iterdir())
    assert [path.name for path in paths] == [f"{i:05d}.png" for i in range(1, 13)]
    found = np.stack([np.asarray(Image.open(path)) for path in paths])
    np.testing.assert_array_equal(found, moving_hills())
    assert media.read_metadata(tmp_path / "a") == {"prompt": "a ball", "fps": 15.0}
    video, fps = media.read(tmp_path / "a")
    np.testing.assert_array_equal(video, moving_hills())
    assert fps == 15
    with pytest.raises(OSError, match="name a new folder"):
        media.check_writable(tmp_path / "a", media.MAX_FPS)


def test_pngs_of_any_name_come_in_order_if_the_first_says_how_fast(tmp_path):
    video = moving_hills(3)
    for name, frame in zip(("b.png", "c 2.PNG", "d.png"), video, strict=True):
        Image.fromarray(frame).save(tmp_path / name)
    (tmp_path / "a.txt").write_text("notes")
    with pytest.raises(
        ValueError, match="frames per second it has; convert it to an mp4 at the rate"
    ):
        media.read(tmp_path)
    assert media.read_metadata(tmp_path) == {}
    media.write_image(tmp_path / "b.png", video[0], {"fps": 12})
    back, fps = media.read(tmp_path)
    np.testing.assert_array_equal(back, video)
    assert fps == 12
    np.testing.assert_array_equal(media.read(tmp_path, max_frames=2)[0], video[:2])
    Image.fromarray(video[0, :32]).save(tmp_path / "e.png")
    with pytest.raises(ValueError, match="several sizes, 96 x 32, 96 x 64; make them of one"):
        media.read(tmp_path)


def test_an_npz_that_does_not_say_how_fast_it_is_gets_a_remedy(tmp_path):
    np.savez(tmp_path / "a.npz", video=few_colours())
    with pytest.raises(ValueError, match=r"a\.npz does not say .*; convert it to an mp4"):
        media.read(tmp_path / "a.npz")


@pytest.mark.parametrize("call", [media.read, media.read_metadata])
def test_a_folder_without_pngs_is_named(tmp_path, call):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty is a folder without PNGs"):
        call(tmp_path / "empty")


@pytest.mark.skipif(not pathlib.Path("/proc").is_dir(), reason="a folder of Linux")
def test_a_folder_that_takes_no_file_is_told_before_the_work():
    """Not even from root, whom `os.access` grants everything."""
    with pytest.raises(OSError, match=r"no file can be made in /proc .*choose another folder"):
        media.check_writable("/proc/a.mp4")


def test_an_interrupted_folder_is_gone(tmp_path):
    def interrupted():
        yield moving_hills(4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        media.write(tmp_path / "a", interrupted(), fps=15)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("height", "width"), [(768, 768), (64, 64), (20, 10)])
def test_a_mark_is_seen_in_its_corner_alone(height, width):
    for shade in (0, 128, 255):
        plain = np.full((2, height, width, 3), shade, np.uint8)
        marked = media.mark(plain)
        assert (plain == shade).all()
        assert marked.shape == plain.shape
        changed = np.argwhere((marked != plain).any((0, 3)))
        assert len(changed)
        if height > 32:
            assert (changed.min(0) > (0.7 * height, 0)).all()
            corner = marked[:, changed[:, 0], changed[:, 1]]
            assert corner.max() > 200  # letters
            assert corner.min() < 150  # their ground


@pytest.mark.parametrize("name", ["a.mp4", "a.webp"])
def test_a_square_is_cut_out_and_resized_while_reading(tmp_path, name):
    media.write(tmp_path / name, moving_hills(), 15)
    whole, _ = media.read(tmp_path / name)
    square, fps = media.read(tmp_path / name, square=32)
    assert fps == 15
    np.testing.assert_array_equal(square, media.resize(whole[:, :, 16:80], 32))
    np.testing.assert_array_equal(square, media.fit(whole, 32))


def test_sound_is_noticed(tmp_path):
    media.write(tmp_path / "silent.mp4", few_colours(), 15)
    with av.open(str(tmp_path / "loud.mp4"), "w") as container:
        video, sound = container.add_stream("mpeg4", rate=15), container.add_stream("aac", 44100)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        for frame in few_colours():
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
        noise = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        noise.sample_rate = 44100
        container.mux(sound.encode(noise))
        container.mux(sound.encode(None))
    assert media.has_sound(tmp_path / "loud.mp4")
    assert not media.has_sound(tmp_path / "silent.mp4")
    assert media.read(tmp_path / "loud.mp4")[0].shape == (12, 32, 48, 3)


def test_the_title_is_where_players_look_for_it(tmp_path):
    media.write(tmp_path / "a.mp4", few_colours(), 15, {"title": "a red ball"})
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.metadata["title"] == "a red ball"


def test_png_is_exact_and_the_others_are_close(tmp_path):
    image = moving_hills()[0]
    for name, at_least in (("a.png", np.inf), ("a.jpg", 40), ("a.webp", 38)):
        media.write_image(tmp_path / name, image)
        back = media.read_image(tmp_path / name)
        with np.errstate(divide="ignore"):
            assert psnr(back, image) >= at_least
        back[:] = 0  # may be changed in place


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda x: x),
        (2, np.fliplr),
        (3, lambda x: np.rot90(x, 2)),
        (6, lambda x: np.rot90(x, -1)),
        (8, lambda x: np.rot90(x, 1)),
    ],
)
def test_photos_come_upright(tmp_path, orientation, upright):
    image = moving_hills()[0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(media.read_image(tmp_path / "a.png"), upright(image))


def test_sixteen_bit_grey_keeps_its_whole_range(tmp_path):
    grey = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(grey).save(tmp_path / "a.png")
    image = media.read_image(tmp_path / "a.png")
    assert image.dtype == np.uint8
    expected = np.rint(255 * (grey.astype(float) / 65535)).astype(np.uint8)
    np.testing.assert_array_equal(image, np.stack([expected] * 3, axis=-1))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_grey_palette_and_print_colours_become_rgb(tmp_path, mode):
    stored = Image.fromarray(few_colours()[0]).convert(mode)
    stored.save(tmp_path / "a.tif")
    np.testing.assert_array_equal(
        media.read_image(tmp_path / "a.tif"), np.asarray(stored.convert("RGB"))
    )


def test_transparency_turns_white(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[0, :, 3], rgba[1, :, 3], rgba[2:, :, 3] = 0, 255, 51  # 51 is a fifth
    Image.fromarray(rgba).save(tmp_path / "a.png")
    image = media.read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image[0], np.full((4, 3), 255))
    np.testing.assert_array_equal(image[1], np.tile((200, 0, 0), (4, 1)))
    np.testing.assert_array_equal(image[3], np.tile((244, 204, 204), (4, 1)))


def test_uint8_survives_the_trip_through_floats():
    everything = np.arange(256, dtype=np.uint8)
    x = media.to_float(everything)
    assert x.dtype == np.float32
    assert (x.min(), x.max()) == (-1, 1)
    np.testing.assert_array_equal(media.to_uint8(x), everything)
    np.testing.assert_array_equal(media.to_uint8(np.array([-9.0, 9.0, 0.001])), [0, 255, 128])


def test_shrinking_by_box_is_the_mean():
    video = moving_hills(3, 16, 24)
    means = video.reshape(3, 4, 4, 6, 4, 3).mean(axis=(2, 4))
    shrunk = media.resize(video, (4, 6), "box").astype(float)
    assert np.abs(shrunk - means).max() <= 1  # Pillow rounds twice, after rows and after columns
    assert media.resize(video[0], 8).shape == (8, 8, 3)


def test_a_grid_holds_each_video_in_its_cell():
    videos = moving_hills(5 * 2, 8, 12).reshape(5, 2, 8, 12, 3)
    tiled = media.grid(videos, columns=2)
    assert tiled.shape == (2, 24, 24, 3)
    for index, (row, column) in enumerate(itertools.islice(itertools.product(range(3), (0, 1)), 5)):
        cell = tiled[:, 8 * row : 8 * row + 8, 12 * column : 12 * column + 12]
        np.testing.assert_array_equal(cell, videos[index])
    assert (tiled[:, 16:, 12:] == 255).all()
    assert media.grid(videos[:, 0]).shape == (16, 36, 3)


@pytest.mark.parametrize("number", [1, 2, 7, 8, 9, 100])
def test_glimpses_are_even_and_few(number):
    video = np.arange(number, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    glimpses = media.Glimpses(most=4, tile=4)
    for piece in np.array_split(video, 5):
        glimpses.append(piece)
    found = glimpses.frames()[:, 0, 0, 0].astype(int)
    assert found[0] == 0
    assert found[-1] == number - 1
    assert min(number, 4) <= len(found) <= 9
    assert len(set(np.diff(found[:-1]))) <= 1


def test_a_contact_sheet_shows_evenly_spaced_frames():
    video = moving_hills(13, 20, 30)
    sheet = media.contact_sheet(video, columns=4, frames=7, tile=20, margin=2)
    assert sheet.shape == (2 + 2 * 22, 2 + 4 * 32, 3)
    for index, frame in enumerate(video[::2]):
        top, left = 2 + 22 * (index // 4), 2 + 32 * (index % 4)
        np.testing.assert_array_equal(sheet[top : top + 20, left : left + 30], frame)


def test_a_label_stands_above_its_video_and_never_widens_the_sheet():
    videos = [moving_hills(2, 20, 30), moving_hills(9, 64, 64)]
    bare = media.contact_sheet(videos, columns=3)
    sheet = media.contact_sheet(videos, columns=3, labels=["a ball", "a long sentence, " * 30])
    assert sheet.shape[1] == bare.shape[1]
    assert (sheet[8:22] < 128).any()
    assert (sheet[:8] == 255).all()
    assert (sheet[:, -8:] == 255).all()


def test_a_label_of_any_length_is_cut_at_once_where_it_was_cut_letter_by_letter():
    text = "A tall ship, VAW, fjords. " * 8
    font, room = ImageFont.load_default(media.LABEL_SIZE), 4 * (192 + 8)
    cut, ending = text.strip(), ""
    while font.getlength(cut + ending) > room:
        cut, ending = cut[:-1], "..."
    assert 50 < len(cut) < 200
    sheet = lambda label: media.contact_sheet(moving_hills(4, 64, 64), labels=label)
    np.testing.assert_array_equal(sheet(text), sheet(cut + ending))
    start = time.process_time()
    np.testing.assert_array_equal(sheet(text * 500), sheet(cut + ending))  # 104,000 letters
    assert time.process_time() - start < 1


def test_what_fits_is_not_shortened():
    font = ImageFont.load_default(media.LABEL_SIZE)
    assert media.shortened("a ball", font.getlength("a ball"), font) == "a ball"
    assert media.shortened("a ball", font.getlength("a...") + 0.5, font) == "a..."
    assert media.shortened("a ball", 0, font) == "..."
    assert media.shortened("", 0, font) == ""


def cut_off_gif(path):
    media.write(path, moving_hills(), 15)
    return [path.read_bytes()[:length] for length in range(20, path.stat().st_size, 997)]


def garbled_npz(path):
    np.savez_compressed(path, video=moving_hills(2))
    whole = path.read_bytes()
    garbled = [whole[:at] + bytes([255] * 8) + whole[at + 8 :] for at in range(80, 4000, 401)]
    np.savez(path, video=moving_hills(2))
    return [*garbled, path.read_bytes().replace(b"(2, 64, 96, 3)", b"(2, 64, 96, 3 ")]


def mp4_of_an_unknown_codec(path):
    media.write(path, few_colours(), 15)
    return [path.read_bytes().replace(b"avc1", b"zzzz")]


@pytest.mark.parametrize(
    ("name", "damage", "raised"),
    [
        ("a.gif", cut_off_gif, "IndexError"),
        ("a.npz", garbled_npz, "error: Error -3 while decompressing"),
        ("a.npz", garbled_npz, "TokenError"),
        ("a.mp4", mp4_of_an_unknown_codec, "AttributeError"),
    ],
)
def test_damage_that_a_decoder_trips_over_is_one_line(tmp_path, name, damage, raised):
    said = []
    for data in damage(tmp_path / name):
        (tmp_path / name).write_bytes(data)
        try:
            media.read(tmp_path / name)
        except ValueError as error:
            said.append(str(error))
    assert all(name in line and "\n" not in line for line in said)
    assert any(f"{name} cannot be read as a video: damaged ({raised}" in line for line in said)


@pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without avif")
def test_a_damaged_avif_is_one_line(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(moving_hills()[0]).save(buffer, "avif")
    whole = buffer.getvalue()
    at = whole.index(b"mdat") + 4
    (tmp_path / "a.avif").write_bytes(whole[:at] + bytes(len(whole) - at))
    with pytest.raises(ValueError, match=r"a\.avif cannot be read as an image: damaged \(Runtime"):
        media.read_image(tmp_path / "a.avif")


@pytest.mark.parametrize("raised", [MemoryError, KeyboardInterrupt])
def test_what_is_no_fault_of_the_file_passes(tmp_path, monkeypatch, raised):
    def fail(image):
        raise raised

    media.write_image(tmp_path / "a.png", few_colours()[0])
    monkeypatch.setattr(media, "to_rgb", fail)
    with pytest.raises(raised):
        media.read_image(tmp_path / "a.png")


@pytest.mark.parametrize("said", ["7", "[" * 100_000])
def test_a_comment_that_is_no_dictionary_comes_as_it_is(tmp_path, said):
    text = Image.Exif()
    text[media.EXIF_DESCRIPTION] = said
    Image.fromarray(few_colours()[0]).save(tmp_path / "a.png", exif=text)
    assert media.read_metadata(tmp_path / "a.png") == {"comment": said}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda at: media.write(at / "a.avi", few_colours(), 15), r"end in \.mp4, \.gif, \.webp"),
        (lambda at: media.write(at / "a.mp4", few_colours() / 255, 15), "float64.*wanted uint8"),
        (lambda at: media.write(at / "a.mp4", few_colours(), 0), "fps=0 "),
        (lambda at: media.write(at / "a.gif", few_colours(), 60), r"fps=60 .*50\]"),
        (lambda at: media.write(at / "a.mp4", [few_colours(), moving_hills()], 15), "frame 12 is"),
        (lambda at: media.write(at / "no" / "a.mp4", few_colours(), 15), "create it first"),
        (lambda at: media.write_image(at / "a.png", few_colours()), r"\[12, 32, 48, 3\]"),
        (lambda at: media.write_image(at / "folder.png", few_colours()[0]), "not a file"),
        (lambda at: media.read(at / "photo.png"), r"end in \.mp4"),
        (lambda at: media.read(at / "absent.mp4"), "absent.mp4 does not exist"),
        (lambda at: media.read(at / "text.mp4"), "text.mp4 cannot be read as a video: Invalid"),
        (lambda at: media.read(at / "text.gif"), "text.gif cannot be read as a video: unknown"),
        (lambda at: media.read(at / "text.mp4", max_frames=0), "max_frames=0"),
        (lambda at: media.read(at / "text.mp4", square=0), "^square=0 must"),
        (lambda at: media.read_image(at / "text.png"), "text.png cannot be read as an image"),
        (lambda at: media.read_image(at / "half.png"), "half.png.*truncated"),
        (lambda at: media.to_uint8(few_colours()), "got uint8"),
        (lambda at: media.to_uint8(np.array([0, np.nan])), "1 NaN among 2"),
        (lambda at: media.to_float(np.zeros(3)), "got float64"),
        (lambda at: media.resize(few_colours(), 8, "cubic"), "nearest, box"),
        (lambda at: media.resize(few_colours(), 0), "size=0"),
        (lambda at: media.grid([few_colours(3), few_colours(4)]), "must be alike"),
        (lambda at: media.grid([]), "at least one"),
        (lambda at: media.contact_sheet(few_colours(), labels=["a", "b"]), "2 labels for 1"),
    ],
)
def test_bad_input_is_named_in_one_line(tmp_path, call, says):
    (tmp_path / "folder.png").mkdir()
    for name in ("text.mp4", "text.gif", "text.png"):
        (tmp_path / name).write_text("this is text, " * 100)
    media.write_image(tmp_path / "whole.png", moving_hills()[0])
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises((ValueError, OSError), match=says) as error:
        call(tmp_path)
    assert "\n" not in str(error.value)
    assert not [entry.name for entry in tmp_path.iterdir() if "unfinished" in entry.name]

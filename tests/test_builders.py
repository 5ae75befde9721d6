import io
import json
import pathlib
import pickle
import subprocess
import sys

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mav.data import builders, cutout, sources

LENGTH = 60  # frames of a video here, to be fast


@pytest.fixture(scope="module", autouse=True)
def short_videos():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutout, "VIDEO_FRAMES", LENGTH)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory, short_videos):
    directory = tmp_path_factory.mktemp("data")
    return dict(
        images=builders.build("cutout_images", directory, 6, 2, progress=False, processes=1),
        videos=builders.build("cutout_videos", directory, 3, 1, progress=False, processes=1),
    )


def tokenizer(texts):
    """Each text as the codes of its letters, padded."""
    return np.array([list(text.encode().ljust(80, b"\0")) for text in texts], np.int32)


class Few:
    """A source as short as a prepared data set."""

    def __init__(self, source, length):
        self.source, self.length = source, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.source[index]

    def __getattr__(self, name):
        return getattr(self.source, name)


def pipelines(images, videos, size, crop):
    """What is trained on, from captioned images and from videos."""
    curriculum = sources.FpsCurriculum((3.0, 1.0), (1.0, 1.0), 100)
    view = sources.View(size, crop)
    return (
        sources.Captioned(images, tokenizer, 0, view, caption_drop_prob=0.1),
        sources.Clips(videos, 0, 4, view, curriculum, batch_size=2),
    )


@pytest.fixture(scope="module")
def prepared(folders):
    return tuple(
        sources.open_source(kind, str(folders[kind]), "train") for kind in ("images", "videos")
    )


@pytest.mark.parametrize(("split", "number"), [("train", 6), ("test", 2)])
def test_stored_images_are_those_of_the_world(folders, split, number):
    stored = builders.ArrayRecordImages(folders["images"], split)
    assert len(stored) == number
    for i in range(number):
        np.testing.assert_array_equal(stored.image(i, 64), cutout.image(split, i, 64))
        assert stored.caption(i) == cutout.image_caption(split, i)


@pytest.mark.parametrize(("split", "number"), [("train", 3), ("test", 1)])
def test_stored_videos_are_those_of_the_world(folders, split, number):
    stored = builders.ArrayRecordVideos(folders["videos"], split)
    assert len(stored) == number
    for i, frames in zip(range(number), ([0, 59], [7, 7, 3], [41]), strict=False):
        np.testing.assert_array_equal(stored[i].times, np.arange(LENGTH) / cutout.NATIVE_FPS)
        np.testing.assert_array_equal(
            stored[i].show(frames, 64), cutout.video(split, i, frames, 64)
        )


def test_tfds_reads_images_with_what_is_in_them(folders):
    examples = tfds.builder_from_directory(folders["images"]).as_data_source("train")
    for i, example in enumerate(examples):
        scene, _ = cutout.image_scene("train", i)
        np.testing.assert_array_equal(example["image"], cutout.image("train", i, 64))
        assert example["setting"].decode() == scene.setting
        for name in ("object", "colour", "size", "place"):
            stored = [value.decode() for value in example["things"][name]]
            assert stored == [getattr(thing, name) for thing in scene.things]


def test_tfds_reads_whole_videos(folders):
    builder = tfds.builder_from_directory(folders["videos"])
    video = builder.as_data_source("test")[0]["frames"]
    np.testing.assert_array_equal(video[-1], cutout.video("test", 0, [LENGTH - 1], 64)[0])
    assert np.shape(video) == builder.info.features["frames"].shape == (LENGTH, 64, 64, 3)


def test_videos_hold_no_text(folders):
    features = tfds.builder_from_directory(folders["videos"]).info.features
    assert {name: type(feature).__name__ for name, feature in features.items()} == dict(
        frames="Sequence", fps="Scalar"
    )
    assert isinstance(features["frames"].feature, tfds.features.Image)
    record = tfds.builder_from_directory(folders["videos"]).as_data_source("train").data_source[0]
    for word in (*cutout.OBJECTS, *cutout.COLOURS, *cutout.SETTINGS):
        # Of three letters or four, PNG has some by chance.
        assert len(word) < 5 or word.encode() not in record


def test_a_window_shows_the_stored_pixels_or_their_means(prepared):
    images, videos = prepared
    whole = cutout.image("train", 1, 64).astype(float)
    window = images.image(1, 40, (5 / 24, 9 / 24, 40 / 64))
    np.testing.assert_array_equal(window, whole[9:49, 5:45])
    means = whole[8:40, 4:36].reshape(16, 2, 16, 2, 3).mean((1, 3))
    shown = videos[1].show([30], 16, (4 / 32, 8 / 32, 32 / 64))
    halved = images.image(1, 16, (4 / 32, 8 / 32, 32 / 64))
    assert np.abs(halved - means).max() <= 1  # Pillow rounds after each axis
    whole = cutout.video("train", 1, [30], 64).astype(float)
    means = whole[:, 8:40, 4:36].reshape(1, 16, 2, 16, 2, 3).mean((2, 4))
    assert np.abs(shown - means).max() <= 1


def test_a_window_moves_over_all_of_the_longer_side():
    wide = np.zeros((8, 20, 3), np.uint8)
    wide[:, :, 0] = np.arange(20)
    file = io.BytesIO()
    Image.fromarray(wide).save(file, "png")
    shown = lambda *window: builders._shown(file.getvalue(), 4, window)[0, :, 0].tolist()
    assert shown(0.0, 0.0, 0.5) == [0, 1, 2, 3]
    assert shown(1.0, 0.5, 0.5) == [16, 17, 18, 19]
    assert shown(0.5, 0.5, 1.0) == [7, 9, 11, 13]  # means of 6 and 7 to 12 and 13, to above


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_gives_the_pixels_that_pillow_reads(mode):
    drawn = np.random.default_rng(0).integers(256, size=(3, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(drawn).resize((60, 48), Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    picture.save(file, "jpeg")
    read = Image.open(file).convert("RGB")
    whole_height = builders._shown(file.getvalue(), 48, (0.5, 0, 1))
    np.testing.assert_array_equal(whole_height, read.crop((6, 0, 54, 48)))
    smaller = builders._shown(file.getvalue(), 16, (0, 0.5, 24 / 48))
    box = Image.Resampling.BOX
    np.testing.assert_array_equal(smaller, read.resize((16, 16), box, (0, 12, 24, 36)))


def test_more_pixels_than_are_stored_are_refused(prepared):
    with pytest.raises(ValueError, match="prepare the data set at size 128 or above"):
        prepared[0].image(0, 64, (0.0, 0.0, 0.5))
    with pytest.raises(ValueError, match="prepare the data set at size 256 or above"):
        prepared[1][0].show([0], 256)


@pytest.mark.parametrize("crop", [64, 48])
def test_training_sees_the_same_from_files_as_from_the_function(prepared, crop):
    drawn = Few(sources.CutoutImages("train"), 6), Few(sources.CutoutVideos("train"), 3)
    for stored, wanted in zip(
        pipelines(*prepared, 64, crop), pipelines(*drawn, 64, crop), strict=True
    ):
        for i in range(8):
            assert stored[i].keys() == wanted[i].keys()
            for name, value in wanted[i].items():
                if name != "frames" or crop == 64:
                    np.testing.assert_array_equal(stored[i][name], value)
                else:  # a window that is drawn differs by some rounding at edges
                    assert np.abs(stored[i][name].astype(float) - value).mean() < 0.5


@pytest.mark.parametrize("kind", [0, 1])
def test_a_resumed_iterator_gives_what_it_would_have_given(prepared, kind):
    def batches(source):
        return iter(
            grain.MapDataset.source(source)
            .to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
            .batch(2)
        )

    source = pipelines(*prepared, 64, 48)[kind]
    straight = batches(source)
    next(straight)
    state = json.loads(json.dumps(straight.get_state()))
    wanted = [next(straight) for _ in range(3)]
    resumed = batches(source)
    resumed.set_state(state)
    for want in wanted:
        got = next(resumed)
        for name, value in want.items():
            np.testing.assert_array_equal(got[name], value)


def test_sources_travel_to_worker_processes(prepared):
    images, videos = prepared
    images_copy, videos_copy = pickle.loads(pickle.dumps(prepared))
    np.testing.assert_array_equal(images_copy.image(1, 64), images.image(1, 64))
    np.testing.assert_array_equal(videos_copy[1].show([2], 64), videos[1].show([2], 64))


def test_several_processes_and_files_keep_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr(builders, "SHARD_PICTURES", 20)
    folder = builders.build("cutout_images", tmp_path, 50, 1, progress=False, processes=2)
    assert len(list(folder.glob("cutout_images-train.array_record-0000?-of-00003"))) == 3
    images = builders.ArrayRecordImages(folder, "train")
    assert [images.caption(i) for i in range(50)] == [
        cutout.image_caption("train", i) for i in range(50)
    ]


def test_nothing_is_left_of_a_build_that_failed(tmp_path, monkeypatch):
    def fail_at_4(split, index, size):
        if index == 4:
            raise KeyboardInterrupt
        return image(split, index, size)

    image = cutout.image
    monkeypatch.setattr(cutout, "image", fail_at_4)
    with pytest.raises(KeyboardInterrupt):
        builders.build("cutout_images", tmp_path, 6, 1, progress=False, processes=1)
    assert not list(tmp_path.rglob("*.array_record*"))
    assert not list(tmp_path.rglob("*1.0.0*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(name="cutout"), "choose from cutout_images, cutout_videos"),
        (dict(size=65), "choose from 64, 256, 768"),
        (dict(num_train=0), r"num_train=0 is outside 1\.\.1000000"),
        (dict(num_test=10_001), r"num_test=10001 is outside 1\.\.10000"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        builders.build(**dict(name="cutout_images", directory=tmp_path) | arguments)
    assert not list(tmp_path.iterdir())


def test_a_finished_data_set_is_not_built_over(folders):
    directory = folders["images"].parents[2]
    with pytest.raises(FileExistsError, match="remove it or choose another directory"):
        builders.build("cutout_images", directory, 7, 2)


def test_a_folder_that_cannot_be_read_is_named(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match="images='cutuot' is neither 'cutout' nor"):
        sources.open_source("images", "cutuot", "train")
    with pytest.raises(FileNotFoundError, match="mav data build cutout_videos DIR"):
        sources.open_source("videos", str(folders["videos"].parent), "train")
    with pytest.raises(ValueError, match="holds fps, frames; images need image, caption"):
        sources.open_source("images", str(folders["videos"]), "train")
    with pytest.raises(ValueError, match=r"split='valid' .* choose from train, test"):
        sources.open_source("images", str(folders["images"]), "valid")


def test_names_open_the_world_itself():
    assert sources.open_source("images", "cutout", "test") == sources.CutoutImages("test")
    assert sources.open_source("videos", "cutout", "train") == sources.CutoutVideos("train")


def test_neither_sources_nor_files_need_tensorflow(folders, tmp_path):
    script = f"""
import sys
from mav.data import sources
assert not {{"tensorflow_datasets", "grain", "tensorflow"}} & set(sys.modules)
from mav.data import builders
folder = builders.build("cutout_images", {str(tmp_path)!r}, 2, 1, processes=1)
images = sources.open_source("images", str(folder), "train")
videos = sources.open_source("videos", {str(folders["videos"])!r}, "train")
print(images.image(0, 64).shape, images.caption(1), videos[0].show([3], 64).shape)
assert "tensorflow" not in sys.modules
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parents[1],
    )
    assert result.returncode == 0, result.stderr
    assert cutout.image_caption("train", 1) in result.stdout
    assert "cutout_images: 100%" in result.stderr  # the bar

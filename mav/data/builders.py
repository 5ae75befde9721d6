"""TFDS builders of the cutout world, stored as array_record, and sources that read what they made.

    path = builders.build("cutout_images", "/data", num_train=10_000, num_test=1_000)
    images = builders.ArrayRecordImages(path, "train")  # or config.data.images = str(path)

Example i of a split is the cutout world's image or video i of that split, and record i of the
files. Pictures are stored as PNG, thus exactly; each frame of a video on its own, so that a clip
costs only the decoding of its frames. None of this needs TensorFlow.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import io
import multiprocessing
import os
import pathlib
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import simplejpeg
import tensorflow_datasets as tfds
from jaxtyping import Float64, UInt8
from PIL import Image
from tqdm.auto import tqdm

from mav.data import cutout, sources

# Builders.

SIZES = (64, 256, 768)  # pixels, of the stages
# TFDS holds the examples of a file in memory while it writes it: 0.6 GB at size 768.
SHARD_PICTURES = 10_000


@dataclasses.dataclass(eq=False)  # as its base is
class CutoutConfig(tfds.core.BuilderConfig):
    """size: side of the pictures in pixels."""

    size: int = 64


class CutoutBuilder(tfds.core.ShardBasedBuilder):
    """What both builders share.

    num_train, num_test: examples of the splits; None is the builder's NUM_TRAIN, NUM_TEST.

    Of TFDS's kinds of builders this one keeps the order of the examples and asks for no TensorFlow.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = tuple(
        CutoutConfig(name=str(size), size=size, description=f"{size} x {size} pixels")
        for size in SIZES
    )
    NUM_TRAIN: int  # examples of the splits, by default
    NUM_TEST: int
    AVAILABLE: dict[str, int]  # what the world has
    PICTURES: int  # of an example
    # Draws the examples; `build` puts one here that works in several processes.
    map_fn: Callable[[Callable, Iterable], Iterable] = map

    def __init__(self, *, num_train: int | None = None, num_test: int | None = None, **arguments):
        self.num_examples = dict(
            train=self.NUM_TRAIN if num_train is None else num_train,
            test=self.NUM_TEST if num_test is None else num_test,
        )
        for split, number in self.num_examples.items():
            if not 1 <= number <= self.AVAILABLE[split]:
                raise ValueError(
                    f"num_{split}={number} is outside 1..{self.AVAILABLE[split]}, which "
                    f"{self.name} has."
                )
        super().__init__(**arguments)

    def _shard_iterators_per_split(self, dl_manager) -> dict[str, list[Callable]]:
        length = max(1, SHARD_PICTURES // self.PICTURES)

        def shard(split: str, indices: range) -> Callable:
            example = functools.partial(type(self).example, split, self.builder_config.size)
            return functools.partial(_keyed, self.map_fn, example, indices)

        return {
            split: [shard(split, range(n)[start : start + length]) for start in range(0, n, length)]
            for split, n in self.num_examples.items()
        }


class CutoutImages(CutoutBuilder):
    """Captioned images of layered paper scenes, with what is in them."""

    NUM_TRAIN, NUM_TEST = 1000, 100  # 4 kB each at size 64, 18 kB at 256, 57 kB at 768
    AVAILABLE = cutout.NUM_IMAGES
    PICTURES = 1

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        text = tfds.features.Text
        features = dict(
            image=tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
            caption=text(),
            setting=text(),
            things=tfds.features.Sequence(
                dict(object=text(), colour=text(), size=text(), place=text())
            ),
        )
        return self.dataset_info_from_configs(
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("caption", "image"),
        )

    @staticmethod
    def example(split: str, size: int, index: int) -> dict[str, Any]:
        """Example `index` of a split."""
        scene, _ = cutout.image_scene(split, index)
        names = ("object", "colour", "size", "place")
        return dict(
            image=_png(cutout.image(split, index, size)),
            caption=cutout.image_caption(split, index),
            setting=scene.setting,
            things={name: [getattr(thing, name) for thing in scene.things] for name in names},
        )


class CutoutVideos(CutoutBuilder):
    """Silent videos of layered paper scenes. Nothing says what they show (MAV §3)."""

    NUM_TRAIN, NUM_TEST = 100, 10  # 1.6 MB each at size 64, 8 MB at 256, 27 MB at 768
    AVAILABLE = cutout.NUM_VIDEOS
    PICTURES = cutout.VIDEO_FRAMES

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        frame = tfds.features.Image(shape=(size, size, 3), encoding_format="png")
        features = dict(
            frames=tfds.features.Sequence(frame, length=cutout.VIDEO_FRAMES),
            fps=tfds.features.Scalar(np.float32),
        )
        return self.dataset_info_from_configs(
            description=type(self).__doc__, features=tfds.features.FeaturesDict(features)
        )

    @staticmethod
    def example(split: str, size: int, index: int) -> dict[str, Any]:
        """Example `index` of a split."""
        video = cutout.video(split, index, range(cutout.VIDEO_FRAMES), size)
        return dict(frames=[_png(frame) for frame in video], fps=np.float32(cutout.NATIVE_FPS))


BUILDERS = {builder.name: builder for builder in (CutoutImages, CutoutVideos)}


def build(
    name: str,
    directory: str | os.PathLike,
    num_train: int | None = None,
    num_test: int | None = None,
    size: int = 64,
    progress: bool = True,
    processes: int | None = None,
) -> pathlib.Path:
    """Prepares a data set and returns its folder, DIRECTORY/NAME/SIZE/VERSION.

    The folder appears whole or not at all. name: "cutout_images" or "cutout_videos". num_train,
    num_test: examples of the splits; None is the builder's small default. progress: draw a bar.
    processes: in which pictures are drawn (4 ms each at size 64, 480 of them in a video); 1 stays
    in this one, None takes up to one per core. Raises FileExistsError if the folder is there.
    """
    if name not in BUILDERS:
        raise ValueError(f"name={name!r} is unknown; choose from {', '.join(BUILDERS)}.")
    if size not in SIZES:
        raise ValueError(f"size={size} is unknown; choose from {', '.join(map(str, SIZES))}.")
    builder = BUILDERS[name](
        num_train=num_train, num_test=num_test, data_dir=directory, config=str(size)
    )
    folder = pathlib.Path(builder.data_dir)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; remove it or choose another directory.")
    total = sum(builder.num_examples.values())
    if processes is None:  # one takes 3 s to start, as long as 700 pictures take
        processes = min(os.cpu_count(), 1 + total * builder.PICTURES // 1500)
    with contextlib.ExitStack() as stack:
        draw = map
        if processes > 1:
            # New processes rather than copies of this one, in which JAX may have started threads.
            pool = concurrent.futures.ProcessPoolExecutor(
                processes,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=signal.signal,  # Ctrl-C is this process's to handle
                initargs=(signal.SIGINT, signal.SIG_IGN),
            )
            stack.callback(pool.shutdown, cancel_futures=True)
            draw = functools.partial(pool.map, chunksize=max(1, 16 // builder.PICTURES))
        bar = stack.enter_context(
            tqdm(total=total, desc=name, unit="example", disable=not progress)
        )

        def draw_and_count(function: Callable, indices: Iterable[int]) -> Iterator[Any]:
            for example in draw(function, indices):
                yield example
                bar.update()

        builder.map_fn = draw_and_count
        # TFDS says that it downloads, and makes a folder for that; it does not here.
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        downloads = stack.enter_context(tempfile.TemporaryDirectory())
        builder.download_and_prepare(file_format="array_record", download_dir=downloads)
    return folder


def _keyed(map_fn: Callable, function: Callable, indices: range) -> Iterator[tuple[int, Any]]:
    return zip(indices, map_fn(function, indices), strict=True)


def _png(picture: UInt8[np.ndarray, "h w 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()


# Sources.


class Encoded(tfds.decode.SkipDecoding):
    """Leaves pictures as the bytes that were stored, in sequences too."""

    def decode_batch_example_np(self, serialized_example):
        return serialized_example


class ArrayRecordImages:
    """`sources.ImageSource` of a prepared data set with the features image and caption.

    folder: with dataset_info.json in it, as ".../cutout_images/64/1.0.0".
    """

    def __init__(self, folder: str | os.PathLike, split: str):
        self.examples = open_examples(folder, split, "images", "image", "caption")

    def __len__(self) -> int:
        return len(self.examples)

    def caption(self, index: int) -> str:
        return read(self.examples, [index])[0]["caption"].decode()

    def image(
        self, index: int, size: int, window: tuple[float, float, float] = cutout.WHOLE
    ) -> UInt8[np.ndarray, "h w 3"]:
        return _shown(read(self.examples, [index])[0]["image"], size, window)


class ArrayRecordVideos:
    """`sources.VideoSource` of a prepared data set.

    folder: with dataset_info.json in it, as ".../cutout_videos/64/1.0.0". Its records have the
    features frames and fps, or times and first; then the frames are a data set in folder/frames.
    """

    def __init__(self, folder: str | os.PathLike, split: str):
        self.examples = open_examples(folder, split, "videos")
        held = self.examples.dataset_info.features
        self.stills = None
        if {"times", "first"} <= set(held):
            self.stills = open_examples(tfds.core.Path(folder) / "frames", split, "videos", "image")
        elif {"frames", "fps"} <= set(held):
            self.examples = open_examples(folder, split, "videos", "frames")
        else:
            raise ValueError(
                f"{folder} holds {', '.join(sorted(held))}; videos need frames and fps, or times "
                "and first."
            )

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> sources.Video:
        (example,) = read(self.examples, [index])
        times = video_times(example)
        return sources.Video(times, functools.partial(_show, self.encoded(example)))

    def encoded(self, example: Mapping[str, Any]) -> Callable[[Sequence[int]], list[bytes]]:
        """What gives a record's frames by their numbers, as they are stored."""
        if self.stills is None:
            return functools.partial(_pick, example["frames"])
        return functools.partial(_read_stills, self.stills, int(example["first"]))


def video_times(example: Mapping[str, Any]) -> Float64[np.ndarray, "n"]:
    """Seconds of a record's frames after the first."""
    if "times" in example:
        return example["times"].astype(np.float64)
    return np.arange(len(example["frames"])) / float(example["fps"])


def _pick(encoded: Sequence[bytes], frames: Sequence[int]) -> list[bytes]:
    return [encoded[frame] for frame in frames]


def _read_stills(stills: Sequence[dict], first: int, frames: Sequence[int]) -> list[bytes]:
    different = sorted(set(map(int, frames)))
    found = read(stills, [first + frame for frame in different])
    by_frame = {frame: still["image"] for frame, still in zip(different, found, strict=True)}
    return [by_frame[int(frame)] for frame in frames]


def _show(
    encoded: Callable[[Sequence[int]], list[bytes]],
    frames: Sequence[int],
    size: int,
    window: tuple[float, float, float] = cutout.WHOLE,
) -> UInt8[np.ndarray, "f h w 3"]:
    return np.stack([_shown(still, size, window) for still in encoded(frames)])


def open_examples(folder: str | os.PathLike, split: str, kind: str, *needed: str) -> Sequence[dict]:
    """The examples of a split by index, the first of the needed features left as it is stored.

    kind: "images" or "videos", for messages. Raises FileNotFoundError or ValueError if the folder
    is no prepared data set, or lacks a feature or the split."""
    if not (tfds.core.Path(folder) / "dataset_info.json").exists():
        raise FileNotFoundError(
            f"{kind}={str(folder)!r} is neither 'cutout' nor the folder of a prepared data set: it "
            f"has no dataset_info.json. Such folders end as cutout_{kind}/64/1.0.0; "
            f"`mav data build cutout_{kind} DIR` makes one, "
            f"and `mav data build {kind} SRC DIR` one of your own."
        )
    builder = tfds.builder_from_directory(folder)
    if not set(needed) <= set(builder.info.features):
        held = ", ".join(sorted(builder.info.features))
        raise ValueError(f"{folder} holds {held}; {kind} need {', '.join(needed)}.")
    if split not in builder.info.splits:
        raise ValueError(
            f"split={split!r} is not in {folder}; choose from {', '.join(builder.info.splits)}."
        )
    return builder.as_data_source(split, decoders={name: Encoded() for name in needed[:1]})


def read(examples: Sequence[dict], indices: Sequence[int]) -> list[dict]:
    """Some examples of `open_examples`. Raises `DamagedError`, naming a record."""
    try:
        return examples.__getitems__(list(indices))
    except (RuntimeError, IndexError) as error:  # a checksum is wrong, or the file ends before
        if len(indices) > 1:
            return [read(examples, [index])[0] for index in indices]
        what = f"{examples.dataset_info.data_dir}, split {examples.split}: record {indices[0]}"
        reason = str(error).partition("\n")[0]
        raise sources.DamagedError(f"{what} is damaged ({reason})") from error


def _shown(
    encoded: bytes, size: int, window: tuple[float, float, float]
) -> UInt8[np.ndarray, "h w 3"]:
    """A window of a stored picture at size x size: its pixels, or means of them.

    Its extent is that of the shorter side, and it moves over all of the longer one."""
    picture = _decode(encoded)
    sides = picture.shape[1::-1]
    *place, extent = window
    extent *= min(sides)
    if size > extent + 1e-6:
        raise ValueError(
            f"a window of {extent:g} x {extent:g} pixels of a stored picture cannot be shown at "
            f"size={size}; prepare the data set at size {round(size / window[2])} or above."
        )
    first = [round(share * (length - extent)) for share, length in zip(place, sides, strict=True)]
    if abs(extent - size) < 1e-6:
        left, top = first
        return picture[top : top + size, left : left + size]
    last = [min(a + extent, length) for a, length in zip(first, sides, strict=True)]
    means = Image.fromarray(picture).resize((size, size), Image.Resampling.BOX, (*first, *last))
    return np.array(means)


def _decode(encoded: bytes) -> UInt8[np.ndarray, "h w 3"]:
    if simplejpeg.is_jpeg(encoded):  # Pillow's pixels, in two thirds of its time
        return simplejpeg.decode_jpeg(encoded)
    return np.asarray(Image.open(io.BytesIO(encoded)))

"""Frames of videos with their true times, cut at scene changes and made small; and pictures.

    with decode.open_video("clip.mkv") as video:
        for clip in video.clips(size=64):
            print(clip.start, clip.times, len(clip.frames))

Times come from the container, so a variable frame rate stays what it was. Each frame is encoded on
its own: whoever reads a clip decodes the frames it shows and no others. Sound is not read.
"""

import contextlib
import dataclasses
import io
import pathlib
import warnings
from collections.abc import Callable, Iterator

import av
import cv2
import imagehash
import numpy as np
import scenedetect
from jaxtyping import Float64, UInt8
from PIL import Image, ImageOps
from scenedetect.detectors import ContentDetector

from mav import media as media_lib
from mav.data.readers import UnusableError

MAX_PIXELS = 2**25  # of a source frame: 8192 x 4096
# Clips are sampled at up to 30 fps (MAV §3.4): of frames closer than that the nearer will do. At
# 60 fps every second one is kept, though its times be rounded to 17 ms; at 50 all of them.
MIN_STEP = 1 / 55  # seconds
MAX_GAP = 1.5  # seconds between frames, after which a new clip begins
MAX_SECONDS = 20.0  # of a clip; 16 frames at 1 fps take 15
MAX_RECORD = 256 * 2**20  # bytes of a clip
QUALITY = 95  # of JPEG, with colours at full size


@dataclasses.dataclass(frozen=True)
class Clip:
    """Frames between two cuts.

    frames: encoded, shorter side `size`. start: of the first frame in the video, seconds. times: of
    the frames, seconds after the first. motion: how far grey levels go during the clip, mean over
    its pixels at 32 x 32; 0 is a still. hash: perceptual, 64 bits; alike for clips that look alike.
    """

    frames: list[bytes]
    start: float
    times: Float64[np.ndarray, "n"]
    motion: float
    hash: int

    @property
    def fps(self) -> float:
        """Mean frames per second; 0 of one frame."""
        return (len(self.times) - 1) / self.times[-1] if len(self.times) > 1 else 0.0


@dataclasses.dataclass(frozen=True)
class Video:
    """An open video. width, height: as shown, in pixels, before a rotation by quarters."""

    container: av.container.InputContainer
    stream: av.VideoStream
    width: int
    height: int

    def frames(
        self, size: int, span: tuple[float, float] | None = None
    ) -> Iterator[tuple[float, UInt8[np.ndarray, "h w 3"]]]:
        """Frames upright with their time in seconds after the start, shorter side `size`.

        span: (start, end) in seconds; frames at start <= time < end. Frames that are not later than
        the one before, or follow it within `MIN_STEP`, are left out. Raises UnusableError where
        the file is damaged.
        """
        short = min(self.width, self.height)
        shape = (round(self.width * size / short), round(self.height * size / short))
        start, end = span or (0.0, np.inf)
        last = -np.inf
        for time, frame in self._decoded(start):
            if time < start or time - last <= MIN_STEP:
                continue
            if time >= end:
                return
            if (frame.width, frame.height) != (self.stream.width, self.stream.height):
                raise UnusableError("frame size changes", f"at {time:.2f} s")
            last = time
            small = frame.reformat(*shape, format="rgb24", interpolation="LANCZOS")
            quarters = round(frame.rotation / 90)  # a phone stores how it was held
            yield time, np.ascontiguousarray(np.rot90(small.to_ndarray(), quarters))

    def _decoded(self, start: float) -> Iterator[tuple[float, av.VideoFrame]]:
        """All frames from the key frame before `start` on, with their times."""
        zero = self.stream.start_time or 0
        tick = self.stream.time_base
        time = 0.0
        try:
            if start > 0:
                self.container.seek(int(start / tick) + zero, stream=self.stream)
            for frame in self.container.decode(self.stream):
                ticks = frame.dts if frame.pts is None else frame.pts
                if ticks is None:
                    raise UnusableError("no timestamps")
                time = float((ticks - zero) * tick)
                if not frame.is_corrupt:
                    yield time, frame
        except (av.FFmpegError, MemoryError, ValueError) as error:
            what = getattr(error, "strerror", None) or str(error)
            raise UnusableError("damaged video", f"{what} after {time:.2f} s") from error

    def clips(
        self,
        size: int,
        span: tuple[float, float] | None = None,
        encoding: str = "jpeg",
    ) -> Iterator[Clip]:
        """The frames in clips: cut at scene changes, at gaps, and where they get too long.

        Scene changes are found by PySceneDetect's content detector at its usual threshold. Raises
        UnusableError as `frames` does, after the clips before the damage, and if there are none.
        """
        detector = ContentDetector(min_scene_len=0)
        encoder = ENCODERS[encoding]
        clip = _OpenClip()
        number = 0
        for number, (time, frame) in enumerate(self.frames(size, span), 1):
            moment = scenedetect.FrameTimecode(number, fps=30.0)  # only the order matters
            cut = bool(detector.process_frame(moment, frame[..., ::-1]))
            if clip.times and (cut or clip.is_full(time)):
                yield clip.close()
                clip = _OpenClip()
            clip.append(time, frame, encoder)
        if not number:
            raise UnusableError("no frames")
        yield clip.close()


class _OpenClip:
    """A clip that grows."""

    def __init__(self):
        self.frames: list[bytes] = []
        self.times: list[float] = []
        self.bytes = 0
        self.low, self.high = np.inf, -np.inf

    def is_full(self, time: float) -> bool:
        """Whether a frame at this time belongs to another clip."""
        gap, length = time - self.times[-1], time - self.times[0]
        return gap > MAX_GAP or length > MAX_SECONDS or self.bytes > MAX_RECORD

    def append(self, time: float, frame: UInt8[np.ndarray, "h w 3"], encoder: Callable) -> None:
        self.times.append(time)
        self.frames.append(encoder(frame))
        self.bytes += len(self.frames[-1])
        grey = cv2.resize(
            cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA
        )
        self.low, self.high = np.minimum(self.low, grey), np.maximum(self.high, grey)

    def close(self) -> Clip:
        spread = np.mean(self.high - self.low)
        times = np.array(self.times) - self.times[0]
        chosen = np.linspace(0, len(self.frames) - 1, 4).round().astype(int)
        sheet = Image.new("L", (128, 128))
        for corner, index in enumerate(chosen):
            frame = Image.open(io.BytesIO(self.frames[index])).convert("L").resize((64, 64))
            sheet.paste(frame, (64 * (corner % 2), 64 * (corner // 2)))
        return Clip(self.frames, self.times[0], times, float(spread), perceptual_hash(sheet))


@contextlib.contextmanager
def open_video(media: bytes | pathlib.Path) -> Iterator[Video]:
    """Opens a video of any container and codec that FFmpeg knows.

    Raises UnusableError if it is none, holds no pictures, or is absurdly large.
    """
    file = io.BytesIO(media) if isinstance(media, bytes) else str(media)
    try:
        container = av.open(file, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise UnusableError("unreadable file", error.strerror or "") from error
        what = getattr(error, "strerror", None) or str(error)
        raise UnusableError("not a video", what) from error
    with container:
        # A song's cover is a picture, not a video.
        covers = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & covers]
        if not streams:
            raise UnusableError("no video in it", "only sound" if container.streams.audio else "")
        stream = streams[0]
        stream.thread_count = 1  # more can hang inside a worker (PyAV#1962)
        if not stream.width or not stream.height:
            raise UnusableError("not a video", "its size is unknown")
        if stream.width * stream.height > MAX_PIXELS:
            size = f"{stream.width} x {stream.height}"
            raise UnusableError("absurd dimensions", f"{size}, allowed are {MAX_PIXELS} pixels")
        wide = float(stream.sample_aspect_ratio or 1)  # pixels need not be square
        wide = wide if 0.1 < wide < 10 else 1.0
        yield Video(container, stream, round(stream.width * wide), stream.height)


def read_picture(encoded: bytes) -> Image.Image:
    """A picture of any format that Pillow knows, upright, in RGB, on white where it is transparent.

    Raises UnusableError if it is none, is damaged, or is absurdly large.
    """
    try:
        with warnings.catch_warnings():  # Pillow's own limit is higher
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(encoded))
        with image:
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width} x {image.height}"
                raise UnusableError("absurd dimensions", f"{size}, allowed are {MAX_PIXELS} pixels")
            return Image.fromarray(media_lib.to_rgb(ImageOps.exif_transpose(image)))
    except Image.UnidentifiedImageError as error:
        raise UnusableError("not an image", "unknown format") from error
    except Image.DecompressionBombError as error:
        raise UnusableError("absurd dimensions", str(error)) from error
    except (OSError, SyntaxError, EOFError, ValueError) as error:
        raise UnusableError("damaged image", str(error)) from error


def shrink(image: Image.Image, size: int) -> Image.Image:
    """Resizes to a shorter side of `size` pixels."""
    short = min(image.size)
    shape = tuple(round(side * size / short) for side in image.size)
    return image.resize(shape, Image.Resampling.LANCZOS)


def perceptual_hash(image: Image.Image) -> int:
    """64 bits that say what a picture looks like, whatever its size and quality (pHash)."""
    return int(str(imagehash.phash(image)), 16)


def encode_jpeg(picture: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """As JPEG of quality `QUALITY`."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "jpeg", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


def encode_png(picture: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """As PNG, thus exactly."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()


ENCODERS = dict(jpeg=encode_jpeg, png=encode_png)

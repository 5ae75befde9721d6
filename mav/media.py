"""Reads and writes videos and images (mp4, gif, webp, png, npz), and lays frames out on sheets.

Files and screens hold uint8, networks hold float32 in [-1, 1] (`to_float`, `to_uint8`). A video is
[frames, height, width, 3], an image [height, width, 3].
"""

import bisect
import contextlib
import itertools
import json
import math
import os
import pathlib
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps, PngImagePlugin

PathLike = str | os.PathLike[str]
Video = UInt8[np.ndarray, "f h w 3"]
Picture = UInt8[np.ndarray, "h w 3"]
Metadata = Mapping[str, Any]  # what JSON can hold

# Fastest rates a file can hold: a gif counts hundredths of a second, and viewers slow down 1/100.
# No ending is a folder of PNGs.
MAX_FPS = {".mp4": 240, ".gif": 50, ".webp": 240, ".npz": math.inf, "": math.inf}
STILLS = (".png", ".jpg", ".jpeg", ".webp")
CONTAINERS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")  # read through FFmpeg
ANIMATIONS = (".gif", ".webp")  # read through Pillow
STILL = "{:05d}.png"  # frames of a video in a folder, from 1 on
EXIF_DESCRIPTION = 0x010E
LABEL_SIZE = 14  # pixels


# Numbers.


def to_float(x: UInt8[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Maps 0..255 to float32 in [-1, 1]."""
    x = np.asarray(x)
    if x.dtype != np.uint8:
        raise ValueError(f"to_float got {x.dtype} {list(x.shape)}; wanted uint8.")
    return x.astype(np.float32) / 127.5 - 1


def to_uint8(x: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Maps [-1, 1] to 0..255, rounded to the nearest; values outside are clipped.

    Raises ValueError for integers and for NaN."""
    x = np.asarray(x)
    if np.issubdtype(x.dtype, np.integer) or x.dtype == bool:
        raise ValueError(f"to_uint8 got {x.dtype} {list(x.shape)}; wanted floats in [-1, 1].")
    x = np.array(x, np.float32)  # one copy, then in place: 76 x 768 x 768 frames are 0.5 GB
    if np.isnan(x).any():
        raise ValueError(f"to_uint8 got {np.isnan(x).sum()} NaN among {x.size} values.")
    np.clip(x, -1, 1, out=x)
    x += 1
    x *= 127.5
    return np.rint(x, out=x).astype(np.uint8)


def resize(
    x: UInt8[np.ndarray, "... h w 3"], size: int | tuple[int, int], method: str = "lanczos"
) -> UInt8[np.ndarray, "... height width 3"]:
    """Resizes an image or each frame of a video; smooths before it shrinks.

    size: (height, width), or one number for both. method: nearest, box, bilinear, bicubic,
    lanczos."""
    x = _check_frames("resize", x, ndims=(3, 4, 5))
    methods = ("nearest", "box", "bilinear", "bicubic", "lanczos")
    if method not in methods:
        raise ValueError(f"method={method!r} is not one of {', '.join(methods)}.")
    height, width = size if isinstance(size, Sequence) else (size, size)
    if height < 1 or width < 1:
        raise ValueError(f"size={size} must be positive: (height, width) or one number.")
    if x.shape[-3:-1] == (height, width):
        return x
    resampling = Image.Resampling[method.upper()]
    frames = x.reshape(-1, *x.shape[-3:])
    resized = [Image.fromarray(frame).resize((width, height), resampling) for frame in frames]
    return np.stack(resized).reshape(*x.shape[:-3], height, width, 3)


def fit(frames: Video, size: int) -> UInt8[np.ndarray, "f size size 3"]:
    """The square in the middle of each frame, at size x size pixels."""
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(frames[:, top : top + side, left : left + side], size)


# Writing.


def check_writable(path: PathLike, kinds: Iterable[str] | None = None) -> pathlib.Path:
    """The file that would be written, links followed. Raises OSError if nothing can be.

    kinds: raises ValueError unless the name ends in one of these, such as `STILLS` or `MAX_FPS`.
    """
    if kinds is not None:
        suffix = _check_suffix(pathlib.Path(path), kinds, "write")
        if not suffix and os.path.exists(path):
            raise OSError(f"cannot write {path}: it exists; name a new folder, or a file.")
    path = pathlib.Path(os.path.realpath(path))  # a link stays, what it points to is replaced
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"cannot write {path}: no folder {folder}; create it first.")
    if path.exists() and not path.is_file():
        raise OSError(f"cannot write {path}: it is not a file; choose another name.")
    try:
        with tempfile.TemporaryFile(dir=folder):  # asking for permission says yes to root anywhere
            pass
    except OSError as error:
        reason = f"no file can be made in {folder} ({error.strerror}); choose another folder."
        raise OSError(f"cannot write {path}: {reason}") from error
    return path


@contextlib.contextmanager
def written_aside(path: PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`, which takes its place only if the body succeeds.

    The temporary file is removed if the body raises. Raises OSError, before the body runs, if
    nothing can be written there."""
    path = check_writable(path)
    folder = path.parent
    aside = folder / f".{secrets.token_hex(6)}.unfinished{path.suffix}"
    try:
        yield aside
        os.replace(aside, path)
    except BaseException:  # Ctrl-C too
        if aside.is_dir():
            shutil.rmtree(aside)
        aside.unlink(missing_ok=True)
        raise


class VideoWriter:
    """Writes a video as its frames come; the file appears when the `with` block ends well.

        with media.VideoWriter("ball.mp4", fps=15) as writer:
            for frames in chunks:
                writer.append(frames)

    path: .mp4 (H.264, 4:2:0, BT.709), .gif (256 colours per frame), .webp (quality 90), .npz (one
    uint8 array "video", exact), or a new folder, without an ending, for frames as PNG. H.264 needs
    even sides: an odd one repeats its last row or column. An mp4 holds a few dozen frames in
    memory; gif and webp hold all of them until the end, at 1 and 4 bytes per pixel.
    metadata: kept in the file, see `read_metadata`; an mp4 also shows its "title".
    """

    def __init__(self, path: PathLike, fps: float, metadata: Metadata | None = None):
        self.path = pathlib.Path(path)
        self.suffix = _check_suffix(self.path, MAX_FPS, "write a video")
        self.fps = float(fps)
        if not 0 < self.fps <= MAX_FPS[self.suffix]:
            raise ValueError(
                f"fps={fps} is outside (0, {MAX_FPS[self.suffix]}], which a {self.suffix} can hold."
            )
        self.metadata = metadata or {}
        self.shape: tuple[int, ...] | None = None  # of a frame, set by the first
        self.frames = 0

    def append(self, frames: Video | Picture):
        """Adds one frame or several, uint8, all of one size."""
        frames = _check_frames(str(self.path), frames)
        frames = frames[None] if frames.ndim == 3 else frames
        self.shape = self.shape or frames.shape[1:]
        if frames.shape[1:] != self.shape:
            raise ValueError(
                f"{self.path}: frame {self.frames} is {list(frames.shape[1:])}, the first was "
                f"{list(self.shape)}; frames of one video have one size."
            )
        for frame in frames:
            self._add(frame)
            self.frames += 1

    def __enter__(self):
        encoder = {".mp4": _mp4, ".npz": _npz, "": _stills}.get(self.suffix, _animation)
        with contextlib.ExitStack() as stack:
            aside = stack.enter_context(written_aside(self.path))
            self._add = stack.enter_context(encoder(aside, self.fps, self.metadata))
            stack.push(self._check_not_empty)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def _check_not_empty(self, error, *_):
        if error is None and not self.frames:
            raise ValueError(f"{self.path}: no frames were given; a video has at least one.")


def write(
    path: PathLike,
    video: Video | Iterable[np.ndarray],
    fps: float,
    metadata: Metadata | None = None,
):
    """Writes a video, or an iterator of frames or chunks, as `VideoWriter` does."""
    with VideoWriter(path, fps, metadata) as writer:
        for frames in [video] if hasattr(video, "ndim") else video:
            writer.append(frames)


def write_image(path: PathLike, image: Picture, metadata: Metadata | None = None):
    """Writes png (exact), jpg (quality 95) or webp (quality 90)."""
    path = pathlib.Path(path)
    suffix = _check_suffix(path, STILLS, "write an image")
    image = _check_frames(str(path), image, ndims=(3,))
    if suffix == ".png":
        options: dict[str, Any] = dict(pnginfo=PngImagePlugin.PngInfo())
        if metadata:
            options["pnginfo"].add_text("Comment", json.dumps(metadata))
    elif suffix == ".webp":
        options = dict(quality=90, exif=_exif(metadata))
    else:
        options = dict(quality=95, subsampling=0)
        if metadata:
            options["comment"] = json.dumps(metadata).encode()
    with written_aside(path) as aside:
        Image.fromarray(image).save(aside, **options)


@contextlib.contextmanager
def _mp4(path: pathlib.Path, fps: float, metadata: dict) -> Iterator[Callable]:
    """Yields a function that encodes one frame."""
    # faststart: the index comes first, so a browser plays before it has the whole file.
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        if metadata:
            container.metadata["comment"] = json.dumps(metadata)
        if "title" in metadata:
            container.metadata["title"] = str(metadata["title"])
        stream: Any = None
        index = itertools.count()

        def add(frame: Picture):
            nonlocal stream
            height, width, _ = frame.shape
            if height % 2 or width % 2:
                frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            stream = stream or _h264(container, fps, *frame.shape[:2])
            encoded = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            encoded = encoded.reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
            )
            encoded.pts = next(index)
            container.mux(stream.encode(encoded))

        yield add
        container.mux(stream.encode(None))


def _h264(container, fps: float, height: int, width: int):
    """Adds a stream that browsers and QuickTime play."""
    options = {"preset": "veryfast", "crf": "18"}
    if width % 128:
        # x264's macroblock tree works on 128 pixels at a time and reads past the end of other rows:
        # the same frames then give another file now and then. Without it 64x64 files are 1.4 times
        # as big.
        options["x264-params"] = "no-mbtree=1"
    rate = Fraction(fps).limit_denominator(1001)  # television's is 30000/1001
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    # Untagged, a player may take BT.601: other greens and reds. 1 is BT.709, and 16..235.
    tags = stream.codec_context
    tags.colorspace = tags.color_primaries = tags.color_trc = tags.color_range = 1
    return stream


@contextlib.contextmanager
def _animation(path: pathlib.Path, fps: float, metadata: dict) -> Iterator[Callable]:
    """Yields a function that keeps one frame; Pillow writes them all at the end."""
    gif = path.suffix.lower() == ".gif"
    if gif:
        options = dict(optimize=False, comment=json.dumps(metadata) if metadata else "")
    else:
        options = dict(quality=90, method=2, exif=_exif(metadata))
    frames = []

    def add(frame: Picture):
        image = Image.fromarray(frame)
        frames.append(image.quantize(256) if gif else image)

    yield add
    # Rounded ends, not rounded lengths: 15 fps in a gif is 70, 60, 70, ... ms and stays 15 fps.
    tick = 10 if gif else 1  # ms
    ends = [tick * round(1000 / tick * i / fps) for i in range(len(frames) + 1)]
    durations = np.diff(ends).tolist()
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=durations, loop=0, **options
    )


@contextlib.contextmanager
def _npz(path: pathlib.Path, fps: float, metadata: Metadata) -> Iterator[Callable]:
    """Yields a function that keeps one frame on disk; how many there are is known at the end."""
    shapes = []
    with tempfile.TemporaryFile(dir=path.parent) as raw:

        def add(frame: Picture):
            raw.write(np.ascontiguousarray(frame).data)
            shapes.append(frame.shape)

        yield add
        raw.seek(0)
        with zipfile.ZipFile(path, "w") as archive:
            archive.comment = json.dumps(dict(metadata, fps=fps)).encode()
            with archive.open("video.npy", "w", force_zip64=True) as file:
                header = dict(descr="|u1", fortran_order=False, shape=(len(shapes), *shapes[0]))
                np.lib.format.write_array_header_1_0(file, header)
                shutil.copyfileobj(raw, file, 2**20)


@contextlib.contextmanager
def _stills(path: pathlib.Path, fps: float, metadata: Metadata) -> Iterator[Callable]:
    """Yields a function that writes one PNG; the first holds the metadata."""
    path.mkdir()
    index = itertools.count(1)

    def add(frame: Picture):
        i = next(index)
        write_image(path / STILL.format(i), frame, dict(metadata, fps=fps) if i == 1 else None)

    yield add


def mark(frames: Video, text: str = "AI-generated") -> Video:
    """The frames with a line in the lower right corner that says what they are."""
    _, height, width, _ = frames.shape
    size = max(8, height // 28)
    font = ImageFont.load_default(size)
    right, bottom = (round(x) for x in font.getbbox(text)[2:])
    room = size // 2
    label = Image.new("L", (right + 2 * room, bottom + 2 * room))
    ImageDraw.Draw(label).text((room, room), text, font=font, fill=255)
    letters = np.asarray(label)[-height:, -width:, None] / 255  # cut where a small frame ends
    marked = frames.copy()
    corner = marked[:, -letters.shape[0] :, -letters.shape[1] :]
    corner[:] = np.rint(corner * 0.5 * (1 - letters) + 255 * letters)
    return marked


def _exif(metadata: Metadata | None) -> bytes:
    if not metadata:
        return b""
    exif = Image.Exif()
    exif[EXIF_DESCRIPTION] = json.dumps(metadata)  # a webp has no comment
    return exif.tobytes()


# Reading.


def read(
    path: PathLike, max_frames: int | None = None, square: int | None = None
) -> tuple[Video, float]:
    """Reads a video's frames and its frames per second.

    path: mp4, m4v, mov, mkv, webm, avi, gif or webp, what `write` made as npz, or a folder of PNGs,
    which come in the order of their names. Phone videos come upright, without sound. A gif or webp
    whose frames last unequally long comes at a constant rate, the long ones repeated; transparency
    turns white. Of other files of variable rate each frame comes once, as if all lasted their mean.
    max_frames: stop after so many; None reads all. square: keeps no more of a frame than the square
    in its middle, in so many pixels, as `fit`; None keeps all.

    Raises FileNotFoundError, and ValueError for a file that is damaged, has frames of several sizes
    or does not say its frames per second; of a folder the first PNG says it, if `write` made it.
    """
    path = pathlib.Path(path)
    suffix = _check_suffix(path, (*CONTAINERS, *ANIMATIONS, ".npz", ""), "read a video")
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames={max_frames} must be at least 1, or None for all.")
    if square is not None and square < 1:
        raise ValueError(f"square={square} must be at least 1, or None to keep all of a frame.")
    readers = {".npz": _read_npz, "": _read_stills} | dict.fromkeys(ANIMATIONS, _read_animation)
    read_frames = readers.get(suffix, _read_container)
    with _readable(path, "a video"):
        keep = (lambda x: x) if square is None else (lambda x: fit(x[None], square)[0])
        frames, fps = read_frames(path, max_frames, keep)
    if not frames:
        raise ValueError(f"{path} holds no frames.")
    sizes = sorted({(frame.shape[1], frame.shape[0]) for frame in frames})
    if len(sizes) > 1:
        found = ", ".join(f"{width} x {height}" for width, height in sizes[:4])
        raise ValueError(f"{path} has frames of several sizes, {found}; make them of one size.")
    return np.stack(frames[:max_frames]), fps


def read_image(path: PathLike) -> Picture:
    """Reads an image upright (EXIF), on white where it is transparent, grey as equal channels.

    Sixteen bits become eight by rounding. Of an animation it is the first frame."""
    path = pathlib.Path(path)
    with _readable(path, "an image"), Image.open(path) as image:
        return to_rgb(ImageOps.exif_transpose(image))


def has_sound(path: PathLike) -> bool:
    """Whether a video has sound, which `read` leaves out."""
    path = pathlib.Path(path)
    if path.suffix.lower() not in CONTAINERS:
        return False
    with _readable(path, "a video"), av.open(str(path)) as container:
        return bool(container.streams.audio)


def read_metadata(path: PathLike) -> dict[str, Any]:
    """Returns the metadata that `write` or `write_image` was given.

    Of another program's file it is {"comment": ...} if there is one, else {}."""
    path = pathlib.Path(path)
    path = _stills_in(path)[0] if path.is_dir() else path
    with _readable(path, "a video or an image"):
        if path.suffix.lower() in CONTAINERS:
            with av.open(str(path)) as container:
                comment = container.metadata.get("comment", "")
        elif path.suffix.lower() == ".npz":
            with zipfile.ZipFile(path) as archive:
                comment = archive.comment
        else:
            with Image.open(path) as image:
                comment = image.info.get("comment") or image.info.get("Comment")
                comment = comment or image.getexif().get(EXIF_DESCRIPTION, "")
    if isinstance(comment, bytes):
        comment = comment.decode("utf-8", "replace")
    try:
        metadata = json.loads(comment)
    except (ValueError, TypeError, RecursionError):  # EXIF may hold a number, text a pit of "[[[["
        metadata = comment
    if isinstance(metadata, dict):
        return metadata
    return {"comment": comment} if comment else {}


def _read_container(
    path: pathlib.Path, max_frames: int | None, keep: Callable
) -> tuple[list[Picture], float]:
    """Frames and their mean rate: a variable one is not made constant."""
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError(f"{path} has no video in it.")
        stream = container.streams.video[0]
        if stream.width * stream.height > Image.MAX_IMAGE_PIXELS:
            raise ValueError(f"{path} has frames of {stream.width} x {stream.height} pixels.")
        stream.codec_context.thread_count = 1  # more can hang inside a data worker (PyAV#1962)
        fps = _known_fps(path, stream.average_rate or stream.guessed_rate)
        frames = []
        for frame in container.decode(stream):
            quarters = round(frame.rotation / 90)  # a phone stores how it was held
            frames.append(keep(np.rot90(frame.to_ndarray(format="rgb24"), quarters)))
            if len(frames) == max_frames:
                break
    return frames, fps


def _read_animation(
    path: pathlib.Path, max_frames: int | None, keep: Callable
) -> tuple[list[Picture], float]:
    stills, delays = [], []  # delays in ms
    with Image.open(path) as image:
        held = getattr(image, "n_frames", 1)
        for index in range(min(held, max_frames or held)):
            image.seek(index)
            stills.append(keep(to_rgb(image)))
            delays.append(image.info.get("duration") or 100)  # browsers show 0 as 100
    # Writers merge equal neighbours into one longer frame and round delays: the shortest ones
    # together say how long one frame is.
    frame_ms = np.mean([delay for delay in delays if delay < 1.5 * min(delays)])
    copies = [max(1, round(delay / frame_ms)) for delay in delays]
    fps = 1000 * sum(copies) / sum(delays)
    if abs(1000 * sum(copies) / max(round(fps), 1) - sum(delays)) <= 5:  # ms, half a gif's tick
        fps = round(fps)
    return [still for still, n in zip(stills, copies, strict=True) for _ in range(n)], float(fps)


def _read_npz(
    path: pathlib.Path, max_frames: int | None, keep: Callable
) -> tuple[list[Picture], float]:
    frames = []
    with zipfile.ZipFile(path) as archive:
        if "video.npy" not in archive.namelist():
            raise ValueError(f"{path} holds no array named video.")
        with archive.open("video.npy") as file:  # frame by frame: headers may promise anything
            np.lib.format.read_magic(file)
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
            if by_columns or dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3:
                raise ValueError(f"{path} holds {dtype} {list(shape)}, not uint8 frames in RGB.")
            if math.prod(shape[1:3]) > Image.MAX_IMAGE_PIXELS:
                raise ValueError(f"{path} has frames of {shape[2]} x {shape[1]} pixels.")
            for _ in range(min(shape[0], max_frames or shape[0])):
                pixels = np.frombuffer(file.read(math.prod(shape[1:])), np.uint8)
                frames.append(keep(pixels.reshape(shape[1:])))
    return frames, _known_fps(path, read_metadata(path).get("fps"))


def _read_stills(
    path: pathlib.Path, max_frames: int | None, keep: Callable
) -> tuple[list[Picture], float]:
    fps = _known_fps(path, read_metadata(path).get("fps"))
    return [keep(read_image(name)) for name in _stills_in(path)[:max_frames]], fps


def _stills_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """Its PNGs in the order of their names; the first holds the metadata if `write` made them."""
    stills = sorted(name for name in folder.iterdir() if name.suffix.lower() == ".png")
    if not stills:
        raise ValueError(f"{folder} is a folder without PNGs; name one that holds frames.")
    return stills


def _known_fps(path: pathlib.Path, fps: Any) -> float:
    if not fps:
        raise ValueError(
            f"{path} does not say how many frames per second it has; convert it to an mp4 at the "
            "rate that it has, and give that."
        )
    return float(fps)


def to_rgb(image: Image.Image) -> Picture:
    """What an image shows, on white where it is transparent, 16 bits rounded to 8.

    Raises ValueError for pixels that are floating-point numbers."""
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips it at 255
        grey = np.rint(np.clip(np.asarray(image), 0, 65535) / 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


@contextlib.contextmanager
def _readable(path: pathlib.Path, what: str):
    """Turns what the libraries say about a bad file into one line that names it."""
    if not path.is_file() and (path.suffix or not path.is_dir()):
        raise FileNotFoundError(f"{path} does not exist or is not a file.")
    try:
        yield
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{path} cannot be read as {what}: unknown format.") from error
    except av.error.FFmpegError as error:
        raise ValueError(f"{path} cannot be read as {what}: {error.strerror}.") from error
    except (
        OSError, SyntaxError, EOFError, ValueError, zipfile.BadZipFile, Image.DecompressionBombError
    ) as error:  # fmt: skip
        message = str(error) if str(path) in str(error) else f"{path}: {_one_line(error)}"
        raise ValueError(message) from error
    except MemoryError:
        raise
    except Exception as error:  # decoders trip over damage in ways that none of them lists
        reason = f"damaged ({type(error).__name__}: {_one_line(error)})"
        raise ValueError(f"{path} cannot be read as {what}: {reason}.") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# Sheets.


def grid(
    videos: UInt8[np.ndarray, "n *f h w 3"] | Sequence[np.ndarray], columns: int | None = None
) -> UInt8[np.ndarray, "*f height width 3"]:
    """Tiles videos (or images) of one size into one, row by row; cells left over are white.

    columns: None makes the grid about square."""
    videos = list(videos)
    if not videos:
        raise ValueError("grid got no videos; it needs at least one.")
    shapes = {np.shape(video) for video in videos}
    if len(shapes) > 1:
        raise ValueError(
            f"grid got videos of shapes {sorted(map(list, shapes))}; they must be alike."
        )
    videos = [_check_frames("grid", video) for video in videos]
    columns = math.ceil(math.sqrt(len(videos))) if columns is None else columns
    if columns < 1:
        raise ValueError(f"columns={columns} must be at least 1.")
    videos += [np.full_like(videos[0], 255)] * (-len(videos) % columns)
    return rearrange(np.stack(videos), "(r c) ... h w rgb -> ... (r h) (c w) rgb", c=columns)


class Glimpses:
    """Evenly spaced small frames of a video that comes in pieces, however long it gets."""

    def __init__(self, most: int = 64, tile: int = 192):
        self.most, self.tile = most, tile
        self.kept: list[Picture] = []
        self.last: Picture | None = None
        self.stride, self.count = 1, 0

    def append(self, frames: Video):
        """Adds frames. Twice as many as are wanted are thinned to every other one."""
        for frame in frames:
            self.last = frame
            if self.count % self.stride == 0:
                self.kept.append(resize(frame, self.tile))
            self.count += 1
            if len(self.kept) == 2 * self.most:
                self.kept, self.stride = self.kept[::2], 2 * self.stride

    def frames(self) -> Video:
        """Those that were kept, and the last."""
        last = [] if (self.count - 1) % self.stride == 0 else [resize(self.last, self.tile)]
        return np.stack([*self.kept, *last])


def contact_sheet(
    videos: Video | Sequence[Video],
    columns: int = 4,
    frames: int | None = None,
    labels: str | Sequence[str] | None = None,
    tile: int = 192,
    margin: int = 8,
) -> Picture:
    """Lays evenly spaced frames, first and last included, of one or several videos on white.

    videos: sizes and lengths may differ. columns: frames per row. frames: frames shown of each
    video, in as many rows as it takes; None is one row; a shorter video shows all it has.
    labels: a line above each video; what does not fit is cut. tile: height of a frame on the sheet
    in pixels, as margin."""
    videos = [videos] if getattr(videos, "ndim", 0) == 4 else list(videos)
    labels = [labels] if isinstance(labels, str) else labels
    if not videos:
        raise ValueError("contact_sheet got no videos; it needs at least one.")
    if labels is not None and len(labels) != len(videos):
        raise ValueError(f"contact_sheet got {len(labels)} labels for {len(videos)} videos.")
    if min(columns, columns if frames is None else frames, tile) < 1:
        raise ValueError(
            f"columns={columns}, frames={frames}, tile={tile} must each be at least 1."
        )
    lines, tiles = [], []  # (top, text) and (top, left, frame)
    top = margin
    for index, video in enumerate(videos):
        video = _check_frames("contact_sheet", video)
        video = video[None] if video.ndim == 3 else video
        _, height, width, _ = video.shape
        count = min(len(video), frames or columns)
        chosen = video[np.linspace(0, len(video) - 1, count).round().astype(int)]
        chosen = resize(chosen, (tile, max(1, round(tile * width / height))))
        if labels is not None:
            lines.append((top, " ".join(labels[index].split())))
            top += 2 * LABEL_SIZE
        for start in range(0, count, columns):
            for column, frame in enumerate(chosen[start : start + columns]):
                tiles.append((top, margin + column * (frame.shape[1] + margin), frame))
            top += tile + margin

    right = max(left + frame.shape[1] for _, left, frame in tiles)
    sheet = np.full((top, right + margin, 3), 255, np.uint8)
    for top, left, frame in tiles:
        sheet[top : top + frame.shape[0], left : left + frame.shape[1]] = frame
    sheet = Image.fromarray(sheet)
    font = ImageFont.load_default(LABEL_SIZE)
    for top, text in lines:
        text = shortened(text, right - margin, font)
        ImageDraw.Draw(sheet).text((margin, top), text, fill="#282828", font=font)
    return np.array(sheet)


def shortened(text: str, room: float, font: ImageFont.FreeTypeFont) -> str:
    """The text, or as much of it as leaves room for "..." after it. room: in pixels."""
    if font.getlength(text) <= room:
        return text
    # A beginning is the wider the longer it is: bisection measures it 20 times, not 100,000.
    too_wide = lambda length: font.getlength(text[:length] + "...") > room
    return text[: max(0, bisect.bisect(range(len(text)), False, key=too_wide) - 1)] + "..."


# Checks.


def _check_frames(name: str, frames, ndims: tuple[int, ...] = (3, 4)) -> np.ndarray:
    x = np.asarray(frames)
    if x.dtype != np.uint8 or x.ndim not in ndims or x.shape[-1] != 3 or 0 in x.shape:
        raise ValueError(
            f"{name}: got {x.dtype} {list(x.shape)}; wanted uint8 [frames, height, width, 3] or "
            "[height, width, 3] (media.to_uint8 makes it of floats in [-1, 1])."
        )
    return x


def _check_suffix(path: pathlib.Path, allowed: Iterable[str], purpose: str) -> str:
    suffix = path.suffix.lower()
    if suffix not in allowed:
        endings = ", ".join(filter(None, allowed))
        raise ValueError(f"cannot {purpose} as {path.name!r}: the name must end in {endings}.")
    return suffix

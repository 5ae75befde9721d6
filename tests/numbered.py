"""Small videos whose frames show their number, in any container and codec of FFmpeg."""

import io
from fractions import Fraction

import av
import numpy as np
from PIL import Image

BITS = 9


def frame(number, height=64, width=64, look=0):
    """Three by three cells that spell a number: darker than what is around them, or lighter.

    look: another one is another scene, for a detector of cuts; another number is not."""
    colours = np.array([(90, 110, 130), (20, 160, 60), (50, 40, 180)], np.uint8)
    picture = np.broadcast_to(colours[look], (height, width, 3)).copy()
    for bit in range(BITS):
        top, left, side = cell(bit, height, width)
        shade = 1.25 if number >> bit & 1 else 0.75
        rows = slice(round(top), round(top + side))
        picture[rows, round(left) : round(left + side)] = colours[look] * shade
    return picture


def cell(bit, height, width):
    """Top, left and side of a cell, in pixels."""
    side = min(height, width) / 4
    top, left = (height - 3 * side) / 2, (width - 3 * side) / 2
    return top + bit // 3 * side, left + bit % 3 * side, side


def number(picture):
    """Reads the number back, at any size."""
    found = 0
    for bit in range(BITS):
        top, left, side = cell(bit, *picture.shape[:2])
        shade = picture[int(top + side / 2), int(left + side / 2)].mean()
        found |= int(shade > picture[:2, :2].mean()) << bit
    return found


def numbers(frames):
    """Of encoded frames."""
    return [number(np.asarray(Image.open(io.BytesIO(encoded)))) for encoded in frames]


def video(
    path,
    times,
    codec="libx264",
    height=64,
    width=64,
    pix_fmt="yuv420p",
    looks=None,
    rotation=0,
    aspect=None,
    sound=False,
    format=None,
    first=0,
    options=None,
):
    """Writes frames with these times in seconds. path: or a file object, with its format."""
    looks = [0] * len(times) if looks is None else looks
    with av.open(path, "w", format=format) as container:
        stream = container.add_stream(codec, rate=Fraction(1000), options=options or {})
        stream.height, stream.width, stream.pix_fmt = height, width, pix_fmt
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if sound:
            voice = container.add_stream("aac", rate=48000, layout="mono")
        for i, (time, look) in enumerate(zip(times, looks, strict=True), first):
            picture = av.VideoFrame.from_ndarray(frame(i, height, width, look), format="rgb24")
            picture = picture.reformat(format=pix_fmt)
            picture.pts, picture.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if sound:
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            samples.sample_rate, samples.pts = 48000, 0
            container.mux(voice.encode(samples))
            container.mux(voice.encode(None))
    return path


def sound(path):
    """Writes a second of silence."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        for i in range(40):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            samples.sample_rate, samples.pts = 48000, 1024 * i
            container.mux(stream.encode(samples))
        container.mux(stream.encode(None))
    return path

import io
import tarfile
import time

import numpy as np
import pytest

import numbered
from mav.data import decode, readers
from test_prepare import picture

SECONDS = 20  # of all mutations of one kind


def mutated(content, rng):
    """The content with some bytes changed, cut off, doubled or left out."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 20)):
        at = int(rng.integers(len(content)))
        kind = rng.integers(4)
        if kind == 0:
            content[at] = rng.integers(256)
        elif kind == 1:
            content[at : at + 4] = rng.bytes(4)
        elif kind == 2:
            del content[at : at + int(rng.integers(64))]
        else:
            content[at:at] = content[at : at + int(rng.integers(64))]
    if rng.random() < 0.2:
        del content[int(rng.integers(len(content))) :]
    return bytes(content) or b"x"


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.avi", "a.png", "a.jpg", "a.tar"])
def test_whatever_a_file_holds_is_read_or_refused_in_time(tmp_path, name):
    path = tmp_path / name
    if name.endswith(("png", "jpg")):
        path.write_bytes(picture(0))
        if name.endswith("jpg"):
            path.write_bytes(decode.encode_jpeg(numbered.frame(5)))
    elif name.endswith("tar"):
        with tarfile.open(path, "w") as tar:
            for i in range(3):
                for suffix, content in ((".png", picture(i)), (".txt", b"a caption")):
                    info = tarfile.TarInfo(f"{i}{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    else:
        codec = dict(mp4="libx264", webm="libvpx", avi="mjpeg")[name[2:]]
        pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        numbered.video(str(path), np.arange(12) / 20, codec, pix_fmt=pix_fmt)
    content, rng, start = path.read_bytes(), np.random.default_rng(0), time.monotonic()
    refused = 0
    for _ in range(60):
        try:
            read(tmp_path, name, mutated(content, rng))
        except readers.UnusableError:
            refused += 1
        if time.monotonic() - start > SECONDS:
            pytest.fail("too slow")
    assert refused > 0 or name == "a.tar"


def read(folder, name, content):
    if name.endswith("tar"):
        (folder / name).write_bytes(content)
        source = readers.open_source("images", folder / name)
        return [item for shard in source.shards() for item in source.read(shard)]
    if name.endswith(("png", "jpg")):
        return decode.read_picture(content)
    with decode.open_video(content) as video:
        return list(video.clips(32))

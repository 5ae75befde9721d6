"""The cascade that ships with mav draws what it drew when it was exported.

`python tests/test_shipped.py` stores its pictures anew, after a training.
"""

import pathlib
import shutil
import subprocess
import sys
import tomllib
import zipfile

import numpy as np
import pytest
from PIL import Image

from mav import cascade as cascade_lib
from mav import media

ROOT = pathlib.Path(__file__).parent.parent
STORED = pathlib.Path(__file__).parent / "reference" / "shipped"
PROMPT, SEED = "a red ball over a green meadow", 0
FRAMES = [0, 7, 40, 75]


def draw(name):
    """Frames of a short video, with a keyframe and interpolated ones, or a whole picture."""
    cascade = cascade_lib.load("cutout")
    # One candidate: of two that are equally good another processor may choose the other.
    quick = dict(
        steps=dict(decoder=4, interpolation=2, sr_256=1, sr_768=1),
        candidates=dict(prior=1, decoder=1),
    )
    if name == "video":
        video = cascade.text_to_video(PROMPT, SEED, cascade_lib.silent, size=64, **quick)
        assert video.shape == (76, 64, 64, 3)
        return np.concatenate(list(video[FRAMES]), axis=1)
    image = cascade.text_to_image(PROMPT, SEED, cascade_lib.silent, **quick)
    assert image.shape == (768, 768, 3)
    return image[288:480, 288:480]


@pytest.mark.parametrize("name", ["image", pytest.param("video", marks=pytest.mark.slow)])
def test_shipped_weights_draw_what_is_stored(name):
    stored = np.asarray(Image.open(STORED / f"{name}.png"), int)
    # Other processors round otherwise, which a few sampling steps make visible in single pixels.
    assert np.abs(draw(name) - stored).mean() < 1
    assert stored.std() > 20


def files_of_mav():
    """All of its files, as they are called in a wheel."""
    paths = (path for path in (ROOT / "mav").rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in paths if path.suffix != ".pyc"}


def test_all_that_is_no_python_is_named_as_data_of_the_package():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    patterns = table["tool"]["setuptools"]["package-data"]["mav"]
    found = {path for pattern in patterns for path in (ROOT / "mav").glob(pattern)}
    wanted = {ROOT / name for name in files_of_mav() if not name.endswith(".py")}
    assert found == wanted
    assert len([path for path in found if path.name == "params.safetensors"]) == 6


@pytest.mark.slow
def test_a_wheel_holds_every_file_of_the_package(tmp_path):
    # A copy, or what setuptools once left in build/ would be in it too.
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "mav", tmp_path / "mav", ignore=leave)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, tmp_path]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    (wheel,) = tmp_path.glob("mav-*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("mav/")}
    assert names == files_of_mav()


if __name__ == "__main__":
    STORED.mkdir(exist_ok=True)
    for name in ("video", "image"):
        media.write_image(STORED / f"{name}.png", draw(name))

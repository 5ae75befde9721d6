"""The cascade that ships with mav draws what it drew when it was exported.

`python tests/test_shipped.py` stores its pictures anew, after a training.
"""

import pathlib

import numpy as np
import pytest
from PIL import Image

from mav import cascade as cascade_lib
from mav import media

STORED = pathlib.Path(__file__).parent / "reference" / "shipped"
PROMPT, SEED = "a red ball over a green meadow", 0
FRAMES = [0, 7, 40, 75]


def draw():
    """Frames of a short video, with a keyframe and interpolated ones, and one whole picture."""
    cascade = cascade_lib.load("cutout")
    # One candidate: of two that are equally good another processor may choose the other.
    quick = dict(
        steps=dict(decoder=4, interpolation=2, sr_256=1, sr_768=1),
        candidates=dict(prior=1, decoder=1),
    )
    video = cascade.text_to_video(PROMPT, SEED, cascade_lib.silent, size=64, **quick)
    image = cascade.text_to_image(PROMPT, SEED, cascade_lib.silent, **quick)
    assert video.shape == (76, 64, 64, 3)
    assert image.shape == (768, 768, 3)
    return dict(video=np.concatenate(list(video[FRAMES]), axis=1), image=image[288:480, 288:480])


@pytest.fixture(scope="module")
def drawn():
    return draw()


@pytest.mark.parametrize("name", ["video", "image"])
def test_shipped_weights_draw_what_is_stored(drawn, name):
    stored = np.asarray(Image.open(STORED / f"{name}.png"), int)
    # Other processors round otherwise, which a few sampling steps make visible in single pixels.
    assert np.abs(drawn[name] - stored).mean() < 1
    assert stored.std() > 20


if __name__ == "__main__":
    STORED.mkdir(exist_ok=True)
    for name, picture in draw().items():
        media.write_image(STORED / f"{name}.png", picture)

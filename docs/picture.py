"""Makes docs/pictures/cutout.webp, the picture of the README, with the shipped cascade.

python docs/picture.py      # 200 s on two cores
"""

import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import mav

PATH = pathlib.Path(__file__).parent / "pictures" / "cutout.webp"
PROMPTS = (  # each with its seed
    ("a red ball over a green meadow", 0),
    ("a blue boat on the sea", 0),
    ("a yellow bird in the sky", 0),
    ("an orange fish under water", 0),
    ("a green car in the desert", 0),
    ("a white rocket at night", 0),
    ("a pink balloon over the city", 0),
    ("a purple house in the snow", 0),
)
TILE, LINE, FPS = 224, 22, 15  # pixels of a video and of the line below it; frames per second


def labelled(video: np.ndarray, label: str) -> np.ndarray:
    """Small frames, with a line of text below."""
    frames = mav.media.resize(video, TILE)
    line = Image.new("RGB", (TILE, LINE), "white")
    font = ImageFont.load_default(13)
    ImageDraw.Draw(line).text((TILE / 2, LINE / 2), label, "#282828", font, anchor="mm")
    lines = np.broadcast_to(np.asarray(line), (len(frames), LINE, TILE, 3))
    return np.concatenate([frames, lines], axis=1)


def main() -> None:
    """Samples and writes."""
    cascade = mav.load("cutout")
    videos = [
        labelled(cascade.text_to_video(prompt, seed, size=256), prompt) for prompt, seed in PROMPTS
    ]
    mav.media.write(PATH, mav.media.grid(videos, columns=4), FPS)


if __name__ == "__main__":
    main()

"""Makes docs/gallery.md and its pictures, one of which is the README's, with the shipped cascade.

python docs/gallery.py                # minutes on two cores
python docs/gallery.py seeds fps      # these pictures alone
"""

import dataclasses
import pathlib
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import mav

HERE = pathlib.Path(__file__).parent
TILE, LINE, FPS = 224, 22, 15  # pixels of a video and of the line below it; frames per second
SIZE = 256  # at which videos are sampled


@dataclasses.dataclass(frozen=True)
class Shown:
    """A video: its prompt, seed and settings, and what stands below it."""

    prompt: str
    seed: int = 0
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    label: str | None = None

    def command(self) -> str:
        """The command that makes the same video."""
        flags = " ".join(
            f"--{name} {'='.join(map(str, *value.items())) if isinstance(value, dict) else value}"
            for name, value in self.settings.items()
        )
        quoted = shlex.quote(self.prompt).replace("'", '"')
        return f"mav sample {quoted} --seed {self.seed} --size {SIZE} {flags}".strip()


BALL, FISH = "a red ball over a green meadow", "a small yellow fish under water"
GROUPS = dict(  # by the name of the picture: title, what is to be said, videos
    cutout=(
        "Eight objects, eight settings",
        "The picture of the README.",
        [
            Shown(BALL),
            Shown("a blue boat on the sea"),
            Shown("a yellow bird in the sky"),
            Shown("an orange fish under water"),
            Shown("a green car in the desert"),
            Shown("a white rocket at night"),
            Shown("a pink balloon over the city"),
            Shown("a purple house in the snow"),
        ],
    ),
    unseen=(
        "What no training example shows",
        "No picture had a purple ball or a red fish in it, no video a butterfly or a train.",
        [
            Shown("a purple ball over a green meadow"),
            Shown("a red fish under water"),
            Shown("a yellow butterfly over a meadow"),
            Shown("a blue train in the desert"),
        ],
    ),
    seeds=(
        "Another seed, another video",
        f"Four times *{FISH}*.",
        [Shown(FISH, seed, label=f"seed {seed}") for seed in range(4)],
    ),
    fps=(
        "Frames per second",
        "How far apart the decoder's frames are told to lie. All are played at 15 a second, so "
        "that one sees how much changes from one to the next.",
        [Shown(BALL, settings=dict(fps=fps), label=f"{fps} a second") for fps in (1.5, 3, 6, 12)],
    ),
    guidance=(
        "Guidance",
        "How far the decoder is led away from what it would draw without an embedding.",
        [
            Shown(FISH, settings=dict(guidance_scale=dict(decoder=scale)), label=f"scale {scale}")
            for scale in (1, 2, 4, 8)
        ],
    ),
)


def page() -> str:
    """docs/gallery.md."""
    parts = [
        "# Gallery\n\nMade by `python docs/gallery.py` with the cascade that comes with mav; the "
        "commands make the same. Nothing was picked.\n"
    ]
    for name, (title, text, videos) in GROUPS.items():
        commands = "\n".join(shown.command() for shown in videos)
        parts.append(f"\n## {title}\n{text}\n\n![{title}](pictures/{name}.webp)\n")
        parts.append(f"\n```bash\n{commands}\n```\n")
    return "".join(parts)


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
    for name in sys.argv[1:] or GROUPS:
        videos = [
            labelled(
                cascade.text_to_video(shown.prompt, shown.seed, size=SIZE, **shown.settings),
                shown.label or shown.prompt,
            )
            for shown in GROUPS[name][2]
        ]
        mav.media.write(HERE / "pictures" / f"{name}.webp", mav.media.grid(videos, columns=4), FPS)
    (HERE / "gallery.md").write_text(page())


if __name__ == "__main__":
    main()

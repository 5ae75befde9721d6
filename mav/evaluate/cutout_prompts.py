"""The prompts of the cutout protocol, and how the world itself shows what they say."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mav.data import cutout

Video = UInt8[np.ndarray, "f h w 3"]

NUM_REAL = 2  # real videos per prompt, that generated ones are compared with


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A sentence and what it asks for. size: None where it names none."""

    text: str
    object: str
    colour: str
    setting: str
    size: str | None

    @property
    def held_out_pair(self) -> bool:
        return (self.object, self.colour) in cutout.HELD_OUT_PAIRS

    @property
    def held_out_mover(self) -> bool:
        return self.object in cutout.HELD_OUT_MOVERS


def sentence(object: str, colour: str, setting: str, size: str | None = None) -> str:
    """The usual caption of one thing in a setting: "a red ball over a green meadow"."""
    words = [cutout.COLOUR_WORDS[colour][0], cutout.OBJECT_WORDS[object][0]]
    if size is not None:
        words.insert(0, cutout.SIZE_WORDS[size][0])
    _, on_ground, in_air = cutout.SETTING_WORDS[setting]
    where = (on_ground if object in cutout.GROUNDED else in_air)[0]
    article = "an" if words[0][0] in "aeiou" else "a"
    return f"{article} {' '.join(words)} {where}"


def prompts(num: int = 96) -> list[Prompt]:
    """Prompts in rounds of twelve, one per object; after eight rounds all is even.

    Then each object was in each setting once, each colour and setting came up twelve times, and a
    quarter of the prompts name a held-out pair. More rounds repeat these in other settings.
    """
    # The held-out pairs join each of their eight objects to another colour. Counting colours from
    # there, 0 is held out and 1..5 are seen.
    paired = [(thing, colour) for thing, colour in sorted(cutout.HELD_OUT_PAIRS)]
    free = [name for name in cutout.OBJECTS if name not in dict(paired)]
    objects = [thing for thing, _ in paired] + free
    wheel = [colour for _, colour in paired]
    shifts = (0, 1, 2, 0, 3, 4, 0, 5)
    found = []
    for n in range(num):
        turn, i = divmod(n, len(objects))
        lap, turn = divmod(turn, len(shifts))
        shift = shifts[(i + turn) % 8] if i < len(paired) else 5 * turn
        setting = cutout.SETTINGS[(i + 3 * turn + lap) % len(cutout.SETTINGS)]
        # Two rounds without a size, then one with sizes.
        size = cutout.SIZES[(i + lap) % 3] if turn % 3 == 2 else None
        thing, colour = objects[i], wheel[(i + shift) % len(wheel)]
        found.append(Prompt(sentence(thing, colour, setting, size), thing, colour, setting, size))
    return found


def video_seed(seed: int, n: int) -> int:
    """The seed with which the video of prompt n is drawn; `mav sample` draws the same by it."""
    return 1000 * seed + n


def real_video(prompt: Prompt, seed: Any, fps: float, frames: int, size: int) -> Video:
    """A video of the world that the prompt describes, from a random moment on."""
    rng = np.random.default_rng(seed)
    scene = cutout.make_scene(
        prompt.setting,
        prompt.object,
        prompt.colour,
        prompt.size or cutout.SIZES[rng.integers(3)],
        cutout.PLACES[rng.integers(3)],
        int(rng.integers(2**32)),
    )
    lasts = cutout.VIDEO_FRAMES / cutout.NATIVE_FPS
    start = rng.uniform(0, max(lasts - (frames - 1) / fps, 0))
    return np.stack([cutout.render(scene, start + i / fps, size) for i in range(frames)])

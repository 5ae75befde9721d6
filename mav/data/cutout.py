"""The cutout world: captioned images and silent videos of layered paper scenes, drawn at any size.

A scene is a pure function of (split, index); a frame is a pure function of (scene, time). Places
are in the unit square (x right, y down), times in seconds, angles in degrees.
"""

import dataclasses
import functools
import io
import math
import re
from collections.abc import Sequence

import numpy as np
import resvg_py
from jaxtyping import UInt8
from PIL import Image

from mav.data import cutout_art as art

SETTINGS = tuple(art.SETTINGS)
OBJECTS = tuple(art.OBJECTS)
COLOURS = tuple(art.PAINTS)
SIZES = ("small", "medium", "large")
PLACES = ("left", "middle", "right")

NATIVE_FPS = 30
VIDEO_FRAMES = 480
NUM_IMAGES = {"train": 1_000_000, "test": 10_000}
NUM_VIDEOS = {"train": 100_000, "test": 2_000}

# Never together in a training image or video: naming them asks for composition.
HELD_OUT_PAIRS = frozenset(
    {
        ("ball", "purple"),
        ("boat", "yellow"),
        ("bird", "green"),
        ("car", "pink"),
        ("balloon", "white"),
        ("fish", "red"),
        ("rocket", "blue"),
        ("leaf", "orange"),
    }
)
# Never in a training video: animating them asks for transfer of motion.
HELD_OUT_MOVERS = ("butterfly", "train")

SECOND_THING_PROB = 0.2
WIDTHS = {"small": 0.25, "medium": 0.35, "large": 0.48}  # of 100 of the object's own units
COLUMNS = {"left": 0.26, "middle": 0.5, "right": 0.74}
GROUND = {  # where wheels, walls and keels stand
    "sky": 0.9,
    "meadow": 0.86,
    "sea": 0.8,
    "night": 0.88,
    "desert": 0.87,
    "snow": 0.87,
    "city": 0.93,
    "underwater": 0.91,
}
AIR = {  # where the centres of the others are
    "bird": 0.36,
    "balloon": 0.42,
    "fish": 0.5,
    "rocket": 0.46,
    "butterfly": 0.45,
    "star": 0.3,
    "leaf": 0.42,
}
# Half width, height above and below the centre, in the object's units, with rim and moving parts.
EXTENTS = {
    "ball": (49, 49, 49),
    "boat": (56, 62, 43),
    "bird": (56, 54, 46),
    "car": (53, 36, 36),
    "balloon": (49, 63, 62),
    "fish": (54, 46, 46),
    "rocket": (47, 64, 68),
    "butterfly": (56, 52, 46),
    "house": (52, 54, 47),
    "star": (53, 53, 53),
    "leaf": (56, 56, 56),
    "train": (58, 72, 42),
}
GRAVITY = 0.7  # of balls: frame heights per second squared
CONTACT = 0.24  # seconds a ball stays squashed on the ground


@dataclasses.dataclass(frozen=True)
class Thing:
    """An object in a scene, and how it moves there."""

    object: str
    colour: str
    size: str
    place: str
    offset: tuple[float, float] = (0.0, 0.0)  # from the usual spot, each in [-1, 1]
    phase: float = 0.0  # of its motion, in [0, 1)
    pace: float = 1.0  # its periods are this many times the usual ones
    reach: float = 1.0  # its swings up and down are this many times the usual ones
    travel: float = 0.1  # how far it roams to either side, of the frame's width
    direction: int = 1  # 1 faces right at first, -1 left


@dataclasses.dataclass(frozen=True)
class Scene:
    """A setting with one or two things in it."""

    setting: str
    things: tuple[Thing, ...]
    seed: int = 0  # shapes and motion of the setting, in [0, 2**32)


@dataclasses.dataclass(frozen=True)
class Pose:
    """Where a thing is at one time and what its moving parts do."""

    x: float
    y: float
    angle: float = 0.0
    stretch: tuple[float, float] = (1.0, 1.0)  # of its width (negative: turned round) and height
    beat: float = 0.0  # of its moving part, radians; its meaning is the drawing's
    puffs: float = 0.0  # of smoke that have left it


# Scenes.


def _generator(kind: str, split: str, index: int, counts: dict[str, int]) -> np.random.Generator:
    if split not in counts:
        raise ValueError(f"split={split!r} is unknown; choose from {', '.join(counts)}.")
    if not 0 <= index < counts[split]:
        raise ValueError(f"index={index} is outside 0..{counts[split] - 1} of the {split} {kind}.")
    key = (("images", "videos", "captions").index(kind), tuple(counts).index(split), index)
    return np.random.default_rng(np.random.SeedSequence(2209_14792, spawn_key=key))


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


def _motion(rng: np.random.Generator, travel: float) -> dict:
    """The seeded numbers of a thing."""
    u = rng.random(6).tolist()
    return dict(
        offset=(2 * u[0] - 1, 2 * u[1] - 1),
        phase=u[2],
        pace=0.85 + 0.3 * u[3],
        reach=0.75 + 0.45 * u[4],
        travel=travel,
        direction=1 if u[5] < 0.5 else -1,
    )


def _roaming(place: str, rng: np.random.Generator) -> float:
    """How far a thing in a video roams: across the frame from the middle, less from a side."""
    return rng.uniform(0.2, 0.36) if place == "middle" else rng.uniform(0.09, 0.14)


def _scene(rng: np.random.Generator, split: str, video: bool) -> Scene:
    """Draws a scene, again where the split must not show it."""

    def drawn(place: str, sizes: Sequence[str], crowded: bool) -> Thing:
        while True:
            name, colour = _pick(OBJECTS, rng), _pick(COLOURS, rng)
            held_out = (name, colour) in HELD_OUT_PAIRS or (video and name in HELD_OUT_MOVERS)
            if split != "train" or not held_out:
                break
        travel = _roaming(place, rng) if video and not crowded else 0.045
        return Thing(name, colour, _pick(sizes, rng), place, **_motion(rng, travel))

    setting, seed = _pick(SETTINGS, rng), int(rng.integers(2**32))
    if rng.random() >= SECOND_THING_PROB:
        return Scene(setting, (drawn(_pick(PLACES, rng), SIZES, crowded=False),), seed)
    sides = ("left", "right") if rng.random() < 0.5 else ("right", "left")
    first = drawn(sides[0], SIZES[:2], crowded=True)
    second = drawn(sides[1], SIZES[:2], crowded=True)
    while (second.object, second.colour) == (first.object, first.colour):
        second = drawn(sides[1], SIZES[:2], crowded=True)
    return Scene(setting, (first, second), seed)


def image_scene(split: str, index: int) -> tuple[Scene, float]:
    """The scene of an image, and the time (seconds) of the shot."""
    rng = _generator("images", split, index, NUM_IMAGES)
    time = rng.uniform(0, VIDEO_FRAMES / NATIVE_FPS)
    return _scene(rng, split, video=False), time


def video_scene(split: str, index: int) -> Scene:
    """The scene of a video."""
    return _scene(_generator("videos", split, index, NUM_VIDEOS), split, video=True)


def make_scene(
    setting: str,
    object: str,
    colour: str,
    size: str = "medium",
    place: str = "middle",
    seed: int = 0,
) -> Scene:
    """A scene of one's choice with one thing, which moves as in videos."""
    for name, value, allowed in (
        ("setting", setting, SETTINGS),
        ("object", object, OBJECTS),
        ("colour", colour, COLOURS),
        ("size", size, SIZES),
        ("place", place, PLACES),
    ):
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is unknown; choose from {', '.join(allowed)}.")
    rng = np.random.default_rng(seed)
    thing = Thing(object, colour, size, place, **_motion(rng, _roaming(place, rng)))
    return Scene(setting, (thing,), int(rng.integers(2**32)))


# Motion.


def _scale(thing: Thing) -> float:
    """Frame widths per unit of the object's drawing."""
    return WIDTHS[thing.size] / 100


def _swing(centre: float, amplitude: float, low: float, high: float) -> tuple[float, float]:
    """The centre and amplitude nearest to those wanted that stay within [low, high]."""
    amplitude = min(amplitude, (high - low) / 2)
    return min(max(centre, low + amplitude), high - amplitude), amplitude


def _smoothstep(u: float) -> float:
    u = min(max(u, 0.0), 1.0)
    return u * u * (3 - 2 * u)


def _turned(velocity: float) -> float:
    """Width, with sign, of something that turns round when its velocity (in [-1, 1]) does."""
    return velocity / math.sqrt(velocity**2 + 0.006)


def pose(thing: Thing, setting: str, time: float) -> Pose:
    """Where a thing is and what its parts do, at a time in seconds from the scene's start."""
    scale = _scale(thing)
    half, above, below = (scale * extent for extent in EXTENTS[thing.object])
    left, right, top, bottom = half + 0.01, 0.99 - half, above + 0.01, 0.99 - below
    column = COLUMNS[thing.place] + 0.03 * thing.offset[0]
    x, travel = _swing(column, thing.travel, left, right)
    ground = min(GROUND[setting] + 0.02 * thing.offset[1], 0.985) - below
    air = AIR.get(thing.object, 0.5) + 0.06 * thing.offset[1]
    if thing.object == "fish" and setting == "sea":
        air += 0.26

    def wave(period: float, shift: float = 0.0) -> float:
        return math.sin(math.tau * (time / (period * thing.pace) + thing.phase + shift))

    def velocity(period: float) -> float:
        return thing.direction * wave(period, 0.25)

    roam = thing.direction * travel
    facing = (thing.direction, 1.0)
    match thing.object:
        case "house":
            column, _ = _swing(column, 0, left, right)
            return Pose(column, ground)
        case "ball":
            height = min(0.32 * thing.reach, ground - top)
            flight = math.sqrt(8 * height / GRAVITY)
            since = (time + thing.phase * (flight + CONTACT)) % (flight + CONTACT)
            x += roam * wave(9)
            roll = x / (0.46 * WIDTHS[thing.size])
            if since < flight:
                rise = GRAVITY / 2 * since * (flight - since)
                return Pose(x, ground - rise, beat=roll)
            squash = 0.2 * math.sin(math.pi * (since - flight) / CONTACT)
            flat = (1 + 0.3 * squash, 1 - squash)
            return Pose(x, ground + 0.46 * WIDTHS[thing.size] * squash, 0, flat, roll)
        case "boat":
            x, travel = _swing(column, min(thing.travel, 0.15), left, right)
            x += thing.direction * travel * wave(11)
            y, heave = _swing(ground, 0.018 * thing.reach, top, bottom)
            return Pose(x, y + heave * wave(3.1), 5 * wave(3.1, 0.2), facing)
        case "bird":
            y, heave = _swing(air, 0.05 * thing.reach, top, bottom)
            turned, flap = _turned(velocity(9)), math.tau * time / (1.2 * thing.pace)
            y += heave * wave(4.5, 0.1)
            return Pose(x + roam * wave(9), y, 0, (turned, 1.0), flap + 9 * thing.phase)
        case "car":
            x += roam * wave(8)
            turns = thing.direction * x / (13 * scale)
            return Pose(x, ground - 0.003 * (1 + wave(0.9)), 0, facing, turns)
        case "train":
            x += roam * wave(10)
            turns = thing.direction * x / (14 * scale)
            return Pose(x, ground, 0, facing, turns, time / 2.4 + thing.phase)
        case "balloon":
            x, sway = _swing(column, min(thing.travel, 0.06), left, right)
            y, rise = _swing(air, 0.17 * thing.reach, top, bottom)
            x += thing.direction * sway * wave(5.3)
            return Pose(x, y + rise * wave(8, 0.3), 4 * wave(5.3, 0.25), beat=9 * time)
        case "fish":
            y, heave = _swing(air, 0.05 * thing.reach, top, bottom)
            turned, stroke = _turned(velocity(9)), math.tau * time / (1.1 * thing.pace)
            y += heave * wave(3.9, 0.1)
            return Pose(x + roam * wave(9), y, 0, (turned, 1.0), stroke + 9 * thing.phase)
        case "rocket":
            x, sway = _swing(column, 0.02, left, right)
            y, climb = _swing(air, 0.24 * thing.reach, top, bottom)
            x += thing.direction * sway * wave(5)
            return Pose(x, y + climb * wave(6.5), 4 * wave(5, 0.25), beat=21 * time)
        case "butterfly":
            x, sway = _swing(column, min(1.2 * thing.travel, 0.2), left, right)
            y, heave = _swing(air, 0.15 * thing.reach, top, bottom)
            x += thing.direction * sway * (0.7 * wave(6.1) + 0.3 * wave(2.7))
            y += heave * (0.65 * wave(4.3, 0.3) + 0.35 * wave(2.3, 0.6))
            flap = math.tau * time / (1.2 * thing.pace) + 9 * thing.phase
            return Pose(x, y, 14 * wave(3.7), beat=flap)
        case "leaf":
            # It sways down for most of a period, then a gust carries it up again.
            u = (time / (6.5 * thing.pace) + thing.phase) % 1
            fallen = _smoothstep(u / 0.68) if u < 0.68 else 1 - _smoothstep((u - 0.68) / 0.32)
            gust = _smoothstep((u - 0.68) / 0.32)
            x, sway = _swing(column, min(1.2 * thing.travel, 0.12), left, right)
            y, fall = _swing(air, 0.24 * thing.reach, top, bottom)
            x += thing.direction * sway * wave(6.5 / 3)
            angle = thing.direction * (38 * wave(6.5 / 3, 0.2) + 360 * gust)
            return Pose(x, y + fall * (2 * fallen - 1), angle)
        case "star":
            x, sway = _swing(column, 0.02, left, right)
            y, heave = _swing(air, 0.02, top, bottom)
            pulse = 1 - 0.05 * (1 - wave(2.2))
            x, y = x + sway * wave(7), y + heave * wave(5, 0.3)
            beat = math.tau * (time / (2.2 * thing.pace) + thing.phase)
            return Pose(x, y, thing.direction * 20 * wave(5.5), (pulse, pulse), beat)
    raise ValueError(f"object={thing.object!r} is unknown; choose from {', '.join(OBJECTS)}.")


def position(thing: Thing, setting: str, time: float) -> tuple[float, float]:
    """Centre of a thing in the unit square, at a time in seconds."""
    at = pose(thing, setting, time)
    return at.x, at.y


# Pictures.


@functools.lru_cache(maxsize=64)
def _uniforms(seed: int) -> tuple[float, ...]:
    return tuple(np.random.default_rng(seed).random(96).tolist())


def thing_svg(thing: Thing, setting: str, time: float, key: str = "") -> str:
    """A thing on the canvas. key: makes ids unique within the document."""
    at = pose(thing, setting, time)
    zoom = art.CANVAS * _scale(thing)
    placed = (
        f"translate({art.CANVAS * at.x:.2f} {art.CANVAS * at.y:.2f}) rotate({at.angle:.2f})"
        f" scale({zoom * at.stretch[0]:.4f} {zoom * at.stretch[1]:.4f})"
    )
    return art.thing(thing.object, thing.colour, at.beat, at.puffs, placed, key)


WHOLE = (0.5, 0.5, 1.0)


def svg(scene: Scene, time: float, window: tuple[float, float, float] = WHOLE) -> str:
    """The frame at a time (seconds) as an SVG document.

    window: the square that is shown. Its place in the room that it leaves, in x and y, from 0 at
      the left and the top to 1 at the right and the bottom; and its extent as a fraction."""
    u = _uniforms(scene.seed)
    pan = 26 * math.sin(math.tau * (time / (13 + 6 * u[95]) + u[94]))
    back, front = art.SETTINGS[scene.setting](u, time, pan)
    things = "".join(
        thing_svg(thing, scene.setting, time, str(i)) for i, thing in enumerate(scene.things)
    )
    across, down, extent = window
    room = art.CANVAS * (1 - extent)
    left, top, extent = (round(n, 4) for n in (across * room, down * room, art.CANVAS * extent))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left:g} {top:g} {extent:g} {extent:g}">'
        f"{back}{things}{front}</svg>"
    )


def _rasterise(document: str, size: int) -> UInt8[np.ndarray, "h w 3"]:
    png = resvg_py.svg_to_bytes(
        svg_string=document, width=size, height=size, skip_system_fonts=True
    )
    return np.array(Image.open(io.BytesIO(png)).convert("RGB"))


def render(
    scene: Scene, time: float, size: int, window: tuple[float, float, float] = WHOLE
) -> UInt8[np.ndarray, "h w 3"]:
    """The frame at a time (seconds), or a window of it as in `svg`, at size x size pixels."""
    return _rasterise(svg(scene, time, window), size)


def image(
    split: str, index: int, size: int = 64, window: tuple[float, float, float] = WHOLE
) -> UInt8[np.ndarray, "h w 3"]:
    """An image of the image set, or a window of it as in `svg`."""
    return render(*image_scene(split, index), size, window)


def image_caption(split: str, index: int) -> str:
    """The caption of an image of the image set."""
    scene, _ = image_scene(split, index)
    return caption(scene, _generator("captions", split, index, NUM_IMAGES))


def video(
    split: str,
    index: int,
    frames: Sequence[int],
    size: int = 64,
    window: tuple[float, float, float] = WHOLE,
) -> UInt8[np.ndarray, "f h w 3"]:
    """Frames of a video of the video set by their numbers at 30 fps, or a window as in `svg`."""
    outside = [f for f in frames if not 0 <= f < VIDEO_FRAMES]
    if outside:
        raise ValueError(f"frames={outside} are outside 0..{VIDEO_FRAMES - 1}.")
    scene = video_scene(split, index)
    return np.stack([render(scene, frame / NATIVE_FPS, size, window) for frame in frames])


# Captions.


OBJECT_WORDS = {
    "ball": ("ball", "beach ball"),
    "boat": ("boat", "sailing boat", "ship"),
    "bird": ("bird", "songbird"),
    "car": ("car", "automobile"),
    "balloon": ("balloon", "hot air balloon"),
    "fish": ("fish",),
    "rocket": ("rocket", "spaceship"),
    "butterfly": ("butterfly",),
    "house": ("house", "cottage", "home"),
    "star": ("star", "paper star"),
    "leaf": ("leaf", "tree leaf"),
    "train": ("train", "steam train", "locomotive"),
}
COLOUR_WORDS = {
    "red": ("red", "scarlet"),
    "orange": ("orange", "bright orange"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "blue": ("blue", "bright blue"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose"),
    "white": ("white", "pure white"),
}
SIZE_WORDS = {
    "small": ("small", "tiny"),
    "medium": ("medium sized",),
    "large": ("large", "big", "huge"),
}
PLACE_WORDS = {
    "left": ("on the left", "to the left"),
    "middle": ("in the middle", "in the centre"),
    "right": ("on the right", "to the right"),
}
SETTING_WORDS = {  # names of the setting; then where things on its ground are, and in its air
    "sky": (
        ("the blue sky", "a cloudy sky", "white clouds"),
        ("on the clouds", "in the sky", "in a cloudy sky"),
        ("in the sky", "in a blue sky", "above the clouds", "over the clouds"),
    ),
    "meadow": (
        ("a green meadow", "a meadow", "green fields", "a grassy field"),
        ("on a green meadow", "in a meadow", "on the grass", "in a green field"),
        ("over a green meadow", "over a meadow", "above a grassy field", "above the grass"),
    ),
    "sea": (
        ("the sea", "the ocean", "a blue sea", "rolling waves"),
        ("on the sea", "on the ocean", "on the waves", "at sea"),
        ("over the sea", "above the ocean", "over the waves", "high above the sea"),
    ),
    "night": (
        ("a dark night", "a starry night", "a moonlit night", "dark hills at night"),
        ("at night", "in the moonlight", "on a starry night", "on dark hills at night"),
        ("at night", "in the night sky", "under the moon", "on a starry night"),
    ),
    "desert": (
        ("a desert", "the desert", "sand dunes", "a sandy desert"),
        ("in the desert", "on sand dunes", "in a sandy desert"),
        ("over the desert", "above the dunes", "over sand dunes"),
    ),
    "snow": (
        ("snowy hills", "the snow", "a snowy landscape", "a winter landscape"),
        ("in the snow", "on snowy hills", "in a winter landscape"),
        ("over the snow", "over snowy hills", "in the falling snow", "above a winter landscape"),
    ),
    "city": (
        ("a city", "the city", "a town", "a city skyline"),
        ("in the city", "in a town", "on a city street", "in front of a city skyline"),
        ("over the city", "above a town", "in front of a city skyline"),
    ),
    "underwater": (
        ("an underwater world", "seaweed under water", "the deep under water"),
        ("under water", "underwater", "deep under water"),
        ("under water", "underwater", "deep under water", "above seaweed under water"),
    ),
}
VERBS = {  # what it does, told of a still picture
    "ball": ("bouncing", "jumping"),
    "boat": ("sailing", "floating"),
    "bird": ("flying",),
    "car": ("driving", "rolling"),
    "balloon": ("floating", "rising"),
    "fish": ("swimming",),
    "rocket": ("flying", "climbing"),
    "butterfly": ("fluttering", "flying"),
    "house": ("standing",),
    "star": ("shining", "twinkling"),
    "leaf": ("falling", "drifting"),
    "train": ("rolling", "driving"),
}
TEMPLATES = (  # thing, where it is, what it does, name of the setting
    "{thing} {where}",
    "{thing} {where}",
    "{thing} {where}",
    "{thing} {verb} {where}",
    "{where}, {thing}",
    "{where} there is {thing}",
    "{setting} with {thing}",
    "a picture of {thing} {where}",
)
GROUNDED = ("boat", "car", "house", "train")
SIZE_PROB, PLACE_PROB = 0.4, 0.35


def words(text: str) -> list[str]:
    """The words of a text, in lower case and without punctuation."""
    return re.findall(r"[a-z]+", text.lower())


def _texts(nested: str | dict | Sequence) -> list[str]:
    """All texts in nested sequences and dictionaries."""
    if isinstance(nested, str):
        return [nested]
    parts = nested.values() if isinstance(nested, dict) else nested
    return [text for part in parts for text in _texts(part)]


# Every word that a caption can have; the world knows no others.
VOCABULARY = frozenset(
    words(
        " ".join(
            _texts((OBJECT_WORDS, COLOUR_WORDS, SIZE_WORDS, PLACE_WORDS, SETTING_WORDS, VERBS))
            + [re.sub("{.*?}", "", template) for template in TEMPLATES]
            + ["a an and in the air"]
        )
    )
)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption of the scene: always each object with its colour, and the setting.

    The first of each list of words is the usual one and comes up in half of the captions."""

    def chosen(options: Sequence[str]) -> str:
        return options[0] if rng.random() < 0.5 else _pick(options, rng)

    def described(thing: Thing, size: bool, place: bool) -> str:
        name = f"{chosen(COLOUR_WORDS[thing.colour])} {chosen(OBJECT_WORDS[thing.object])}"
        if size:
            name = f"{chosen(SIZE_WORDS[thing.size])} {name}"
        article = "an" if name[0] in "aeiou" else "a"
        return f"{article} {name}" + (f" {chosen(PLACE_WORDS[thing.place])}" if place else "")

    first = scene.things[0]
    setting, on_ground, in_air = SETTING_WORDS[scene.setting]
    grounded = any(thing.object in GROUNDED for thing in scene.things)
    # Balls are on the ground and in the air by turns.
    in_air_now = not grounded and (first.object != "ball" or rng.random() < 0.5)
    where = chosen(in_air if in_air_now else on_ground)
    size, place = rng.random() < SIZE_PROB, rng.random() < PLACE_PROB
    template = _pick(TEMPLATES, rng)
    if in_air_now and template == "{setting} with {thing}" and rng.random() < 0.4:
        template += " in the air"
    if len(scene.things) == 2:
        template = template.replace(" {verb}", "")
        named = " and ".join(described(thing, size, place) for thing in scene.things)
        return template.format(thing=named, where=where, setting=chosen(setting))
    after = place and template.endswith("{where}") and rng.random() < 0.5
    text = template.format(
        thing=described(first, size, place and not after),
        where=where,
        verb=chosen(VERBS[first.object]),
        setting=chosen(setting),
    )
    return f"{text}, {chosen(PLACE_WORDS[first.place])}" if after else text

import io
import itertools

import numpy as np
import pytest
import resvg_py
from PIL import Image

from mav.data import cutout

TIMES = np.arange(0, cutout.VIDEO_FRAMES) / cutout.NATIVE_FPS
# Written down apart from the grammar: one of these words must name the thing in each caption.
NAMES = {
    "ball": "ball",
    "boat": "boat ship",
    "bird": "bird songbird",
    "car": "car automobile",
    "balloon": "balloon",
    "fish": "fish",
    "rocket": "rocket spaceship",
    "butterfly": "butterfly",
    "house": "house cottage home",
    "star": "star",
    "leaf": "leaf",
    "train": "train locomotive",
    "red": "red scarlet",
    "orange": "orange",
    "yellow": "yellow golden",
    "green": "green emerald",
    "blue": "blue",
    "purple": "purple violet",
    "pink": "pink rose",
    "white": "white",
    "sky": "sky clouds",
    "meadow": "meadow field fields grass grassy",
    "sea": "sea ocean waves",
    "night": "night moon moonlight",
    "desert": "desert dunes",
    "snow": "snow snowy winter",
    "city": "city town",
    "underwater": "underwater water",
}


def path(scene):
    """Centre of the first thing over a video's times, [frames, 2]."""
    thing = scene.things[0]
    return np.array([cutout.position(thing, scene.setting, time) for time in TIMES])


def halved(picture, times):
    """The picture with its sides divided, by averaging."""
    h, w, _ = picture.shape
    return picture.reshape(h // times, times, w // times, times, 3).mean((1, 3))


def mask(thing, setting, time, size):
    """Where the thing alone is opaque, 0 to 255, [size, size]."""
    drawn = cutout.thing_svg(thing, setting, time)
    document = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 768 768">{drawn}</svg>'
    png = resvg_py.svg_to_bytes(
        svg_string=document, width=size, height=size, skip_system_fonts=True
    )
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))[..., 3]


def test_the_same_index_gives_the_same_picture_and_caption():
    np.testing.assert_array_equal(cutout.image("train", 5), cutout.image("train", 5))
    assert cutout.image_caption("train", 5) == cutout.image_caption("train", 5)
    clip = cutout.video("train", 7, [9, 0, 479])
    assert clip.shape == (3, 64, 64, 3)
    assert clip.dtype == np.uint8
    np.testing.assert_array_equal(clip[1:2], cutout.video("train", 7, [0]))


def test_splits_and_indices_differ():
    scenes = [cutout.image_scene(split, i) for split in ("train", "test") for i in range(500)]
    assert len(set(scenes)) == 1000


def test_held_out_pairs_never_occur_in_training():
    scenes = [cutout.image_scene("train", i)[0] for i in range(20_000)]
    scenes += [cutout.video_scene("train", i) for i in range(5000)]
    seen = {(thing.object, thing.colour) for scene in scenes for thing in scene.things}
    every = set(itertools.product(cutout.OBJECTS, cutout.COLOURS))
    assert seen == every - cutout.HELD_OUT_PAIRS
    tested = [cutout.image_scene("test", i)[0] for i in range(2000)]
    assert {(t.object, t.colour) for s in tested for t in s.things} == every


def test_held_out_movers_never_occur_in_training_videos():
    scenes = [cutout.video_scene("train", i) for i in range(5000)]
    seen = {thing.object for scene in scenes for thing in scene.things}
    assert seen == set(cutout.OBJECTS) - set(cutout.HELD_OUT_MOVERS)


def test_an_unknown_colour_is_refused_by_name():
    with pytest.raises(ValueError, match="colour='mauve' is unknown; choose from red"):
        cutout.make_scene("sea", "boat", "mauve")
    with pytest.raises(ValueError, match="index=10000 is outside"):
        cutout.image("test", 10_000)


@pytest.mark.parametrize("name", cutout.OBJECTS)
def test_houses_stand_still_and_all_others_move_smoothly(name):
    for seed, size, place in itertools.product(range(2), cutout.SIZES, cutout.PLACES):
        step = np.diff(path(cutout.make_scene("meadow", name, "red", size, place, seed)), axis=0)
        if name == "house":
            assert not step.any()
        else:
            assert np.abs(step).max() > 2e-4
            assert np.abs(step).max() < 0.03  # of the frame, in 1/30 s


@pytest.mark.parametrize("name", cutout.OBJECTS)
def test_every_thing_stays_within_the_frame(name):
    for seed, size, setting in itertools.product(range(4), cutout.SIZES, ("sea", "city")):
        place = cutout.PLACES[seed % 3]
        thing = cutout.make_scene(setting, name, "blue", size, place, seed).things[0]
        for time in TIMES[3 * seed :: 41]:
            alpha = mask(thing, setting, time, 96)
            border = np.concatenate([alpha[[0, -1]].ravel(), alpha[:, [0, -1]].ravel()])
            assert alpha.max() == 255
            assert border.max() < 80, (thing, time)  # shadows may leave, rim and paint may not


def test_widths_are_a_quarter_to_a_half_of_the_frame():
    for size, share in (("small", 0.25), ("medium", 0.35), ("large", 0.48)):
        thing = cutout.make_scene("sea", "car", "red", size).things[0]
        columns = (mask(thing, "sea", 0, 256) > 200).any(0)
        assert columns.mean() == pytest.approx(share, abs=0.04)


def test_balls_obey_gravity():
    y = path(cutout.make_scene("meadow", "ball", "red", "small", seed=3))[:, 1]
    acceleration = np.diff(y, 2) * cutout.NATIVE_FPS**2
    flying = np.abs(acceleration - cutout.GRAVITY) < 1e-6
    assert flying.mean() > 0.7
    assert y[1:-1][flying].min() == y.min()  # the top of the path is in flight


def test_wheels_roll_without_slipping():
    thing = cutout.make_scene("city", "car", "red", "medium").things[0]
    at, later = (cutout.pose(thing, "city", time) for time in (1.0, 1.2))
    rolled = (later.beat - at.beat) * 13 * cutout.WIDTHS["medium"] / 100
    assert rolled * thing.direction == pytest.approx(later.x - at.x)


def test_place_words_are_true_in_images():
    columns = {place: [] for place in cutout.PLACES}
    for i in range(2000):
        scene, time = cutout.image_scene("train", i)
        for thing in scene.things:
            columns[thing.place].append(cutout.position(thing, scene.setting, time)[0])
    assert max(columns["left"]) < 0.4 < min(columns["middle"])
    assert max(columns["middle"]) < 0.6 < min(columns["right"])


def test_captions_name_everything_in_words_of_the_vocabulary():
    second = 0
    for i in range(3000):
        scene, _ = cutout.image_scene("train", i)
        said = set(cutout.words(cutout.image_caption("train", i)))
        second += len(scene.things) - 1
        assert said <= cutout.VOCABULARY
        shown = [scene.setting]
        shown += [word for thing in scene.things for word in (thing.object, thing.colour)]
        for name in shown:
            assert said & set(NAMES[name].split()), (said, name)
    assert second / 3000 == pytest.approx(0.2, abs=0.03)
    assert len(cutout.VOCABULARY) < 150


def test_the_canonical_sentence_is_a_caption():
    scene = cutout.make_scene("meadow", "ball", "red")
    rng = np.random.default_rng(0)
    assert "a red ball over a green meadow" in {cutout.caption(scene, rng) for _ in range(500)}


def test_a_small_render_is_a_large_one_scaled_down():
    for i in range(12):
        small = cutout.image("train", i, 64).astype(float)
        difference = np.abs(small - halved(cutout.image("train", i, 256), 4))
        assert difference.mean() < 2
        assert np.quantile(difference, 0.99) < 24

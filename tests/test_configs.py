import functools
import importlib

import pytest

from mav import params as params_lib
from mav import stages

CONFIGS = [
    ("clip", "image"),
    ("prior", "image"),
    ("decoder", "image"),
    ("decoder", "video"),
    ("interpolation", "video"),
    ("sr_256", "image"),
    ("sr_256", "video"),
    ("sr_768", "image"),
]


@functools.cache
def built(name, size, phase):
    """A config's stage, and the shapes of its parameters, which cost nothing."""
    config = importlib.import_module(f"configs.{name}").get_config(f"{size},{phase}")
    stage = stages.build(config)
    return stage, params_lib.flatten(stages.param_shapes(stage))


def millions(flat, part=""):
    return params_lib.count({k: v for k, v in flat.items() if part in f"/{k}"}) / 1e6


@pytest.mark.parametrize(("name", "phase"), CONFIGS)
@pytest.mark.parametrize("size", ["cutout", "karlo", "paper"])
def test_every_size_of_every_stage_exists_and_says_what_it_learns_from(name, size, phase):
    stage, flat = built(name, size, phase)
    config = importlib.import_module(f"configs.{name}").get_config(f"{size},{phase}")
    assert stage.name == name
    assert any(params_lib.is_temporal(parameter) for parameter in flat) == (phase == "video")
    kind = "videos" if phase == "video" else "images"
    assert config.data[kind] == ("cutout" if size == "cutout" else None)


def test_the_decoder_has_the_size_and_blocks_of_the_released_one():
    """UNCLIP.md 2.2: 885.4M and, for the conditioning, 7.88M parameters."""
    stage, flat = built("decoder", "karlo", "image")
    conditioning = millions(flat, "/conditioning/")
    assert round(conditioning, 2) == 7.88
    assert round(millions(flat) - conditioning, 1) == 885.4
    kernels = [k for k, leaf in flat.items() if k.endswith("space/kernel") and leaf.ndim == 4]
    assert len(kernels) == 74
    layers = {name.partition("/")[0] for name in flat}
    assert len([name for name in layers if "block" in name or "resample" in name]) == 36
    assert len([name for name in layers if "attention" in name]) == 22
    assert flat["output/space/kernel"].shape == (3, 3, 320, 6)
    assert stage.network.learns_variance


def test_the_super_resolution_has_the_size_of_the_released_one():
    for name in ("sr_256", "sr_768"):
        _, flat = built(name, "karlo", "image")
        assert round(millions(flat), 1) == 691.6
        assert flat["input/space/kernel"].shape == (3, 3, 6, 320)
        assert flat["output/space/kernel"].shape == (3, 3, 320, 3)


def test_the_prior_has_the_size_of_the_released_one():
    """UNCLIP.md 2.2: 1022.0M parameters, statistics included."""
    _, flat = built("prior", "karlo", "image")
    assert round(millions(flat), 1) == 1022.0
    assert flat["positions"].shape == (81, 2048)


def test_the_text_tower_has_the_size_of_the_released_one():
    assert round(millions(built("clip", "karlo", "image")[1], "/text/"), 2) == 123.65


def test_time_layers_of_the_released_size_cost_what_was_planned():
    """UNCLIP.md 2.5: 175.5M in convolutions, 89.8M in attention besides what places the frames."""
    _, flat = built("decoder", "karlo", "video")
    time = {name: leaf for name, leaf in flat.items() if "/time/" in name}
    attention = {name: leaf for name, leaf in time.items() if "attention" in name}
    assert round(millions(time) - millions(attention), 1) == 175.5
    assert round(millions(attention) - millions(attention, "/position/"), 1) == 89.8


@pytest.mark.parametrize(
    ("name", "phase", "billions"),  # PAPER.md 1.4
    [
        ("prior", "image", 1.3),
        ("decoder", "video", 3.1),
        ("interpolation", "video", 3.1),
        ("sr_256", "video", 1.4),
        ("sr_768", "image", 0.7),
    ],
)
def test_paper_stages_have_the_papers_sizes(name, phase, billions):
    assert millions(built(name, "paper", phase)[1]) / 1000 == pytest.approx(billions, rel=0.05)


@pytest.mark.parametrize("size", ["cutout", "karlo", "paper"])
def test_stages_of_a_size_fit_together(size):
    """What CLIP emits is what the others take; a picture is as large as the next stage's input."""
    clip = built("clip", size, "image")[0].network
    told = dict(
        embedding_features=clip.embedding_features,
        text_features=clip.text_width,
        max_tokens=clip.max_tokens,
    )
    for name, phase in CONFIGS[1:5]:
        inputs = dict(built(name, size, phase)[0].inputs)
        assert inputs == {key: told[key] for key in inputs}
        assert inputs
    decoder, sr_256, sr_768 = (
        built(name, size, "image")[0] for name in ("decoder", "sr_256", "sr_768")
    )
    assert (decoder.size, sr_256.size) == (sr_256.low_size, sr_768.low_size)

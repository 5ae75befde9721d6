"""What the README and the pages of docs tell one to type: mav understands it, and it runs."""

import os
import pathlib
import re
import shlex
import subprocess
import tomllib

import numpy as np
import pytest

from mav import cli, diffusion, media, samplers
from mav.data import cutout

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
OTHERS = {"img2dataset", "video2dataset", "mypy", "pre-commit", "source"}  # not ours to check
over_pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page, language):
    """The blocks of a page in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)


def commands(page):
    """The commands of a page's shell blocks as lists of words, without what `...` leaves open."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").replace("$i", "0").splitlines():
            words = shlex.split(line, comments=True)
            if "&&" in words:
                both = words.index("&&")
                yield words[:both]
                words = words[both + 1 :]
            if words:
                yield [word for word in words if word not in ("...", "&")]


def understood(words):
    """Raises for a command that its program would refuse to read."""
    given = [word.partition("=") for word in words if re.match("[A-Z_]+=", word)]
    program, *arguments = words[len(given) :]
    if program == "mav":
        options, rest = cli.make_parser().parse_known_args(arguments)
        assert not rest or getattr(options, "takes_rest", False)
        if hasattr(options, "config"):
            cli.read_config(str(ROOT / options.config), rest)
    elif program.startswith("--config."):
        cli.read_config(f"{ROOT}/configs/decoder.py:paper,video", words)
    elif program == "bash":
        script = ROOT / arguments[0]
        assert script.is_file()
        if "--dry-run" in script.read_text("utf-8"):
            dry = ["bash", script, "--dry-run", *arguments[1:]]
            known = os.environ | dict(GIT="https://example.org/mav")
            known |= {name: value for name, _, value in given}
            subprocess.run(dry, check=True, cwd=ROOT, env=known, stdout=subprocess.DEVNULL)
    elif program == "python" and arguments[0] == "-c":
        compile(arguments[1], "-c", "exec")
    elif program in ("python", "pytest"):
        file = arguments[0] if arguments[0] != "-m" else f"{arguments[1].replace('.', '/')}.py"
        assert (ROOT / file).is_file() or arguments[1] == "zensical"
    elif program == "pip" and "-e" in arguments:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        assert arguments[-1][2:-1] in project["optional-dependencies"]
    else:
        assert program == "pip" or program in OTHERS, program


@over_pages
def test_commands_are_understood(page):
    for words in commands(page):
        try:
            understood(words)
        except (SystemExit, AssertionError, ValueError, subprocess.CalledProcessError) as error:
            raise AssertionError(shlex.join(words)) from error


def test_a_command_that_mav_does_not_know_is_found():
    for words in (
        ["mav", "sample", "a red ball", "--sizes", "64"],
        shlex.split("mav train --config configs/prior.py:paper,image --workdir x --config.x=1"),
        ["bash", "launch/nothing.sh"],
        ["pip", "install", "-e", ".[nothing]"],
    ):
        with pytest.raises((SystemExit, AssertionError, ValueError)):
            understood(words)


def test_the_sampler_of_the_page_on_extending_keeps_the_right_variance():
    (block,) = blocks(ROOT / "docs" / "extending.md", "python")
    names = dict(vars(samplers))
    exec(block, names)
    schedule = diffusion.Schedule("cosine")
    rows = diffusion.step_rows(schedule, np.array([900, 600, 300, 10]))
    columns = names["_half_noise"](rows)
    # x = alpha x0 + sigma eps becomes one of next_alpha and next_sigma.
    np.testing.assert_allclose(
        columns["x"] * rows["alpha"] + columns["x0"], rows["next_alpha"], rtol=1e-6
    )
    variance = (columns["x"] * rows["sigma"]) ** 2 + columns["noise"] ** 2
    np.testing.assert_allclose(variance, rows["next_sigma"] ** 2, rtol=1e-6)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the files that the pages name."""
    monkeypatch.chdir(tmp_path)
    boats = [("meadow", "boat", "red", "large", "left", 3)]
    boats += [("sea", "boat", "blue", "large", "right", 4)]
    for name, boat in zip(("photo", "a", "b"), (boats[0], *boats), strict=True):
        media.write_image(f"{name}.png", cutout.render(cutout.make_scene(*boat), 0, 256))
    for name in ("ball", "clip"):
        assert cli.main(["sample", "a red ball", "--size", "64", "--out", f"{name}.mp4"]) == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "docs/edits.md"], ids=["README", "edits"]
)
def test_what_a_page_samples_and_edits_is_there_afterwards(page, here, capsys):
    capsys.readouterr()
    kinds = ("sample", "animate", "tween", "vary", "extend", "smooth", "upscale")
    run = [words[1:] for words in commands(page) if words[0] == "mav" and words[1] in kinds]
    run = [words for words in run if "--cascade" not in words]  # of one's own
    assert len(run) >= 4
    for words in run:
        assert cli.main(words) == 0, shlex.join(words)
        video, sheet = capsys.readouterr().out.split()
        assert media.read(video)[0].shape[0] > 16
        assert media.read_image(sheet).ndim == 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "docs/index.md"], ids=["README", "index"]
)
def test_the_python_of_a_page_writes_its_video(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "python"):
        exec(block, {})
    assert media.read("ball.mp4")[0].shape == (76, 768, 768, 3)


def test_the_data_of_the_readme_are_built_and_inspected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("clips").mkdir()
    for i in range(3):
        media.write(f"clips/{i}.mp4", cutout.video("train", i, range(60), 96), 30)
    run = [words[1:] for words in commands(ROOT / "README.md") if words[:2] == ["mav", "data"]]
    assert [cli.main(words) for words in run] == [0, 0]
    assert pathlib.Path("data/videos/inspect.png").is_file()

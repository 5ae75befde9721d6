"""What the README and the pages of docs tell one to type: mav understands it, and it runs."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib

import numpy as np
import pytest

import mav
from mav import cli, diffusion, media, samplers
from mav.commands import config_files
from mav.data import cutout

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
OTHERS = {"img2dataset", "video2dataset", "mypy", "pre-commit", "source"}  # not ours to check
over_pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)

EDITS = "sample|animate|tween|vary|extend|smooth|upscale"
# Commands, by how they begin; of each the first line that fits. The tests below that run them:
RUN = {
    f"mav ({EDITS}|show) (?!.*--cascade)": "test_what_the_pages_sample_and_edit_is_there",
    "mav data": "test_the_data_of_the_pages_are_built_and_inspected",
    r"mav train .*:cutout|mav export runs": "test_what_the_pages_train_is_exported",
    "mav bench": "test_the_benches_of_the_pages_measure",
    "mav evaluate --protocol cutout": "test_the_evaluations_of_the_pages_report",
    "python -c": "test_the_line_of_python_prints_the_prompts_of_ucf101",
}
# Of the others why not, and what runs their like.
NOT_RUN = {
    "pip|source|pre-commit|mypy": "changes the machine",
    "bash launch/quickstart|bash launch/setup": "sets a machine up, as test.sh does, which CI runs",
    "bash launch/test|pytest": "runs these tests",
    "bash launch|[A-Z]+=.* bash launch": "needs a cloud: --dry-run above, tests/test_launch.py",
    "mav app": "waits for people: tests/test_app.py",
    "python docs|python colab": "tests/test_docs.py, tests/test_colab.py",
    "python -m zensical": "makes the site, which is looked at",
    "python tests/benchmarks": "measures for minutes or hours",
    "python -m launch.train_cutout_gpu": "needs a GPU",
    "mav plan": "needs libtpu: tests/test_plan.py, where it is installed",
    "mav train .*:(paper|karlo)|--config": "needs a pod: tests/test_train.py tries small ones",
    "mav convert": "needs files of others: tests/test_convert.py, tests/test_features.py",
    "(CUDA_.* )?mav evaluate": "needs files of others: tests/test_protocols.py",
    "img2dataset|video2dataset": "needs the network",
    f"mav ({EDITS}) .*--cascade|mav export gs:": "needs what one has converted or trained",
}
PYTHON = {  # pages with blocks of Python, and the tests that run them
    "README": "test_the_python_of_a_page_writes_its_video",
    "index": "test_the_python_of_a_page_writes_its_video",
    "extending": "test_the_sampler_of_the_page_on_extending_keeps_the_right_variance",
    "app": "tests/test_app.py",
    "edits": "tests/test_docs.py",
    "modules": "tests/test_docs.py",
}


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


def runs(test):
    """The commands of all pages that a test runs, each once."""
    found = [words for page in PAGES for words in commands(page) if place(page, words) == test]
    return list({tuple(words): words for words in found}.values())


def place(page, words):
    """The test that runs a command of a page, or why it is not run; None if that is not said."""
    if page.stem == "gallery":
        return "docs/gallery.py, which writes the page, samples them itself"
    command = shlex.join(words).replace("'", "")
    return next((where for of, where in (RUN | NOT_RUN).items() if re.match(of, command)), None)


def understood(words):
    """Raises for a command that its program would refuse to read."""
    given = [word.partition("=") for word in words if re.match("[A-Z_]+=", word)]
    program, *arguments = words[len(given) :]
    if program == "mav":
        options, rest = cli.make_parser().parse_known_args(arguments)
        assert not rest or getattr(options, "takes_rest", False)
        if hasattr(options, "config"):
            config_files.read(str(ROOT / options.config), rest)
    elif program.startswith("--config."):
        config_files.read(f"{ROOT}/configs/decoder.py:paper,video", words)
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


@over_pages
def test_every_command_is_run_or_said_why_not(page):
    for words in commands(page):
        assert place(page, words), f"neither in RUN nor in NOT_RUN: {shlex.join(words)}"


def test_every_entry_of_both_tables_is_of_use():
    used = {place(page, words) for page in PAGES for words in commands(page)}
    assert {*RUN.values(), *NOT_RUN.values()} <= used
    assert all(callable(globals()[test]) for test in RUN.values())
    assert place(PAGES[0], ["mav", "dream", "a red ball"]) is None


def test_every_page_with_python_has_a_test_that_runs_it():
    assert {page.stem for page in PAGES if blocks(page, "python")} == set(PYTHON)
    assert all((ROOT / test).is_file() or test in globals() for test in PYTHON.values())


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


def typed(words, folder):
    """What a command of mav prints, run as people run it: not as tests compile, on one device."""
    command = [sys.executable, "-m", "mav.cli", *words[1:]]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    options = dict(check=True, stdout=subprocess.PIPE, text=True)
    return subprocess.run(command, cwd=folder, env=environment, **options).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Has the files that the pages name."""
    path = tmp_path_factory.mktemp("folder")
    boats = [("meadow", "boat", "red", "large", "left", 3)]
    boats += [("sea", "boat", "blue", "large", "right", 4)]
    for name, boat in zip(("photo", "a", "b"), (boats[0], *boats), strict=True):
        media.write_image(path / f"{name}.png", cutout.render(cutout.make_scene(*boat), 0, 256))
    for name in ("ball", "clip"):
        typed(["mav", "sample", "a red ball", "--size", "64", "--out", f"{name}.mp4"], path)
    return path


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "words",
    runs("test_what_the_pages_sample_and_edit_is_there"),
    ids=lambda words: shlex.join(words[1:]),
)
def test_what_the_pages_sample_and_edit_is_there(words, folder):
    told = typed(words, folder)
    if words[1] == "show":
        assert "a red ball" in told
        return
    video, sheet = told.split()
    assert media.read(folder / video)[0].shape[0] > 16
    assert media.read_image(folder / sheet).ndim == 3


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


def test_the_data_of_the_pages_are_built_and_inspected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = dict(videos=tmp_path / "some videos", images=tmp_path / "some images")
    for kind in given.values():
        kind.mkdir()
    for i in range(3):
        clip = cutout.video("train", i, range(60), 256)
        media.write(given["videos"] / f"{i}.mp4", clip, 30)
        media.write_image(given["images"] / f"{i}.png", clip[0])
        (given["images"] / f"{i}.txt").write_text(f"picture {i}")
    for words in runs("test_the_data_of_the_pages_are_built_and_inspected"):
        if words[2] == "build":
            kind, source, destination = words[3:6]
            for folder in (source.partition("/")[0], destination):
                shutil.rmtree(folder, ignore_errors=True)
            if source.endswith(".tar"):
                pathlib.Path(source).parent.mkdir()
                with tarfile.open(source.replace("*", "0"), "w") as tar:
                    for file in sorted(given[kind].iterdir()):
                        tar.add(file, file.name)
            else:
                shutil.copytree(given[kind], source)
        assert cli.main(words[1:]) == 0, shlex.join(words)
        if words[2] == "inspect":
            assert pathlib.Path(words[3], "inspect.png").is_file()


def test_the_line_of_python_prints_the_prompts_of_ucf101():
    (words,) = runs("test_the_line_of_python_prints_the_prompts_of_ucf101")
    done = subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 10_000


@pytest.fixture
def run(tmp_path):
    """Types a command of mav beside the configs."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    return lambda words: typed(words, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_the_pages_train_is_exported(run, tmp_path):
    short = ["--config.num_steps=1", "--config.data.batch_size=2", "--config.eval.every=100"]
    for name in ("clip", "prior"):  # which the pages take for granted
        stage = [f"configs/{name}.py:cutout", "--workdir", f"runs/{name}"]
        told = [] if name == "clip" else ["--config.clip=runs/clip"]
        run(["mav", "train", "--config", *stage, *told, *short])
    for words in runs("test_what_the_pages_train_is_exported"):
        run(words + (short if words[1] == "train" else []))
    assert {"clip", "prior", "decoder"} <= set(mav.load(tmp_path / "cascades" / "mine").stages)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "words", runs("test_the_benches_of_the_pages_measure"), ids=lambda words: shlex.join(words[2:])
)
def test_the_benches_of_the_pages_measure(words, run):
    assert "of peak" in run(words)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_evaluations_of_the_pages_report(run, tmp_path):
    few = ["--num_prompts", "2", "--clips", "1", "--size", "64"]
    for words in runs("test_the_evaluations_of_the_pages_report"):
        run(words + few)
        out = tmp_path / words[words.index("--out") + 1]
        assert json.loads((out / "report.json").read_text("utf-8"))["num_prompts"] == 2
        shutil.rmtree(out)

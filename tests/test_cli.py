import json
import os
import subprocess
import sys

import numpy as np
import pytest

import mav
import tiny
from mav import cli, media
from mav.commands import config_files

PROMPT = "a red ball"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cascade")
    tiny.write(path)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "cache_compilations", lambda: None)
    return tmp_path


def test_flags_for_xla_that_were_given_stay(monkeypatch):
    flag = "--xla_cpu_experimental_ynn_fusion_type="
    for given in ("", "--xla_dump_to=x", f"{flag}LIBRARY_FUSION_TYPE_INVALID"):
        monkeypatch.setenv("XLA_FLAGS", given)
        cli.choose_cpu_convolutions()
        cli.choose_cpu_convolutions()
        assert os.environ["XLA_FLAGS"].startswith(given)
        assert os.environ["XLA_FLAGS"].count(flag) == 1


def refused(capsys, *arguments):
    """Runs a command that must fail; returns its one line."""
    capsys.readouterr()
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_sample_writes_a_video_and_a_sheet_and_prints_their_paths(folder, here, capsys):
    assert cli.main(["sample", PROMPT, "--cascade", str(folder)]) == 0
    assert capsys.readouterr().out.split() == ["a-red-ball.mp4", "a-red-ball-sheet.png"]
    video, fps = media.read(here / "a-red-ball.mp4")
    assert video.shape == (76, 32, 32, 3)
    assert fps == 15
    assert media.read_metadata(here / "a-red-ball.mp4")["prompt"] == PROMPT
    assert media.read_image(here / "a-red-ball-sheet.png").ndim == 3


def test_the_same_seed_writes_the_same_file(folder, here):
    run = lambda out, seed: cli.main(
        ["sample", PROMPT, "--cascade", str(folder), "--out", out, "--seed", seed, "--size", "8"]
    )
    for out, seed in (("a.mp4", "5"), ("b.mp4", "5"), ("c.mp4", "6")):
        assert run(out, seed) == 0
    assert (here / "a.mp4").read_bytes() == (here / "b.mp4").read_bytes()
    assert (here / "a.mp4").read_bytes() != (here / "c.mp4").read_bytes()


def test_several_videos_are_numbered(folder, here, capsys):
    arguments = ["sample", PROMPT, "--cascade", str(folder), "--num", "2", "--size", "8"]
    assert cli.main([*arguments, "--frames", "16", "--out", "x.gif"]) == 0
    assert capsys.readouterr().out.split() == ["x-1.gif", "x-2.gif", "x.gif", "x-sheet.png"]
    assert media.read(here / "x.gif")[0].shape == (16, 4, 8, 3)  # 4 x 4 pixels each


def test_a_script_gets_json_and_no_bars(folder, here, capsys):
    arguments = ["sample", PROMPT, "--cascade", str(folder), "--size", "8", "--frames", "16"]
    assert cli.main([*arguments, "--num", "2", "--out", "x.gif", "--quiet", "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert json.loads(said.out) == dict(
        files=["x-1.gif", "x-2.gif"], grid="x.gif", sheet="x-sheet.png"
    )
    assert cli.main(["show", "x-2.gif", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["prompt"] == PROMPT
    assert facts["seed"] == 1
    assert facts["settings"]["size"] == 8


def test_sample_writes_images_and_a_sheet_of_several(folder, here, capsys):
    arguments = ["sample", PROMPT, "--cascade", str(folder), "--image", "--seed", "3"]
    assert cli.main(arguments) == 0
    assert cli.main([*arguments, "--num", "3", "--out", "x.png"]) == 0
    names = ["a-red-ball.png", "x-1.png", "x-2.png", "x-3.png", "x.png"]
    assert capsys.readouterr().out.split() == names
    assert sorted(path.name for path in here.iterdir()) == names
    image = media.read_image(here / "a-red-ball.png")
    assert image.shape == (32, 32, 3)
    np.testing.assert_array_equal(image, media.read_image(here / "x-1.png"))
    assert media.read_metadata(here / "x-2.png")["seed"] == 4
    assert media.read_image(here / "x.png").shape == (64, 64, 3)


def test_a_prompt_that_is_too_long_is_cut_with_a_warning_that_names_the_end(folder, here, capsys):
    prompt = "a red ball a red ball a red ball red red red"
    arguments = ["sample", prompt, "--cascade", str(folder), "--image", "--size", "8"]
    assert cli.main([*arguments, "--out", "x.png"]) == 0
    assert "warning: the prompt is too long; left out: 'red red'" in capsys.readouterr().err


def test_settings_reach_the_stages_that_they_name(folder, here, capsys):
    arguments = ["sample", PROMPT, "--cascade", str(folder), "--size", "8", "--frames", "16"]
    assert cli.main([*arguments, "--steps", "decoder=2", "--steps", "prior=1", "--fps", "6"]) == 0
    assert media.read(here / "a-red-ball.mp4")[1] == 6
    message = refused(capsys, *arguments, "--steps", "decoder=0")
    assert "decoder: steps=0 must lie between 1 and 1000" in message


def test_words_that_a_cascade_never_saw_are_listed_with_what_it_knows(folder, here, capsys):
    arguments = ["sample", "a red zebra", "--cascade", str(folder), "--size", "8"]
    assert cli.main([*arguments, "--frames", "16"]) == 0
    warning = next(line for line in capsys.readouterr().err.splitlines() if "warning" in line)
    assert "never seen zebra" in warning
    assert "ball" in warning


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", " "], "prompt is empty"),
        (["sample", PROMPT, "--cascade", "nothing"], "'nothing' is neither shipped"),
        (["sample", PROMPT, "--out", "no/such/folder/x.mp4"], "no folder"),
        (["sample", PROMPT, "--out", "x.avi"], "must end in"),
        (["sample", PROMPT, "--size", "100"], "size=100 is impossible; choose 8, 16, 32"),
        (["sample", PROMPT, "--frames", "9"], "frames=9 is impossible"),
        (["sample", PROMPT, "--frames", "16", "--seconds", "2"], "--frames and --seconds say"),
        (["sample"], "there is no prompt"),
        (["sample", PROMPT, "--then", "a bird"], "2 prompts need a video of more than 76 frames"),
        (["sample", "a shit ball", "--filter"], "words that the filter refuses: shit;"),
        (["sample", PROMPT, "--mix", "photo.png=0.5"], "photo.png does not exist"),
        (["sample", PROMPT, "--mix", "a bird=2"], "mix takes a share of 2.0"),
        (["animate", "photo.png"], "photo.png does not exist"),
        (["vary", "notes.txt"], "the name must end in .mp4"),
        (["show", "ball.mp4"], "ball.mp4 does not exist"),
        (["sample", PROMPT, "--num", "0"], "num=0 must be at least 1"),
        (["sample", PROMPT, "--seed", str(2**63)], "seed=9223372036854775808 is impossible"),
        (["sample", PROMPT, "--seconds", "inf"], "seconds=inf must be above 0, and finite"),
        (["sample", PROMPT, "--seconds", "nan"], "seconds=nan must be above 0, and finite"),
        (["sample", PROMPT, "--seconds", "1.05"], "seconds=1.05 is too short; choose more than"),
        (["sample", PROMPT, "--image", "--seconds", "3"], "seconds=3.0 does not go with --image"),
        (["sample", PROMPT, "--mix", "clip.bmp=0.5"], "clip.bmp does not exist"),
        (["sample", PROMPT, "--aug_level", "sr_256=1000"], "aug_level of sr_256=1000 is impossi"),
        (["sample", PROMPT, "--aug_level", "prior=7"], "aug_level of prior=7 is impossible"),
        (
            ["sample", PROMPT, "--guidance_scale", "nan"],
            "guidance_scale of decoder=nan must be",
        ),
        (["sample", PROMPT, "--still_fps", "inf"], "still_fps=inf must be a finite number"),
        (["sample", PROMPT, "--size", "16", "--sampler", "sr_768=foo"], "sr_768: sampler='foo'"),
        (["sample", "\udcff ball"], "the text '\\udcff ball' is not UTF-8"),
        (["smooth", "clip.mp4", "--fps", "7"], "fps=7 does not go with smooth"),
        (["sample", PROMPT, "--frames", "1"], "frames=1 makes an image; say so with --image"),
        (["sample", PROMPT, "--image", "--frames", "16"], "frames=16 does not go with --image"),
        (["sample", PROMPT, "--image", "--out", "x.mp4"], "must end in .png"),
        (["sample", PROMPT, "--dtype", "float16"], "dtype='float16' is unknown; choose one of"),
        (["convert", "unclip", "nothing", "dst"], "nothing has no model_index.json"),
        (["train", "--config", "nothing.py", "--workdir", "w"], "nothing.py does not exist"),
    ],
)
def test_bad_input_gets_one_line_status_2_and_writes_nothing(
    folder, here, capsys, arguments, message
):
    if arguments[0] in ("sample", "animate", "vary") and "--cascade" not in arguments:
        arguments = [*arguments, "--cascade", str(folder)]
    assert message in refused(capsys, *arguments)
    assert list(here.iterdir()) == []


def test_a_damaged_cascade_is_refused_by_the_name_of_its_file(folder, here, capsys):
    tiny.write(here)
    index = json.loads((here / "cascade.json").read_text())
    (here / "cascade.json").write_text(json.dumps(index | dict(stages=["prior", "decoder"])))
    assert "has no clip; export" in refused(capsys, "sample", PROMPT, "--cascade", str(here))
    (here / "cascade.json").write_text(json.dumps(index)[:-5])
    assert "cascade.json is damaged" in refused(capsys, "sample", PROMPT, "--cascade", str(here))


COMMANDS = ("sample", "animate", "tween", "vary", "extend", "smooth", "upscale", "show", "train")


@pytest.mark.parametrize("command", [*COMMANDS, "export", "evaluate", "bench", "plan"])
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main([command, "--help"])
    assert exit_info.value.code == 0
    assert f"example:\n  mav {command}" in capsys.readouterr().out


def test_an_interrupted_sample_leaves_nothing_behind(folder, here, monkeypatch):
    write = media.VideoWriter.append

    def interrupt(self, frames):
        write(self, frames)
        raise KeyboardInterrupt

    monkeypatch.setattr(media.VideoWriter, "append", interrupt)
    assert cli.main(["sample", PROMPT, "--cascade", str(folder)]) == 130
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "after", "kept"),
    [
        (["--num", "3", "--size", "8"], 3, ["x-1.mp4", "x-2.mp4"]),
        (["--frames", "200", "--size", "8"], 7, ["x.mp4"]),
        (["--frames", "200", "--size", "8"], 1, []),
    ],
)
def test_an_interrupted_command_keeps_what_is_finished(
    folder, here, monkeypatch, capsys, arguments, after, kept
):
    calls, append = [], media.VideoWriter.append

    def interrupt(self, frames):
        calls.append(self.path)
        if "--num" in arguments:
            if len(set(calls)) == after:
                raise KeyboardInterrupt
        elif len(calls) > after:
            raise KeyboardInterrupt
        append(self, frames)

    monkeypatch.setattr(media.VideoWriter, "append", interrupt)
    command = ["sample", PROMPT, "--cascade", str(folder), *arguments, "--out", "x.mp4"]
    assert cli.main(command) == 130
    assert sorted(path.name for path in here.iterdir()) == kept
    for name in kept:
        video, _ = media.read(here / name)
        assert len(video) == 76 if "--num" in arguments else 76 < len(video) < 200
    message = capsys.readouterr().err.splitlines()[-1]
    seconds = f": x.mp4 has the first {len(video) / 15:.1f} seconds" if after == 7 else ""
    assert message == f"mav sample: interrupted{seconds}"


def test_a_file_tells_how_it_was_made_and_another_is_made_like_it(folder, here, capsys):
    asked = ["sample", PROMPT, "--cascade", str(folder), "--size", "8", "--frames", "16"]
    asked += ["--seed", "7", "--steps", "decoder=2", "--negative", "snow", "--mix", "blue bird=0.3"]
    assert cli.main([*asked, "--out", "a.npz"]) == 0
    capsys.readouterr()
    assert cli.main(["show", "a.npz"]) == 0
    told = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert told["prompt"] == PROMPT
    assert told["seed"] == "7"
    assert told["ai_generated"] == "true"
    assert told["made_by"] == f"mav {mav.__version__}"
    assert json.loads(told["settings"])["steps"]["decoder"] == 2
    assert cli.main(["sample", "--like", "a.npz", "--out", "b.npz"]) == 0
    assert cli.main(["sample", "--like", "a.npz", "--seed", "8", "--out", "c.npz"]) == 0
    a, b, c = (np.load(here / f"{name}.npz")["video"] for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    media.write(here / "other.mp4", a, 15)
    message = refused(capsys, "sample", "--like", "other.mp4")
    assert "other.mp4 does not say that `mav sample` made it" in message
    assert "does not say how it was made" in refused(capsys, "show", "other.mp4")


def test_who_reads_no_further_hears_no_complaint(here):
    media.write(here / "a.npz", np.zeros((1, 8, 8, 3), np.uint8), 15, metadata={"prompt": PROMPT})
    command = [sys.executable, "-m", "mav.cli", "show", "a.npz"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_preview_shows_what_is_coming(folder, here, monkeypatch):
    seen = []
    write = media.write_image
    monkeypatch.setattr(
        media, "write_image", lambda path, *rest: seen.append(path.name) or write(path, *rest)
    )
    arguments = ["sample", PROMPT, "--cascade", str(folder), "--size", "16", "--preview"]
    assert cli.main([*arguments, "--out", "x.mp4"]) == 0
    assert seen == ["x-preview.png"] * (3 + 5 * 2 + 2) + ["x-sheet.png"]
    assert sorted(path.name for path in here.iterdir()) == ["x-sheet.png", "x.mp4"]


def test_a_mark_is_written_into_the_pictures_when_asked(folder, here):
    arguments = ["sample", PROMPT, "--cascade", str(folder), "--image"]
    assert cli.main([*arguments, "--out", "a.png"]) == 0
    assert cli.main([*arguments, "--out", "b.png", "--mark"]) == 0
    plain, marked = media.read_image(here / "a.png"), media.read_image(here / "b.png")
    np.testing.assert_array_equal(media.mark(plain[None])[0], marked)


def test_edits_from_the_command_line(folder, here, capsys):
    picture = np.random.default_rng(0).integers(256, size=(2, 20, 30, 3), dtype=np.uint8)
    media.write_image(here / "a.png", picture[0])
    media.write_image(here / "b.png", picture[1])
    common = ["--cascade", str(folder), "--size", "8", "--out"]
    run = lambda *arguments: cli.main([*arguments[:-1], *common, arguments[-1]]) == 0
    video = lambda name: np.load(here / name)["video"]

    assert run("animate", "a.png", "animated.npz")
    np.testing.assert_array_equal(video("animated.npz")[:1], media.fit(picture[:1], 8))
    assert run("tween", "a.png", "b.png", "tween.npz")
    np.testing.assert_array_equal(video("tween.npz")[[0, -1]], media.fit(picture, 8))
    assert (here / "tween-sheet.png").is_file()

    media.write(here / "clip.mp4", video("animated.npz")[:31], 15)
    decoded = media.fit(media.read(here / "clip.mp4")[0], 8)
    assert run("extend", "clip.mp4", "--seconds", "1", "after.npz")
    assert run("extend", "clip.mp4", "--seconds", "1", "--before", "before.npz")
    np.testing.assert_array_equal(video("after.npz")[:31], decoded)
    np.testing.assert_array_equal(video("before.npz")[15:], decoded)
    assert len(video("after.npz")) == len(video("before.npz")) == 31 + 15
    assert run("vary", "clip.mp4", "--frames", "16", "varied.npz")
    assert video("varied.npz").shape == (16, 8, 8, 3)
    assert run("smooth", "clip.mp4", "--frame_skip", "3", "smooth.webp")
    smooth, fps = media.read(here / "smooth.webp")
    assert len(smooth) == 91
    assert fps == pytest.approx(45, rel=0.01)
    large = ["--cascade", str(folder), "--size", "16", "--out", "large"]
    assert cli.main(["upscale", "clip.mp4", *large]) == 0
    assert len(list((here / "large").iterdir())) == 31
    capsys.readouterr()
    assert "size=8 needs no super-resolution" in refused(
        capsys, "upscale", "clip.mp4", *common, "x"
    )


def test_what_is_read_is_never_written_over(folder, here, capsys):
    picture = np.random.default_rng(0).integers(256, size=(2, 20, 30, 3), dtype=np.uint8)
    for name in ("x.png", "x-sheet.png", "x-preview.png"):
        media.write_image(here / name, picture[0])
    media.write(here / "x.mp4", picture, 8)
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    common = ["--cascade", str(folder), "--size", "8"]
    refuse = lambda *arguments: refused(capsys, *arguments, *common)
    assert "x-sheet.png is read" in refuse("animate", "x-sheet.png", "--out", "x.mp4")
    assert "x.mp4 is read" in refuse("vary", "x.mp4", "--out", "x.mp4")
    mixed = ["sample", PROMPT, "--mix", "x.png=0.5", "--image", "--out", "x.png"]
    assert "x.png is read" in refuse(*mixed)
    preview = ["sample", PROMPT, "--out", "x.gif", "--preview"]
    assert "x-preview.png is there already" in refuse(*preview)
    assert cli.main(["animate", "x.png", "--frames", "16", "--out", "x.gif", *common]) == 0
    after = {path.name: path.read_bytes() for path in here.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {"x.gif", "x-sheet.png"}


def test_edits_take_the_decoders_pace_beside_that_of_the_video(folder, here, capsys):
    picture = np.random.default_rng(0).integers(256, size=(20, 8, 8, 3), dtype=np.uint8)
    media.write(here / "x.npz", picture, 15)
    media.write_image(here / "a.png", picture[0])
    common = ["--cascade", str(folder), "--size", "8"]
    assert cli.main(["extend", "x.npz", "--fps", "5", "--out", "longer.npz", *common]) == 0
    assert media.read(here / "longer.npz")[1] == 25
    assert media.read_metadata(here / "longer.npz")["settings"]["fps"] == 5
    assert cli.main(["smooth", "x.npz", "--frame_skip", "3", "--out", "smooth.npz", *common]) == 0
    assert media.read_metadata(here / "smooth.npz")["settings"]["fps"] == 10  # the most it has seen
    media.write(here / "fast.npz", picture, 100)
    message = refused(capsys, "smooth", "fast.npz", "--frame_skip", "3", *common)
    assert "frame_skip=3 makes 300 frames per second of 100; .mp4 holds up to 240" in message
    tween = ["tween", "a.png", "a.png", "--frame_skip", "3", "--out", "t.npz", *common]
    assert cli.main(tween) == 0
    assert len(media.read(here / "t.npz")[0]) == 46


def test_words_of_a_mixture_may_be_longer_than_the_name_of_a_file(folder, here, capsys):
    arguments = ["sample", PROMPT, "--cascade", str(folder), "--image", "--size", "8"]
    words = "a red ball and " * 40
    assert cli.main([*arguments, "--mix", f"{words}=0.5", "--out", "x.png"]) == 0
    assert "the prompt is too long; left out" in capsys.readouterr().err


def test_closed_outputs_do_not_stop_a_command(folder, here, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    arguments = ["sample", PROMPT, "--cascade", str(folder), "--size", "8", "--frames", "16"]
    assert cli.main([*arguments, "--out", "x.npz"]) == 0
    assert (here / "x.npz").is_file()
    sys.stdout.close()
    sys.stderr.close()


def test_a_config_takes_changes_and_refuses_unknown_ones():
    path = "configs/decoder.py:cutout,video"
    config = config_files.read(path, ["--config.data.batch_size=3"])
    assert config.data.batch_size == 3
    assert config.frames == 16
    with pytest.raises(ValueError, match="batchsize"):
        config_files.read(path, ["--config.data.batchsize=3"])
    with pytest.raises(ValueError, match="size='huge' is unknown here; choose cutout"):
        config_files.read("configs/decoder.py:huge", [])


def test_numbers_of_a_sheet_do_not_depend_on_the_seed_of_another_video(folder, here):
    arguments = ["sample", PROMPT, "--cascade", str(folder), "--size", "8", "--frames", "16"]
    cli.main([*arguments, "--seed", "1", "--out", "one.webp"])
    cli.main([*arguments, "--seed", "0", "--num", "2", "--out", "two.webp"])
    one, two = media.read(here / "one.webp")[0], media.read(here / "two-2.webp")[0]
    np.testing.assert_array_equal(one, two)


CONFIGS = f"{cli.__file__.rsplit('/', 2)[0]}/configs"


@pytest.mark.parametrize("command", ["train", "bench", "plan"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.batch_size=0", "data.batch_size=0 must be at least 1"),
        ("data.batch_size=-2", "data.batch_size=-2 must be at least 1"),
        ("data.crop=7", "data.crop=7 must be a multiple of 8, since the network divides it; set "),
        ("data.crop=128", "data.crop=128 must be at most data.size=64"),
        ("frames=0", "frames=0 must be at least 1"),
        ("network.patch=0", "network.patch=0 must be at least 1"),
        ("network.head_dim=7", "network.head_dim=7 must divide the 144 features that heads"),
        ("log_every=0", "log_every=0 must be at least 1"),
        ("eval.every=0", "eval.every=0 must be at least 1"),
        ("dtype=float8", "dtype='float8' is unknown; choose one of float32, bfloat16"),
    ],
)
def test_impossible_numbers_of_a_config_are_refused_before_anything_is_made(
    here, capsys, command, change, message
):
    arguments = [command, "--config", f"{CONFIGS}/decoder.py:cutout,video", f"--config.{change}"]
    more = dict(train=["--workdir", "run", "--config.clip=cutout"], plan=["--topology", "v5e:2x2"])
    assert message in refused(capsys, *arguments, *more.get(command, []))
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        ("sr_256", "data.crop=100", "data.crop=100 must be a multiple of 8"),
        ("sr_256", "low_size=60", "low_size=60 must divide size=256"),
        ("clip", "data.crop=32", "data.crop=32 must be network.image_size=64"),
        ("clip", "network.image_head_dim=7", "network.image_head_dim=7 must divide the 128 feat"),
        ("prior", "network.head_dim=7", "network.head_dim=7 must divide the"),
    ],
)
def test_each_kind_of_network_has_its_own_impossible_numbers(here, capsys, stage, change, message):
    config = f"{CONFIGS}/{stage}.py:cutout"
    assert message in refused(capsys, "bench", "--config", config, f"--config.{change}")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "config.seed=3",
            "unknown argument config.seed=3; a change of the config is written --con",
        ),
        ("stray", "unknown argument stray;"),
        ("--config.foo=1", "has no key foo; it has clip, data, dtype,"),
        ("--config.data.foo=1", "has no key data.foo; data has batch_size,"),
        ("--config.seed.foo=1", "has no key seed.foo; seed is a value, 0"),
        ("--config.seed=x", "flag --config.seed=x: invalid literal"),
    ],
)
@pytest.mark.parametrize("command", ["train", "bench", "plan"])
def test_what_is_no_change_of_a_config_is_refused_by_name(here, capsys, command, given, message):
    arguments = [command, "--config", f"{CONFIGS}/sr_768.py:cutout", given]
    more = dict(train=["--workdir", "run"], plan=["--topology", "v5e:2x2"])
    assert message in refused(capsys, *arguments, *more.get(command, []))
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n", "own.py:1: "),
        ("\nimport no_such_module\n", "own.py:2: ModuleNotFoundError: No module named 'no_such_mo"),
        ("from mav import nothing_\n", "own.py:1: ImportError: cannot import name 'nothing_'"),
        ("def get_config():\n    return 1 / 0\n", "own.py:2: ZeroDivisionError: division by zero"),
        (
            "def get_config():\n    return {}\n",
            "own.py has no get_config that returns a ConfigDict",
        ),
        ("x = 1\n", "own.py has no get_config that returns a ConfigDict"),
    ],
)
def test_a_faulty_config_file_is_refused_by_its_name_and_line(here, capsys, text, message):
    (here / "own.py").write_text(text)
    assert message in refused(capsys, "train", "--config", "own.py", "--workdir", "run")
    assert not (here / "run").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--batch_size", "0"], "data.batch_size=0 must be at least 1"),
        (["--mesh", ""], "mesh='' is not of the form"),
    ],
)
def test_an_option_of_plan_that_says_nothing_counts_as_given(here, capsys, option, message):
    arguments = ["plan", "--config", f"{CONFIGS}/sr_768.py:cutout", "--topology", "v5e:2x2"]
    assert message in refused(capsys, *arguments, *option)


STEPS = tiny.SETTINGS | dict(steps=5)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (dict(settings=dict(tiny.SETTINGS, foo=1)), "s.json has the unknown setting foo; choose a"),
        (
            dict(settings=dict(size=8)),
            "s.json lacks the setting steps, sampler, spacing, guidance_s",
        ),
        (dict(settings=5), "s.json has settings=5; it must be an object"),
        (dict(settings=STEPS), "s.json has steps=5; it must be a table by stage"),
        (dict(settings=tiny.SETTINGS, provenance=5), "s.json has provenance=5; it must be an obj"),
    ],
)
def test_impossible_settings_of_an_export_are_refused(here, capsys, about, message):
    (here / "s.json").write_text(json.dumps(about))
    assert message in refused(capsys, "export", "run", "made", "--settings", "s.json")
    assert not (here / "made").exists()


INDEX = dict(format=1, name="x", stages=list(tiny.CONFIGS), settings=tiny.SETTINGS, provenance={})


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (dict(format=1), "cascade.json lacks name, stages, settings, provenance; fetch or export"),
        (
            INDEX | dict(settings=dict(tiny.SETTINGS, foo=1)),
            "cascade.json has the unknown setting f",
        ),
        (INDEX | dict(settings=dict(size=8)), "cascade.json lacks the setting steps, sampler"),
        (INDEX | dict(settings=STEPS), "cascade.json has steps=5; it must be a table by stage"),
        (INDEX | dict(stages="clip"), "cascade.json has stages='clip'; it must be a list of some"),
        (
            INDEX | dict(stages=["clip", "foo"]),
            "has stages=['clip', 'foo']; it must be a list of s",
        ),
        (INDEX | dict(stages=[{}]), "has stages=[{}]; it must be a list of some of clip, prior"),
    ],
)
def test_a_cascade_whose_index_is_incomplete_is_refused(folder, here, capsys, index, message):
    (here / "cascade.json").write_text(json.dumps(index))
    for stage in tiny.CONFIGS:
        (here / stage).symlink_to(folder / stage)
    (here / "tokenizer.json").symlink_to(folder / "tokenizer.json")
    assert message in refused(capsys, "sample", PROMPT, "--cascade", ".", "--image")


def without(table, *names):
    return {name: value for name, value in table.items() if name not in names}


DECODER = tiny.CONFIGS["decoder"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "decoder/config.json has stage=None, it must be 'decoder'"),
        (
            dict(DECODER, stage="prior"),
            "decoder/config.json has stage='prior', it must be 'decoder'",
        ),
        (
            dict(DECODER, network=without(DECODER["network"], "width")),
            "network of stage 'decoder' lacks width",
        ),
        (without(DECODER, "network"), "network of stage 'decoder' is None; it must be a table, of"),
        (without(DECODER, "process"), "process of stage 'decoder' is None; it must be a table, of"),
    ],
)
def test_a_cascade_whose_stage_is_incomplete_is_refused(here, capsys, config, message):
    tiny.write(here)
    (here / "decoder" / "config.json").write_text(json.dumps(config))
    assert message in refused(capsys, "sample", PROMPT, "--cascade", ".", "--image")


@pytest.mark.parametrize(
    "part", ["decoder/params.safetensors", "sr_256/config.json", "tokenizer.json"]
)
def test_a_missing_part_of_a_cascade_is_named(here, capsys, part):
    tiny.write(here)
    (here / part).unlink()
    message = refused(capsys, "sample", PROMPT, "--cascade", str(here), "--image")
    assert f"cascade {here} lacks {part}; fetch or export it again" in message

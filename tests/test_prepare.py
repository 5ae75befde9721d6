import contextlib
import io
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import numbered
import tiny
from mav import cli, train
from mav.data import builders, prepare, readers, sources

ROOT = pathlib.Path(__file__).parent.parent


def picture(seed, side=80):
    """A smooth picture unlike those of other seeds."""
    small = np.random.default_rng(seed).integers(256, size=(5, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "png")
    return buffer.getvalue()


def moving(path, count=30, fps=20, first=0, look=0, **options):
    return numbered.video(
        str(path), np.arange(count) / fps, first=first, looks=[look] * count, **options
    )


def build(kind, source, destination, **options):
    options = dict(processes=1, progress=False) | options
    return prepare.build(kind, source, destination, **options)


def report(folder):
    return json.loads((folder / "report.json").read_text())


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.fixture(scope="module", autouse=True)
def short_shards():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(readers.FILES, "videos", 3)
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Videos of several containers, codecs, rates and shapes, and what is no good."""
    folder = tmp_path_factory.mktemp("corpus")
    moving(folder / "a.mp4", count=40)
    moving(folder / "b.webm", fps=12, codec="libvpx", first=100, look=1)
    moving(folder / "c.mkv", fps=25, codec="ffv1", first=200, look=2, width=96)
    moving(folder / "d.mov", codec="mjpeg", pix_fmt="yuvj420p", first=300, look=1, height=96)
    times = np.cumsum(np.random.default_rng(0).choice([0.03, 0.05, 0.1], 40))
    numbered.video(str(folder / "e.mp4"), times, first=400, rotation=90, width=80)
    looks = [0] * 25 + [1] * 30
    numbered.video(str(folder / "f.mp4"), np.arange(55) / 20, looks=looks, first=50)
    (folder / "g.mp4").write_bytes(b"no video")
    numbered.sound(folder / "h.mp4")
    moving(folder / "small.mp4", height=48, width=48)
    numbered.video(str(folder / "still.mkv"), [0.0], "ffv1")
    return folder


@pytest.fixture(scope="module")
def built(corpus, short_shards, tmp_path_factory):
    destination = tmp_path_factory.mktemp("built") / "videos"
    # Numbers of few bits look alike to a hash of 64 pixels.
    assert not build("videos", corpus, destination, test_share=0.2, filter_text="seconds,motion")
    return destination


def test_frames_come_back_with_their_times(built):
    seen = {}
    for split in ("train", "test"):
        videos = builders.ArrayRecordVideos(built, split)
        for i in range(len(videos)):
            key = videos.examples[i]["key"].decode()
            shown = videos[i].show(range(len(videos[i].times)), 64)
            seen[key] = videos[i].times, [numbered.number(frame) for frame in shown]
    lengths = {"a.mp4#0": 40, "b.webm#0": 30, "c.mkv#0": 30, "d.mov#0": 30, "e.mp4#0": 40}
    assert {key: len(found) for _, (key, (_, found)) in enumerate(seen.items())} == {
        **lengths,
        "f.mp4#0": 25,
        "f.mp4#1": 30,
    }
    for key, (times, found) in seen.items():
        if key == "e.mp4#0":  # held sideways: numbers turn with the frame
            wanted = np.cumsum(np.random.default_rng(0).choice([0.03, 0.05, 0.1], 40))
            np.testing.assert_allclose(times, wanted - wanted[0], atol=2e-3)
            continue
        first, fps = {"a": (0, 20), "b": (100, 12), "c": (200, 25), "d": (300, 20)}.get(
            key[0], (50 if key.endswith("0") else 75, 20)
        )
        assert found == list(range(first, first + len(found))), key
        np.testing.assert_allclose(times, np.arange(len(found)) / fps, atol=2e-3)


def test_the_report_says_what_is_missing_and_why(built):
    told = report(built)
    assert told["kept"] == 7
    assert told["skipped"] == {
        "no video in it": 1,
        "not a video": 1,
        "filter size": 1,
        "filter seconds": 1,
    }
    assert told["failed"] == {"no video in it": 1, "not a video": 1}
    reasons = {item["key"]: item["reason"] for item in told["items"]}
    assert reasons == {
        "g.mp4": "not a video",
        "h.mp4": "no video in it",
        "small.mp4": "filter size",
        "still.mkv#0": "filter seconds",
    }
    assert sum(told["splits"].values()) == 7
    assert not any(str(built.parent.parent) in text for text in (json.dumps(told),))


def test_tfds_reads_it_with_its_provenance(built):
    examples = tfds.builder_from_directory(built).as_data_source("train")
    for example in examples:
        origin = json.loads(example["origin"])
        assert origin["file"] == example["key"].decode().partition("#")[0]
        assert origin["end"] - origin["start"] == pytest.approx(example["times"][-1], abs=1e-5)
        frame = tfds.builder_from_directory(built / "frames").as_data_source("train")
        assert min(frame[int(example["first"])]["image"].shape[:2]) == 64
    files = []
    for split in ("train", "test"):
        examples = tfds.builder_from_directory(built).as_data_source(split)
        files.append({json.loads(example["origin"])["file"] for example in examples})
    assert not files[0] & files[1]


def test_clips_of_it_are_at_any_rate(built):
    config = dict(videos=str(built), split="train", seed=0, batch_size=2, size=64, crop=48)
    config |= dict(fps_start=(3.0, 1.0), fps_end=(1.0, 1.0), stills=0)
    config |= dict(crop_at="random", flip_prob=0.5)
    source = sources.make(config, 16, 50, None)
    for i in range(8):
        example = source[i]
        assert example["frames"].shape == (16, 48, 48, 3)
        assert 1 <= example["fps"] <= 30


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["decoder", "interpolation", "sr_256"])
def test_stages_train_on_it(stage, built, tmp_path):
    tiny.write(tmp_path / "cascade")
    config = tiny.small(stage, "video", tmp_path / "cascade", num_steps=50)
    config.data.update(videos=str(built), stills=0)
    if stage != "decoder":
        config.network.residual = False  # with it most is right from the start
    assert train.run(config, tmp_path / "run") == 50
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_damaged_records_are_left_out_and_told_of(built, tmp_path):
    config = dict(videos=str(tmp_path / "copy"), split="train", seed=0, batch_size=2, size=64)
    config |= dict(crop=48, fps_start=(3.0, 1.0), fps_end=(1.0, 1.0), stills=0)
    config |= dict(crop_at="random", flip_prob=0.5)
    shutil.copytree(built, tmp_path / "copy")
    file = max((tmp_path / "copy" / "frames").glob("*train*"), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    file.write_bytes(content)
    source = sources.make(config, 16, 50, None)
    with pytest.warns(UserWarning, match=r"record \d+ is damaged .*left out so far"):
        damaged = [source[i] for i in range(40)]
    whole = sources.make(config | dict(videos=str(built)), 16, 50, None)
    same = [np.array_equal(damaged[i]["frames"], whole[i]["frames"]) for i in range(40)]
    assert len(source.damaged) > 0
    assert 20 < sum(same) < 40
    file.write_bytes(b"")  # and where nothing is left there is an end to trying
    for other in file.parent.glob("*train*"):
        other.write_bytes(content[: len(content) // 3])
    source = sources.make(config, 16, 50, None)
    told = pytest.warns(UserWarning, match="left out so far")
    with told, pytest.raises(ValueError, match="1000 records in a row are damaged"):
        source[0]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_build_gives_the_same_bytes_again(corpus, built, tmp_path, processes):
    build(
        "videos",
        corpus,
        tmp_path / "again",
        test_share=0.2,
        filter_text="seconds,motion",
        processes=processes,
    )
    assert contents(tmp_path / "again") == contents(built)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path):
    """Two hours at 2 fps after a minute: 20 MB more, and 78 MB if all frames were kept."""
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    for name, count in dict(minute=120, hours=14400).items():
        (tmp_path / name).mkdir()
        with av.open(str(tmp_path / name / "in.mkv"), "w") as container:
            stream = container.add_stream("mjpeg", rate=2, width=64, height=64, pix_fmt="yuvj420p")
            for _ in range(count):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(noise)))
            container.mux(stream.encode())
    code = (
        "from mav.data import prepare\n"
        "for name in ('minute', 'hours'):\n"
        "    prepare.build('videos', name, f'{name}.out', filter_text='none', processes=1)\n"
        "    status = open('/proc/self/status').read()\n"
        "    print(status.split('VmHWM:')[1].split()[0])\n"  # KiB, the most so far
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    before, after = (int(line) for line in done.stdout.splitlines() if line.isdigit())
    assert after - before < 40 * 1024
    # A clip is closed by the first frame more than 20 s after its first one: 41 frames.
    assert report(tmp_path / "hours.out")["kept"] == -(-14400 // 41)


def image_folder(folder, count=10):
    folder.mkdir()
    for i in range(count):
        (folder / f"{i}.png").write_bytes(picture(i))
        (folder / f"{i}.txt").write_text(f"a picture of number {i}")
    return folder


def test_images_keep_their_captions_and_duplicates_go(tmp_path, capsys):
    folder = image_folder(tmp_path / "in")
    (folder / "x.png").write_bytes(picture(3, side=200))  # the same, larger
    (folder / "x.txt").write_text("the same picture once more")
    (folder / "y.png").write_bytes(picture(50))
    (folder / "y.txt").write_text("hardcore porn")
    assert build("images", folder, tmp_path / "out", test_share=0.3)
    told = report(tmp_path / "out")
    assert told["skipped"] == {"filter toxic": 1, "filter duplicates": 1}
    assert [item["key"] for item in told["items"]] == ["y.png", "x.png"]
    captions = {}
    for split in ("train", "test"):
        images = builders.ArrayRecordImages(tmp_path / "out", split)
        for i in range(len(images)):
            captions[images.caption(i)] = images.image(i, 64).astype(float)
    assert set(captions) == {f"a picture of number {i}" for i in range(10)}
    with Image.open(folder / "7.png") as image:
        wanted = np.asarray(image.resize((64, 64), Image.Resampling.LANCZOS)).astype(float)
    assert np.abs(captions["a picture of number 7"] - wanted).mean() < 2
    printed = capsys.readouterr()
    assert "kept 10 images, skipped 1 filter toxic, 1 filter duplicates" in printed.out
    assert "filter nsfw could not judge 12 of 12 records" in printed.err
    assert told["filters"]["watermark"]["unjudged"] == 12


def test_a_filter_asked_for_by_name_needs_its_score(tmp_path):
    folder = image_folder(tmp_path / "in", 4)
    (folder / "0.json").write_text('{"pwatermark": 0.1}')
    (folder / "1.json").write_text('{"pwatermark": 0.9}')
    assert build("images", folder, tmp_path / "out", filter_text="watermark")
    told = report(tmp_path / "out")
    assert (told["kept"], told["skipped"]) == (1, {"filter watermark": 3})
    details = {item["key"]: item["detail"] for item in told["items"]}
    assert details["1.png"] == "0.9, above 0.5"
    assert details["2.png"] == "nothing known to judge it by"


def test_a_small_set_has_a_test_split_too(tmp_path):
    build("images", image_folder(tmp_path / "in", 5), tmp_path / "out")
    assert report(tmp_path / "out")["splits"] == dict(train=4, test=1)


def test_a_build_that_is_stopped_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setitem(readers.FILES, "images", 3)
    folder = image_folder(tmp_path / "in", 12)
    build("images", folder, tmp_path / "straight", test_share=0.3)

    stops = 0
    while not (tmp_path / "stopped").exists():  # at each file that a build writes
        stops += 1
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(prepare, "_write", stopping(prepare._write, [], stops))
            build("images", folder, tmp_path / "stopped", test_share=0.3)
    assert stops > 4
    assert contents(tmp_path / "stopped") == contents(tmp_path / "straight")
    assert not list(tmp_path.glob("*.unfinished"))


def stopping(function, done, after):
    def run(*arguments):
        done.append(arguments)
        if len(done) > after:
            raise KeyboardInterrupt
        return function(*arguments)

    return run


def test_a_killed_build_leaves_nothing_half_done(tmp_path):
    folder = image_folder(tmp_path / "in", 30)
    script = "from mav.data import prepare, readers; readers.FILES['images'] = 2; "
    script += "prepare.build('images', {0!r}, {1!r}, processes=1, progress=False)"
    script = script.format(str(folder), str(tmp_path / "out"))
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    parts = tmp_path / "out.unfinished" / "parts"
    while process.poll() is None and len(list(parts.glob("*.json"))) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(parts.glob("*.json"))) >= 3
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
    told = report(tmp_path / "out")
    assert told["kept"] == 30
    assert sum(told["splits"].values()) == 30


def test_an_unfinished_build_is_not_mixed_with_another(tmp_path, monkeypatch):
    folder = image_folder(tmp_path / "in", 3)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_decide", stopping(None, [], 0))
        with pytest.raises(KeyboardInterrupt):
            build("images", folder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"begun with size=64, not 65; finish it as it was"):
        build("images", folder, tmp_path / "out", size=65)
    (folder / "4.png").write_bytes(picture(4))
    with pytest.raises(ValueError, match=r"begun with listing="):
        build("images", folder, tmp_path / "out")


def test_too_much_damage_is_status_1(tmp_path, capsys):
    folder = image_folder(tmp_path / "in", 4)
    (folder / "bad.png").write_bytes(picture(9)[:300])
    (folder / "bad.txt").write_text("half a picture")
    command = ["data", "build", "images", str(folder), str(tmp_path / "out"), "--processes=1"]
    assert cli.main(command) == 1
    assert "1 of 5 images are damaged, more than max_failed=0.1" in capsys.readouterr().err
    assert report(tmp_path / "out")["skipped"] == {"damaged image": 1}
    command[4] = str(tmp_path / "again")
    assert cli.main([*command, "--max_failed=0.2"]) == 0


def test_nothing_kept_is_status_1_with_a_report(tmp_path, capsys):
    folder = image_folder(tmp_path / "in", 2)
    command = ["data", "build", "images", str(folder), str(tmp_path / "out"), "--size=96"]
    assert cli.main([*command, "--processes=1"]) == 1
    assert "nothing was kept" in capsys.readouterr().err
    assert report(tmp_path / "out")["skipped"] == {"filter size": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size=8"], "size=8 is outside 16..2048"),
        (["--encoding=gif"], "encoding='gif' is unknown; choose jpeg, png"),
        (["--filters=motoin"], "filter 'motoin' is unknown for images"),
        (["--test_share=2"], "test_share=2.0 is outside 0..1"),
        (["--format=zip"], "format='zip' is unknown"),
        (["--media=nowhere"], "media='nowhere' is not a folder"),
        (["--bogus=1"], "unknown argument --bogus=1"),
        (["--processes=0"], "processes=0 must be at least 1"),
    ],
)
def test_bad_options_are_one_line(tmp_path, capsys, arguments, message):
    folder = image_folder(tmp_path / "in", 1)
    assert cli.main(["data", "build", "images", str(folder), str(tmp_path / "o"), *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "o.unfinished").exists()


def test_beam_builds_the_same(corpus, built, tmp_path):
    pytest.importorskip("apache_beam")
    options = dict(test_share=0.2, filter_text="seconds,motion", beam=["--runner=DirectRunner"])
    build("videos", corpus, tmp_path / "beam", **options)
    assert contents(tmp_path / "beam") == contents(built)

"""The paper's protocols from end to end, with small stand-ins for the networks of features."""

import collections
import dataclasses
import errno
import json
import shutil

import jax
import numpy as np
import pytest
import scipy.linalg

import mav
import tiny
from mav import cli, folders, media
from mav.evaluate import clips, cutout, metrics, msrvtt, protocol, store, ucf101

VIEW = clips.View(size=8)
SILENT = lambda *of: None


@dataclasses.dataclass(frozen=True)
class StandIn:
    """Random projections of mean colours. stop: raises after so many batches, as a kill would."""

    name: str
    preprocessing: str = "mean colours"
    checksum: str = "5eed"
    source: str | None = None
    published: str | None = None
    calls: list = dataclasses.field(default_factory=list)
    stop: int | None = None

    def __call__(self, videos):
        assert videos.dtype == np.uint8
        assert 1 <= len(videos) <= store.PART
        if self.stop is not None and len(self.calls) >= self.stop:
            raise KeyboardInterrupt
        self.calls.append(len(videos))
        return features(self.name, videos)

    def embed_texts(self, texts):
        return embed(texts)


def embed(texts):
    return np.stack([np.random.default_rng(len(text)).normal(size=8) for text in texts])


def features(name, videos):
    colours = videos.astype(np.float64).mean((2, 3)) / 128 - 1
    rng = np.random.default_rng(len(name))
    if name in ("i3d", "c3d"):
        flat = colours.reshape(len(colours), -1)
        return dict(logits=flat @ rng.normal(size=(flat.shape[1], 6)))
    return {protocol.OUTPUTS[name]: colours @ rng.normal(size=(3, 8))}


def stand_ins(names, **options):
    return {name: StandIn(name, **options) for name in names}


def videos(num, seed=0, frames=16):
    """Slowly changing colours, a little otherwise in each video."""
    rng = np.random.default_rng(seed)
    start, end = rng.integers(0, 256, size=(2, num, 1, 1, 1, 3))
    share = np.linspace(0, 1, frames)[None, :, None, None, None]
    noise = rng.normal(0, 5, size=(num, frames, 8, 8, 3))
    return np.clip(start * (1 - share) + end * share + noise, 0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def small_sheets(monkeypatch):
    monkeypatch.setattr(protocol, "SHEET", 2)


def in_memory(arrays, **facts):
    labels = [f"video {n}" for n in range(len(arrays))]
    return clips.Clips(dict(kind="memory", name="test", **facts), labels, read_from(arrays))


def read_from(arrays, fps=None):
    """What `Clips.read` gives of videos; those that are text are left out, and it says why."""

    def read(n):
        if isinstance(arrays[n], str):
            raise clips.LeftOutError(arrays[n])
        return clips.Clip(arrays[n], fps)

    return read


FAKE, REAL = videos(21), videos(30, seed=1)
BOTH = ("i3d", "c3d")


def run(tmp_path, names=BOTH, extractors=None, fake=FAKE, real=REAL, chosen=ucf101.PROTOCOL, **of):
    return protocol.run(
        chosen,
        extractors or stand_ins(names),
        in_memory(fake),
        None if real is None else in_memory(real, real=True),
        tmp_path / "out",
        tmp_path / "statistics",
        VIEW,
        **dict(dict(progress=SILENT), **of),
    )


def values(report):
    return {measure["name"]: measure["value"] for measure in report["measures"]}


# The numbers.


def slow_frechet(x, y, ddof):
    a, b = np.cov(x.T, ddof=ddof), np.cov(y.T, ddof=ddof)
    root = scipy.linalg.sqrtm(a @ b).real
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)


def test_measures_of_ucf101_are_those_of_all_features_at_once(tmp_path):
    report = run(tmp_path)
    found = values(report)
    fake, real = (features("i3d", x)["logits"] for x in (FAKE, REAL))
    assert found["FVD"] == pytest.approx(slow_frechet(fake, real, 1), rel=1e-4)
    assert found["FVD, covariances by n"] == pytest.approx(slow_frechet(fake, real, 0), rel=1e-4)
    assert found["KVD"] == pytest.approx(metrics.kernel_distance(fake, real)[0], rel=1e-4)
    logits = features("c3d", FAKE)["logits"]
    assert found["IS"] == pytest.approx(metrics.inception_score(logits)[0], rel=1e-4)
    of_splits = metrics.inception_score(logits[np.argsort(protocol.places(21, 1))], 10)[0]
    assert found["IS, 10 splits"] == pytest.approx(of_splits, rel=1e-4)
    for measure in report["measures"]:
        if measure["interval"]:
            low, high = measure["interval"]
            assert low < measure["value"] < high
    assert {m["name"]: m["paper"] for m in report["measures"] if m["paper"]} == dict(
        FVD=367.23, IS=33.0
    )


@pytest.mark.parametrize("fid_frames", ["all", "middle"])
def test_measures_of_msrvtt_are_those_of_all_features_at_once(tmp_path, fid_frames):
    report = run(
        tmp_path,
        ("inception", "clip"),
        chosen=msrvtt.PROTOCOL,
        options=protocol.Options(fid_frames=fid_frames),
    )
    found = values(report)
    frames = slice(None) if fid_frames == "all" else slice(8, 9)
    fake, real = (features("inception", x[:, frames])["pool"] for x in (FAKE, REAL))
    fake, real = fake.reshape(-1, 8), real.reshape(-1, 8)
    # Three colours in eight features: nearly singular.
    assert found["FID"] == pytest.approx(slow_frechet(fake, real, 1), rel=1e-3)
    images = features("clip", FAKE)["embedding"]
    texts = embed([f"video {n}" for n in range(21)])
    cosines = [
        [i @ t / np.linalg.norm(i) / np.linalg.norm(t) for i in frames]
        for frames, t in zip(images, texts, strict=True)
    ]
    assert found["CLIPSIM"] == pytest.approx(np.mean(cosines), rel=1e-4)
    middle = [features("clip", x)["embedding"][:, 8] for x in (FAKE, REAL)]
    assert found["CMMD"] == pytest.approx(metrics.cmmd(*middle)[0], rel=1e-3)
    errors = {measure["name"]: measure["error"] for measure in report["measures"]}
    means = np.mean(cosines, axis=1)
    assert errors["CLIPSIM"] == pytest.approx(np.std(means, ddof=1) / np.sqrt(21), rel=1e-4)


def test_errors_are_those_that_runs_with_other_samples_show(tmp_path):
    reports = [run(tmp_path / str(i), fake=videos(64, seed=100 + i)) for i in range(16)]
    for name in ("FVD", "KVD", "IS"):
        rows = [next(m for m in report["measures"] if m["name"] == name) for report in reports]
        spread = np.std([row["value"] for row in rows], ddof=1)
        assert 0.5 < np.mean([row["error"] for row in rows]) / spread < 2, name


def test_groups_and_splits_do_not_depend_on_the_order_of_names(tmp_path):
    order = np.argsort(features("c3d", FAKE)["logits"].argmax(1), kind="stable")
    assert len(set(features("c3d", FAKE)["logits"].argmax(1))) > 2
    by_class = np.concatenate([FAKE[order]] * 10)
    report = run(tmp_path, fake=by_class)
    found = values(report)
    assert found["IS, 10 splits"] > 0.9 * found["IS"]
    place = protocol.places(60, 20)
    assert sorted(place) == list(range(60))
    assert (np.diff(place.reshape(3, 20), axis=1) == 1).all()
    assert place[0] != 0 or place[20] != 20


def test_kernel_distances_take_evenly_spaced_clips_where_there_are_many(tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "MOST", 7)
    fake, real = (features("i3d", x)["logits"] for x in (FAKE[::3], REAL[::5]))
    wanted = metrics.kernel_distance(fake, real)[0]
    assert values(run(tmp_path))["KVD"] == pytest.approx(wanted, rel=1e-4)


# Runs that stop, go on, and are shared.


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_run_that_was_killed_goes_on_where_it_was_and_ends_the_same(tmp_path):
    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", extractors=stand_ins(BOTH, stop=5))  # after 4 of real, 1 of 3
    again = stand_ins(BOTH)
    run(tmp_path / "killed", extractors=again)
    assert {name: len(one.calls) for name, one in again.items()} == dict(i3d=2, c3d=2)
    assert contents(tmp_path / "killed" / "out") == contents(tmp_path / "whole" / "out")


def test_progress_counts_what_is_left_to_do(tmp_path):
    told = []
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, extractors=stand_ins(BOTH, stop=5))
    run(tmp_path, progress=lambda *of: told.append(of))
    assert told == [("samples", done, 13) for done in range(14)]  # 8 of 21 were there


def test_processes_share_the_work_and_the_last_writes_the_same_report(tmp_path):
    run(tmp_path / "one")
    share = lambda i: run(tmp_path / "two", options=protocol.Options(process=i, processes=2))
    assert share(1) is None
    assert not (tmp_path / "two" / "out" / "report.json").exists()
    assert share(0) is not None
    assert contents(tmp_path / "two" / "out") == contents(tmp_path / "one" / "out")


def test_statistics_are_taken_as_they_are_without_the_real_videos(tmp_path):
    whole = run(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "statistics").rename(tmp_path / "other" / "statistics")
    alone = run(tmp_path / "other", real=None)
    assert values(alone) == values(whole)


def test_statistics_of_another_preprocessing_are_refused_by_both_names(tmp_path):
    run(tmp_path)
    other = stand_ins(BOTH, preprocessing="median colours")
    for real in (REAL, None):
        with pytest.raises(ValueError, match=r"preprocessing='mean .*preprocessing='median "):
            run(tmp_path, extractors=other, real=real)


def test_the_cache_keeps_statistics_of_each_kind_apart(tmp_path):
    run(tmp_path, keyed=True)
    out = tmp_path / "second"
    second = stand_ins(BOTH, preprocessing="median colours")
    generated, real = in_memory(FAKE), in_memory(REAL, real=True)
    arguments = (generated, real, out, tmp_path / "statistics", VIEW)
    protocol.run(ucf101.PROTOCOL, second, *arguments, keyed=True, progress=SILENT)
    assert len(list((tmp_path / "statistics").iterdir())) == 2
    third = stand_ins(BOTH)
    arguments = (generated, real, tmp_path / "third", tmp_path / "statistics", VIEW)
    protocol.run(ucf101.PROTOCOL, third, *arguments, keyed=True, progress=SILENT)
    assert len(third["i3d"].calls) == 3  # generated ones; the real ones were there


def test_a_damaged_part_is_named(tmp_path):
    run(tmp_path)
    path = tmp_path / "out" / "features" / "i3d" / "000001.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"000001.safetensors is damaged"):
        run(tmp_path)


# What the report says.


def test_the_report_has_every_choice_and_the_published_numbers(tmp_path):
    report = run(tmp_path)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert report["networks"]["i3d"] == dict(
        preprocessing="mean colours", weights="5eed", source=None, published=None
    )
    assert report["mav"] == mav.__version__
    assert report["choices"]["real_frames_per_second"] == "of the file"
    assert report["choices"]["frames_of_longer_videos"] == "middle"
    assert jax.__version__ in report["choices"]["computed_by"]
    assert report["real"]["count"] == 30
    assert report["generated"]["count"] == 21
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| Make-A-Video | 33 | 367.23 |" in page
    assert "mav does not know the files of weights of i3d, c3d" in page
    assert "FVD is of 21 samples: below 2048" in page
    assert "asks for 10,000 samples; these are 21" in page
    assert "meaningless" not in page
    assert media.read_image(tmp_path / "out" / "sheet.png").shape[1] > 700


def test_a_rehearsal_is_marked_in_every_output(tmp_path):
    report = run(tmp_path, options=protocol.Options(rehearsal=True))
    assert report["meaningless"] == protocol.MEANINGLESS
    page = (tmp_path / "out" / "report.md").read_text()
    assert page.count("meaningless") >= 2
    assert "**REHEARSAL: ten videos, so these numbers mean nothing.**" in page
    assert all("mean nothing" in line for line in protocol.lines(report))


def test_enough_samples_are_not_remarked(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "FEW", 21)
    assert not any("biased" in remark for remark in run(tmp_path)["remarks"])


def test_frames_per_second_of_files_are_reported(tmp_path):
    rates = np.where(np.arange(30) < 4, 8.0, 25.0)
    labels = [f"video {n}" for n in range(30)]
    real = clips.Clips({}, labels, lambda n: clips.Clip(REAL[n], rates[n]))
    fake = clips.Clips(dict(name="test"), labels, lambda n: clips.Clip(FAKE[n % 21], 12.5))
    view = clips.View(size=8, fps=12.0)
    folders = (tmp_path / "out", tmp_path / "statistics")
    report = protocol.run(
        ucf101.PROTOCOL, stand_ins(BOTH), fake, real, *folders, view, progress=SILENT
    )
    assert report["real"]["frames_per_second"] == dict(lowest=8, median=25, highest=25)
    assert report["generated"]["frames_per_second"] == dict(lowest=12.5, median=12.5, highest=12.5)
    assert any("4 real videos have fewer frames per second" in r for r in report["remarks"])
    assert report["choices"]["real_frames_per_second"] == 12.0


def test_short_real_videos_are_left_out_and_counted(tmp_path):
    real = [f"video {n} is too short" if n in (3, 29) else REAL[n] for n in range(30)]
    report = run(tmp_path, real=real)
    assert report["real"]["left_out"] == ["video 3 is too short", "video 29 is too short"]
    assert "2 real videos were left out. The first: video 3" in " ".join(report["remarks"])
    assert report["real"]["count"] == 28
    kept = [n for n in range(30) if n not in (3, 29)]
    fake, real = (features("i3d", x)["logits"] for x in (FAKE, REAL[kept]))
    assert values(report)["FVD"] == pytest.approx(slow_frechet(fake, real, 1), rel=1e-4)


# Clips.


@pytest.mark.parametrize(
    ("view", "length", "fps", "wanted"),
    [
        (dict(which="first"), 25, 25.0, range(10)),
        (dict(), 25, 25.0, range(7, 17)),
        (dict(), 10, None, range(10)),
        (dict(), 9, None, None),
        (dict(fps=12.5, which="first"), 25, 25.0, range(0, 20, 2)),
        (dict(fps=12.5), 25, 25.0, range(3, 23, 2)),
        (dict(fps=12.5), 18, 25.0, None),
        (dict(fps=50.0, which="first"), 10, 25.0, [0, 0, 1, 2, 2, 2, 3, 4, 4, 4]),
    ],
)
def test_a_view_takes_the_frames_it_says(view, length, fps, wanted):
    video = np.arange(length, dtype=np.uint8)[:, None, None, None] * np.ones((8, 8, 3), np.uint8)
    found = clips.View(frames=10, size=8, **view).cut(video, fps)
    assert (None if found is None else found[:, 0, 0, 0].tolist()) == (wanted and list(wanted))


def test_a_folder_of_anyones_videos_is_read(tmp_path):
    for n, name in enumerate(("b.npz", "a.mp4", "c")):
        media.write(tmp_path / name, FAKE[n], 8, dict(prompt=f"prompt {n}"))
    (tmp_path / "b.txt").write_text("a caption\n")
    media.write_image(tmp_path / "a.png", FAKE[0][0])  # mav's sheets lie beside videos
    found = clips.of_folder(tmp_path, VIEW)
    assert found.labels == ["prompt 1", "a caption", "prompt 2"]
    np.testing.assert_array_equal(found.read(1).frames, FAKE[0])
    np.testing.assert_array_equal(found.read(2).frames, FAKE[2])
    assert found.read(0).frames.shape == (16, 8, 8, 3)
    assert [found.read(n).fps for n in range(3)] == [8, None, None]

    (tmp_path / "captions.csv").write_text("file,caption\nc,one\nb.npz,two\n")
    found = clips.of_folder(tmp_path, VIEW)
    assert found.labels == ["one", "two"]
    np.testing.assert_array_equal(found.read(0).frames, FAKE[2])
    assert found.facts != clips.of_folder(tmp_path, VIEW).chosen(1).facts
    assert in_memory(FAKE).chosen(4).labels == ["video 0", "video 5", "video 10", "video 15"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.csv", b"file,caption\na.npz,caf\xe9\n", "captions.csv is no CSV in UTF-8"),
        ("a.txt", b"caf\xe9", "a.txt is no text in UTF-8"),
        ("captions.csv", b"file,caption\nempty,one\n", "empty holds no pictures"),
    ],
)
def test_bad_captions_get_a_line_that_names_the_file(tmp_path, name, content, message):
    media.write(tmp_path / "a.npz", FAKE[0], 8)
    (tmp_path / "empty").mkdir()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        clips.of_folder(tmp_path, VIEW).read(0)


def test_captions_that_excel_saves_are_read(tmp_path):
    media.write(tmp_path / "a.npz", FAKE[0], 8)
    (tmp_path / "captions.csv").write_text("file,caption\na.npz,a café\n", encoding="utf-8-sig")
    assert clips.of_folder(tmp_path, VIEW).labels == ["a café"]


def test_a_disk_that_fails_once_costs_no_video_and_one_that_fails_stops(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    media.write(path, FAKE[0], 8)
    found = clips.of_files([path], [None], VIEW, {}, strict=False)
    read, failures = media.read, [OSError(errno.EIO, "Input/output error", str(path))]

    def failing(*arguments, **options):
        if failures:
            raise ValueError("cannot be read") from failures.pop()
        return read(*arguments, **options)

    monkeypatch.setattr(media, "read", failing)
    assert found.read(0).frames.shape == (16, 8, 8, 3)
    failures[:] = [OSError()] * 2
    with pytest.raises(clips.LeftOutError, match="cannot be read"):  # the file can, so it is bad
        found.read(0)
    failures[:] = [OSError()]
    path.unlink()
    with pytest.raises(FileNotFoundError):
        found.read(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 and no more", "holds no array 'video' that can be read"),
        (dict(video=np.zeros((16, 8, 8))), r"video is float64 \[16, 8, 8\]; wanted uint8"),
        (dict(frames=FAKE[0]), "holds no array 'video'"),
        (dict(video=np.array([{}])), "holds no array 'video' that can be read"),
    ],
)
def test_damaged_arrays_get_a_clear_line(tmp_path, content, message):
    path = tmp_path / "a.npz"
    path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
    with pytest.raises(ValueError, match=message):
        clips.read_video(path)


def test_a_fingerprint_sees_names_sizes_and_both_ends(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(bytes(300_000))
    seen = {clips.fingerprint([path])}
    for at in (0, 299_999):
        content = bytearray(300_000)
        content[at] = 1
        path.write_bytes(content)
        seen.add(clips.fingerprint([path]))
    path.write_bytes(bytes(300_001))
    seen.add(clips.fingerprint([path]))
    path.rename(tmp_path / "b.mp4")
    seen.add(clips.fingerprint([tmp_path / "b.mp4"]))
    assert len(seen) == 5


# The data sets.


def test_ucf101_has_the_published_number_of_classes_and_training_videos():
    table = ucf101.classes()
    assert len(table) == 101
    assert sum(row["train"] for row in table.values()) == 9537
    assert len({row["sentence"] for row in table.values()}) == 101


@pytest.mark.parametrize("num", [10, 101, 10_000])
def test_samples_follow_the_training_split(num):
    table = ucf101.classes()
    prompts = ucf101.prompts(num)
    assert len(prompts) == num
    found = collections.Counter(prompts)
    for row in table.values():
        assert abs(found[row["sentence"]] - num * row["train"] / 9537) < 1


@pytest.fixture(scope="module")
def ucf101_folder(tmp_path_factory):
    """Four videos, two of them to train on; one is shorter than a clip."""
    root = tmp_path_factory.mktemp("ucf")
    names = [f"YoYo/v_YoYo_g0{g}_c01.avi" for g in (1, 8, 9)] + ["TaiChi/v_TaiChi_g08_c01.avi"]
    for n, name in enumerate(names):
        path = root / "UCF-101" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        media.write(path.with_suffix(".mp4"), videos(1, n, 15 if n == 2 else 16 + n)[0], 25)
        path.with_suffix(".mp4").rename(path)
    (root / "lists").mkdir()
    (root / "lists" / "classInd.txt").write_text("1 YoYo\n2 TaiChi\n")
    lines = "".join(f"{name} 1\r\n" for name in names[1:])
    (root / "lists" / "trainlist01.txt").write_text(lines)
    (root / "lists" / "testlist01.txt").write_text(f"{names[0]}\n")
    return root


def test_real_clips_of_ucf101_are_those_of_the_split(ucf101_folder):
    found = ucf101.real(ucf101_folder, "train", VIEW)
    assert found.labels == ["Tai Chi", "Yo Yo", "Yo Yo"]
    assert found.read(0).frames.shape == (16, 8, 8, 3)
    with pytest.raises(clips.LeftOutError, match=r"g09_c01\.avi is too short: 15 frames"):
        found.read(2)
    assert len(ucf101.real(ucf101_folder, "test", VIEW)) == 1
    assert len(ucf101.real(ucf101_folder, "all", VIEW)) == 4


@pytest.fixture(scope="module")
def msrvtt_json(tmp_path_factory):
    root = tmp_path_factory.mktemp("msrvtt")
    names = ["video7", "video3", "video9"]
    table = dict(
        videos=[dict(video_id=name, split="test") for name in names[:2]]
        + [dict(video_id="video9", split="train")],
        sentences=[
            dict(video_id=name, caption=f"{words} of  {name}")
            for words in ("a red ball", "a bird")
            for name in names
        ]
        + [dict(video_id="video3", caption=" ")],
    )
    (root / "test.json").write_text(json.dumps(table))
    for n, name in enumerate(names[:2]):
        media.write(root / f"{name}.mp4", videos(1, n, 18)[0], 30)
    return root / "test.json"


def test_captions_of_msrvtt_are_those_of_the_split_test(msrvtt_json):
    of_each = lambda name: [f"a red ball of {name}", f"a bird of {name}"]
    wanted = [*of_each("video7"), *of_each("video3")]
    assert msrvtt.captions(msrvtt_json) == wanted
    assert msrvtt.prompts(msrvtt_json, 2) == wanted[::2]
    found = msrvtt.real(msrvtt_json, None, VIEW)
    assert found.labels == ["video7", "video3"]
    assert found.read(1).frames.shape == (16, 8, 8, 3)


def test_sound_beside_a_video_does_not_take_its_place(msrvtt_json, tmp_path):
    shutil.copytree(msrvtt_json.parent, tmp_path / "data")
    (tmp_path / "data" / "video7.wav").write_bytes(b"RIFF")
    found = msrvtt.real(tmp_path / "data" / "test.json", None, VIEW)
    assert found.read(0).frames.shape == (16, 8, 8, 3)
    shutil.copy(tmp_path / "data" / "video7.mp4", tmp_path / "data" / "video7.webm")
    with pytest.raises(ValueError, match=r"video7 \(several files: video7.mp4, video7.webm\)"):
        msrvtt.real(tmp_path / "data" / "test.json", None, VIEW)


# The command.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cascade")
    tiny.write(path)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder, an empty cache, and stand-ins for networks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cli, "cache_compilations", lambda: None)
    given = lambda weights, mesh: stand_ins(name for name, path in weights.items() if path)
    monkeypatch.setattr(protocol, "load", given)
    return tmp_path


def evaluate(*arguments):
    return cli.main(["evaluate", "--out", "out", *map(str, arguments)])


def test_a_cascade_is_rehearsed(folder, here, ucf101_folder, capsys):
    asked = ["--protocol", "ucf101", "--real", ucf101_folder, *FILES, "--rehearsal"]
    asked += ["--cascade", folder, "--size", 8, "--steps", "decoder=1", "--seed", 3]
    assert evaluate(*asked) == 0
    printed = capsys.readouterr().out
    assert printed.count("mean nothing") == 5
    assert "FVD: " in printed
    report = json.loads((here / "out" / "report.json").read_text())
    assert report["generated"]["count"] == 10
    assert report["generated"]["settings"]["steps"]["decoder"] == 1
    assert report["real"]["count"] == 2
    assert not (here / "cache" / "mav" / "evaluation").exists()
    # A sample is what `mav sample` makes with its seed.
    settings = dict(size=8, frames=16, steps=dict(prior=2, decoder=1))
    pieces = mav.load(folder).stream(ucf101.prompts(10)[2], 300_002, SILENT, **settings)
    wanted = features("c3d", np.concatenate(list(pieces))[None])["logits"][0]
    kept = store.Store(here / "out" / "features" / "c3d", {}, 10).all()[1]
    np.testing.assert_allclose(kept[2], wanted, rtol=1e-5)


def test_samples_of_a_cascade_that_changed_are_not_taken_for_its_own(
    folder, here, ucf101_folder, capsys
):
    changed = here / "changed"
    shutil.copytree(folder, changed)
    asked = ["--protocol", "ucf101", "--real", ucf101_folder, *FILES, "--rehearsal"]
    asked += ["--cascade", changed, "--size", 8, "--steps", "decoder=1"]
    assert evaluate(*asked) == 0
    for name in ("decoder/params.safetensors", "decoder/config.json", "tokenizer.json"):
        content = bytearray((changed / name).read_bytes())
        before = bytes(content)
        at = len(content) // 2 if name.endswith("safetensors") else len(content)
        content[at : at + 1] = bytes([content[at] ^ 1]) if at < len(content) else b"\n"
        (changed / name).write_bytes(content)
        assert "clips.checksum=" in refused(capsys, *asked), name
        (changed / name).write_bytes(before)
    assert "clips.dtype='float32'" in refused(capsys, *asked, "--dtype", "bfloat16")


def test_machines_without_a_common_cache_finish_together(here, ucf101_folder, monkeypatch):
    (here / "made").mkdir()
    for n in range(12):
        media.write(here / "made" / f"{n:02d}.npz", FAKE[n], 8)
    asked = ["--protocol", "ucf101", "--real", ucf101_folder, "--videos", "made", *FILES]
    asked += ["--size", 8, "--num_processes", 2]
    for process in range(2):
        monkeypatch.setenv("XDG_CACHE_HOME", str(here / f"cache{process}"))
        assert evaluate(*asked, "--process_id", process) == 0
    assert (here / "out" / "report.json").is_file()


def test_statistics_and_captions_stand_for_the_videos(folder, here, msrvtt_json, capsys):
    asked = ["--protocol", "msrvtt", "--cascade", folder, "--inception", "i", "--clip", "c"]
    asked += ["--size", 8, "--steps", "decoder=1", "--num_prompts", 2, "--statistics", "kept"]
    assert evaluate(*asked, "--real", msrvtt_json) == 0
    shutil.rmtree(here / "out")
    shutil.copy(msrvtt_json, here / "captions.json")  # no videos beside it
    assert evaluate(*asked, "--captions", "captions.json") == 0
    assert "by --captions" in refused(capsys, *asked)


def test_msrvtt_from_the_command_line(here, msrvtt_json, capsys):
    for n in range(4):
        facts = dict(prompt="a red ball over a green meadow")
        (here / "made").mkdir(exist_ok=True)
        media.write(here / "made" / f"{n}.npz", FAKE[n], 8, facts)
    asked = ["--protocol", "msrvtt", "--real", msrvtt_json, "--videos", "made", "--clip", "clip"]
    asked += ["--inception", "i.safetensors", "--size", 8]
    assert evaluate(*asked) == 0
    found = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines()[:-3])
    assert {"FID", "KID", "CLIPSIM", "CMMD"} <= set(found)
    assert len(list((here / "cache" / "mav" / "evaluation").iterdir())) == 2


def refused(capsys, *arguments):
    capsys.readouterr()
    assert evaluate(*arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


FILES = ["--i3d", "i", "--c3d", "c"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs the weights of i3d: give --i3d FILE, which `mav convert i3d SOURCE FILE`"),
        (FILES, "either --cascade or --videos"),
        ([*FILES, "--videos", "v"], "name the real videos by --real, or --statistics"),
        ([*FILES, "--videos", "v", "--real", "nothing"], "nothing is not a folder"),
        ([*FILES, "--videos", "v", "--statistics", "s"], "v is not a folder of videos"),
        ([*FILES, "--videos", "v", "--frames", "9"], "frames=9 is impossible: c3d takes 16"),
        ([*FILES, "--videos", "v", "--which", "last"], "which='last' is unknown"),
        ([*FILES, "--videos", "v", "--num_prompts", "1"], "num_prompts=1 must be at least 2"),
        ([*FILES, "--videos", "v", "--fid_frames", "2"], "fid_frames='2' is unknown"),
        ([*FILES, "--videos", "v", "--process_id", "1"], "process_id=1 of num_processes=1"),
        ([*FILES, "--videos", "v", "--steps", "3"], "--steps belongs to --cascade"),
        ([*FILES, "--videos", "v", "--dtype", "bfloat16"], "--dtype belongs to --cascade"),
        ([*FILES, "--videos", "v", "--real_split", "test"], "--real_split belongs to --real"),
        ([*FILES, "--videos", "v", "--real", "u", "--media", "m"], "--media does not belong to"),
        ([*FILES, "--videos", "v", "--real_fps", "inf"], "real_fps=inf must be above 0 and finite"),
        ([*FILES, "--videos", "v", "--real_fps", "nan"], "real_fps=nan must be above 0 and finite"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(here, capsys, arguments, message):
    assert message in refused(capsys, "--protocol", "ucf101", *arguments)
    assert list(here.iterdir()) == []


def test_the_cutout_protocol_is_asked_as_before(here, monkeypatch):
    asked = []
    monkeypatch.setattr(mav.cascade, "load", lambda name: name)
    monkeypatch.setattr(cutout, "run", lambda *given, **options: asked.append((given, options)))
    monkeypatch.setattr(folders, "checksum", lambda name: f"of {name}")
    assert evaluate("--protocol", "cutout", "--steps", "decoder=3") == 0
    assert evaluate("--protocol", "cutout", "--cascade", "c", "--size", 256, "--frames", 16) == 0
    assert asked == [
        (("cutout", "out"), dict(checksum="of cutout", steps=dict(decoder=3))),
        (("c", "out"), dict(checksum="of c", size=256, frames=16)),
    ]


def test_bad_folders_get_one_line_and_status_2(here, capsys, ucf101_folder, msrvtt_json):
    def ucf101_of(*arguments):
        return refused(capsys, "--protocol", "ucf101", *FILES, *arguments)

    (here / "v").mkdir()
    assert "v holds no videos" in ucf101_of("--real", ucf101_folder, "--videos", "v")
    media.write(here / "v" / "a.npz", FAKE[0], 8)
    media.write(here / "v" / "b.npz", FAKE[0][:15], 8)
    asked = ["--real", ucf101_folder, "--videos", "v", "--size", 8]
    assert evaluate("--protocol", "ucf101", *FILES, *asked) == 2  # after bars
    assert "v/b.npz is too short: 15 frames; the view takes 16" in capsys.readouterr().err
    assert "3 videos are asked for; there are 2" in ucf101_of(*asked, "--num_prompts", 3)
    assert "real_split='x' is unknown" in ucf101_of(*asked, "--real_split", "x")
    assert "s/ucf101-i3d holds no statistics" in ucf101_of("--videos", "v", "--statistics", "s")
    of_msrvtt = ["--protocol", "msrvtt", "--inception", "i", "--clip", "cutout"]
    asked = [*of_msrvtt, "--videos", "v", "--real", msrvtt_json, "--size", 8]
    assert "video 1 has no caption, which CLIPSIM needs" in refused(capsys, *asked)
    message = refused(capsys, *asked, "--media", here / "v")
    assert "lacks 2 of the 2 videos of the split test" in message
    (here / "v" / "captions.csv").write_text("file,caption\nc.npz,one\n")
    assert "c.npz, which is not there" in refused(capsys, *asked)
    assert "--videos belongs to the protocols" in refused(
        capsys, "--protocol", "cutout", "--videos", "v"
    )
    assert not (here / "out").exists() or not (here / "out" / "report.json").exists()

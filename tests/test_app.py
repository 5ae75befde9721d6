"""The page: what it refuses, what it repeats; with Chromium and Playwright, what people see."""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest

import tiny
from mav import cascade as cascade_lib
from mav import cli, media
from mav.commands import videos

app = pytest.importorskip(
    "mav.app", reason="gradio is not installed: launch/test.sh --app", exc_type=ImportError
)

ROOT = pathlib.Path(__file__).parent.parent
PROMPT = "a red ball over a green meadow"
MADE = "The same on a command line"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cascade")
    tiny.write(path)
    return path


@pytest.fixture(scope="module")
def cascade(folder):
    return cascade_lib.load(folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Uploads, good and bad."""
    path = tmp_path_factory.mktemp("files")
    frames = np.random.default_rng(0).integers(256, size=(16, 20, 30, 3), dtype=np.uint8)
    media.write_image(path / "photo.png", frames[0])
    media.write(path / "clip.mp4", frames, 8)
    media.write(path / "long.mp4", np.repeat(frames, 19, axis=0), 30)
    (path / "program.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    (path / "playlist.mp4").write_bytes(b"#EXTM3U\nfile:///etc/passwd")
    (path / "large.png").write_bytes(bytes(21 * 10**6))
    return path


# Without a browser


def test_sliders_begin_at_the_settings_of_the_cascade(cascade):
    usual = [app.default(cascade.settings, name, stage) for name, stage, *_ in app.SLIDERS]
    assert app.to_changes(cascade.settings, cascade.settings.size, usual) == {}
    for row, value in zip(app.SLIDERS, usual, strict=True):
        assert app.slider(cascade.settings, *row).value == value


def test_the_command_that_is_shown_asks_for_the_same(cascade):
    changes = app.to_changes(cascade.settings, 16, (31, 6, 2, 3, 1.5, 4))
    command = app.to_command(app.sample(cascade, PROMPT, "snow"), 7, changes, "some folder")
    options = cli.make_parser().parse_args(shlex.split(command)[1:])
    assert (options.prompt, options.negative, options.seed) == (PROMPT, "snow", 7)
    assert options.cascade == "some folder"
    assert videos._changes(options) == changes
    settings = cascade.check(videos._changes(options))
    assert (settings.frames, settings.fps, settings.size) == (31, 6.0, 16)
    assert settings.guidance_scale == dict(prior=1.5, decoder=4.0)
    assert type(settings.fps) is float


@pytest.mark.parametrize(
    ("ask", "given", "message"),
    [
        (app.sample, ["a shit ball", ""], "words that the filter refuses: shit;"),
        (app.sample, [PROMPT, "shit"], "words that the filter refuses: shit;"),
        (app.sample, [" ".join(["red ball"] * 9), ""], "the prompt is too long; left out: 'red"),
        (app.animate, [None], "there is no photo; drop a file, or click an example."),
        (app.animate, ["program.png"], "program.png is not a photo of a kind taken: PNG, JPEG,"),
        (app.animate, ["clip.mp4"], "clip.mp4 is not a photo of a kind taken"),
        (app.tween, ["photo.png", None], "there is no last photo;"),
        (app.vary, ["playlist.mp4"], "playlist.mp4 is not a video of a kind taken: MP4, MOV,"),
        (app.vary, ["long.mp4"], "long.mp4 has more than 301 frames; cut it shorter."),
    ],
)
def test_what_is_refused(cascade, files, monkeypatch, ask, given, message):
    monkeypatch.chdir(files)
    with pytest.raises(ValueError, match=re.escape(message)):
        ask(cascade, *given)


def test_work_whose_result_nobody_waits_for_ends():
    ended = threading.Event()

    def work(tell):
        try:
            while True:
                tell("news")
                time.sleep(0.01)
        finally:
            ended.set()

    news = app.follow(work)
    assert next(news) == "news"
    news.close()
    assert ended.is_set()


def test_what_work_raises_comes_out():
    def work(tell):
        tell("news")
        raise OSError("the disk is full")

    news = app.follow(work)
    assert next(news) == "news"
    with pytest.raises(OSError, match="the disk is full"):
        next(news)


def test_nothing_is_left_or_written_elsewhere(folder, tmp_path):
    homes = {name: tmp_path / name for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "work")}
    for home in homes.values():
        home.mkdir()
    command = [sys.executable, "-m", "mav.cli", "app", "--cascade", folder]
    process = subprocess.Popen(
        command, cwd=homes["work"], env={**os.environ, **homes}, stdout=subprocess.PIPE, text=True
    )
    with process:
        address = process.stdout.readline().split()[0]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        assert b"Make-A-Video" in urllib.request.urlopen(address, timeout=60).read()
        (temporary,) = homes["TMPDIR"].iterdir()
        assert temporary.name.startswith("mav-app-")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert [list(home.iterdir()) for name, home in homes.items() if name != "XDG_CACHE_HOME"] == [
        [], [], []
    ]  # fmt: skip


def test_the_python_of_its_page_serves_it(monkeypatch):
    text = (ROOT / "docs" / "app.md").read_text("utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    served, launch = [], app.launch
    monkeypatch.setattr(app, "launch", lambda *given: served.append(launch(*given)))
    exec(block, {})
    (page,) = served
    assert b"Make-A-Video" in urllib.request.urlopen(page.local_url, timeout=60).read()
    page.close()


def test_a_port_that_is_taken_is_refused(folder, page_address, capsys):
    port = page_address.rstrip("/").rpartition(":")[2]
    assert cli.main(["app", "--cascade", str(folder), "--port", port]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture(scope="module")
def page_address(cascade, folder):
    served = app.launch(cascade, str(folder))
    yield served.local_url
    served.close()


# With one


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed: apt install chromium")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


@pytest.fixture
def page(browser, page_address):
    """The page, of which nothing may be asked elsewhere."""
    page = browser.new_page(viewport=dict(width=1280, height=1000))
    page.set_default_timeout(120_000)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_address)
    page.get_by_role("button", name="Make a video").wait_for()
    yield page
    page.close()
    assert [url for url in asked if not url.startswith((page_address, "data:", "blob:"))] == []


def make(page, button):
    page.get_by_role("button", name=button).click()
    page.get_by_text(MADE).wait_for()


def playing(page):
    """Waits for a video that plays, and returns its width."""
    found = "[...document.querySelectorAll('video')].find(v => v.offsetParent && v.currentTime > 0)"
    page.wait_for_function(f"!!({found})")
    return page.evaluate(f"({found}).videoWidth")


def download(page, path):
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download the video").click()
    waiting.value.save_as(path)
    return waiting.value.suggested_filename


def test_a_sentence_becomes_a_video_that_plays_and_the_command_shown_makes_the_same_file(
    page, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "cache_compilations", lambda: None)
    page.get_by_text(PROMPT).click()
    page.get_by_label("Seed").fill("3")
    page.get_by_label("16", exact=True).check()
    make(page, "Make a video")
    assert playing(page) == 16
    assert download(page, "page.mp4") == "a-red-ball-over-a-green-meadow.mp4"
    assert media.read_metadata("page.mp4")["seed"] == 3
    command = page.locator(".cm-content").first.inner_text()
    assert cli.main([*shlex.split(command)[1:], "--out", "command.mp4"]) == 0
    assert (tmp_path / "page.mp4").read_bytes() == (tmp_path / "command.mp4").read_bytes()


def test_a_photo_is_animated(page, files, tmp_path):
    page.get_by_role("tab", name="Photo", exact=True).click()
    page.locator("input[type=file]:visible, input[type=file]").first.set_input_files(
        files / "photo.png"
    )
    page.get_by_label("8", exact=True).check()
    page.get_by_role("img", name="photo").or_(
        page.locator("img[src*='photo.png']")
    ).first.wait_for()
    make(page, "Let it move")
    assert playing(page) == 8
    assert download(page, tmp_path / "x.mp4") == "photo-animated.mp4"
    assert media.read_metadata(tmp_path / "x.mp4")["picture"] == "photo.png"


@pytest.mark.parametrize(
    ("tab", "button", "name"),
    [
        ("Two photos", "Lead from one to the other", "meadow-to-sea.mp4"),
        ("Video", "Make another of the same", "boat-varied.mp4"),
    ],
)
def test_examples_are_there_to_be_clicked(page, tmp_path, tab, button, name):
    page.get_by_role("tab", name=tab, exact=True).click()
    page.locator(".gallery-item:visible, tr.tr-body:visible").first.click()
    page.locator("img[src*='meadow.png']:visible, video[src*='boat.mp4']:visible").first.wait_for()
    page.get_by_label("8", exact=True).check()
    make(page, button)
    assert download(page, tmp_path / "x.mp4") == name


def test_what_is_refused_is_said_and_the_page_goes_on(page, files):
    says = lambda text: page.get_by_text(text).first.wait_for()
    page.get_by_role("button", name="Make a video").click()
    says("the prompt is empty")
    page.get_by_label("What should be seen").fill("a shit ball")
    page.get_by_role("button", name="Make a video").click()
    says("words that the filter refuses: shit")
    page.get_by_label("What should be seen").fill("a red zebra")
    page.get_by_label("8", exact=True).check()
    make(page, "Make a video")
    says("tiny has never seen zebra. It knows objects: ball.")


def test_a_file_that_is_too_large_is_refused(page, files):
    page.get_by_role("tab", name="Photo", exact=True).click()
    page.locator("input[type=file]").first.set_input_files(files / "large.png")
    page.get_by_text("exceed").first.wait_for()


def test_what_nobody_expected_is_said_and_the_server_lives(page, files, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("the moon is blue")

    monkeypatch.setattr(cascade_lib.Cascade, "stream", fail)
    page.get_by_text(PROMPT).click()
    page.get_by_role("button", name="Make a video").click()
    page.get_by_text("the moon is blue").first.wait_for()
    monkeypatch.undo()
    page.get_by_label("8", exact=True).check()
    make(page, "Make a video")


def test_one_video_is_made_at_a_time_and_stopping_ends_it(browser, page, page_address, monkeypatch):
    running, most, ended = [], [], []

    def slow(self, prompt, seed, report, *_, **__):
        running.append(prompt)
        most.append(len(running))
        try:
            for i in range(100 if prompt == "red" else 5):
                report("decoder", i, 100)
                time.sleep(0.1)
            yield np.zeros((16, 8, 8, 3), np.uint8)
        finally:
            running.remove(prompt)
            ended.append(prompt)

    monkeypatch.setattr(cascade_lib.Cascade, "stream", slow)
    other = browser.new_page()
    other.goto(page_address)
    for one, prompt in ((page, "red"), (other, "ball")):
        one.get_by_label("What should be seen").fill(prompt)
        one.get_by_role("button", name="Make a video").click()
        (one.get_by_text("s so far") if one is page else one.get_by_text("queue:")).wait_for()
    page.get_by_role("button", name="Stop").click()
    other.get_by_text(MADE).wait_for()
    assert ended == ["red", "ball"]
    assert max(most) == 1
    other.close()

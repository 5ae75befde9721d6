"""A page for the browser: sentences, photos and videos become videos (`mav app`).

    app.launch(mav.load("cutout"))  # in a notebook the page stands below the cell, in Colab too

Nothing is asked of other machines: Gradio's own statistics, fonts of others and its public links
are left out. All that the page writes lies in one folder for temporary files, which goes when
Python ends.
"""

import atexit
import base64
import dataclasses
import functools
import json
import os
import pathlib
import queue
import re
import shlex
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from mav import cascade as cascade_lib
from mav import edits, media, policy, tokenizer
from mav.data import cutout
from mav.settings import PICTURES, Settings

# Gradio reads these when it is imported. What it finds in its folder it neither copies there nor
# deletes when it is old, so that videos are made beside it.
FOLDER = pathlib.Path(tempfile.mkdtemp(prefix="mav-app-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
os.environ["GRADIO_TEMP_DIR"] = str(FOLDER / "served")
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr  # noqa: E402

WAITING = 8  # people in the queue; who comes after them is told so
UPLOAD = "20mb"  # of a file
KEPT = 3600  # seconds for which uploads and videos are kept
MOST_FRAMES = 301  # of a video, made or given: 20 seconds
SLIDERS = (  # setting and stage; lowest, highest and step; what it is
    ("frames", None, 16, MOST_FRAMES, 15, "Frames", "76 are five seconds at 3 a second, times 5"),
    ("fps", None, 1, 30, 1, "Frames per second", "of the decoder's 16: fewer move more"),
    ("steps", "decoder", 1, 100, 1, "Steps", "of the decoder: more take longer"),
    ("candidates", "decoder", 1, 8, 1, "Candidates", "of which the nearest to the words is kept"),
    ("guidance_scale", "prior", 1, 10, 0.5, "Guidance by the words", "of the prior"),
    ("guidance_scale", "decoder", 1, 10, 0.5, "Guidance by the picture", "of the decoder"),
)
PROMPTS = (
    "a red ball over a green meadow",
    "a blue boat on the sea",
    "a small yellow fish under water",
    "a large purple balloon in the sky",
    "a white rocket at night",
    "a pink bird over snowy hills",
)
# How files begin that are taken; left to themselves, FFmpeg follows playlists and Pillow programs.
PHOTO = rb"\x89PNG|\xff\xd8\xff|RIFF....WEBP|GIF8"
VIDEO = rb"....(ftyp|moov|mdat|wide|free|skip)|\x1a\x45\xdf\xa3|RIFF....AVI "
DOES = dict(  # stages, as they are told
    prior="imagines a picture",
    decoder="16 frames of it",
    extrapolation="goes on",
    interpolation="frames between them",
    sr_256="256 pixels",
    sr_768="768 pixels",
)
CSS = """
.mav-now {
  display: flex; flex-wrap: wrap; gap: 1.2rem; align-items: center; min-height: 260px;
  padding: 1rem; border: 1px dashed var(--border-color-primary); border-radius: 12px;
}
.mav-now img, .mav-bars i {background: var(--border-color-primary)}
.mav-now img {width: 256px; height: 256px; border-radius: 12px}
.mav-bars {
  display: grid; grid-template-columns: auto 1fr; gap: .5rem .8rem; align-items: center;
  flex: 1; min-width: 14rem;
}
.mav-bars i {height: .6rem; border-radius: .3rem; overflow: hidden}
.mav-bars b {display: block; height: 100%; background: var(--slider-color)}
.mav-bars em {grid-column: 1 / -1; opacity: .7}
"""
IDLE = '<div class="mav-now"><em>The video comes here. The first one takes longer.</em></div>'
NEW_SEED = "() => Math.floor(Math.random() * 1e6)"


@dataclasses.dataclass(frozen=True)
class Asked:
    """What somebody asks for: of which command, what one types for it, what the file tells of it.

    name: of the file. make: (cascade, seed, progress, **changes) -> pieces of a video. skipped:
    stages that are not run for it.
    """

    command: str
    name: str
    words: list[str]
    told: Mapping[str, Any]
    make: Callable[..., Iterator[np.ndarray]]
    skipped: Sequence[str] = ()


def sample(cascade: cascade_lib.Cascade, prompt: str, negative: str) -> Asked:
    """A video of a sentence, as `mav sample` makes it. A sentence that is too long is refused."""
    for text in (prompt, negative):
        policy.check(text)
        if cascade.tokenizer.cut(text):
            raise ValueError(cascade.remarks(text)[0])
    return Asked(
        "sample",
        tokenizer.slug(prompt),
        [prompt, *(["--negative", negative] if negative else [])],
        dict(prompt=prompt, then=[], negative=negative, mix=[]),
        lambda cascade, *run, **changes: cascade.stream(prompt, *run, negative, **changes),
    )


def animate(cascade: cascade_lib.Cascade, photo: str | None) -> Asked:
    """A photo that begins to move, as `mav animate` makes it."""
    path = upload(photo, PHOTO, "photo")
    image = media.read_image(path)
    make = lambda cascade, *run, **changes: edits.animate(cascade, image, *run, **changes)
    told = dict(picture=path.name)
    name = f"{path.stem}-animated"
    return Asked("animate", name, [path.name], told, make, ("prior", "decoder"))


def tween(cascade: cascade_lib.Cascade, first: str | None, last: str | None) -> Asked:
    """From one photo to another, as `mav tween` makes it."""
    paths = [upload(first, PHOTO, "first photo"), upload(last, PHOTO, "last photo")]
    images = [media.read_image(path) for path in paths]
    make = lambda cascade, *run, **changes: edits.tween(cascade, *images, *run, **changes)
    names = [path.name for path in paths]
    told = dict(zip(("first", "last"), names, strict=True))
    name = "-to-".join(path.stem for path in paths)
    return Asked("tween", name, names, told, make, ("prior", "decoder"))


def vary(cascade: cascade_lib.Cascade, clip: str | None) -> Asked:
    """Another video of what a video shows, as `mav vary` makes it."""
    path = upload(clip, VIDEO, "video")
    video, _ = media.read(path, MOST_FRAMES + 1, cascade.stages["decoder"].size)
    if len(video) > MOST_FRAMES:
        raise ValueError(f"{path.name} has more than {MOST_FRAMES} frames; cut it shorter.")
    make = lambda cascade, *run, **changes: edits.vary(cascade, video, *run, **changes)
    told = dict(video=path.name)
    return Asked("vary", f"{path.stem}-varied", [path.name], told, make, ("prior",))


def upload(path: str | None, kind: bytes, what: str) -> pathlib.Path:
    """A file that was given. Raises ValueError if there is none, or of another kind."""
    if path is None:
        raise ValueError(f"there is no {what}; drop a file, or click an example.")
    with open(path, "rb") as file:
        if not re.match(kind, file.read(12), re.DOTALL):
            kinds = "PNG, JPEG, WebP or GIF" if kind == PHOTO else "MP4, MOV, MKV, WebM or AVI"
            raise ValueError(f"{pathlib.Path(path).name} is not a {what} of a kind taken: {kinds}.")
    return pathlib.Path(path)


def to_changes(settings: Settings, size: int, numbers: Iterable[float]) -> dict:
    """Settings that differ from the cascade's. numbers: in the order of `SLIDERS`."""
    changes: dict[str, Any] = {} if size == settings.size else dict(size=size)
    for (name, stage, *_), value in zip(SLIDERS, numbers, strict=True):
        usual = default(settings, name, stage)
        value = type(usual)(value)  # JSON has one kind of number
        if value != usual:
            changes |= (
                {name: value} if stage is None else {name: changes.get(name, {}) | {stage: value}}
            )
    return changes


def default(settings: Settings, name: str, stage: str | None) -> float:
    """A setting, of a stage where it has stages."""
    value = getattr(settings, name)
    return value if stage is None else value.get(stage, 1.0 if name == "guidance_scale" else 1)


def to_command(asked: Asked, seed: int, changes: Mapping[str, Any], cascade: str) -> str:
    """What makes the same video on a command line."""
    words = ["mav", asked.command, *asked.words, "--seed", str(seed)]
    for name, value in dict(
        changes, **({} if cascade == "cutout" else dict(cascade=cascade))
    ).items():
        each = [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else [str(value)]
        words += [word for one in each for word in (f"--{name}", one)]
    return shlex.join(words)


class StoppedError(Exception):
    """Raised in work whose result nobody waits for any more."""


def follow(work: Callable[[Callable[[Any], None]], None]) -> Iterator[Any]:
    """Yields what `work(tell)` tells, which goes on in a thread of its own; raises what it raises.

    Whoever closes the iterator stops it: `tell` then raises StoppedError.
    """
    said: queue.SimpleQueue = queue.SimpleQueue()
    closed = threading.Event()

    def tell(news: Any) -> None:
        if closed.is_set():
            raise StoppedError
        said.put(news)

    with futures.ThreadPoolExecutor(1) as pool:
        done = pool.submit(work, tell)
        done.add_done_callback(lambda _: said.put(None))
        try:
            while (news := said.get()) is not None:
                yield news
        finally:
            closed.set()
    done.result()


class View:
    """How far a sampling is: a moving picture of what is coming, and a bar per stage."""

    def __init__(self, folder: pathlib.Path, stages: Iterable[str]):
        self.path = folder / "coming.webp"
        self.image, self.shares, self.begun = "", dict.fromkeys(stages, 0.0), time.monotonic()

    def show(self, stage: str, x0) -> None:
        """Keeps 16 frames of what a stage predicts now. Of embeddings there is nothing to see."""
        if x0.ndim == 5 and stage != "sr_768":  # which sees few frames at once
            frames = media.to_uint8(np.asarray(x0[0, :: max(1, x0.shape[1] // 16)]))
            media.write(self.path, frames, fps=8)
            image = base64.b64encode(self.path.read_bytes()).decode()
            self.image = f'<img alt="what is coming" src="data:image/webp;base64,{image}">'

    def html(self, stage: str, done: int, total: int) -> str:
        """The view, once a stage has made so many of its calls."""
        self.shares[stage] = 100 * done / total
        shares = {name: self.shares[name] for name in DOES if name in self.shares}
        bars = "".join(
            f'<span title="{name}">{DOES[name]}</span><i><b style="width: {share:.0f}%"></b></i>'
            for name, share in shares.items()
        )
        seconds = f"<em>{time.monotonic() - self.begun:.0f} s so far</em>"
        return f'<div class="mav-now">{self.image}<div class="mav-bars">{bars}{seconds}</div></div>'


def build(cascade: cascade_lib.Cascade, named: str = "cutout") -> gr.Blocks:
    """The page. `launch` serves it.

    named: what `--cascade` calls the cascade, in the command lines that the page shows.
    """
    photos, clip = draw_examples(FOLDER)
    alone = threading.Lock()  # what was stopped finishes its step first

    def run(ask, *values):
        """Makes what one tab asks for, and says meanwhile how far it is."""
        *given, seed, size = values[: -len(SLIDERS)]
        try:
            asked = ask(cascade, *given)
            changes = to_changes(cascade.settings, size, values[-len(SLIDERS) :])
            yield from make(asked, int(seed), changes)
        except (ValueError, OSError) as error:
            line = str(error).splitlines()[0]
            line = re.sub(rf"{re.escape(str(FOLDER))}/served/\w+/", "", line)  # where uploads lie
            raise gr.Error(line, title="Not possible", print_exception=False) from error

    def make(asked: Asked, seed: int, changes: dict):
        settings = cascade.check(changes)
        facts = cascade_lib.facts(asked.command, named, settings, asked.told)
        for remark in cascade.remarks(asked.told.get("prompt", "")):
            gr.Warning(remark)
        with tempfile.TemporaryDirectory(dir=FOLDER) as made:
            path = pathlib.Path(made) / f"{asked.name}.mp4"

            def work(tell) -> None:
                stages = [s for s in settings.path(cascade.stages) if s not in asked.skipped]
                view = View(pathlib.Path(made), stages)
                watched = dataclasses.replace(cascade, preview=view.show)
                report = lambda *call: tell(view.html(*call))
                with alone:
                    pieces = asked.make(watched, seed, report, **changes)
                    media.write(path, pieces, cascade.output_fps(settings), dict(facts, seed=seed))

            for html in follow(work):
                yield {now: gr.HTML(html, visible=True), result: gr.Column(visible=False)}
            yield {
                now: gr.HTML(IDLE, visible=False),
                result: gr.Column(visible=True),
                shown: str(path),
                download: str(path),
                command: to_command(asked, seed, changes, named),
                told: json.dumps(dict(facts, seed=seed), indent=2),
            }

    with gr.Blocks(title="mav", analytics_enabled=False, delete_cache=(600, KEPT)) as page:
        gr.Markdown(f"# Make-A-Video\n{about(cascade)}")
        with gr.Row():
            with gr.Column():
                with gr.Tabs():
                    asks = []
                    with gr.Tab("Sentence"):
                        prompt = gr.Textbox(
                            "", label="What should be seen", lines=2, max_length=500
                        )
                        known = [text for text in PROMPTS if not cascade.remarks(text)]
                        button = gr.Button("Make a video", variant="primary")
                        if known:
                            gr.Examples(known, prompt, label="For example")
                        with gr.Accordion("What should not be seen", open=False):
                            negative = gr.Textbox("", show_label=False, max_length=500)
                        asks.append((button.click, sample, [prompt, negative]))
                        asks.append((prompt.submit, sample, [prompt, negative]))
                    with gr.Tab("Photo"):
                        photo = picture("The first frame")
                        button = gr.Button("Let it move", variant="primary")
                        gr.Examples([[path] for path in photos], photo, label="For example")
                        asks.append((button.click, animate, [photo]))
                    with gr.Tab("Two photos"):
                        with gr.Row():
                            pair = [picture("The first frame"), picture("The last frame")]
                        button = gr.Button("Lead from one to the other", variant="primary")
                        gr.Examples([photos[:2]], pair, label="For example")
                        asks.append((button.click, tween, pair))
                    with gr.Tab("Video"):
                        video = gr.Video(label="A video", sources=["upload"], height=280)
                        button = gr.Button("Make another of the same", variant="primary")
                        gr.Examples([[clip]], video, label="For example")
                        asks.append((button.click, vary, [video]))
                with gr.Row():
                    with gr.Column(min_width=160):
                        most = 2**31 - 1
                        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=most)
                        another = gr.Button("Another seed", size="sm")
                    stages = [cascade.stages.get(name) for name in PICTURES]
                    size = gr.Radio(
                        [stage.size for stage in stages if stage],
                        value=cascade.settings.size,
                        label="Size",
                        info="pixels: smaller is sooner",
                    )
                with gr.Accordion("More settings", open=False):
                    sliders = [slider(cascade.settings, *row) for row in SLIDERS]
            with gr.Column():
                now = gr.HTML(IDLE)
                with gr.Column(visible=False) as result:
                    shown = gr.Video(label="The video", autoplay=True, loop=True)
                    download = gr.DownloadButton("Download the video", variant="primary")
                    command = gr.Code(
                        label="The same on a command line", language="shell", wrap_lines=True,
                        show_line_numbers=False, lines=1, interactive=False,
                    )  # fmt: skip
                    with gr.Accordion("All that the file tells of itself", open=False):
                        told = gr.Code(language="json", show_label=False, interactive=False)
                stop = gr.Button("Stop", size="sm")

        another.click(None, None, seed, js=NEW_SEED)
        outputs = [now, result, shown, download, command, told]
        options = dict(concurrency_id="sampling", concurrency_limit=1, api_visibility="private")
        running = []
        for trigger, ask, given in asks:
            fields, task = [*given, seed, size, *sliders], functools.partial(run, ask)
            running.append(trigger(task, fields, outputs, show_progress_on=now, **options))
        stop.click(lambda: IDLE, None, now, cancels=running, queue=False, api_visibility="private")
    page.queue(max_size=WAITING, api_open=False)
    return page


def about(cascade: cascade_lib.Cascade) -> str:
    """One sentence on what a cascade knows."""
    shows = cascade.provenance.get("shows", {})
    known = "; ".join(f"**{kind}** {', '.join(names)}" for kind, names in shows.items())
    what = f", which knows {known}" if known else ""
    return f"Videos by the cascade *{cascade.name}*{what}."


def picture(label: str) -> gr.Image:
    """A field for a photo, which is taken as it is: `media.read_image` turns it upright."""
    sources = ["upload", "clipboard"]
    return gr.Image(label=label, type="filepath", image_mode=None, sources=sources, height=280)


def slider(settings: Settings, name, stage, low, high, step, label, info) -> gr.Slider:
    """A slider that begins where the cascade's own setting is."""
    usual = default(settings, name, stage)
    return gr.Slider(min(low, usual), max(high, usual), usual, step=step, label=label, info=info)


def draw_examples(folder: pathlib.Path) -> tuple[list[str], str]:
    """Files of three photos and a video to click on, of the world that mav draws itself."""
    scenes = [
        cutout.make_scene("meadow", "boat", "red", "large", "left", 3),
        cutout.make_scene("sea", "boat", "blue", "large", "right", 4),
        cutout.make_scene("night", "rocket", "white", "large", "middle", 5),
    ]
    paths = [folder / f"{scene}.png" for scene in ("meadow", "sea", "night")]
    for path, scene in zip(paths, scenes, strict=True):
        media.write_image(path, cutout.render(scene, 0, 256))
    frames = [cutout.render(scenes[1], i / 8, 256) for i in range(16)]
    media.write(folder / "boat.mp4", np.stack(frames), fps=8)
    return [str(path) for path in paths], str(folder / "boat.mp4")


def launch(
    cascade: cascade_lib.Cascade,
    named: str = "cutout",
    host: str = "127.0.0.1",
    port: int | None = None,
) -> gr.Blocks:
    """Serves the page of a cascade and returns it; `close` ends it.

    host: "0.0.0.0" lets other machines in. port: the first free one from 7860 on where None.
    Raises OSError if the port is taken.
    """
    page = build(cascade, named)
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        show_error=True,
        max_file_size=UPLOAD,
        theme=gr.themes.Soft(),
        css=CSS,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        height=900,
    )
    return page

"""Commands that make or change videos and images, and `mav show`."""

import argparse
import dataclasses
import functools
import json
import math
import os
import pathlib
import sys
from collections.abc import Sequence

from mav import cascade as cascade_lib
from mav import edits, media, sharding, tokenizer
from mav.commands import tables


def sample(options: argparse.Namespace) -> None:
    """`mav sample`."""
    like = {}
    if options.like is not None:
        like = media.read_metadata(options.like)
        told = {"cascade", "seed", "negative", "mix", "prompt", "then", "settings"}
        if like.get("command") != "sample" or not told <= set(like):
            raise ValueError(f"{options.like} does not say that `mav sample` made it.")
        options.cascade = options.cascade or like["cascade"]
        options.seed = like["seed"] if options.seed is None else options.seed
        options.negative = like["negative"] if options.negative is None else options.negative
        options.mix = options.mix or like["mix"]
        long = options.frames is not None or options.seconds is not None
        options.image = options.image or (like["settings"]["frames"] == 1 and not long)
        if options.prompt is None:
            options.prompt, options.then = like["prompt"], like["then"]
    if options.prompt is None:
        raise ValueError("there is no prompt; write what should be seen, like 'a red ball'.")
    for name in ("frames", "seconds"):
        if options.image and getattr(options, name) is not None:
            wanted = f"{name}={getattr(options, name)}"
            raise ValueError(f"{wanted} does not go with --image, which has one frame.")
    prompts = [options.prompt, *options.then]
    negative = options.negative or ""
    if options.filter:
        _refuse_toxic([*prompts, *(what for what, _ in options.mix)])
    changes = like.get("settings", {}) | _changes(options)
    if options.image:
        changes["frames"] = 1
    results = _Results(options, tokenizer.slug(options.prompt))
    cascade, settings = _load(options, changes)
    if settings.frames == 1 and not options.image:
        raise ValueError("frames=1 makes an image; say so with --image.")
    mix = [
        (media.read_image(what) if _names_file(what) else what, share)
        for what, share in options.mix
    ]
    for text in [*prompts, *(what for what, _ in mix if isinstance(what, str))]:
        for remark in cascade.remarks(text):
            print(f"warning: {remark}", file=sys.stderr)
    told = dict(prompt=options.prompt, then=options.then, negative=negative, mix=options.mix)
    results.write(
        cascade,
        settings,
        lambda *run: cascade.stream(prompts, *run, negative=negative, mix=mix, **changes),
        cascade.output_fps(settings),
        told,
    )


def _names_file(what: str) -> bool:
    """Whether --mix was given a file, there or not, and no words."""
    kinds = (*media.STILLS, *media.CONTAINERS, *media.ANIMATIONS, ".avif", ".bmp", ".tif", ".tiff")
    # Words may be too long for a file's name, at which pathlib raises.
    return pathlib.Path(what).suffix.lower() in kinds or os.path.isfile(what)


def _refuse_toxic(prompts: Sequence[str]) -> None:
    """Raises ValueError for prompts that the filter of captions would drop, too."""
    try:
        from mav import policy
    except ImportError as error:
        raise ValueError(f"--filter needs {error.name}: pip install 'mav[data]'.") from error
    for prompt in prompts:
        policy.check(prompt)


def animate(options: argparse.Namespace) -> None:
    """`mav animate`."""
    results = _Results(options, f"{pathlib.Path(options.picture).stem}-animated")
    image = media.read_image(options.picture)
    changes = _changes(options)
    cascade, settings = _load(options, changes)
    make = lambda *run: edits.animate(cascade, image, *run, **changes)
    results.write(
        cascade, settings, make, cascade.output_fps(settings), dict(picture=options.picture)
    )


def tween(options: argparse.Namespace) -> None:
    """`mav tween`."""
    stems = [pathlib.Path(path).stem for path in (options.first, options.last)]
    results = _Results(options, "-to-".join(stems))
    first, last = media.read_image(options.first), media.read_image(options.last)
    changes = _changes(options)
    cascade, settings = _load(options, changes)
    changes["frames"] = (cascade.stages["decoder"].frames - 1) * settings.frame_skip + 1
    settings = cascade.check(changes)
    make = lambda *run: edits.tween(cascade, first, last, *run, **changes)
    told = dict(first=options.first, last=options.last)
    results.write(cascade, settings, make, cascade.output_fps(settings), told)


def vary(options: argparse.Namespace) -> None:
    """`mav vary`."""
    results = _Results(options, f"{pathlib.Path(options.video).stem}-varied")
    changes = _changes(options)
    cascade, settings = _load(options, changes)
    video, _ = _read(options.video, cascade.stages["decoder"].size)
    make = lambda *run: edits.vary(cascade, video, *run, **changes)
    results.write(cascade, settings, make, cascade.output_fps(settings), dict(video=options.video))


def extend(options: argparse.Namespace) -> None:
    """`mav extend`."""
    results = _Results(options, f"{pathlib.Path(options.video).stem}-extended")
    changes = _changes(options)
    cascade, settings = _load(options, changes)
    cascade = dataclasses.replace(cascade, settings=settings)  # whose fps is not the video's
    video, fps = _read(options.video, cascade.stages["decoder"].size)
    make = lambda *run: edits.extend(cascade, video, fps, options.seconds, options.before, *run)
    told = dict(video=options.video, seconds=options.seconds, before=options.before)
    results.write(cascade, settings, make, settings.fps * settings.frame_skip, told)


def smooth(options: argparse.Namespace) -> None:
    """`mav smooth`."""
    results = _Results(options, f"{pathlib.Path(options.video).stem}-smooth")
    if options.fps is not None:
        raise ValueError(f"fps={options.fps:g} does not go with smooth, which takes the video's.")
    changes = _changes(options)
    cascade, settings = _load(options, changes)
    video, fps = _read(options.video, cascade.stages["decoder"].size)
    rate, most = fps * settings.frame_skip, results.max_fps
    if rate > most:
        raise ValueError(
            f"frame_skip={settings.frame_skip} makes {rate:g} frames per second of {fps:g}; "
            f"{results.paths[0].suffix} holds up to {most}."
        )
    make = lambda *run: edits.smooth(cascade, video, fps, *run, **changes)
    settings = settings.updated(dict(fps=edits.told_fps(fps, settings.frame_skip)))
    results.write(cascade, settings, make, rate, dict(video=options.video))


def upscale(options: argparse.Namespace) -> None:
    """`mav upscale`."""
    results = _Results(options, f"{pathlib.Path(options.video).stem}-large")
    changes = _changes(options)
    cascade, settings = _load(options, changes)
    # As large as the largest that a super-resolution takes; a smaller one is used as it is.
    sizes = [cascade.stages[name].low_size for name in settings.path(cascade.stages)]
    if any(sizes):
        edits.check_enlarges(media.read(options.video, max_frames=1)[0], settings.size)
    video, fps = _read(options.video, max(size or 0 for size in sizes) or settings.size)
    make = lambda *run: edits.upscale(cascade, video, *run, **changes)
    results.write(cascade, settings, make, fps, dict(video=options.video))


def show(options: argparse.Namespace) -> None:
    """`mav show`."""
    found = media.read_metadata(options.file)
    if not found:
        raise ValueError(f"{options.file} does not say how it was made.")
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name}: {value if isinstance(value, str) else json.dumps(value)}")


def _changes(options: argparse.Namespace) -> dict:
    """The settings that options name."""
    plain = ("fps", "still_fps", "frame_skip", "size", "frames", "overlap", "chunk")
    found = {name: getattr(options, name, None) for name in plain}
    found = {name: value for name, value in found.items() if value is not None}
    return found | tables(options)


def _load(options: argparse.Namespace, changes: dict):
    """The cascade of the options, and its settings with changes, to which --seconds adds frames."""
    mesh = sharding.make_mesh(sharding.parse_mesh(options.mesh)) if options.mesh else None
    cascade = cascade_lib.load(options.cascade or "cutout", options.dtype, mesh)
    seconds = getattr(options, "seconds", None)
    if seconds is not None and not 0 < seconds < math.inf:
        raise ValueError(f"seconds={seconds:g} must be above 0, and finite.")
    if seconds is not None and hasattr(options, "frames"):
        if options.frames is not None:
            raise ValueError("--frames and --seconds say the same; give one of them.")
        wanted, clip = cascade.check(changes), cascade.stages["decoder"].frames
        rate = wanted.fps * wanted.frame_skip
        changes["frames"] = math.ceil(seconds * rate)
        if changes["frames"] <= clip:  # those of the decoder alone come at another rate
            raise ValueError(
                f"seconds={seconds:g} is too short; choose more than {clip / rate:.2f}, or "
                f"--frames {clip}."
            )
    settings = cascade.check(changes)
    if options.preview:
        drawn = functools.partial(_preview, _preview_path(options))
        cascade = dataclasses.replace(cascade, preview=drawn)
    return cascade, settings


def _preview_path(options: argparse.Namespace) -> pathlib.Path:
    out = pathlib.Path(options.out or options.command)
    return out.with_name(f"{out.stem}-preview.png")


def _read_by(options: argparse.Namespace) -> list[pathlib.Path]:
    """Files that a command reads."""
    names = ("picture", "first", "last", "video", "like")
    named = [getattr(options, name, None) for name in names]
    named += [what for what, _ in getattr(options, "mix", [])]
    return [pathlib.Path(name) for name in named if name and os.path.exists(name)]


def _preview(path: pathlib.Path, stage: str, x0) -> None:
    """Draws what a stage predicts now. Of embeddings there is nothing to see."""
    if x0.ndim == 5 and stage != "sr_768":  # whose frames are written as they come
        frames = media.to_uint8(x0[0])
        sheet = media.contact_sheet(frames, columns=4, frames=16, labels=stage, tile=128)
        media.write_image(path, sheet)


def _read(path: str, size: int):
    """A video's square in the middle, no larger than is needed, and its frames per second."""
    if media.has_sound(path):
        print(f"warning: the sound of {path} is left out", file=sys.stderr)
    return media.read(path, square=size)


class _Results:
    """Where the videos or images of a command go: checked at once, written as they come."""

    def __init__(self, options: argparse.Namespace, name: str):
        if options.num < 1:
            raise ValueError(f"num={options.num} must be at least 1.")
        self.options = options
        self.image = getattr(options, "image", False)
        out = pathlib.Path(options.out or f"{name}{'.png' if self.image else '.mp4'}")
        self.grid = out if options.num > 1 else None
        each = [out.with_stem(f"{out.stem}-{i + 1}") for i in range(options.num)]
        self.paths = each if self.grid else [out]
        for path in [out, *self.paths]:
            media.check_writable(path, media.STILLS if self.image else media.MAX_FPS)
        # A sheet of pictures stands beside videos; one of images is their grid.
        self.sheet = None if self.image else out.with_name(f"{out.stem}-sheet.png")
        written = [out, *self.paths, *filter(None, [self.sheet])]
        if self.sheet is not None:
            media.check_writable(self.sheet)
        if options.preview:
            written.append(_preview_path(options))
            media.check_writable(written[-1])
            if written[-1].exists():  # which would be removed in the end
                raise ValueError(f"{written[-1]} is there already; move it, or name another --out.")
        for path in written:
            if path.exists() and any(map(path.samefile, _read_by(options))):
                raise ValueError(f"{path} is read, so it cannot be written; name another --out.")
        self.made = dict(files=[], grid=None, sheet=None)

    @property
    def max_fps(self) -> float:
        """Frames per second that the files can hold."""
        return media.MAX_FPS[self.paths[0].suffix.lower()]

    def write(self, cascade, settings, make, fps: float, told: dict) -> None:
        """make: (seed, progress) -> pieces of a video. told: what the command was given."""
        options, seed = self.options, self.options.seed or 0
        seeds = range(seed, seed + options.num)
        named = options.cascade or "cutout"
        facts = cascade_lib.facts(options.command, named, settings, told)
        try:
            with cascade_lib.Bars() as progress:
                # They refuse bad input before anything is open.
                streams = [make(seed, progress) for seed in seeds]
                if self.image:
                    self._write_images(streams, facts, seeds)
                else:
                    self._write_videos(streams, facts, seeds, fps)
        finally:
            if options.preview:
                _preview_path(options).unlink(missing_ok=True)
            if options.json and self.made["files"]:
                print(json.dumps(self.made, indent=2))

    def _write_images(self, streams, facts: dict, seeds: range) -> None:
        """Writes each image when it is done, then their grid."""
        images = []
        for path, seed, pieces in zip(self.paths, seeds, streams, strict=True):
            images.append(self._marked(next(pieces))[0])
            media.write_image(path, images[-1], dict(facts, seed=seed))
            self._tell("files", path)
        if self.grid:
            media.write_image(self.grid, media.grid(images), dict(facts, seed=seeds[0]))
            self._tell("grid", self.grid)

    def _write_videos(self, streams, facts: dict, seeds: range, fps: float) -> None:
        """Writes each video as it comes, then their grid, and a sheet."""
        seen = []
        for path, seed, pieces in zip(self.paths, seeds, streams, strict=True):
            seen.append(media.Glimpses())
            with media.VideoWriter(path, fps, dict(facts, seed=seed)) as writer:
                stopped = self._append(writer, pieces, seen[-1])
            self._tell("files", path)
            if stopped:
                raise KeyboardInterrupt(f"{path} has the first {writer.frames / fps:.1f} seconds")
        if self.grid:
            side = 2 * round(facts["settings"]["size"] / math.ceil(math.sqrt(len(seeds))) / 2)
            tiles = media.grid([media.read(path, square=side)[0] for path in self.paths])
            media.write(self.grid, tiles, fps, dict(facts, seed=seeds[0]))
            self._tell("grid", self.grid)
        labels = [f"{facts['title']}, seed {seed}" for seed in seeds]
        frames = [one.frames() for one in seen]
        sheet = media.contact_sheet(frames, columns=4, frames=16, labels=labels)
        media.write_image(self.sheet, sheet)
        self._tell("sheet", self.sheet)

    def _tell(self, kind: str, path: pathlib.Path) -> None:
        """Says that a file is there: now, or with --json when all are."""
        if kind == "files":
            self.made[kind].append(str(path))
        else:
            self.made[kind] = str(path)
        if not self.options.json:
            print(path, flush=True)

    def _append(self, writer, pieces, seen) -> bool:
        """Adds a video to a file. Returns whether Ctrl-C came when there was more than a window."""
        try:
            for piece in pieces:
                piece = self._marked(piece)
                writer.append(piece)
                seen.append(piece)
        except KeyboardInterrupt:
            if writer.frames <= cascade_lib.WINDOW:
                raise
            return True
        return False

    def _marked(self, frames):
        return media.mark(frames) if self.options.mark else frames

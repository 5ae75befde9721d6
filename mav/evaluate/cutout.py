"""The cutout protocol: does a video show what the prompt says, and does it move as the world does?

A judge (`mav.evaluate.classifier`) looks at the frames of one video per prompt, and in the same way
at real videos of the same thing in the same setting. Positions are fractions of the frame's width.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from mav import cascade as cascade_lib
from mav import media
from mav import params as params_lib
from mav.data import cutout
from mav.evaluate import classifier

Video = UInt8[np.ndarray, "f h w 3"]

NUM_REAL = 2  # real videos per prompt
TRACKING_FPS = 3  # positions are averaged down to this rate, or the judge's jitter adds to paths
SEEN_MOVERS = tuple(
    name for name in cutout.OBJECTS if name != "house" and name not in cutout.HELD_OUT_MOVERS
)
STILL = 0.05  # of the frame's width: what keeps within this stands still
SHEET_PROMPTS, SHEET_REAL, SHEET_FRAMES, SHEET_TILE = 24, 4, 8, 96

# Prompts.


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A sentence and what it asks for. size: None where it names none."""

    text: str
    object: str
    colour: str
    setting: str
    size: str | None

    @property
    def held_out_pair(self) -> bool:
        return (self.object, self.colour) in cutout.HELD_OUT_PAIRS

    @property
    def held_out_mover(self) -> bool:
        return self.object in cutout.HELD_OUT_MOVERS


def sentence(object: str, colour: str, setting: str, size: str | None = None) -> str:
    """The usual caption of one thing in a setting: "a red ball over a green meadow"."""
    words = [cutout.COLOUR_WORDS[colour][0], cutout.OBJECT_WORDS[object][0]]
    if size is not None:
        words.insert(0, cutout.SIZE_WORDS[size][0])
    _, on_ground, in_air = cutout.SETTING_WORDS[setting]
    where = (on_ground if object in cutout.GROUNDED else in_air)[0]
    article = "an" if words[0][0] in "aeiou" else "a"
    return f"{article} {' '.join(words)} {where}"


def prompts(num: int = 96) -> list[Prompt]:
    """Prompts in rounds of twelve, one per object; after eight rounds all is even.

    Then each object was in each setting once, each colour and setting came up twelve times, and a
    quarter of the prompts name a held-out pair. More rounds repeat these in other settings.
    """
    # The held-out pairs join each of their eight objects to another colour. Counting colours from
    # there, 0 is held out and 1..5 are seen.
    paired = [(thing, colour) for thing, colour in sorted(cutout.HELD_OUT_PAIRS)]
    free = [name for name in cutout.OBJECTS if name not in dict(paired)]
    objects = [thing for thing, _ in paired] + free
    wheel = [colour for _, colour in paired]
    shifts = (0, 1, 2, 0, 3, 4, 0, 5)
    found = []
    for n in range(num):
        turn, i = divmod(n, len(objects))
        lap, turn = divmod(turn, len(shifts))
        shift = shifts[(i + turn) % 8] if i < len(paired) else 5 * turn
        setting = cutout.SETTINGS[(i + 3 * turn + lap) % len(cutout.SETTINGS)]
        # Two rounds without a size, then one with sizes.
        size = cutout.SIZES[(i + lap) % 3] if turn % 3 == 2 else None
        thing, colour = objects[i], wheel[(i + shift) % len(wheel)]
        found.append(Prompt(sentence(thing, colour, setting, size), thing, colour, setting, size))
    return found


def real_video(prompt: Prompt, seed: Any, fps: float, frames: int, size: int) -> Video:
    """A video of the world that the prompt describes, from a random moment on."""
    rng = np.random.default_rng(seed)
    scene = cutout.make_scene(
        prompt.setting,
        prompt.object,
        prompt.colour,
        prompt.size or cutout.SIZES[rng.integers(3)],
        cutout.PLACES[rng.integers(3)],
        int(rng.integers(2**32)),
    )
    lasts = cutout.VIDEO_FRAMES / cutout.NATIVE_FPS
    start = rng.uniform(0, max(lasts - (frames - 1) / fps, 0))
    return np.stack([cutout.render(scene, start + i / fps, size) for i in range(frames)])


# Measures of one video.


def recognised(verdict: classifier.Verdict, prompt: Prompt) -> dict[str, Any]:
    """Shares of frames in which the judge sees what the prompt says; what else it mostly saw."""
    right, mostly = {}, {}
    for name, classes in classifier.CLASSES.items():
        seen = getattr(verdict, name)
        right[name] = seen == classes.index(getattr(prompt, name))
        mostly[name] = classes[np.bincount(seen, minlength=len(classes)).argmax()]
    shares = {name: float(frames.mean()) for name, frames in right.items()}
    both = float((right["object"] & right["colour"]).mean())
    return shares | dict(both=both, mostly=mostly)


def motion(position: Float[np.ndarray, "f 2"], fps: float) -> dict[str, float]:
    """How the centre of a thing moves.

    path: its length per second. net: from first to last. range: diagonal of the box that holds the
    path. horizontal: share of all movement, from 0 (up and down) to 1 (left and right).
    """
    window = max(1, min(round(fps / TRACKING_FPS), len(position) // 4))
    whole = len(position) // window * window
    steady = position[:whole].reshape(-1, window, 2).mean(1)
    steps = np.diff(steady, axis=0)
    seconds = len(steps) * window / fps
    across, along = np.abs(steps).sum(0)
    return dict(
        path=float(np.linalg.norm(steps, axis=1).sum() / seconds),
        net=float(np.linalg.norm(steady[-1] - steady[0])),
        range=float(np.linalg.norm(np.ptp(steady, axis=0))),
        horizontal=float(across / max(across + along, 1e-9)),
    )


def flicker(video: Video) -> dict[str, float]:
    """Mean absolute differences between neighbouring frames, in grey levels of 255.

    change: of pixels. detail: of pixels less the mean around them. second_difference: of changes,
    |x[t-1] - 2 x[t] + x[t+1]|, which steady movement leaves small.
    """
    totals = np.zeros(3)
    before, fine_before, difference_before = None, None, None
    for frame in video:
        x = frame.astype(np.float32)
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
        around = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
        fine, difference = x - around, None
        if before is not None:
            difference = x - before
            totals[:2] += np.abs(difference).mean(), np.abs(fine - fine_before).mean()
        if difference_before is not None:
            totals[2] += np.abs(difference - difference_before).mean()
        before, fine_before, difference_before = x, fine, difference
    change, detail, second = totals / (len(video) - 1, len(video) - 1, len(video) - 2)
    return dict(change=float(change), detail=float(detail), second_difference=float(second))


def judged(judge: classifier.Judge, video: Video, prompt: Prompt, fps: float) -> dict[str, Any]:
    """All measures of a video. Flicker is measured at its own size, the rest at the judge's."""
    verdict = judge(video)
    return recognised(verdict, prompt) | motion(verdict.position, fps) | flicker(video)


def record(
    judge: classifier.Judge,
    prompt: Prompt,
    seed: int,
    video: Video,
    real: Iterable[Video],
    fps: float,
) -> dict[str, Any]:
    """What a report keeps of a prompt: the measures of its video and of real ones."""
    return dataclasses.asdict(prompt) | dict(
        held_out_pair=prompt.held_out_pair,
        held_out_mover=prompt.held_out_mover,
        seed=seed,
        generated=judged(judge, video, prompt, fps),
        real=[judged(judge, other, prompt, fps) for other in real],
    )


# Measures of all videos.

SHARES = ("object", "colour", "setting", "both")
MOTIONS = ("path", "net", "range", "horizontal")
FLICKERS = ("change", "detail", "second_difference")


def share(records: Sequence[dict], name: str) -> dict[str, float] | None:
    """Mean over videos of a share of frames, and its standard error; None without videos."""
    if not records:
        return None
    values = np.array([record[name] for record in records])
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return dict(mean=float(values.mean()), error=float(error), videos=len(values))


def compared(generated: Sequence[dict], real: Sequence[dict], names) -> dict[str, dict | None]:
    """Medians over videos, generated and real, and their ratio; None without videos."""
    found = {}
    for name in names:
        if not generated or not real:
            found[name] = None
            continue
        a, b = (float(np.median([record[name] for record in side])) for side in (generated, real))
        found[name] = dict(generated=a, real=b, ratio=a / max(b, 1e-9), videos=len(generated))
    return found


def summarise(records: Sequence[dict]) -> dict[str, Any]:
    """The numbers of a report from the records of its prompts."""

    def videos(kind: str, wanted: Callable[[dict], bool] = lambda record: True) -> list[dict]:
        chosen = [record for record in records if wanted(record)]
        if kind == "generated":
            return [record["generated"] for record in chosen]
        return [real for record in chosen for real in record["real"]]

    def moving(wanted):
        # Where there is no such thing there is nothing to follow.
        generated = [video for video in videos("generated", wanted) if video["object"] >= 0.5]
        return compared(generated, videos("real", wanted), MOTIONS)

    def shares(kind, wanted=lambda record: True):
        return {name: share(videos(kind, wanted), name) for name in SHARES}

    def by(attribute):
        names = classifier.CLASSES[attribute]
        each = {name: videos("generated", lambda r, n=name: r[attribute] == n) for name in names}
        return {name: share(found, attribute) for name, found in each.items()}

    objects = {
        name: moving(lambda record, name=name: record["object"] == name) for name in cutout.OBJECTS
    }
    # How much of an object's movement is to the left or right, instead of up or down.
    turns = [objects[name]["horizontal"] for name in SEEN_MOVERS]
    turns = [abs(found["generated"] - found["real"]) for found in turns if found]
    return dict(
        recognised=dict(
            all=shares("generated"),
            seen_pairs=shares("generated", lambda record: not record["held_out_pair"]),
            held_out_pairs=shares("generated", lambda record: record["held_out_pair"]),
            real=shares("real"),
        ),
        by={attribute: by(attribute) for attribute in classifier.CLASSES},
        motion=dict(
            seen_movers=moving(lambda record: record["object"] in SEEN_MOVERS),
            held_out_movers=moving(lambda record: record["held_out_mover"]),
            direction=float(np.mean(turns)) if turns else None,
            objects=objects,
        ),
        flicker=compared(videos("generated"), videos("real"), FLICKERS),
    )


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the verdict. value and passed: None if there was nothing to measure."""

    name: str
    target: str
    value: float | None
    passed: bool | None
    shown: str


def verdict(summary: dict[str, Any]) -> list[Line]:
    """The targets, and whether they are met."""
    recognised, motions = summary["recognised"], summary["motion"]
    lines = []

    def add(name, target, value, good: Callable[[float], bool], shown: str):
        if value is None:
            lines.append(Line(name, target, None, None, "not measured"))
        else:
            lines.append(Line(name, target, value, bool(good(value)), shown))

    def percent(name, least, found):
        value = found and found["mean"]
        shown = found and f"{100 * value:.1f} ± {100 * found['error']:.1f} %"
        add(
            f"{name} recognised",
            f"at least {100 * least:.0f} %",
            value,
            lambda v: v >= least,
            shown,
        )

    def ratio(name, found, low, high):
        value = found and found["ratio"]
        shown = found and f"{value:.2f} ({found['generated']:.3g} to {found['real']:.3g})"
        target = f"{low:g} to {high:g} times real" if low else f"at most {high:g} times real"
        add(name, target, value, lambda v: low <= v <= high, shown)

    percent("object", 0.80, recognised["all"]["object"])
    percent("colour", 0.85, recognised["all"]["colour"])
    percent("setting", 0.95, recognised["all"]["setting"])

    seen, new = recognised["seen_pairs"]["both"], recognised["held_out_pairs"]["both"]
    # Where little is recognised at all, a small gap says nothing.
    gap = seen["mean"] - new["mean"] if seen and new and seen["mean"] >= 0.5 else None
    shown = gap is not None and (
        f"{100 * gap:.1f} ± {100 * np.hypot(seen['error'], new['error']):.1f} points "
        f"({100 * seen['mean']:.1f} % to {100 * new['mean']:.1f} %)"
    )
    name = "seen less held-out pairs, object and colour"
    add(name, "at most 10 points", gap, lambda v: v <= 0.10, shown)

    ratio("path per second of what moves", motions["seen_movers"]["path"], 0.5, 2)
    ratio("range of what moves", motions["seen_movers"]["range"], 0.5, 2)
    ratio("range of held-out movers", motions["held_out_movers"]["range"], 0.5, 2)
    name = "direction of what moves, left-right share"
    turns = motions["direction"]
    shown = turns is not None and f"{100 * turns:.1f} points"
    add(name, "at most 15 points from real", turns, lambda v: v <= 0.15, shown)
    house = motions["objects"]["house"]["range"]
    target = f"range at most {STILL:g}"
    shown = house and f"{house['generated']:.3f} (real {house['real']:.3f})"
    add("houses stand still", target, house and house["generated"], lambda v: v <= STILL, shown)

    ratio("change between frames", summary["flicker"]["change"], 0.5, 2)
    ratio("flicker of fine detail", summary["flicker"]["detail"], 0, 2)
    ratio("flicker, second difference", summary["flicker"]["second_difference"], 0, 2)
    return lines


# The run.


def run(
    cascade: cascade_lib.Cascade,
    out_dir: str | os.PathLike,
    num_prompts: int = 96,
    size: int = 64,
    frames: int = 76,
    seed: int = 0,
    progress: cascade_lib.Progress | None = None,
    judge: classifier.Judge | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Measures a cascade; writes report.json, report.md and sheet.png, and returns the report.

    progress: None draws a bar. judge: None takes the shipped one. settings: further ones of
    `Cascade.text_to_video`. The same arguments give the same report.
    Raises ValueError for impossible settings before the first video.
    """
    if num_prompts < 1:
        raise ValueError(f"num_prompts={num_prompts} must be at least 1; 96 covers all evenly.")
    if frames < 4:
        raise ValueError(f"frames={frames} is too short to see movement; choose 16 or 76.")
    settings = dict(settings, size=size, frames=frames)
    asked = prompts(num_prompts)
    checked = cascade.check(settings)
    fps = cascade.output_fps(checked)
    judge = judge or classifier.load()
    out_dir = pathlib.Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    report_progress = cascade_lib.Bars() if progress is None else progress

    records, rows = [], []
    report_progress("evaluate", 0, num_prompts)
    for n, prompt in enumerate(asked):
        # So that `mav sample` with this seed draws the same video.
        video_seed = 1000 * seed + n
        video = cascade.text_to_video(prompt.text, video_seed, cascade_lib.silent, **settings)
        real = (
            real_video(prompt, (seed, n, k), fps, frames, video.shape[1]) for k in range(NUM_REAL)
        )
        records.append(record(judge, prompt, video_seed, video, real, fps))
        if n < SHEET_PROMPTS:
            rows.append((_label(records[-1]), _thumbnails(video)))
        report_progress("evaluate", n + 1, num_prompts)

    summary = summarise(records)
    lines = verdict(summary)
    report = _rounded(
        dict(
            protocol="cutout",
            cascade=cascade.name,
            settings=dataclasses.asdict(checked),
            fps=fps,
            seed=seed,
            num_prompts=num_prompts,
            num_real=NUM_REAL,
            passed=_all_passed(lines),
            verdict=[dataclasses.asdict(line) for line in lines],
            **summary,
            judge={key: value for key, value in judge.card.items() if key != "classes"},
            prompts=records,
        )
    )
    for n, prompt in enumerate(asked[:SHEET_REAL]):
        video = real_video(prompt, (seed, n, 0), fps, frames, size)
        rows.append((f"real: {prompt.text}", _thumbnails(video)))
    labels, videos = zip(*rows, strict=True)
    sheet = media.contact_sheet(videos, SHEET_FRAMES, labels=labels, tile=SHEET_TILE)
    media.write_image(out_dir / "sheet.png", sheet)
    with media.written_aside(out_dir / "report.md") as path:
        path.write_text(markdown(report), encoding="utf-8")
    with media.written_aside(out_dir / "report.json") as path:
        params_lib.write_json(path, report)
    return report


def _all_passed(lines: Sequence[Line]) -> bool | None:
    """False if a line failed; None if none did but something could not be measured."""
    marks = {line.passed for line in lines}
    return False if False in marks else None if None in marks else True


def _label(record: dict) -> str:
    notes = []
    if record["held_out_pair"]:
        notes.append("held-out pair")
    if record["held_out_mover"]:
        notes.append("held-out mover")
    if record["generated"]["both"] < 0.5:
        mostly = record["generated"]["mostly"]
        notes.append(f"seen as {mostly['colour']} {mostly['object']}")
    return record["text"] + (f" [{', '.join(notes)}]" if notes else "")


def _thumbnails(video: Video) -> Video:
    chosen = np.linspace(0, len(video) - 1, min(SHEET_FRAMES, len(video))).round().astype(int)
    return media.resize(video[chosen], SHEET_TILE)


def _rounded(value: Any) -> Any:
    """Numbers with six decimals, so that reports are readable."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


# The report for people.


def _table(*rows: Sequence[str]) -> str:
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body))


def _percent(found: dict | None) -> str:
    return "-" if found is None else f"{100 * found['mean']:.1f} ± {100 * found['error']:.1f}"


def markdown(report: dict[str, Any]) -> str:
    """The report as a page of tables."""
    settings, judge = report["settings"], report["judge"]
    marks = {True: "pass", False: "**fail**", None: "-"}
    parts = [
        f"# Cutout protocol: {report['cascade']}",
        f"{report['num_prompts']} prompts, {settings['frames']} frames of {settings['size']} x "
        f"{settings['size']} at {report['fps']:g} fps, seed {report['seed']}; {report['num_real']} "
        "real videos for each generated one. ± is the standard error over videos. Lengths are in "
        "widths of the frame, changes in grey levels of 255.",
        _table(
            ("measure", "target", "found", ""),
            *((v["name"], v["target"], v["shown"], marks[v["passed"]]) for v in report["verdict"]),
        ),
        "## Recognised, % of frames",
        _table(
            ("videos", *SHARES[:3], "object and colour"),
            *(
                (name.replace("_", " "), *(_percent(found[key]) for key in SHARES))
                for name, found in report["recognised"].items()
            ),
        ),
        *(
            _table(
                (attribute, "recognised"),
                *((name, _percent(found)) for name, found in report["by"][attribute].items()),
            )
            for attribute in report["by"]
        ),
        "## Motion, medians generated / real",
        "Videos in which the object is recognised in at least half of the frames. Horizontal is "
        "the share of movement that is to the left or right.",
        _table(
            ("object", "videos", "path per second", "net", "range", "range ratio", "horizontal"),
            *map(_motion_row, _motion_rows(report["motion"])),
        ),
        "## Change between frames, medians generated / real",
        _table(
            ("", "generated", "real", "ratio"),
            *(
                (name, f"{found['generated']:.2f}", f"{found['real']:.2f}", f"{found['ratio']:.2f}")
                for name, found in report["flicker"].items()
            ),
        ),
        "## Least recognised",
        _table(
            ("prompt", "seed", "object", "colour", "setting", "mostly seen as"),
            *map(
                _worst_row,
                sorted((r for r in report["prompts"] if _quality(r) < 2), key=_quality)[:12],
            ),
        ),
        "## The judge",
        f"A classifier trained on {judge.get('num_pictures', 0)} real pictures. On fresh ones:",
        _table(
            ("rendered at", "object", "colour", "setting", "error of the centre"),
            *(
                (
                    size,
                    *(f"{100 * test[key]:.2f} %" for key in SHARES[:3]),
                    f"{test['position_error']:.4f}",
                )
                for size, test in judge.get("test", {}).items()
            ),
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _motion_rows(motions: dict) -> list[tuple[str, dict]]:
    groups = [(key.replace("_", " "), motions[key]) for key in ("seen_movers", "held_out_movers")]
    return groups + list(motions["objects"].items())


def _motion_row(row: tuple[str, dict]) -> tuple[str, ...]:
    name, found = row
    if found["path"] is None:
        return (name, "0", "-", "-", "-", "-", "-")
    pair = lambda key: f"{found[key]['generated']:.3f} / {found[key]['real']:.3f}"
    ratio = "-" if name == "house" else f"{found['range']['ratio']:.2f}"
    shown = (pair("path"), pair("net"), pair("range"), ratio, pair("horizontal"))
    return (name, str(found["path"]["videos"]), *shown)


def _quality(record: dict) -> float:
    return record["generated"]["both"] + record["generated"]["setting"]


def _worst_row(record: dict) -> tuple[str, ...]:
    found = record["generated"]
    shares = (f"{100 * found[key]:.0f} %" for key in SHARES[:3])
    mostly = found["mostly"]
    seen = f"{mostly['colour']} {mostly['object']}, {mostly['setting']}"
    return (record["text"], str(record["seed"]), *shares, seen)

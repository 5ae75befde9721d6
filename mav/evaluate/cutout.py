"""The cutout protocol: does a video show what the prompt says, and does it move as the world does?

A judge (`mav.evaluate.classifier`) looks at the frames of one video per prompt, and in the same way
at real videos of the same thing in the same setting. Then each stage is measured alone
(`mav.evaluate.cutout_stages`). Positions are fractions of the frame's width.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import mav
from mav import cascade as cascade_lib
from mav import media
from mav import params as params_lib
from mav.data import cutout
from mav.evaluate import (
    classifier,
    cutout_measures,
    cutout_prompts,
    cutout_report,
    cutout_stages,
    cutout_verdict,
    metrics,
    video_classifier,
)
from mav.evaluate.cutout_prompts import NUM_REAL, Prompt, Video

SEEN_MOVERS = tuple(
    name for name in cutout.OBJECTS if name != "house" and name not in cutout.HELD_OUT_MOVERS
)
RESAMPLES = 200  # of the bootstrap
SHEET_PROMPTS, SHEET_REAL, SHEET_FRAMES, SHEET_TILE = 24, 4, 8, 96


# One prompt.


def record(
    prompt: Prompt,
    seed: int,
    fps: float,
    videos: Sequence[Video],
    looks: Sequence[classifier.Verdict],
) -> dict[str, Any]:
    """What a report keeps of a prompt: the measures of its video and of real ones.

    videos: the generated one, then real ones. looks: what the judge sees in each.
    """
    generated, *real = [
        cutout_measures.judged(look, video, prompt, fps)
        for look, video in zip(looks, videos, strict=True)
    ]
    return dataclasses.asdict(prompt) | dict(
        held_out_pair=prompt.held_out_pair,
        held_out_mover=prompt.held_out_mover,
        seed=seed,
        generated=generated,
        real=real,
    )


# All prompts.


def share(records: Sequence[dict], name: str) -> dict[str, float] | None:
    """Mean over videos of a share of frames, and its standard error; None without videos."""
    return cutout_measures.mean([record[name] for record in records])


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
        return compared(generated, videos("real", wanted), cutout_measures.MOTIONS)

    def shares(kind, wanted=lambda record: True):
        return {name: share(videos(kind, wanted), name) for name in cutout_measures.SHARES}

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
        flicker=compared(videos("generated"), videos("real"), cutout_measures.FLICKERS),
    )


Watched = Sequence[dict[str, np.ndarray]]  # what the watcher says, of a video for each prompt


def distances(generated: Watched, real: Watched, other: Watched) -> dict[str, Any] | None:
    """cutout-FVD to real videos, and cutout-IS, each also of other real ones; None of one video.

    A Frechet distance of few videos is too large: that of others as many says by how much. Errors
    are of the bootstrap over prompts.
    """
    if len(generated) < 2:
        return None
    stacked = lambda videos, name: np.stack([video[name] for video in videos])
    to_real = metrics.frechet_to(metrics.Moments.of(stacked(real, "features")))
    found = dict(videos=len(generated))
    for kind, videos in dict(generated=generated, real=other).items():
        features, logits = stacked(videos, "features"), stacked(videos, "object")
        for name, statistic in dict(
            fvd=lambda chosen, x=features: to_real(metrics.Moments.of(x[chosen])),
            inception_score=lambda chosen, x=logits: metrics.inception_score(x[chosen])[0],
        ).items():
            value = statistic(np.arange(len(videos)))
            error = metrics.bootstrap_error(statistic, len(videos), RESAMPLES)
            found.setdefault(name, {})[kind] = dict(mean=value, error=error)
    return found


# The run.


def run(
    cascade: cascade_lib.Cascade,
    out_dir: str | os.PathLike,
    num_prompts: int = 96,
    size: int = 64,
    frames: int = 76,
    seed: int = 0,
    clips: int = 20,
    progress: cascade_lib.Progress | None = None,
    judge: classifier.Judge | None = None,
    checksum: str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Measures a cascade; writes report.json, report.md and sheet.png, and returns the report.

    clips: by which each stage is measured alone; with 0 none is. progress: None draws bars. judge:
    None takes the shipped one. checksum: `folders.checksum` of the cascade's files, which the
    report keeps. settings: further ones of `Cascade.text_to_video`. The same
    arguments give the same report. Raises ValueError for impossible settings before the first
    video.
    """
    if num_prompts < 1:
        raise ValueError(f"num_prompts={num_prompts} must be at least 1; 96 covers all evenly.")
    if frames < 4:
        raise ValueError(f"frames={frames} is too short to see movement; choose 16 or 76.")
    if clips < 0:
        raise ValueError(f"clips={clips} must be at least 0, which leaves stages unmeasured.")
    asked = cutout_prompts.prompts(num_prompts)
    checked = cascade.check(dict(settings, size=size, frames=frames))
    fps = cascade.output_fps(checked)
    judge, watcher = judge or classifier.load(), video_classifier.load()
    out_dir = pathlib.Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    for name in ("sheet.png", "report.md", "report.json"):
        media.check_writable(out_dir / name)
    report_progress = cascade_lib.Bars() if progress is None else progress

    bench = cutout_stages.Bench(cascade, judge, asked, seed, settings, report_progress)

    def measure(n):
        prompt, video_seed = asked[n], cutout_prompts.video_seed(seed, n)
        options = dict(settings, size=size, frames=frames)
        video = cascade.text_to_video(prompt.text, video_seed, cascade_lib.silent, **options)
        real = lambda k: cutout_prompts.real_video(prompt, (seed, n, k), fps, frames, len(video[0]))
        videos = [video, *map(real, range(NUM_REAL))]
        looks = [judge(video) for video in videos]
        found = record(prompt, video_seed, fps, videos, looks)
        return found, [watcher(look) for look in looks], [_thumbnails(x) for x in videos[:2]]

    found = bench.each("evaluate", num_prompts, measure)
    records, watched, thumbnails = zip(*found, strict=True)
    generated, *real = zip(*watched, strict=True)
    summary = summarise(records) | dict(watched=distances(generated, *real), stages=None)
    if clips:
        summary["stages"] = cutout_stages.run(bench, clips)
    lines = cutout_verdict.verdict(summary)
    cards = dict(judge=judge.card, watcher=watcher.card)
    report = _rounded(
        dict(
            protocol="cutout",
            mav=mav.__version__,
            cascade=cascade.name,
            checksum=checksum,
            computed_by=f"jax {jax.__version__}, {jax.local_devices()[0].device_kind}",
            settings=dataclasses.asdict(checked),
            fps=fps,
            seed=seed,
            num_prompts=num_prompts,
            num_real=NUM_REAL,
            clips=clips,
            passed=cutout_verdict.all_passed(lines),
            verdict=[dataclasses.asdict(line) for line in lines],
            by_stage=cutout_verdict.by_stage(summary) if clips else None,
            **summary,
            **{
                name: {key: value for key, value in card.items() if key != "classes"}
                for name, card in cards.items()
            },
            prompts=records,
        )
    )
    labels = [_label(record) for record in records[:SHEET_PROMPTS]]
    labels += [f"real: {prompt.text}" for prompt in asked[:SHEET_REAL]]
    shown = [made for made, _ in thumbnails[:SHEET_PROMPTS]]
    shown += [real for _, real in thumbnails[:SHEET_REAL]]
    sheet = media.contact_sheet(shown, SHEET_FRAMES, labels=labels, tile=SHEET_TILE)
    media.write_image(out_dir / "sheet.png", sheet)
    with media.written_aside(out_dir / "report.md") as path:
        path.write_text(cutout_report.markdown(report), encoding="utf-8")
    with media.written_aside(out_dir / "report.json") as path:
        params_lib.write_json(path, report)
    return report


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

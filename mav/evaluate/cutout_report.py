"""The report of the cutout protocol for people, in Markdown."""

import json
from collections.abc import Sequence
from typing import Any

from mav.evaluate.cutout_measures import SHARES
from mav.evaluate.video_classifier import FRAMES

JUDGES = ("judge", "watcher")  # classifiers that look at videos


def _table(*rows: Sequence[str]) -> str:
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body))


def _percent(found: dict | None) -> str:
    return "-" if found is None else f"{100 * found['mean']:.1f} ± {100 * found['error']:.1f}"


def markdown(report: dict[str, Any]) -> str:
    """The report as a page of tables."""
    settings, judge, watcher = report["settings"], report["judge"], report["watcher"]
    marks = {True: "pass", False: "**fail**", None: "-"}
    bound = lambda words, kept: ("", "") if words is None else (words, marks[kept])
    parts = [
        f"# Cutout protocol: {report['cascade']}",
        f"{report['num_prompts']} prompts, {settings['frames']} frames of {settings['size']} x "
        f"{settings['size']} at {report['fps']:g} fps, seed {report['seed']}; {report['num_real']} "
        f"real videos for each generated one; {report['clips']} real clips for each stage. ± is "
        "the standard error over videos. Lengths are in widths of the frame, changes in grey "
        "levels of 255. The target is what must be reached, the goal what is wanted.",
        _table(
            ("stage", "measure", "found", "target", "", "goal", ""),
            *(
                (
                    v["stage"],
                    v["name"],
                    v["shown"],
                    *bound(v["target"], v["passed"]),
                    *bound(v["goal"], v["reached"]),
                )
                for v in report["verdict"]
            ),
        ),
        *_stages(report),
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
        "## The judge and the watcher",
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
        f"cutout-FVD and cutout-IS look through a classifier trained on what the judge sees in "
        f"{watcher['num_clips']} real clips of {FRAMES} frames: {watcher['config']['features']} "
        "features, and the probabilities of the objects. They compare with other numbers of this "
        "protocol for as many prompts, and with no FVD or IS of Kinetics or UCF-101. On fresh "
        "clips: "
        + ", ".join(f"{name} {100 * share:.1f} %" for name, share in watcher["test"].items())
        + ".",
        "## What the numbers depend on",
        _table(
            ("fact", "value"),
            ("cascade, SHA-256 of its files", report["checksum"] or "unknown"),
            *((f"{name}, SHA-256", report[name].get("sha256", "unknown")) for name in JUDGES),
            ("settings", json.dumps(settings)),
            ("mav", report["mav"]),
            ("computed by", report["computed_by"]),
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _stages(report: dict[str, Any]) -> list[str]:
    """What each stage does alone."""
    if report["stages"] is None:
        return []
    parts = [
        "## By stage",
        "Each is given real input; prior and decoder together, the text. The way is how far it "
        "comes from what one has without it to the real thing: for the prior, pictures of other "
        "prompts and pictures of the prompt among themselves; for the decoder, chance and real "
        "videos; for the others, linear blending or bicubic enlargement, and of the squared error "
        "the share that is taken away.",
        _table(
            ("stage", "measure", "found", "without it", "real", "way"),
            *report["by_stage"],
        ),
    ]
    pace = report["stages"]["pace"]
    if pace:
        pairs = lambda name, digits: (
            f"{a:.{digits}f} / {b:.{digits}f}"
            for a, b in zip(pace[name]["generated"], pace[name]["real"], strict=True)
        )
        parts += [
            "Movement from frame to frame by the fps that the decoder is asked for, medians "
            "generated / real; the judge's error of the centre adds to small steps:",
            _table(
                ("fps", *(f"{fps:g}" for fps in pace["fps"])),
                ("step of the centre", *pairs("step", 4)),
                ("change of pixels", *pairs("change", 2)),
            ),
        ]
    return parts


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

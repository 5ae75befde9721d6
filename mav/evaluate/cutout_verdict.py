"""The verdict of the cutout protocol: what was measured, stage by stage, and what is wanted."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mav.evaluate import cutout_stages, fidelity

STILL = 0.05  # of the frame's width: what keeps within this stands still
FLICKER_BESIDE = dict(true="real", bicubic="bicubic", independent="noise of its own per frame")


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the verdict.

    target: what a cascade must reach; goal: what is wanted of it. None where there is none. value,
    passed and reached: None if there was nothing to measure.
    """

    stage: str
    name: str
    value: float | None
    shown: str
    target: str | None = None
    passed: bool | None = None
    goal: str | None = None
    reached: bool | None = None


Bound = tuple[str, Callable[[float], bool]]  # in words, and whether a value keeps it


def verdict(summary: dict[str, Any]) -> list[Line]:
    """What was measured by stage, the targets, and whether they are met.

    Of the prior and decoder together, as the text is told to them, then of each stage.
    """
    stages = summary.get("stages")
    return _text_lines(summary) + ([] if stages is None else _stage_lines(stages))


def _line(stage, name, value, shown, target: Bound | None = None, goal: Bound | None = None):
    """A line, if there is a value; else one that says so."""
    words = dict(target=target and target[0], goal=goal and goal[0])
    if value is None:
        return Line(stage, name, None, "not measured", **words)
    keeps = lambda bound: None if bound is None else bool(bound[1](value))
    return Line(stage, name, value, shown, **words, passed=keeps(target), reached=keeps(goal))


def _at_least(least: float, shown: str) -> Bound:
    return f"at least {shown}", lambda value: value >= least


def _at_most(most: float, shown: str) -> Bound:
    return f"at most {shown}", lambda value: value <= most


def _times_real(low: float, high: float) -> Bound:
    shown = f"{low:.2g} to {high:g} times real" if low else f"at most {high:g} times real"
    return shown, lambda value: low <= value <= high


def _plus_minus(found: dict, digits: int = 2, scale: float = 1) -> str:
    """A mean and its standard error."""
    return f"{scale * found['mean']:.{digits}f} ± {scale * found['error']:.{digits}f}"


def _text_lines(summary: dict[str, Any]) -> list[Line]:
    recognised, motions = summary["recognised"], summary["motion"]
    changes, watched = summary["flicker"], summary.get("watched")
    lines = []

    def add(name, *args):
        lines.append(_line("text to video", name, *args))

    def percent(name, target, goal):
        found = recognised["all"][name]
        bounds = [_at_least(share, f"{100 * share:.0f} %") for share in (target, goal)]
        shown = found and f"{_plus_minus(found, 1, 100)} %"
        add(f"{name} recognised", found and found["mean"], shown, *bounds)

    def ratio(name, found, *bounds):
        shown = found and f"{found['ratio']:.2f} ({found['generated']:.3g} to {found['real']:.3g})"
        add(name, found and found["ratio"], shown, *(_times_real(*bound) for bound in bounds))

    percent("object", 0.80, 0.92)
    percent("colour", 0.85, 0.95)
    percent("setting", 0.95, 0.98)

    seen, new = recognised["seen_pairs"]["both"], recognised["held_out_pairs"]["both"]
    # Where little is recognised at all, a small gap says nothing.
    gap = seen["mean"] - new["mean"] if seen and new and seen["mean"] >= 0.5 else None
    shown = gap is not None and (
        f"{100 * gap:.1f} ± {100 * np.hypot(seen['error'], new['error']):.1f} points "
        f"({100 * seen['mean']:.1f} % to {100 * new['mean']:.1f} %)"
    )
    bounds = _at_most(0.10, "10 points"), _at_most(0.05, "5 points")
    add("seen less held-out pairs, object and colour", gap, shown, *bounds)

    bounds = (1 / 2, 2), (1 / 1.5, 1.5)
    ratio("path per second of what moves", motions["seen_movers"]["path"], *bounds)
    ratio("range of what moves", motions["seen_movers"]["range"], *bounds)
    ratio("range of held-out movers", motions["held_out_movers"]["range"], *bounds)
    turns = motions["direction"]
    shown = turns is not None and f"{100 * turns:.1f} points"
    bound = _at_most(0.15, "15 points from real")
    add("direction of what moves, left-right share", turns, shown, bound)
    house = motions["objects"]["house"]["range"]
    shown = house and f"{house['generated']:.3f} (real {house['real']:.3f})"
    bound = "range " + _at_most(STILL, f"{STILL:g}")[0], lambda value: value <= STILL
    add("houses stand still", house and house["generated"], shown, bound)

    ratio("change between frames", changes["change"], (1 / 2, 2))
    ratio("flicker of fine detail", changes["detail"], (0, 2))
    ratio("flicker, second difference", changes["second_difference"], (0, 2))

    for name, key, digits in (("cutout-FVD", "fvd", 2), ("cutout-IS", "inception_score", 2)):
        found = watched and watched[key]
        shown = found and (
            f"{_plus_minus(found['generated'], digits)} "
            f"(other real videos {_plus_minus(found['real'], digits)})"
        )
        add(name, found and found["generated"]["mean"], shown)
    return lines


def _stage_lines(stages: dict[str, Any]) -> list[Line]:
    lines = []

    found = stages["prior"]
    shown = found and (
        f"{_plus_minus(found['found'], 3)} (real pictures among themselves "
        f"{_plus_minus(found['among'], 3)}"
        + (f", of other prompts {_plus_minus(found['other'], 3)})" if found["other"] else ")")
    )
    value = found and found["found"]["mean"]
    lines.append(_line("prior", "cosine to real pictures of the prompt", value, shown))

    found = stages["decoder"]
    for name, words in (("object", "object recognised"), ("both", "object and colour recognised")):
        words = f"{words}, told a real picture"
        shown = found and f"{_plus_minus(found[name], 1, 100)} %"
        lines.append(_line("decoder", words, found and found[name]["mean"], shown))
    found = stages["pace"]
    correlation = found and found["correlation"]["generated"]
    shown = correlation and (
        f"{_plus_minus(correlation)} (real {_plus_minus(found['correlation']['real'])})"
    )
    # The order of medians: single videos of little movement are within the judge's jitter.
    falls = lambda _: bool((np.diff(found["step"]["generated"]) < 0).all())
    bound = "median falls with every fps", falls
    name = "rank correlation of movement per frame and fps"
    lines.append(_line("decoder", name, correlation and correlation["mean"], shown, None, bound))

    for name, means, least in (
        ("interpolation", dict(blend="linear blending", flow="optical flow"), 2),
        ("sr_256", dict(bicubic="bicubic"), 3),
        ("sr_768", dict(bicubic="bicubic"), 3),
    ):
        found = stages[name]
        for i, (kind, words) in enumerate(means.items()):
            gain = found and found["psnr"]["gain"].get(kind)
            shown = gain and (
                f"{_plus_minus(gain)} dB ({found['psnr']['found']['mean']:.2f} to "
                f"{found['psnr'][kind]['mean']:.2f}; SSIM {found['ssim']['found']['mean']:.3f} to "
                f"{found['ssim'][kind]['mean']:.3f})"
            )
            bound = _at_least(least, f"{least} dB") if i == 0 else None
            words = f"PSNR above {words}"
            line = _line(name, words, gain and gain["mean"], shown, None, bound)
            if kind == "flow" and found and not gain:
                line = dataclasses.replace(line, shown=fidelity.WITHOUT_FLOW)
            lines.append(line)
        if name == "interpolation":
            continue
        found = found and found["flicker"]
        shown = found and f"{found['found']['mean']:.2f} (" + ", ".join(
            f"{words} {found[kind]['mean']:.2f}"
            for kind, words in FLICKER_BESIDE.items()
            if found[kind]
        )
        value = found and found["found"]["mean"]
        lines.append(_line(name, "flicker, second difference", value, shown and f"{shown})"))
    return lines


def all_passed(lines: Sequence[Line]) -> bool | None:
    """Whether the targets are met: False if one is not; None if one could not be measured."""
    marks = {line.passed for line in lines if line.target is not None}
    return False if False in marks else None if None in marks else True


def by_stage(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows of the table that compares stages: stage, what, found, without it, real, and the way.

    The way is how far a stage comes from what one has without it to the real thing, in %. Of
    pictures that is the share of the squared error that it takes away.
    """
    stages, rows = summary.get("stages") or {}, []
    share = lambda found, without, real: (
        f"{100 * (found['mean'] - without) / (real - without):.0f} ± "
        f"{100 * found['error'] / abs(real - without):.0f} %"
    )
    found = stages.get("prior")
    if found and found["other"]:
        told = ("cosine to real pictures", _plus_minus(found["found"], 3))
        ends = found["other"]["mean"], found["among"]["mean"]
        way = share(found["found"], *ends)
        rows.append(("prior", *told, *(f"{end:.3f}" for end in ends), way))
    found, real = stages.get("decoder"), summary["recognised"]["real"]["both"]
    if found:
        told = ("object and colour, % of frames", _plus_minus(found["both"], 1, 100))
        ends = cutout_stages.CHANCE, real["mean"]
        way = share(found["both"], *ends)
        rows.append(("decoder", *told, *(f"{100 * end:.1f}" for end in ends), way))
    for name, kind in (("interpolation", "blend"), ("sr_256", "bicubic"), ("sr_768", "bicubic")):
        found = stages.get(name) and stages[name]["psnr"]
        if found:
            gain = found["gain"][kind]
            taken = lambda decibels: 100 * (1 - 10 ** (-decibels / 10))
            low, high = (taken(gain["mean"] + sign * gain["error"]) for sign in (-1, 1))
            way = f"{taken(gain['mean']):.0f} ± {(high - low) / 2:.0f} %"
            told = ("PSNR in dB", _plus_minus(found["found"]))
            rows.append((name, *told, f"{found[kind]['mean']:.2f}", "", way))
    return rows

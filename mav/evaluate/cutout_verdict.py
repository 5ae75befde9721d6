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
    return [
        _prior_line(stages["prior"]),
        *_decoder_lines(stages["decoder"]),
        _pace_line(stages["pace"]),
        _gain_line("interpolation", stages["interpolation"], "blend", "linear blending", 2),
        _gain_line("interpolation", stages["interpolation"], "flow", "optical flow"),
        _gain_line("sr_256", stages["sr_256"], "bicubic", "bicubic", 3),
        _flicker_line("sr_256", stages["sr_256"]),
        _gain_line("sr_768", stages["sr_768"], "bicubic", "bicubic", 3),
        _flicker_line("sr_768", stages["sr_768"]),
    ]


def _prior_line(found: dict | None) -> Line:
    value = found and found["found"]["mean"]
    shown = found and (
        f"{_plus_minus(found['found'], 3)} (real pictures among themselves "
        f"{_plus_minus(found['among'], 3)}"
        + (f", of other prompts {_plus_minus(found['other'], 3)})" if found["other"] else ")")
    )
    return _line("prior", "cosine to real pictures of the prompt", value, shown)


def _decoder_lines(found: dict | None) -> list[Line]:
    lines = []
    for name, words in (("object", "object"), ("both", "object and colour")):
        value, shown = (
            found and found[name]["mean"],
            found and f"{_plus_minus(found[name], 1, 100)} %",
        )
        lines.append(_line("decoder", f"{words} recognised, told a real picture", value, shown))
    return lines


def _pace_line(found: dict | None) -> Line:
    correlation = found and found["correlation"]["generated"]
    value = correlation and correlation["mean"]
    shown = correlation and (
        f"{_plus_minus(correlation)} (real {_plus_minus(found['correlation']['real'])})"
    )
    # Of medians: the steps of single videos can be within the judge's jitter.
    falls = lambda _: bool((np.diff(found["step"]["generated"]) < 0).all())
    bound = "the median falls with every fps", falls
    name = "rank correlation of movement per frame and fps"
    return _line("decoder", name, value, shown, None, bound)


def _gain_line(stage: str, found: dict | None, kind: str, words: str, least: float = 0) -> Line:
    """What a stage gains over simpler means. least: the goal in dB; 0 is none."""
    gain = found and found["psnr"]["gain"].get(kind)
    value = gain and gain["mean"]
    shown = gain and (
        f"{_plus_minus(gain)} dB ({found['psnr']['found']['mean']:.2f} to "
        f"{found['psnr'][kind]['mean']:.2f}; SSIM {found['ssim']['found']['mean']:.3f} to "
        f"{found['ssim'][kind]['mean']:.3f})"
    )
    bound = _at_least(least, f"{least} dB") if least else None
    line = _line(stage, f"PSNR above {words}", value, shown, None, bound)
    if kind == "flow" and found and not gain:
        return dataclasses.replace(line, shown=fidelity.WITHOUT_FLOW)
    return line


def _flicker_line(stage: str, found: dict | None) -> Line:
    flicker = found and found["flicker"]
    value = flicker and flicker["found"]["mean"]
    beside = flicker and [
        f"{words} {flicker[kind]['mean']:.2f}"
        for kind, words in FLICKER_BESIDE.items()
        if flicker[kind]
    ]
    shown = flicker and f"{value:.2f} ({', '.join(beside)})"
    return _line(stage, "flicker, second difference", value, shown)


def all_passed(lines: Sequence[Line]) -> bool | None:
    """Whether the targets are met: False if one is not; None if one could not be measured."""
    marks = {line.passed for line in lines if line.target is not None}
    return False if False in marks else None if None in marks else True


def by_stage(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows of the table that compares stages: stage, what, found, without it, real, and the way.

    The way is how far a stage comes from what one has without it to the real thing, in %. Of
    pictures that is the share of the squared error that it takes away.
    """
    stages, recognised, rows = summary["stages"], summary["recognised"], []

    def between(stage, words, found, without, real, digits, scale=1):
        way = 100 * (found["mean"] - without) / (real - without)
        error = 100 * found["error"] / abs(real - without)
        ends = [f"{scale * end:.{digits}f}" for end in (without, real)]
        shown = _plus_minus(found, digits, scale)
        rows.append((stage, words, shown, *ends, f"{way:.0f} ± {error:.0f} %"))

    found, words = stages["prior"], "cosine to real pictures"
    if found and found["other"]:
        ends = found["other"]["mean"], found["among"]["mean"]
        between("prior", words, found["found"], *ends, digits=3)
    words = "object and colour, % of frames"
    ends = cutout_stages.CHANCE, recognised["real"]["both"]["mean"]
    if stages["decoder"]:
        between("decoder", words, stages["decoder"]["both"], *ends, digits=1, scale=100)
    between("both, of text", words, recognised["all"]["both"], *ends, digits=1, scale=100)
    for name, kind in (("interpolation", "blend"), ("sr_256", "bicubic"), ("sr_768", "bicubic")):
        found = stages[name] and stages[name]["psnr"]
        if found:
            gain = found["gain"][kind]
            taken = lambda decibels: 100 * (1 - 10 ** (-decibels / 10))
            low, high = (taken(gain["mean"] + sign * gain["error"]) for sign in (-1, 1))
            way = f"{taken(gain['mean']):.0f} ± {(high - low) / 2:.0f} %"
            shown = _plus_minus(found["found"]), f"{found[kind]['mean']:.2f}"
            rows.append((name, "PSNR in dB", *shown, "-", way))
    return rows

"""What is not learned from, after MAV §4.1: filters of records by what is known of them.

A filter says why it drops a record, or "" to keep it, or None where it cannot judge, as without a
score. Duplicates are found when all is known of all: `near_duplicates`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, UInt64
from py3langid import langid

from mav import policy
from mav.data.decode import Clip
from mav.data.readers import Record

# What each filter allows, by default. All but `duplicates` (bits) are described at their functions.
LIMITS = dict(
    images=dict(
        size=64, aspect=3.0, nsfw=0.5, watermark=0.5, toxic=0, language="en", duplicates=3
    ),
    videos=dict(
        size=64, aspect=3.0, nsfw=0.5, watermark=0.5, toxic=0, seconds=1.0, motion=2.0, duplicates=3
    ),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a filter looks at. width, height: of the source, in pixels. clip: None of an image."""

    record: Record
    width: int
    height: int
    clip: Clip | None = None


def size(subject: Subject, limit: int) -> str:
    """Drops what has a shorter side below `limit` pixels; nothing is made larger than it was."""
    short = min(subject.width, subject.height)
    return f"{subject.width} x {subject.height}, below {limit}" if short < limit else ""


def aspect(subject: Subject, limit: float) -> str:
    """Drops what is more than `limit` times as long as wide; the centre would say little of it."""
    long, short = (choose(subject.width, subject.height) for choose in (max, min))
    return f"{long} : {short}, above {limit:g}" if long > limit * short else ""


def nsfw(subject: Subject, limit: float) -> str | None:
    """Drops by the probability of being unsafe, or by LAION's older tag unless UNLIKELY."""
    score = subject.record.scores.get("nsfw")
    if isinstance(score, str) and _number(score) is None:
        return "" if score.upper() == "UNLIKELY" else f"tagged {score}"
    return _above(score, limit)


def watermark(subject: Subject, limit: float) -> str | None:
    """Drops by the probability of a watermark; the paper's limit is 0.5."""
    return _above(subject.record.scores.get("watermark"), limit)


def toxic(subject: Subject, limit: int) -> str | None:
    """Drops captions with more than `limit` words of the LDNOOBW lists."""
    caption = subject.record.caption
    if caption is None:
        return None
    found = policy.toxic_words(caption)
    return ", ".join(found) if len(found) > limit else ""


def language(subject: Subject, limit: str) -> str | None:
    """Drops captions in another language than `limit` ("en").

    The source's tag counts. Without one, py3langid has to be sure of another language, which it
    seldom is of short captions.
    """
    tag = subject.record.scores.get("language")
    if isinstance(tag, str):
        return "" if tag.lower().split("-")[0] == limit else f"tagged {tag}"
    if subject.record.caption is None:
        return None
    found, probability = _identifier().classify(subject.record.caption)
    return f"{found}, by its words" if found != limit and probability > 0.9 else ""


def seconds(subject: Subject, limit: float) -> str:
    """Drops clips that are shorter than `limit` seconds, or have fewer than 8 frames."""
    times = subject.clip.times
    if len(times) < 8:
        return f"{len(times)} frames, below 8"
    return f"{times[-1]:.2f} s, below {limit:g}" if times[-1] < limit else ""


def motion(subject: Subject, limit: float) -> str:
    """Drops clips in which grey levels (0 to 255) go less far than `limit`, mean over pixels."""
    found = subject.clip.motion
    return f"{found:.2f} grey levels, below {limit:g}" if found < limit else ""


# In the order in which they are asked: the first that drops a record is the one that counts it.
BEFORE_DECODING: dict[str, Callable] = dict(
    size=size, aspect=aspect, nsfw=nsfw, watermark=watermark, toxic=toxic, language=language
)
AFTER_DECODING: dict[str, Callable] = dict(seconds=seconds, motion=motion)


def parse(kind: str, text: str | None, side: int) -> tuple[dict[str, float | str], bool]:
    """Filters with their limits, and whether each was asked for by name.

    kind: "videos" or "images". text: as "size,nsfw=0.3"; a filter without a value takes the usual
    limit; None is all of them, "none" none. side: pixels of what is stored; `size` is at least that
    and always on, as is `seconds`, which wants some frames. Raises ValueError for a name that there
    is not.
    """
    usual = LIMITS[kind]
    limits = dict(usual) if text is None else {}
    for part in [] if text in (None, "", "none") else text.split(","):
        name, _, value = part.strip().partition("=")
        if name not in usual:
            raise ValueError(f"filter {name!r} is unknown for {kind}; choose {', '.join(usual)}.")
        try:
            limits[name] = type(usual[name])(value) if value else usual[name]
        except ValueError:
            wanted = type(usual[name]).__name__
            raise ValueError(f"filter {name}={value!r} is not of type {wanted}.") from None
    limits["size"] = max(side, limits.get("size", side))
    if kind == "videos":
        limits.setdefault("seconds", 0.0)  # eight frames, that is
    return limits, text is not None


@functools.cache
def _identifier() -> langid.LanguageIdentifier:
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


def _number(score: float | str | None) -> float | None:
    try:
        return float(score)
    except (TypeError, ValueError):
        return None


def _above(score: float | str | None, limit: float) -> str | None:
    score = _number(score)
    if score is None or score != score:
        return None
    return f"{score:.3g}, above {limit:g}" if score > limit else ""


# Duplicates.


def near_duplicates(
    parts: Sequence[UInt64[np.ndarray, "n"]], distance: int, at_once: int = 2**24
) -> list[Bool[np.ndarray, "n"]]:
    """Which hashes have one before them, in this part or an earlier one, that differs little.

    distance: bits, at most 3: of four bands of 16 bits one is then equal, so that only those with
    an equal band are compared. at_once: hashes in memory; besides these it takes one byte for each
    of all. Raises ValueError for other distances.
    """
    if not 0 <= distance <= 3:
        raise ValueError(f"filter duplicates={distance} is outside 0..3 bits.")
    found = [np.zeros(len(part), bool) for part in parts]
    total = sum(map(len, parts))
    starts = np.cumsum([0, *map(len, parts)])
    blocks = min(2**16, max(1, -(-total // at_once)))
    edges = np.linspace(0, 2**16, blocks + 1).round().astype(np.uint64)
    for shift in (0, 16, 32, 48):
        for low, high in itertools.pairwise(edges):
            hashes, places = [], []
            for part, start in zip(parts, starts, strict=False):
                band = part >> np.uint64(shift) & np.uint64(0xFFFF)
                chosen = np.flatnonzero((low <= band) & (band < high))
                hashes.append(part[chosen])
                places.append(start + chosen)
            later = _later(np.concatenate(hashes), np.concatenate(places), shift, distance)
            for part in np.unique(np.searchsorted(starts, later, "right") - 1):
                inside = later[(later >= starts[part]) & (later < starts[part + 1])]
                found[part][inside - starts[part]] = True
    return found


def _later(
    hashes: UInt64[np.ndarray, "n"], places: np.ndarray, shift: int, distance: int
) -> np.ndarray:
    """Places, which ascend, of hashes with an earlier one nearby that has the same band."""
    unique, first = np.unique(hashes, return_index=True)
    exact = np.ones(len(hashes), bool)
    exact[first] = False
    later = [places[exact]]
    band = unique >> np.uint64(shift) & np.uint64(0xFFFF)
    order = np.argsort(band, kind="stable")
    for bucket in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
        if len(bucket) < 2:
            continue
        mine = places[first[bucket]]
        for i in range(0, len(bucket), 1024):
            rows = bucket[i : i + 1024]
            bits = np.bitwise_count(unique[rows][:, None] ^ unique[bucket][None])
            near = (bits <= distance) & (mine[None] < places[first[rows]][:, None])
            later.append(places[first[rows]][near.any(1)])
    return np.unique(np.concatenate(later)) if later else places[:0]


def judge(
    filters: Mapping[str, Callable], limits: Mapping[str, float | str], subject: Subject
) -> tuple[str, str, list[str]]:
    """Asks filters in turn. Returns the name of the one that drops the subject, its reason, and the
    names of those that could not judge; the first two are "" if it is kept."""
    silent = []
    for name, function in filters.items():
        if name not in limits:
            continue
        why = function(subject, limits[name])
        if why:
            return name, why, silent
        if why is None:
            silent.append(name)
    return "", "", silent

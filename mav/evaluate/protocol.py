"""A protocol of the literature: features of real and generated clips, what follows, and a report.

Networks look at clips part by part; their features are kept (`mav.evaluate.store`), so that a run
that was stopped goes on where it was, and several processes share the work. Who finds all features
there at its end computes the measures and writes the report.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float, Int

import mav
from mav import cascade as cascade_lib
from mav import media
from mav import params as params_lib
from mav.evaluate import clips as clips_lib
from mav.evaluate import metrics, store

if TYPE_CHECKING:
    from mav.evaluate import features

OUTPUTS = dict(i3d="logits", c3d="logits", inception="pool", clip="embedding")  # what is kept
AGAINST_REAL = ("i3d", "inception", "clip")  # networks that look at real clips too
C3D_FRAMES, I3D_FRAMES = 16, 9  # what networks take: just so many, and at least so many
REPEATS, REHEARSAL_REPEATS = 100, 0  # of the bootstrap
GROUPS = 32  # of clips, which bootstrap and jackknife of distances take: not one by one, for speed
MOST = 10_000  # features that a kernel distance takes, evenly spaced
SPLITS = 10  # of the other Inception Score
REHEARSAL, REHEARSAL_STEPS = 10, 2  # videos, and steps of each stage of a cascade
MEANINGLESS = "REHEARSAL: ten videos, so these numbers mean nothing"
SHEET, SHEET_FRAMES, SHEET_TILE = 12, 8, 96
PUBLISHED = pathlib.Path(__file__).with_name("published.json")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A data set with the measures that papers report on it.

    needs: networks without which it is not this protocol. samples: how many videos it asks for.
    together: neighbouring samples that tell of each other, as those of captions of one video.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    samples: int
    together: int = 1


def check(protocol: Protocol, given: Mapping[str, Any], view: clips_lib.View) -> None:
    """Raises ValueError if a network is not given, saying how to get it, or cannot see the view.

    given: files of weights, or networks, by name.
    """
    view.check()
    given = {name for name, one in given.items() if one is not None}
    for name in protocol.needs:
        if name not in given:
            how = f"--{name} FILE, which `mav convert {name} SOURCE FILE` makes"
            if name == "clip":
                how = "--clip FOLDER, as transformers saves it, or the folder clip of a cascade"
            raise ValueError(
                f"the {protocol.name} protocol needs the weights of {name}: give {how}; "
                "docs/evaluation.md says where they are from."
            )
    if "c3d" in given and view.frames != C3D_FRAMES:
        raise ValueError(f"frames={view.frames} is impossible: c3d takes {C3D_FRAMES}.")
    if "i3d" in given and view.frames < I3D_FRAMES:
        raise ValueError(f"frames={view.frames} is impossible: i3d takes {I3D_FRAMES} or more.")


def load(weights: Mapping[str, Any], mesh=None) -> dict[str, "features.Extractor"]:
    """The networks whose weights are given."""
    from mav.evaluate import features

    return {
        name: features.load(name, path, mesh) for name, path in weights.items() if path is not None
    }


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run goes.

    fid_frames: which of a clip's frames enter FID: all, or middle. rehearsal: marks all numbers.
    processes: how many share the work, of which this is number `process`.
    """

    fid_frames: str = "all"
    rehearsal: bool = False
    process: int = 0
    processes: int = 1

    def check(self) -> None:
        """Raises ValueError for impossible values."""
        if self.fid_frames not in ("all", "middle"):
            raise ValueError(f"fid_frames={self.fid_frames!r} is unknown; choose all or middle.")
        if not 0 <= self.process < self.processes:
            raise ValueError(
                f"process_id={self.process} of num_processes={self.processes} is impossible; they "
                "count from 0."
            )


def run(
    protocol: Protocol,
    extractors: Mapping[str, "features.Extractor"],
    generated: clips_lib.Clips,
    real: clips_lib.Clips | None,
    out: str | os.PathLike,
    statistics: str | os.PathLike,
    view: clips_lib.View,
    options: Options = Options(),
    keyed: bool = False,
    progress: cascade_lib.Progress | None = None,
) -> dict[str, Any] | None:
    """Measures generated clips against real ones; writes report.json, report.md and sheet.png.

    extractors: networks by name. real: None takes statistics as they are. statistics: folder in
    which the features of real clips are kept. keyed: in a folder for each set of facts, as a cache;
    else in this one, which then refuses other facts. progress: None draws bars. Returns the report,
    or None while other processes have parts to do.
    Raises ValueError for what does not go together, before the first clip is made.
    """
    options.check()
    check(protocol, extractors, view)
    report_progress = cascade_lib.Bars() if progress is None else progress
    out = pathlib.Path(out)
    if out.exists():  # else making its folders will tell
        media.check_writable(out / "report.json")
    if len(generated) < 2:
        raise ValueError(f"{len(generated)} videos are too few; measures are of 2 or more.")
    if "clip" in protocol.needs:
        for n, label in enumerate(generated.labels):
            if not label:
                raise ValueError(
                    f"generated video {n + 1} has no caption, which CLIPSIM needs; name it in "
                    "captions.csv (docs/evaluation.md)."
                )
    theirs, ours = {}, {}
    for name, extractor in extractors.items():
        facts = _extractor_facts(name, extractor, options)
        if name in AGAINST_REAL:
            theirs[name] = _real_store(
                protocol, name, facts, real, pathlib.Path(statistics), view, keyed
            )
        own = dict(facts, clips=dict(generated.facts))
        ours[name] = store.open_store(out / "features" / name, own, len(generated))

    if real is not None:
        _extract("real", real, extractors, theirs, options, report_progress)
    _extract("samples", generated, extractors, ours, options, report_progress, out)
    lacking = sum(len(one.missing()) for one in [*theirs.values(), *ours.values()])
    if lacking:
        return None
    report = _report(protocol, extractors, generated, ours, theirs, view, options)
    _write(report, out, generated, real)
    return report


def _extractor_facts(name: str, extractor, options: Options) -> dict[str, Any]:
    facts = dict(extractor=name, preprocessing=extractor.preprocessing, weights=extractor.checksum)
    return facts | (dict(frames=options.fid_frames) if name == "inception" else {})


def _real_store(protocol, name, facts, real, folder, view, keyed) -> store.Store:
    """Where features of real clips are kept, or lie already."""
    folder = folder / f"{protocol.name}-{name}"
    if real is None:
        return store.open_finished(folder, dict(facts, view=dataclasses.asdict(view)))
    facts = dict(facts, view=dataclasses.asdict(view), clips=dict(real.facts))
    if keyed:
        facts["format"] = store.FORMAT
        folder = folder.with_name(f"{folder.name}-{clips_lib.digest(facts)[:16]}")
    return store.open_store(folder, facts, len(real))


def _extract(title, clips, extractors, stores, options, progress, out=None) -> None:
    """Fills this process's share of what is missing."""
    missing = {name: set(kept.missing()) for name, kept in stores.items()}
    parts = sorted(set().union(*missing.values()))
    parts = [part for part in parts if part % options.processes == options.process]
    if not parts:
        return
    any_store = next(iter(stores.values()))
    total, done = sum(len(any_store.rows(part)) for part in parts), 0
    for part in parts:
        index, videos, rates, left_out = [], [], [], []
        for n in any_store.rows(part):
            progress(title, done, total)
            done += 1
            try:
                video, fps = clips.read(n)
            except clips_lib.LeftOutError as reason:
                left_out.append(str(reason))
                continue
            index.append(n)
            videos.append(video)
            rates.append(np.nan if fps is None else fps)
            if out is not None and n < SHEET:
                _keep_strip(out, n, video)
        for name, kept in stores.items():
            if part in missing[name]:
                found = _features(name, extractors[name], videos, options)
                kept.write(part, index, found, rates, left_out)
    progress(title, total, total)


def _features(name, extractor, videos, options) -> Float[np.ndarray, "n ..."]:
    """What is kept of a network's answer to clips."""
    if not videos:
        return np.zeros((0, 1), np.float32)
    batch = np.stack(videos)
    if name == "inception" and options.fid_frames == "middle":
        batch = batch[:, batch.shape[1] // 2 :][:, :1]
    return np.asarray(extractor(batch)[OUTPUTS[name]])


# Measures.


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number of the report. error: standard error over samples, where there is one."""

    name: str
    value: float
    error: float | None
    better: str
    note: str


def places(total: int, together: int) -> Int[np.ndarray, "total"]:
    """Of each clip its place in a random order, in which so many neighbours stay together.

    What is measured of a part of the clips should not depend on how their files are named.
    """
    blocks = np.random.default_rng(0).permutation(-(-total // together))
    order = np.argsort(blocks[np.arange(total) // together], kind="stable")
    found = np.empty(total, int)
    found[order] = np.arange(total)
    return found


def _measures(protocol, extractors, ours, theirs, labels, options) -> list[Measure]:
    repeats = REHEARSAL_REPEATS if options.rehearsal else REPEATS
    place = places(len(labels), protocol.together)
    found = []

    def add(name, value, error, better, note):
        found.append(Measure(name, value, error, better, note))

    def distances(network, frechet, kernel, of):
        groups = _moments(ours[network], place * min(GROUPS, len(place)) // len(place))
        (real,) = _moments(theirs[network], np.zeros(theirs[network].total, int))
        everything = metrics.merge(groups)
        distance = metrics.frechet_to(real)
        error = metrics.bootstrap_error(
            lambda chosen: distance(metrics.merge([groups[i] for i in chosen])),
            len(groups),
            repeats,
        )
        counts = f"{everything.count:,} generated, {real.count:,} real {of}"
        add(frechet, distance(everything), error, "lower", f"{counts}; covariances by n - 1")
        value = metrics.frechet(everything, real, ddof=0)
        add(f"{frechet}, covariances by n", value, None, "lower", counts)
        kernels(kernel, metrics.kernel_distance, network, of)

    def kernels(name, distance, network, of):
        x, y = _thinned(ours[network], place), _thinned(theirs[network])
        groups = 1 if options.rehearsal else min(GROUPS, len(x))
        note = f"{len(x):,} generated, {len(y):,} real {of}"
        add(name, *distance(x, y, groups), "lower", note)

    if "i3d" in extractors:
        distances("i3d", "FVD", "KVD", "clips")
    if "c3d" in extractors:
        index, logits = ours["c3d"].all()
        logits = logits[np.argsort(place[index])]
        value, _ = metrics.inception_score(logits)
        score = lambda chosen: metrics.inception_score(logits[chosen])[0]
        error = metrics.bootstrap_error(score, len(logits), repeats)
        add("IS", value, error, "higher", f"{len(logits):,} clips, one split")
        splits = min(SPLITS, len(logits))
        value, spread = metrics.inception_score(logits, splits)
        note = f"mean of {splits} splits, which deviate by {spread:.4g}"
        add(f"IS, {splits} splits", value, None, "higher", note)
    if "inception" in extractors:
        distances("inception", "FID", "KID", "frames")
    if "clip" in extractors and all(labels):
        texts = extractors["clip"].embed_texts(labels)
        parts = [metrics.clipsim(images, texts[index]) for index, images in ours["clip"].read()]
        values = np.concatenate(parts)
        error = float(values.std(ddof=1) / np.sqrt(len(values)))
        add("CLIPSIM", float(values.mean()), error, "higher", f"{len(values):,} clips")
    if "clip" in extractors:
        kernels("CMMD", metrics.cmmd, "clip", "frames; its authors take ViT-L/14@336px")
    return found


def _moments(kept: store.Store, of_clip: Int[np.ndarray, "total"]) -> list[metrics.Moments]:
    """Moments of all features, by the group of each clip; frames count one by one."""
    groups: dict[int, metrics.Moments] = {}
    waiting: dict[int, list[np.ndarray]] = {}

    def flush(group):
        found = metrics.Moments.of(np.concatenate(waiting.pop(group)))
        groups[group] = groups[group].merged(found) if group in groups else found

    for index, features in kept.read():
        for n, one in zip(index, features, strict=True):
            group = int(of_clip[n])
            waiting.setdefault(group, []).append(one.reshape(-1, one.shape[-1]))
            # Many rows at once are one product of matrices.
            if len(waiting[group]) >= 256:
                flush(group)
    for group in list(waiting):
        flush(group)
    if not groups:
        raise ValueError(f"{kept.folder} has no clips: all videos are too short, or damaged.")
    return [groups[group] for group in sorted(groups)]


def _thinned(
    kept: store.Store, place: Int[np.ndarray, "total"] | None = None
) -> Float[np.ndarray, "n d"]:
    """Features of no more than `MOST` clips, evenly spaced; of frames the middle one.

    place: where each belongs; None leaves them in order.
    """
    rows, numbers = [], []
    stride = max(1, -(-kept.total // MOST))
    for index, features in kept.read():
        middle = features[:, features.shape[1] // 2] if features.ndim == 3 else features
        rows.append(middle[index % stride == 0])
        numbers.append(index[index % stride == 0])
    rows, numbers = np.concatenate(rows), np.concatenate(numbers)
    return rows if place is None else rows[np.argsort(place[numbers])]


# The report.


def published(protocol: Protocol) -> list[dict[str, Any]]:
    """What papers report by this protocol, or nearly so."""
    rows = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    return [
        dict(model=row["model"], **row[protocol.name], source=row["source"], differs=row["differs"])
        for row in rows
        if row[protocol.name]
    ]


def _report(protocol, extractors, generated, ours, theirs, view, options) -> dict[str, Any]:
    found = _measures(protocol, extractors, ours, theirs, generated.labels, options)
    reference = next(iter(theirs.values()))
    our_rates, _ = next(iter(ours.values())).sources()
    their_rates, left_out = reference.sources()
    num_real = len(their_rates)
    remarks = [MEANINGLESS + "."] if options.rehearsal else []
    for name, measure in (("i3d", "FVD"), ("inception", "FID")):
        if name in extractors:
            remarks += filter(None, [metrics.bias_remark(measure, len(generated))])
            if num_real < metrics.FEW:
                remarks.append(f"{measure} is against only {num_real} real videos.")
    if left_out:
        remarks.append(f"{len(left_out)} real videos were left out. The first: {left_out[0]}")
    slow = int((their_rates < (view.fps or 0)).sum())
    if slow:
        remarks.append(f"{slow} real videos have fewer frames per second, so that some come twice.")
    strangers = [name for name, one in extractors.items() if one.published is None]
    if strangers:
        remarks.append(
            f"mav does not know the files of weights of {', '.join(strangers)}: numbers compare "
            "with others' only if they are the same."
        )
    if len(generated) != protocol.samples and not options.rehearsal:
        remarks.append(
            f"The protocol asks for {protocol.samples:,} samples; these are {len(generated):,}."
        )
    paper = next(row for row in published(protocol) if row["model"] == "Make-A-Video")
    return dict(
        protocol=protocol.name,
        title=protocol.title,
        mav=mav.__version__,
        rehearsal=options.rehearsal,
        meaningless=MEANINGLESS if options.rehearsal else None,
        measures=[
            dataclasses.asdict(measure)
            | dict(
                interval=None
                if measure.error is None
                else [measure.value + side * metrics.Z95 * measure.error for side in (-1, 1)],
                paper=paper.get(measure.name),
            )
            for measure in found
        ],
        remarks=remarks,
        networks={
            name: dict(
                preprocessing=one.preprocessing,
                weights=one.checksum,
                source=one.source,
                published=one.published,
            )
            for name, one in extractors.items()
        },
        view=dataclasses.asdict(view),
        choices=dict(
            frames_of_longer_videos=view.which,
            frames_in_fid=options.fid_frames,
            covariances="by n - 1 (ddof 1), as tfgan; the variants by n (ddof 0) say so",
            real_frames_per_second="of the file" if view.fps is None else view.fps,
            square="the square in the middle, resized by Lanczos' method",
            kernel_distances=f"at most {MOST:,} clips, evenly spaced; of frames the middle one",
            errors=f"bootstrap, {REHEARSAL_REPEATS if options.rehearsal else REPEATS} repeats, "
            f"seed 0, of kernel distances jackknife; by {GROUPS} groups of distances",
            order="groups and splits are of clips in a random order, seed 0",
            computed_by=f"jax {jax.__version__}, {jax.local_devices()[0].device_kind}",
        ),
        generated=dict(
            generated.facts,
            count=len(generated),
            captions=clips_lib.digest(list(generated.labels)),
            frames_per_second=_rates(our_rates),
        ),
        real=dict(
            reference.facts["clips"],
            count=num_real,
            left_out=left_out,
            frames_per_second=_rates(their_rates),
        ),
        published=published(protocol),
    )


def _rates(fps: Float[np.ndarray, "n"]) -> dict[str, float] | None:
    """Of the videos whose frames per second are known; None if there are none."""
    known = fps[np.isfinite(fps)]
    if not len(known):
        return None
    found = dict(lowest=known.min(), median=np.median(known), highest=known.max())
    return {name: round(float(rate), 3) for name, rate in found.items()}


def _keep_strip(out: pathlib.Path, n: int, video) -> None:
    """Keeps a few frames of a sample for the sheet."""
    chosen = np.linspace(0, len(video) - 1, SHEET_FRAMES).round().astype(int)
    strip = media.grid(media.resize(video[chosen], SHEET_TILE), SHEET_FRAMES)
    folder = out / "features" / "sheet"
    folder.mkdir(parents=True, exist_ok=True)
    media.write_image(folder / f"{n:02d}.png", strip)


def _write(report, out: pathlib.Path, generated, real) -> None:
    labels, videos = [], []
    for path in sorted((out / "features" / "sheet").glob("*.png")):
        strip = media.read_image(path)
        n = int(path.stem)
        labels.append(generated.labels[n] or f"sample {n}")
        videos.append(np.stack(np.split(strip, SHEET_FRAMES, axis=1)))
    if real is not None:
        for n in range(min(4, len(real))):
            with contextlib.suppress(clips_lib.LeftOutError):
                videos.append(media.resize(real.read(n).frames, SHEET_TILE))
                labels.append(f"real: {real.labels[n] or n}")
    if report["rehearsal"]:
        labels = [f"[rehearsal, meaningless] {label}" for label in labels]
    sheet = media.contact_sheet(videos, SHEET_FRAMES, labels=labels, tile=SHEET_TILE)
    media.write_image(out / "sheet.png", sheet)
    with media.written_aside(out / "report.md") as path:
        path.write_text(markdown(report), encoding="utf-8")
    with media.written_aside(out / "report.json") as path:
        params_lib.write_json(path, report)


def lines(report: Mapping[str, Any]) -> list[str]:
    """The measures, one a line."""
    mark = f" [{report['meaningless']}]" if report["rehearsal"] else ""
    return [f"{m['name']}: {_shown(m)}{mark}" for m in report["measures"]]


def _shown(measure: Mapping[str, Any]) -> str:
    if measure["error"] is None:
        return f"{measure['value']:.4f}"
    return f"{measure['value']:.4f} ± {metrics.Z95 * measure['error']:.4f}"


def _table(*rows: Sequence[str]) -> str:
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body))


def markdown(report: Mapping[str, Any]) -> str:
    """The report as a page of tables."""
    rows = report["published"]
    columns = [name for name in ("IS", "FVD", "FID", "CLIPSIM") if any(name in r for r in rows)]
    own = {measure["name"]: measure for measure in report["measures"]}
    us = "this run (meaningless)" if report["rehearsal"] else "this run"
    generated, real = report["generated"], report["real"]
    parts = [
        f"# {report['title']} protocol: {generated['name']}",
        *(f"**{remark}**" for remark in report["remarks"]),
        f"{generated['count']:,} generated clips of {report['view']['frames']} frames at "
        f"{report['view']['size']} x {report['view']['size']}. ± is half of a 95 % interval over "
        "generated samples; the real ones and the networks are taken as given.",
        _table(
            ("measure", f"value{', meaningless' if report['rehearsal'] else ''}", "better", "of"),
            *((m["name"], _shown(m), m["better"], m["note"]) for m in report["measures"]),
        ),
        "## Beside published numbers",
        "Numbers of papers, zero-shot. They are comparable only as far as all of the choices below "
        "agree, which papers seldom say.",
        _table(
            ("model", *columns, "source", "what is known to differ"),
            (us, *(_shown(own[c]) if c in own else "-" for c in columns), "measured here", ""),
            *(
                (
                    row["model"],
                    *(f"{row[c]:g}" if c in row else "-" for c in columns),
                    row["source"],
                    row["differs"],
                )
                for row in rows
            ),
        ),
        "## What the numbers depend on",
        _table(
            ("network", "weights", "made of", "published as", "preprocessing"),
            *(
                (
                    name,
                    one["weights"],
                    one["source"] or "-",
                    one["published"] or "**unknown**",
                    one["preprocessing"],
                )
                for name, one in report["networks"].items()
            ),
        ),
        _table(("choice", "value"), *_told(dict(report["choices"], mav=report["mav"]))),
        "### Generated",
        _table(("fact", "value"), *_told(generated)),
        "### Real",
        _table(("fact", "value"), *_told(real)),
    ]
    return "\n\n".join(parts) + "\n"


def _told(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    show = lambda value: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return [(name.replace("_", " "), show(value)) for name, value in facts.items()]

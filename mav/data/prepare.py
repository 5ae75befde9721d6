"""`mav data build videos|images`: from what people have to TFDS data sets in array_record form.

    prepare.build("videos", "clips/", "data/clips", size=64)
    videos = builders.ArrayRecordVideos("data/clips", "train")  # or --config.data.videos=data/clips

Each shard of the source becomes a file of records on its own, in whatever order and process, here
or on a Beam runner. When all are there, duplicates are found among all of them and each record is
given to train, to test or to none; then the files are copied without what is dropped. All of it
happens in DST.unfinished, which becomes DST at the end. A build that was killed goes on with the
shards that are missing, and ends with the same bytes as one that was not.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image

from mav import bars, media
from mav.data import builders, decode, filters, readers

SPLITS = ("train", "test")
AT_ONCE = 64  # frames in memory while they are copied
THUMBNAILS = 8  # of dropped records, kept of each shard to be looked at
THUMBNAIL = 96  # pixels, shorter side
SHOWN = 24  # thumbnails of the whole data set, for each reason


@dataclasses.dataclass(frozen=True)
class Options:
    """What is done to each record.

    size: shorter side of what is stored, in pixels. encoding: "jpeg", or "png" for exact pixels.
    limits: of the filters by name. strict: a filter that cannot judge a record drops it.
    test_share: of the files of the source, whose records become the split test.
    """

    size: int
    encoding: str
    limits: Mapping[str, float | str]
    strict: bool
    test_share: float


def build(
    kind: str,
    source: str | os.PathLike,
    destination: str | os.PathLike,
    *,
    format: str | None = None,
    media_folder: str | os.PathLike | None = None,
    columns: Mapping[str, str] | None = None,
    size: int = 64,
    encoding: str = "jpeg",
    filter_text: str | None = None,
    test_share: float = 0.01,
    max_failed: float = 0.1,
    processes: int | None = None,
    beam: Sequence[str] | None = None,
    progress: bool = True,
) -> bool:
    """Builds a data set, or goes on building it. Returns whether few enough records failed.

    kind: "videos" or "images". source, format, media_folder, columns: see `readers.open_source`.
    filter_text: see `filters.parse`. max_failed: share of records that may be damaged; those that
    filters drop do not count. processes: None is one per core. beam: options of Apache Beam, as
    ["--runner=DirectRunner"], instead of processes. Raises FileExistsError if the destination is
    there, ValueError if what is unfinished was begun in another way.
    """
    limits, strict = filters.parse(kind, filter_text, size)
    if encoding not in decode.ENCODERS:
        raise ValueError(f"encoding={encoding!r} is unknown; choose {', '.join(decode.ENCODERS)}.")
    for name, value in dict(test_share=test_share, max_failed=max_failed).items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value} is outside 0..1.")
    if not 16 <= size <= 2048:
        raise ValueError(f"size={size} is outside 16..2048 pixels.")
    destination = pathlib.Path(destination)
    if destination.exists():
        raise FileExistsError(f"{destination} exists; remove it or choose another name.")
    opened = readers.open_source(kind, source, format, media_folder, columns)
    options = Options(size, encoding, limits, strict, test_share)
    shards = opened.shards()
    destination.parent.mkdir(parents=True, exist_ok=True)
    media.check_writable(destination)
    work = _begin(destination, opened, options, shards)

    if (work / "report.json").exists():  # killed when all was done
        report = json.loads((work / "report.json").read_text())
    else:
        missing = [(i, s) for i, s in enumerate(shards) if not _part(work, i, ".json").exists()]
        workers = min(os.cpu_count() if processes is None else processes, len(shards))
        with _runner(workers, beam, progress) as run:
            run(functools.partial(_build_shard, opened, options, work), missing, "records")
            decided = _decide(work, options, len(shards))
            parts = [i for i in range(len(shards)) if _part(work, i, ".array_record").exists()]
            run(functools.partial(_copy_shard, work), parts, "files")
        report = _finish(work, options, decided, len(shards))
    shutil.rmtree(work / "parts", ignore_errors=True)
    for name in ("plan.json", "decided.json"):
        (work / name).unlink(missing_ok=True)
    os.replace(work, destination)

    failed = sum(report["failed"].values())
    for name, found in report["filters"].items():
        if found["unjudged"]:
            what = "dropped them" if strict else "kept them"
            print(
                f"warning: filter {name} could not judge {found['unjudged']} of "
                f"{found['unjudged'] + found['judged']} records, which say nothing of it; {what}.",
                file=sys.stderr,
            )
    print(f"{destination}: kept {report['kept']} {kind}, {_told(report['skipped'])}")
    total = failed + report["kept"] + sum(found["dropped"] for found in report["filters"].values())
    if not report["kept"]:
        print(
            f"mav data build: nothing was kept; see {destination / 'report.json'}", file=sys.stderr
        )
    elif failed > max_failed * total:
        print(
            f"mav data build: {failed} of {total} {kind} are damaged, more than "
            f"max_failed={max_failed:g}; see {destination / 'report.json'}",
            file=sys.stderr,
        )
    return bool(report["kept"]) and failed <= max_failed * total


def _told(skipped: Mapping[str, int]) -> str:
    return "skipped " + (", ".join(f"{n} {why}" for why, n in skipped.items()) or "none")


# Folders and files of an unfinished build.


def _begin(
    destination: pathlib.Path,
    source: readers.Source,
    options: Options,
    shards: Sequence[readers.Shard],
) -> pathlib.Path:
    """Makes the folder of a build, or checks that the one there is of the same."""
    work = destination.with_name(f"{destination.name}.unfinished")
    listed = hashlib.sha256()
    for shard in shards:
        names = [shard.name] if shard.name else shard.files
        sizes = [(source.root / name).stat().st_size for name in names if name]
        listed.update(json.dumps([dataclasses.astuple(shard), sizes]).encode())
    told = dict(dataclasses.asdict(options), kind=source.kind, format=source.format)
    told |= dict(columns=source.columns, shards=len(shards), listing=listed.hexdigest())
    plan = work / "plan.json"
    if (work / "report.json").exists():
        return work
    if plan.exists():
        begun = json.loads(plan.read_text())
        for name, value in told.items():
            if begun[name] != value:
                raise ValueError(
                    f"{work} was begun with {name}={begun[name]}, not {value}; finish it as it was "
                    "begun, or remove it."
                )
        return work
    (work / "parts").mkdir(parents=True, exist_ok=True)
    if source.kind == "videos":
        (work / "frames").mkdir(exist_ok=True)
    _write(plan, json.dumps(told, indent=1))
    return work


def _part(work: pathlib.Path, index: int, suffix: str) -> pathlib.Path:
    return work / "parts" / f"{index:06}{suffix}"


def _write(path: pathlib.Path, content: str | bytes) -> None:
    with media.written_aside(path) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def _runner(
    processes: int, beam: Sequence[str] | None, progress: bool
) -> Iterator[Callable[[Callable, Sequence[Any], str], None]]:
    """Yields what calls a function on each task: here, in processes, or on a Beam runner."""

    def here(function: Callable, tasks: Sequence[Any], what: str) -> None:
        for task in bars.bar(tasks, desc=what, unit="shard", disable=not progress):
            function(task)

    if beam is not None:
        yield functools.partial(_run_beam, beam)
        return
    if processes <= 1:
        yield here
        return

    def in_processes(function: Callable, tasks: Sequence[Any], what: str) -> None:
        done = concurrent.futures.as_completed([pool.submit(function, task) for task in tasks])
        try:
            for future in bars.bar(
                done, desc=what, total=len(tasks), unit="shard", disable=not progress
            ):
                future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise OSError(
                "a worker process was killed, likely for want of memory; give the command again "
                "with fewer --processes, and it goes on where it was."
            ) from error

    # New processes rather than copies of this one: FFmpeg's threads do not survive a fork.
    pool = concurrent.futures.ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,  # Ctrl-C is this process's to handle
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        yield in_processes
    finally:
        pool.shutdown(cancel_futures=True)


def _run_beam(beam: Sequence[str], function: Callable, tasks: Sequence[Any], what: str) -> None:
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ValueError("--beam_runner needs Apache Beam: pip install 'mav[beam]'.") from error
    options = PipelineOptions(list(beam), save_main_session=False)
    with apache_beam.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | f"Shards of {what}" >> apache_beam.Create(list(tasks))
            | f"Spread {what}" >> apache_beam.Reshuffle()
            | f"Write {what}" >> apache_beam.Map(function)
        )


# A shard of the source.


def features(kind: str, encoding: str) -> tfds.features.FeaturesDict:
    """What a record of "images", "videos" or "frames" holds.

    times: of a video's frames, seconds after the first. first: its number among all frames of the
    split, where the others follow it. key, origin: which record of the source it is, and where
    from, as JSON. A video comes without text: MAV learns from silent ones (§3).

    Frames are records of their own, in a data set below that of the videos, because array_record
    reads whole records: 16 of 540 frames at 256 pixels take it 1 ms, all of them 40."""
    text = tfds.features.Text
    table = dict(key=text(), origin=text())
    if kind == "videos":
        table |= dict(
            first=tfds.features.Scalar(np.int64),
            times=tfds.features.Tensor(shape=(None,), dtype=np.float32),
        )
        return tfds.features.FeaturesDict(table)
    picture = tfds.features.Image(shape=(None, None, 3), encoding_format=encoding)
    table = dict(table, caption=text()) if kind == "images" else {}
    return tfds.features.FeaturesDict(dict(table, image=picture))


def _serializer(table: tfds.features.FeaturesDict) -> Callable[[dict], bytes]:
    """As `table.serialize_example`, whose bytes differ from process to process."""
    serializer = tfds.core.example_serializer.ExampleSerializer(table.get_serialized_info())

    def serialize(example: dict) -> bytes:
        example = serializer.get_tf_example(table.encode_example(example))
        return example.SerializeToString(deterministic=True)

    return serialize


@dataclasses.dataclass
class _Shard:
    """What becomes of a shard: what is counted and listed of it."""

    kept: int = 0
    failed: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    judged: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    dropped: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    unjudged: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    items: list[dict] = dataclasses.field(default_factory=list)
    thumbnails: int = 0

    def fail(self, key: str, origin: Mapping, reason: str, detail: str) -> None:
        self.failed[reason] += 1
        self.items.append(dict(key=key, origin=dict(origin), reason=reason, detail=detail))

    def passes(
        self,
        options: Options,
        table: Mapping[str, Callable],
        subject: filters.Subject,
        picture: Callable[[], Image.Image],
    ) -> bool:
        """Asks filters, and lists what they drop with a small picture of it."""
        name, why, silent = filters.judge(table, options.limits, subject)
        asked = [other for other in table if other in options.limits]
        if options.strict and silent:
            first = silent[0]
            if not name or asked.index(first) < asked.index(name):
                name, why = first, "nothing known to judge it by"
        asked = asked[: asked.index(name) + 1] if name else asked
        self.unjudged.update(other for other in asked if other in silent)
        self.judged.update(other for other in asked if other not in silent)
        if not name:
            return True
        self.dropped[name] += 1
        item = dict(key=subject.record.key, origin=dict(subject.record.origin))
        item |= dict(reason=f"filter {name}", detail=why)
        if self.thumbnails < THUMBNAILS:
            self.thumbnails += 1
            with contextlib.suppress(readers.UnusableError):
                item["picture"] = thumbnail(picture())
        self.items.append(item)
        return False


def thumbnail(picture: Image.Image) -> str:
    """A small JPEG in hexadecimal, which JSON can hold."""
    small = decode.shrink(picture, min(THUMBNAIL, *picture.size))
    buffer = io.BytesIO()
    small.save(buffer, "jpeg", quality=80)
    return buffer.getvalue().hex()


def _build_shard(
    source: readers.Source,
    options: Options,
    work: pathlib.Path,
    task: tuple[int, readers.Shard],
) -> None:
    """Writes the records of a shard, and last the file that says that they are there.

    parts/000012.array_record: all but what is damaged or filtered. .frames.array_record: frames of
    videos. .npy: uint64 [n, 3], perceptual hash, hash of the file it is from, number of frames.
    .jsonl: what is not there, and why. .json: the counts."""
    index, shard = task
    serialize = _serializer(features(source.kind, options.encoding))
    serialize_frame = _serializer(features("frames", options.encoding))
    tally, hashes = _Shard(), []
    examples = _video_examples if source.kind == "videos" else _image_examples
    with contextlib.ExitStack() as stack:
        writer = _open_writer(stack, _part(work, index, ".array_record"))
        frame_writer = _open_writer(stack, _part(work, index, ".frames.array_record"))
        for item in source.read(shard):
            if isinstance(item, readers.Skipped):
                tally.fail(item.key, item.origin, item.reason, item.detail)
                continue
            try:
                for example, frames, picture_hash in examples(item, options, tally):
                    writer.write(serialize(example))
                    for frame in frames:
                        frame_writer.write(serialize_frame(dict(image=frame)))
                    hashes.append((picture_hash, _hash(_file_of(item)), len(frames)))
                    tally.kept += 1
            except readers.UnusableError as error:
                tally.fail(item.key, item.origin, error.reason, error.detail)
    array = io.BytesIO()
    np.save(array, np.array(hashes, np.uint64).reshape(-1, 3))
    _write(_part(work, index, ".npy"), array.getvalue())
    _write(_part(work, index, ".jsonl"), _lines(tally.items))
    names = ("kept", "failed", "judged", "dropped", "unjudged")
    _write(_part(work, index, ".json"), json.dumps({name: getattr(tally, name) for name in names}))


def _file_of(record: readers.Record) -> str:
    """The file that a record is part of; clips of one are never in two splits."""
    origin = {name: value for name, value in record.origin.items() if name != "url"}
    return origin.get("media") or json.dumps(origin, sort_keys=True)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _image_examples(
    record: readers.Record, options: Options, tally: _Shard
) -> Iterator[tuple[dict, list[bytes], int]]:
    picture = decode.read_picture(record.media)
    subject = filters.Subject(record, picture.width, picture.height)
    if not tally.passes(options, filters.BEFORE_DECODING, subject, lambda: picture):
        return
    small = decode.shrink(picture, options.size)
    origin = dict(record.origin, width=picture.width, height=picture.height, **record.scores)
    yield (
        dict(
            image=decode.ENCODERS[options.encoding](np.asarray(small)),
            caption=record.caption,
            key=record.key,
            origin=json.dumps(origin),
        ),
        [],
        decode.perceptual_hash(picture),
    )


def _video_examples(
    record: readers.Record, options: Options, tally: _Shard
) -> Iterator[tuple[dict, list[bytes], int]]:
    with decode.open_video(record.media) as video:
        subject = filters.Subject(record, video.width, video.height)

        def first_frame() -> Image.Image:
            size = min(THUMBNAIL, video.width, video.height)
            return Image.fromarray(next(iter(video.frames(size, record.span)))[1])

        if not tally.passes(options, filters.BEFORE_DECODING, subject, first_frame):
            return
        clips = video.clips(options.size, record.span, options.encoding)
        for number, clip in enumerate(clips):
            key = f"{record.key}#{number}"
            named = dataclasses.replace(record, key=key)
            subject = filters.Subject(named, video.width, video.height, clip)
            still = functools.partial(_picture, clip.frames[len(clip.frames) // 2])
            if not tally.passes(options, filters.AFTER_DECODING, subject, still):
                continue
            origin = dict(record.origin, width=video.width, height=video.height, **record.scores)
            origin |= dict(start=round(clip.start, 6), end=round(clip.start + clip.times[-1], 6))
            times = clip.times.astype(np.float32)
            example = dict(first=0, times=times, key=key, origin=json.dumps(origin))
            yield example, clip.frames, clip.hash


def _picture(encoded: bytes) -> Image.Image:
    return Image.open(io.BytesIO(encoded))


# All shards together.


def _decide(work: pathlib.Path, options: Options, number: int) -> dict[str, Any]:
    """Gives each record to a split or to none. Returns what it counted.

    parts/000012.fate.npy: uint8 [n], 0 for a duplicate, 1 for train, 2 for test. decided.json: of
    each part, how many records and how many frames go to train and to test."""
    path = work / "decided.json"
    if path.exists():
        return json.loads(path.read_text())
    parts = [np.load(_part(work, i, ".npy"), mmap_mode="r") for i in range(number)]
    doubled = [np.zeros(len(part), bool) for part in parts]
    if "duplicates" in options.limits:
        hashes = [part[:, 0] for part in parts]
        doubled = filters.near_duplicates(hashes, int(options.limits["duplicates"]))
    edge = np.uint64(min(int(options.test_share * 2**64), 2**64 - 1))
    if options.test_share:
        # A small set gets a test split too: of the file whose hash is lowest, if there are two.
        files = [part[~twice, 1] for part, twice in zip(parts, doubled, strict=True)]
        lowest = min((file.min() for file in files if len(file)), default=edge)
        highest = max((file.max() for file in files if len(file)), default=edge)
        edge = max(edge, lowest + np.uint64(1)) if highest > lowest else edge
    counts, frames = [], []
    for i, (part, twice) in enumerate(zip(parts, doubled, strict=True)):
        fate = np.where(twice, 0, np.where(part[:, 1] < edge, 2, 1)).astype(np.uint8)
        array = io.BytesIO()
        np.save(array, fate)
        _write(_part(work, i, ".fate.npy"), array.getvalue())
        counts.append([int(np.sum(fate == 1 + split)) for split in range(len(SPLITS))])
        frames.append([int(part[fate == 1 + split, 2].sum()) for split in range(len(SPLITS))])
    duplicates = sum(int(twice.sum()) for twice in doubled)
    decided = dict(counts=counts, frames=frames, duplicates=duplicates)
    _write(path, json.dumps(decided))
    return decided


def _file_name(split: str, index: int, total: int) -> str:
    return f"mav-{split}.array_record-{index:05}-of-{total:05}"


def _copy_shard(work: pathlib.Path, index: int) -> None:
    """Copies a shard's records to the files of their splits, and then removes it."""
    plan = json.loads((work / "plan.json").read_text())
    decided = json.loads((work / "decided.json").read_text())
    counts, frames = (np.array(decided[name]) for name in ("counts", "frames"))
    table, pictures = (features(name, plan["encoding"]) for name in (plan["kind"], "frames"))
    serialize = _serializer(table)
    begins = np.cumsum([0, *np.load(_part(work, index, ".npy"))[:, 2].astype(int)])
    fate = np.load(_part(work, index, ".fate.npy"))
    firsts = frames[:index].sum(0)  # numbers of this shard's first frames in their splits
    items = []
    with contextlib.ExitStack() as stack:
        records = _open_reader(stack, _part(work, index, ".array_record"))
        stills = _open_reader(stack, _part(work, index, ".frames.array_record"))
        writers, frame_writers = {}, {}
        for split, name in enumerate(SPLITS):
            used = counts[:, split] > 0
            if used[index]:
                file = _file_name(name, int(used[:index].sum()), int(used.sum()))
                writers[split] = _open_writer(stack, work / file)
                if plan["kind"] == "videos":
                    frame_writers[split] = _open_writer(stack, work / "frames" / file)
        for i, choice in enumerate(fate):
            (record,) = records.read([i])
            begin, end = int(begins[i]), int(begins[i + 1])
            split = int(choice) - 1
            if split < 0:
                picture = None
                if len(items) < THUMBNAILS:
                    still = stills.read([(begin + end) // 2])[0] if end > begin else record
                    kept_as_it_is = dict(decoders=dict(image=builders.Encoded()))
                    picture = pictures.deserialize_example_np(still, **kept_as_it_is)["image"]
                items.append(_duplicate(table, record, picture))
            elif end > begin:
                example = table.deserialize_example_np(record)
                writers[split].write(serialize(dict(example, first=firsts[split])))
                firsts[split] += end - begin
                for at in range(begin, end, AT_ONCE):
                    for frame in stills.read(at, min(at + AT_ONCE, end)):
                        frame_writers[split].write(frame)
            else:
                writers[split].write(record)
    _write(_part(work, index, ".doubled.jsonl"), _lines(items))
    _part(work, index, ".frames.array_record").unlink(missing_ok=True)
    _part(work, index, ".array_record").unlink()


def _duplicate(
    table: tfds.features.FeaturesDict, record: bytes, picture: bytes | None
) -> dict[str, Any]:
    """What is listed of a record that is left out because it looks like an earlier one."""
    skip = {name: builders.Encoded() for name in ("image",) if name in table}
    example = table.deserialize_example_np(record, decoders=skip)
    item = dict(key=example["key"].decode(), origin=json.loads(example["origin"]))
    item |= dict(reason="filter duplicates", detail="looks like one before it")
    if picture is not None:
        item["picture"] = thumbnail(_picture(picture))
    return item


def _finish(
    work: pathlib.Path, options: Options, decided: Mapping[str, Any], number: int
) -> dict[str, Any]:
    """Writes what TFDS reads first, and the report. Returns the latter without its items.

    report.json: {"kept": n, "skipped": {reason: n}, ..., "items": [{key, origin, reason, detail},
    ...]}, of which "failed" counts what is damaged and "filters" what each filter did.
    dropped.json: some of the items with small pictures."""
    plan = json.loads((work / "plan.json").read_text())
    tallies = collections.defaultdict(collections.Counter)
    for i in range(number):
        counts = json.loads(_part(work, i, ".json").read_text())
        for name in ("failed", "judged", "dropped", "unjudged"):
            tallies[name].update(counts[name])
        tallies["built"]["all"] += counts["kept"]
    if "duplicates" in options.limits:
        tallies["judged"]["duplicates"] = tallies["built"]["all"]
        tallies["dropped"]["duplicates"] = decided["duplicates"]
    lengths = np.array(decided["counts"], int).reshape(-1, 2)
    _write_metadata(work, plan["kind"], plan, lengths, lengths)
    if plan["kind"] == "videos":
        frames = np.array(decided["frames"], int).reshape(-1, 2)
        _write_metadata(work / "frames", "frames", plan, lengths, frames)

    names = (*filters.BEFORE_DECODING, *filters.AFTER_DECODING, "duplicates")
    did = {
        name: dict(limit=options.limits[name])
        | {what: tallies[what][name] for what in ("judged", "dropped", "unjudged")}
        for name in names
        if name in options.limits
    }
    dropped = {f"filter {name}": found["dropped"] for name, found in did.items()}
    skipped = dict(sorted(tallies["failed"].items()))
    skipped |= {name: count for name, count in dropped.items() if count}
    splits = {name: int(count) for name, count in zip(SPLITS, lengths.sum(0), strict=True)}
    report = dict(kept=int(lengths.sum()), skipped=skipped, splits=splits)
    report |= dict(failed=dict(tallies["failed"]), filters=did, options=plan)
    shown, pictured = [], collections.Counter()
    with media.written_aside(work / "report.json") as aside, open(aside, "w") as file:
        file.write(json.dumps(report, indent=1).removesuffix("\n}") + ',\n "items": [')
        separator = "\n  "
        for item in _items(work, number):
            picture = item.pop("picture", None)
            file.write(separator + json.dumps(item))
            separator = ",\n  "
            if picture and pictured[item["reason"]] < SHOWN:
                pictured[item["reason"]] += 1
                shown.append(dict(item, picture=picture))
        file.write("\n ]\n}\n")
        _write(work / "dropped.json", json.dumps(shown, indent=1))
    return report


def _items(work: pathlib.Path, number: int) -> Iterator[dict[str, Any]]:
    for i in range(number):
        for suffix in (".jsonl", ".doubled.jsonl"):
            path = _part(work, i, suffix)
            if path.exists():
                with open(path) as lines:
                    yield from map(json.loads, lines)


def _write_metadata(
    folder: pathlib.Path, name: str, plan: Mapping[str, Any], files: np.ndarray, lengths: np.ndarray
) -> None:
    """Writes what TFDS reads first. files, lengths: [shards, splits], records of videos or images,
    of which there is a file where there are any, and of this data set."""
    infos = []
    for split, split_name in enumerate(SPLITS):
        counts = lengths[files[:, split] > 0, split].tolist()
        paths = [folder / _file_name(split_name, i, len(counts)) for i in range(len(counts))]
        if counts:
            size = sum(path.stat().st_size for path in paths)
            infos.append(tfds.core.SplitInfo(split_name, shard_lengths=counts, num_bytes=size))
    if infos:
        tfds.folder_dataset.write_metadata(
            data_dir=folder,
            features=features(name, plan["encoding"]),
            split_infos=infos,
            filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            check_data=False,
            description=f"{name}, shorter side {plan['size']} pixels, by mav data build",
        )


def _lines(items: Sequence[Mapping[str, Any]]) -> str:
    return "".join(f"{json.dumps(item)}\n" for item in items)


def _open_writer(stack: contextlib.ExitStack, path: pathlib.Path) -> ArrayRecordWriter:
    """A writer that is closed, and its file renamed, when the stack ends well."""
    aside = stack.enter_context(media.written_aside(path))
    # Pictures are compressed already. A group is read together: each record is one.
    writer = ArrayRecordWriter(str(aside), "group_size:1,uncompressed")
    stack.callback(writer.close)
    return writer


def _open_reader(stack: contextlib.ExitStack, path: pathlib.Path) -> ArrayRecordReader:
    reader = ArrayRecordReader(str(path), "readahead_buffer_size:0")
    stack.callback(reader.close)
    return reader

"""What people have: folders, tars, lists and tables of videos or captioned images, read one by one.

    source = readers.open_source("videos", "clips/")
    for shard in source.shards():
        for item in source.read(shard):
            ...  # a Record, or a Skipped that says why there is none

A shard is a piece of the source that is read from its beginning to its end in one process: a tar, a
few files of a folder, some rows of a list. Shards, and what is in them, come in the same order each
time. Nothing that a source says is trusted: names in archives are not paths, sizes are checked
before anything is read, text is decoded strictly. One record is in memory at a time.
"""

import csv
import dataclasses
import glob
import io
import itertools
import json
import os
import pathlib
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow
import pyarrow.parquet

SUFFIXES = dict(
    videos=(
        ".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg",
        ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv",
    ),
    images=(".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"),
)  # fmt: skip
FORMATS = ("folder", "tar", "csv", "jsonl", "parquet", "ucf101", "msrvtt")

MAX_BYTES = dict(videos=512 * 2**20, images=64 * 2**20)  # of a file that is read into memory
MAX_TEXT = 2**20  # bytes of a caption's or a JSON file, or of one line of a list
# Records of a shard: some minutes of work, which is what a kill costs.
FILES = dict(videos=64, images=2000)

# What the columns of lists and tables, and the keys of JSON files, are called: by this project, by
# LAION, WebVid, HD-VILA, img2dataset, video2dataset. Case does not matter, the first one counts.
ROLES = dict(
    media=("media", "image", "video", "jpg", "mp4", "bytes", "path", "file_name", "file"),
    key=("key", "videoid", "video_id", "sample_id", "id"),
    caption=("caption", "text", "name", "title"),
    start=("start", "start_time", "clip_start"),  # seconds, or HH:MM:SS
    end=("end", "end_time", "clip_end"),
    url=("url", "contenturl"),
    nsfw=("punsafe", "nsfw"),
    watermark=("pwatermark",),
    language=("language", "lang"),
)  # fmt: skip
SCORES = ("nsfw", "watermark", "language")


@dataclasses.dataclass(frozen=True)
class Record:
    """One video or image, not yet decoded.

    origin: where it is from, as "file", perhaps "member" or "row", "url"; names are those below the
    source, so that they do not depend on where it lies. media: bytes, or a path. span: (start, end)
    in seconds of the part that is meant; None is all. scores: numbers or words by the names in
    `SCORES`, as far as the source has them.
    """

    key: str
    origin: Mapping[str, Any]
    media: bytes | pathlib.Path
    caption: str | None = None
    span: tuple[float, float] | None = None
    scores: Mapping[str, float | str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Skipped:
    """One that there is no record of. reason: a few words, for counting. detail: what was found."""

    key: str
    origin: Mapping[str, Any]
    reason: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Shard:
    """A piece of a source.

    name: of its file, below the source; "" for a folder. start, stop: bytes of a list, or row group
    and the one after it. files: of a folder, below it; for MSR-VTT the keys of its videos.
    """

    name: str = ""
    start: int = 0
    stop: int = 0
    files: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Source:
    """Videos or captioned images, in shards.

    kind: "videos" or "images". root: folder below which names are given. names: the tars, lists or
    tables in it. media: folder of the files that a list names. columns: names of columns by role,
    see `ROLES`, where they are none of those there.
    """

    kind: str
    format: str
    root: pathlib.Path
    names: tuple[str, ...]
    media: pathlib.Path
    columns: Mapping[str, str]

    def shards(self) -> list[Shard]:
        """All pieces, in order."""
        return _SHARDS[self.format](self)

    def read(self, shard: Shard) -> Iterator[Record | Skipped]:
        """What is in a piece, in order. A key that comes again is skipped."""
        seen = set()
        for item in _READ[self.format](self, shard):
            if isinstance(item, Record) and item.key in seen:
                item = Skipped(item.key, item.origin, "duplicate key")
            seen.add(item.key)
            yield item


def open_source(
    kind: str,
    path: str | os.PathLike,
    format: str | None = None,
    media: str | os.PathLike | None = None,
    columns: Mapping[str, str] | None = None,
) -> Source:
    """Finds out what there is.

    kind: "videos" or "images". path: a folder, a file, or a pattern such as "shards/*.tar". format:
    one of `FORMATS`; None goes by what is there. media: folder of the files that a list names; None
    is that of the list. columns: as in `Source`. Raises FileNotFoundError, or ValueError if it
    cannot be told what the source is.
    """
    if kind not in SUFFIXES:
        raise ValueError(f"kind={kind!r} is unknown; choose from {', '.join(SUFFIXES)}.")
    if format is not None and format not in FORMATS:
        raise ValueError(f"format={format!r} is unknown; choose from {', '.join(FORMATS)}.")
    unknown = sorted(set(columns or {}) - set(ROLES))
    if unknown:
        raise ValueError(f"columns: no role {unknown[0]!r}; choose from {', '.join(ROLES)}.")
    root, names = _find(pathlib.Path(path))
    found = format or _guess(kind, root, names, path)
    if found in ("ucf101", "msrvtt") and kind != "videos":
        raise ValueError(f"format={found} holds videos, not {kind}.")
    if found in ("tar", "csv", "jsonl", "parquet"):
        names = [name for name in names if _list_format(name) == found] or names
    if not names:
        raise ValueError(f"{path} holds no files.")
    media = root if media is None else pathlib.Path(media)
    if not media.is_dir():
        raise FileNotFoundError(f"media={str(media)!r} is not a folder.")
    return Source(kind, found, root, tuple(names), media, dict(columns or {}))


def _find(path: pathlib.Path) -> tuple[pathlib.Path, list[str]]:
    """The folder, and the names of the files in it that are meant."""
    if path.is_dir():
        names = []
        for folder, folders, files in os.walk(path, onerror=_fail):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            below = pathlib.Path(folder).relative_to(path)
            names += [(below / name).as_posix() for name in files if not name.startswith(".")]
        return path, sorted(names)
    if path.is_file():
        return path.parent, [path.name]
    matches = sorted(pathlib.Path(match) for match in glob.glob(str(path)) if os.path.isfile(match))
    if not matches:
        raise FileNotFoundError(f"{path} does not exist, and as a pattern matches no file.")
    root = pathlib.Path(os.path.commonpath([match.parent for match in matches]))
    return root, [match.relative_to(root).as_posix() for match in matches]


def _fail(error: OSError):
    raise error


def _list_format(name: str) -> str | None:
    lower = name.lower()
    if lower.endswith((".tar", ".tar.gz", ".tgz")):
        return "tar"
    suffix = pathlib.PurePosixPath(lower).suffix
    table = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
    return "parquet" if suffix in (".parquet", ".pq") else table.get(suffix)


def _guess(kind: str, root: pathlib.Path, names: Sequence[str], path) -> str:
    if any(pathlib.PurePosixPath(name).name == "classInd.txt" for name in names):
        return "ucf101"
    if len(names) == 1 and names[0].lower().endswith(".json") and not (root / path).is_dir():
        return "msrvtt"
    lists = {_list_format(name) for name in names} - {None}
    # The downloaders put a parquet of all URLs beside each tar.
    lists = {"tar"} if "tar" in lists else lists
    if any(name.lower().endswith(SUFFIXES[kind]) for name in names):
        lists.add("folder")
    if len(lists) == 1:
        return lists.pop()
    what = f"both {' and '.join(sorted(lists))}" if lists else f"nothing that holds {kind}"
    raise ValueError(
        f"{path} has {what} in it; give a folder of {kind}, tars, CSV, JSONL or parquet, or say "
        f"which by --format: {', '.join(FORMATS)}."
    )


# Folders.


def _folder_shards(source: Source) -> list[Shard]:
    sidecars = (".txt", ".json")
    # What has another suffix is read too, and reported as what it is not.
    files = [name for name in source.names if not name.lower().endswith(sidecars)]
    return [Shard(files=files) for files in _batched(files, FILES[source.kind])]


def _read_folder(source: Source, shard: Shard) -> Iterator[Record | Skipped]:
    for name in shard.files:
        origin = dict(file=name)
        if not name.lower().endswith(SUFFIXES[source.kind]):
            yield Skipped(name, origin, "unknown suffix", pathlib.PurePosixPath(name).suffix)
            continue
        path = source.root / name
        # Videos may be hours long and are read where they lie.
        sidecars = {s: path.with_suffix(s) for s in (".txt", ".json")}
        try:
            texts = {s[1:]: _read_small(file) for s, file in sidecars.items() if file.exists()}
            media = path if source.kind == "videos" else _read_media(path, source.kind)
            if source.kind == "videos":
                os.stat(path)
        except UnusableError as error:
            yield Skipped(name, origin, error.reason, error.detail)
            continue
        except OSError as error:
            yield Skipped(name, origin, "unreadable file", error.strerror or "")
            continue
        yield _with_sidecars(source, name, origin, media, texts)


def _with_sidecars(
    source: Source, key: str, origin: dict, media: bytes | pathlib.Path, texts: Mapping[str, bytes]
) -> Record | Skipped:
    """A record with what stands beside it: `txt` is its caption, `json` all else."""
    try:
        row = {}
        if "json" in texts:
            row = json.loads(_decode(texts["json"], "JSON"))
        if not isinstance(row, dict):
            raise UnusableError("bad JSON", "it is not an object")
        if "txt" in texts:
            row = {**row, source.columns.get("caption", "caption"): _decode(texts["txt"])}
        return _record(source, key, origin, media, row)
    except UnusableError as error:
        return Skipped(key, origin, error.reason, error.detail)
    except (ValueError, RecursionError) as error:
        return Skipped(key, origin, "bad JSON", str(error))


# Tars, as webdataset, img2dataset and video2dataset write them: the members of a sample share their
# name up to the first dot and stand side by side.


def _tar_shards(source: Source) -> list[Shard]:
    return [Shard(name) for name in source.names]


def _read_tar(source: Source, shard: Shard) -> Iterator[Record | Skipped]:
    path = source.root / shard.name
    origin = dict(file=shard.name)
    try:
        with tarfile.open(path) as tar:
            for key, members in itertools.groupby(_members(tar, path), key=lambda item: item[0]):
                yield from _sample(source, origin, key, tar, [member for _, member in members])
    except (tarfile.TarError, EOFError, OSError, OverflowError, ValueError) as error:
        yield Skipped(shard.name, origin, "damaged tar", str(error))


def _members(tar: tarfile.TarFile, path: pathlib.Path) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Members with the name of their sample. Raises TarError where the file ends early."""
    plain = isinstance(tar.fileobj, io.BufferedReader)
    size = os.path.getsize(path) if plain else None
    for member in tar:
        stored = 0 if member.issparse() or not member.isreg() else member.size
        if size is not None and member.offset_data + stored > size:
            raise tarfile.ReadError(f"{member.name}: the file ends inside it")
        folder, slash, file = member.name.rpartition("/")
        yield folder + slash + file.partition(".")[0], member
        tar.members.clear()  # or all headers would stay in memory
    if size is not None and tar.offset < size:
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"no header at byte {tar.offset}")


def _sample(
    source: Source,
    origin: dict,
    key: str,
    tar: tarfile.TarFile,
    members: Sequence[tarfile.TarInfo],
) -> Iterator[Record | Skipped]:
    key = key.encode("utf-8", "replace").decode()
    media, texts, name = None, {}, None
    for member in members:
        suffix = pathlib.PurePosixPath(member.name).name.partition(".")[2].lower()
        where = {**origin, "member": member.name.encode("utf-8", "replace").decode()}
        if member.isdir():
            continue
        if member.name.startswith("/") or ".." in pathlib.PurePosixPath(member.name).parts:
            yield Skipped(key, where, "unsafe name in tar", "absolute, or with .. in it")
            return
        if not member.isreg():
            yield Skipped(key, where, "no file in tar", "a link or a device")
            return
        is_media = f".{suffix}" in SUFFIXES[source.kind]
        if not is_media and suffix not in ("txt", "json"):
            continue  # audio, embeddings
        if (is_media and media is not None) or suffix in texts:
            yield Skipped(key, where, "duplicate key", f"a second .{suffix}")
            return
        limit = MAX_BYTES[source.kind] if is_media else MAX_TEXT
        if member.size > limit:
            yield Skipped(key, where, "too many bytes", f"{member.size}, allowed are {limit}")
            return
        content = tar.extractfile(member).read()
        if is_media:
            media, name = content, where
        else:
            texts[suffix] = content
    if media is None:
        if members and not all(member.isdir() for member in members):
            what = source.kind.removesuffix("s")
            found = ", ".join(sorted({pathlib.PurePosixPath(m.name).suffix for m in members}))
            yield Skipped(key, origin, f"no {what} in sample", f"only {found}")
        return
    yield _with_sidecars(source, key, name, media, texts)


# Lists and tables.


def _list_shards(source: Source) -> list[Shard]:
    """Pieces of some rows each, by the bytes at which these begin and end."""
    shards = []
    for name in source.names:
        with open(source.root / name, "rb") as file:
            lines = _Lines(file)
            if source.format == "csv":
                rows = csv.reader(lines, delimiter=_delimiter(name))
                if next(rows, None) is None:
                    raise ValueError(f"{source.root / name} is empty; it needs a line of names.")
            else:
                rows = lines
            start = lines.offset
            for number, _ in enumerate(_without_errors(rows), 1):
                if number % FILES[source.kind] == 0:
                    shards.append(Shard(name, start, lines.offset))
                    start = lines.offset
            if lines.offset > start:
                shards.append(Shard(name, start, lines.offset))
    return shards


class _Lines:
    """Lines of a file as text, counting bytes; what is not UTF-8 is marked, and refused later."""

    def __init__(self, file, stop: int | None = None):
        self.file, self.stop, self.offset = file, stop, file.tell()

    def __iter__(self):
        return self

    def __next__(self) -> str:
        if self.stop is not None and self.offset >= self.stop:
            raise StopIteration
        line = self.file.readline(MAX_TEXT)
        if not line:
            raise StopIteration
        at, self.offset = self.offset, self.offset + len(line)
        return line.decode("utf-8", "surrogateescape").removeprefix("" if at else "\ufeff")


def _without_errors(rows: Iterator) -> Iterator:
    """Rows, and for one that the csv module cannot take its message as a str."""
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield str(error)


def _delimiter(name: str) -> str:
    return "\t" if name.lower().endswith(".tsv") else ","


def _read_csv(source: Source, shard: Shard) -> Iterator[Record | Skipped]:
    with open(source.root / shard.name, "rb") as file:
        delimiter = _delimiter(shard.name)
        names = next(csv.reader(_Lines(file), delimiter=delimiter))
        if _column(source, names, "media") is None and not _is_webvid(names):
            raise ValueError(_no_media(source, shard.name, names))
        file.seek(shard.start)
        rows = csv.reader(_Lines(file, shard.stop), delimiter=delimiter)
        for number, row in enumerate(_without_errors(rows)):
            origin = dict(file=shard.name, row=f"{shard.start}+{number}")
            key = f"{shard.name}:{shard.start}+{number}"
            if isinstance(row, str) or len(row) != len(names):
                found = row if isinstance(row, str) else f"{len(row)} values, not {len(names)}"
                yield Skipped(key, origin, "bad row", found)
            else:
                yield _listed(source, key, origin, dict(zip(names, row, strict=True)))


def _read_jsonl(source: Source, shard: Shard) -> Iterator[Record | Skipped]:
    with open(source.root / shard.name, "rb") as file:
        file.seek(shard.start)
        for number, line in enumerate(_Lines(file, shard.stop)):
            origin = dict(file=shard.name, row=f"{shard.start}+{number}")
            key = f"{shard.name}:{shard.start}+{number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("it is not an object")
            except (ValueError, RecursionError) as error:
                yield Skipped(key, origin, "bad row", str(error))
                continue
            if isinstance(row.get("clip"), list):  # HD-VILA: one line per video, many clips
                yield from _hdvila(source, key, origin, row)
            else:
                yield _listed(source, key, origin, row)


def _hdvila(source: Source, key: str, origin: dict, row: Mapping) -> Iterator[Record | Skipped]:
    for number, clip in enumerate(row["clip"]):
        at = f"{key}.{number}"
        try:
            start, end = clip["span"]
            inner = dict(media=f"{row['video_id']}", start=start, end=end, key=clip["clip_id"])
        except (TypeError, KeyError, ValueError) as error:
            yield Skipped(at, origin, "bad row", f"clip {number}: {error!r}")
            continue
        yield _listed(source, at, {**origin, "url": row.get("url")}, inner)


def _parquet_shards(source: Source) -> list[Shard]:
    shards = []
    for name in source.names:
        try:
            groups = pyarrow.parquet.ParquetFile(source.root / name).num_row_groups
        except pyarrow.ArrowException as error:
            raise ValueError(f"{source.root / name} is not a parquet file: {error}") from error
        shards += [Shard(name, group, group + 1) for group in range(groups)]
    return shards


def _read_parquet(source: Source, shard: Shard) -> Iterator[Record | Skipped]:
    origin = dict(file=shard.name)
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(source.root / shard.name) as table:
            names = table.schema_arrow.names
            if _column(source, names, "media") is None and not _is_webvid(names):
                raise ValueError(_no_media(source, shard.name, names))
            for batch in table.iter_batches(16, row_groups=[shard.start]):
                for row in batch.to_pylist():
                    where = f"{shard.start}+{number}"
                    number += 1
                    yield _listed(source, f"{shard.name}:{where}", {**origin, "row": where}, row)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        where = {**origin, "row": f"{shard.start}+{number}"}
        yield Skipped(f"{shard.name}:{shard.start}", where, "damaged parquet", str(error))


def _listed(source: Source, key: str, origin: dict, row: Mapping[str, Any]) -> Record | Skipped:
    """A record of a row: the file it names, or the bytes in it."""
    try:
        named = _value(source, row, "key")
        key = str(named) if named not in (None, "") else key
        if any(isinstance(cell, str) and not _is_utf8(cell) for cell in row.values()):
            raise UnusableError("text is not UTF-8")
        media = row.get(_column(source, row, "media"))
        if isinstance(media, Mapping):  # Hugging Face's image and video columns
            media = media.get("bytes") or media.get("path")
        if _is_webvid(row):
            media = f"{_cell(row, 'page_dir')}/{_cell(row, 'videoid')}.mp4"
        if isinstance(media, bytes):
            _check_size(len(media), source.kind)
        else:
            path = _inside(source, media)
            origin = {**origin, "media": path.relative_to(source.media.resolve()).as_posix()}
            media = path if source.kind == "videos" else _read_media(path, source.kind)
        return _record(source, key, origin, media, row)
    except UnusableError as error:
        return Skipped(key, origin, error.reason, error.detail)
    except OSError as error:
        return Skipped(key, origin, "unreadable file", error.strerror or "")


def _inside(source: Source, name: Any) -> pathlib.Path:
    """The file that a row names, which must lie in the folder of media."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise UnusableError("no file named", repr(name))
    path = (source.media / name).resolve()
    if not path.is_relative_to(source.media.resolve()):
        raise UnusableError("file outside the media folder", name)
    if not path.exists():  # HD-VILA names videos without their suffix
        found = [path.with_name(path.name + suffix) for suffix in SUFFIXES[source.kind]]
        path = next((file for file in found if file.exists()), path)
    if not path.is_file():
        raise UnusableError("missing file", name)
    return path


def _is_webvid(names: Iterable[str]) -> bool:
    return {"videoid", "page_dir"} <= {str(name).lower() for name in names}


def _cell(row: Mapping[str, Any], name: str) -> Any:
    return next(value for column, value in row.items() if column.lower() == name)


def _no_media(source: Source, name: str, columns: Sequence[str]) -> str:
    what = source.kind.removesuffix("s")
    return (
        f"{name} has the columns {', '.join(columns)}, of which none holds a {what} or names its "
        "file; say which one does by --columns media=NAME. A list of URLs has to be downloaded "
        "first, see docs/data.md."
    )


# Evaluation sets.


def ucf101_splits(root: str | os.PathLike) -> dict[str, list[str]]:
    """UCF-101's lists: {"trainlist01": ["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", ...], ...}.

    root: folder with ucfTrainTestlist/ (classInd.txt, trainlist01.txt, ...) somewhere below it.
    """
    lists = {}
    for path in sorted(pathlib.Path(root).rglob("t*list0[123].txt")):
        lines = path.read_text("utf-8").split("\n")
        lists[path.stem] = [line.split()[0] for line in lines if line.strip()]
    return lists


def _ucf101_shards(source: Source) -> list[Shard]:
    videos = [name for name in source.names if name.lower().endswith(".avi")]
    return [Shard(files=files) for files in _batched(videos, FILES["videos"])]


def _read_ucf101(source: Source, shard: Shard) -> Iterator[Record | Skipped]:
    """Keys are as in the lists, captions are the classes, as "Apply Eye Makeup"."""
    for name in shard.files:
        folder = pathlib.PurePosixPath(name).parent.name
        key = f"{folder}/{pathlib.PurePosixPath(name).name}"
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", folder)
        yield Record(key, dict(file=name), source.root / name, words)


def msrvtt(path: str | os.PathLike) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """MSR-VTT's videos in order, and the captions of each by its video_id.

    path: train_val_videodatainfo.json or test_videodatainfo.json. A video is {"video_id": "video0",
    "split": "test", "start time": 137.72, "end time": 149.44, "category": 9, "url": ...}; the file
    video0.mp4 is that span already. Raises ValueError for another file.
    """
    try:
        table = json.loads(pathlib.Path(path).read_text("utf-8"))
        captions: dict[str, list[str]] = {video["video_id"]: [] for video in table["videos"]}
        for sentence in table["sentences"]:
            captions[sentence["video_id"]].append(sentence["caption"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not MSR-VTT's JSON of videos and sentences: {error!r}."
        ) from None
    return table["videos"], captions


def _msrvtt_shards(source: Source) -> list[Shard]:
    videos, _ = msrvtt(source.root / source.names[0])
    keys = [video["video_id"] for video in videos]
    return [Shard(source.names[0], files=files) for files in _batched(keys, FILES["videos"])]


def _read_msrvtt(source: Source, shard: Shard) -> Iterator[Record | Skipped]:
    videos, captions = msrvtt(source.root / shard.name)
    urls = {video["video_id"]: video.get("url") for video in videos}
    files: dict[str, list[pathlib.Path]] = {}
    for path in sorted(source.media.rglob("video*.*")):
        if path.suffix.lower() in SUFFIXES["videos"]:  # sound may lie beside them
            files.setdefault(path.stem, []).append(path)
    for key in shard.files:
        origin = dict(file=shard.name, url=urls[key])
        named = files.get(key, [])
        if len(named) != 1:
            reason = "several files" if named else "missing file"
            yield Skipped(key, origin, reason, ", ".join(p.name for p in named) or f"{key}.mp4")
            continue
        origin["media"] = named[0].relative_to(source.media).as_posix()
        yield Record(key, origin, named[0], (captions[key] or [None])[0])


# What they share.


class UnusableError(Exception):
    """Why there is no record."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def _record(
    source: Source, key: str, origin: dict, media: bytes | pathlib.Path, row: Mapping[str, Any]
) -> Record | Skipped:
    caption = _value(source, row, "caption")
    caption = caption.decode("utf-8", "strict") if isinstance(caption, bytes) else caption
    if caption is not None and not isinstance(caption, str):
        raise UnusableError("bad caption", f"{type(caption).__name__} instead of text")
    caption = " ".join(caption.split()) if caption else None
    if source.kind == "images" and not caption:
        raise UnusableError("empty caption")
    scores = {name: _value(source, row, name) for name in SCORES}
    scores = {name: value for name, value in scores.items() if value not in (None, "")}
    url = _value(source, row, "url")
    if isinstance(url, str):
        origin = {**origin, "url": url}
    return Record(key, origin, media, caption, _span(source, row), scores)


def _span(source: Source, row: Mapping[str, Any]) -> tuple[float, float] | None:
    start, end = (_value(source, row, name) for name in ("start", "end"))
    if start in (None, "") and end in (None, ""):
        return None
    try:
        span = seconds(start if start not in (None, "") else 0), seconds(end)
    except (ValueError, TypeError):
        raise UnusableError("bad time span", f"{start!r} to {end!r}") from None
    if not 0 <= span[0] < span[1] < float("inf"):
        raise UnusableError("bad time span", f"{span[0]:g} s to {span[1]:g} s")
    return span


def seconds(time: float | str) -> float:
    """Seconds of a number, or of "HH:MM:SS.mmm", "MM:SS" or "SS"."""
    if not isinstance(time, str):
        return float(time)
    total = 0.0
    for part in time.split(":"):
        total = 60 * total + float(part)
    return total


def _column(source: Source, names: Iterable[str], role: str) -> str | None:
    """The name of the column that plays a role."""
    if role in source.columns:
        return source.columns[role] if source.columns[role] in set(names) else None
    lower = {str(name).lower(): name for name in names}
    return next((lower[alias] for alias in ROLES[role] if alias in lower), None)


def _value(source: Source, row: Mapping[str, Any], role: str) -> Any:
    return row.get(_column(source, row, role))


def _decode(text: bytes, what: str = "caption") -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        raise UnusableError("text is not UTF-8", what) from None


def _is_utf8(text: str) -> bool:
    """Whether `_Lines` could read it; marks of what it could not are no text."""
    return not any("\udc80" <= letter <= "\udcff" for letter in text)


def _read_small(path: pathlib.Path) -> bytes:
    with open(path, "rb") as file:
        text = file.read(MAX_TEXT + 1)
    if len(text) > MAX_TEXT:
        raise UnusableError("too many bytes", f"{path.name}: more than {MAX_TEXT}")
    return text


def _read_media(path: pathlib.Path, kind: str) -> bytes:
    with open(path, "rb") as file:
        _check_size(os.fstat(file.fileno()).st_size, kind)
        return file.read()


def _check_size(size: int, kind: str) -> None:
    if size > MAX_BYTES[kind]:
        raise UnusableError("too many bytes", f"{size}, allowed are {MAX_BYTES[kind]}")


def _batched(names: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(names[i : i + length]) for i in range(0, len(names), length))


_SHARDS = dict(
    folder=_folder_shards,
    tar=_tar_shards,
    csv=_list_shards,
    jsonl=_list_shards,
    parquet=_parquet_shards,
    ucf101=_ucf101_shards,
    msrvtt=_msrvtt_shards,
)
_READ = dict(
    folder=_read_folder,
    tar=_read_tar,
    csv=_read_csv,
    jsonl=_read_jsonl,
    parquet=_read_parquet,
    ucf101=_read_ucf101,
    msrvtt=_read_msrvtt,
)

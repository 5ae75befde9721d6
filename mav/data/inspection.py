"""`mav data inspect`: a data set at a glance, as one PNG sheet and one HTML page.

Both show samples of what was kept and of what filters dropped, and histograms of up to `COUNTED`
records: frames per second, length, size of the source, words of the captions.
"""

import base64
import collections
import functools
import html
import io
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from mav import media
from mav.data import builders, sources

COUNTED = 1000  # records that histograms are made of, evenly spaced
SAMPLES = 24  # kept records that are shown
FRAMES = 8  # of a video
TILE = 96  # pixels
WIDTH = 8 * TILE
BINS = 16


def run(folder: str | os.PathLike, out: str | os.PathLike, split: str = "train") -> dict[str, Any]:
    """Writes OUT/inspect.png and OUT/inspect.html. Returns the numbers of the histograms.

    folder: of a data set that `mav data build` made. Raises FileNotFoundError or ValueError if it
    is none, or has no such split."""
    out = pathlib.Path(out)
    kind = _kind(folder)
    opened = dict(images=builders.ArrayRecordImages, videos=builders.ArrayRecordVideos)[kind]
    opened = opened(folder, split)
    examples = opened.examples
    values = collections.defaultdict(list)
    words: collections.Counter = collections.Counter()
    measure = lambda example: _measure(example, values, words)
    _of_whole(measure, examples, COUNTED)
    samples = _of_whole(functools.partial(_sample, opened), examples, SAMPLES)
    report, dropped = (_read(pathlib.Path(folder) / f"{n}.json") for n in ("report", "dropped"))

    out.mkdir(parents=True, exist_ok=True)
    panels = [_heading(f"{len(examples)} {kind} in {split}; some of them:")]
    panels += [_row(pictures, text) for pictures, text in samples]
    if dropped:
        panels.append(_heading("dropped, and why:"))
    for item in dropped or []:
        picture = Image.open(io.BytesIO(bytes.fromhex(item["picture"])))
        panels.append(_row([picture], f"{item['reason']}: {item['detail']} ({item['key']})"))
    for title, numbers in values.items():
        panels += [_heading(title), _bars(*_histogram(numbers))]
    sheet = np.concatenate([np.asarray(panel) for panel in panels])
    media.write_image(out / "inspect.png", sheet)

    page = _page(folder, split, len(examples), report, samples, dropped, values, words)
    with media.written_aside(out / "inspect.html") as aside:
        aside.write_text(page, "utf-8")
    return dict(values)


def _kind(folder: str | os.PathLike) -> str:
    path = tfds.core.Path(folder) / "features.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} is not a prepared data set: it has no features.json. `mav data build` makes "
            "one."
        )
    try:
        held = tfds.builder_from_directory(folder).info.features
    except Exception as error:  # protobuf's own, TypeError and others: as the damage falls
        reason, *_ = str(error).splitlines() or [""]
        raise ValueError(
            f"{folder} is a damaged data set; `mav data build` makes it anew. Its "
            f"dataset_info.json or features.json cannot be read: {type(error).__name__}: {reason}"
        ) from error
    return "images" if "image" in held else "videos"


def _spread(total: int, number: int) -> list[int]:
    """Up to so many indices, evenly spaced."""
    return np.unique(np.linspace(0, total - 1, min(total, number)).round().astype(int)).tolist()


def _of_whole(function: Callable[[Mapping], Any], examples: Sequence[dict], number: int) -> list:
    """What a function finds in some examples. Tells of those that are damaged, and goes on."""
    found = []
    for i in _spread(len(examples), number):
        try:
            found.append(function(builders.read(examples, [i])[0]))
        except sources.DamagedError as error:
            print(f"warning: {error}", file=sys.stderr)
    return found


def _read(path: pathlib.Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _measure(example: Mapping[str, Any], values: Mapping, words: collections.Counter) -> None:
    origin = json.loads(example["origin"]) if "origin" in example else {}
    if "times" in example and len(example["times"]) > 1:
        times = example["times"]
        values["frames per second"].append((len(times) - 1) / times[-1])
        values["length in seconds"].append(times[-1])
    if "width" in origin:
        width, height = origin["width"], origin["height"]
        values["shorter side of the source in pixels"].append(min(width, height))
        values["width / height"].append(width / height)
    if "caption" in example:
        caption = example["caption"].decode().lower().split()
        values["words of a caption"].append(len(caption))
        words.update(caption)


def _sample(
    opened: builders.ArrayRecordImages | builders.ArrayRecordVideos, example: Mapping[str, Any]
) -> tuple[list[Image.Image], str]:
    """Some pictures of a record, and its caption or key."""
    if "image" in example:
        encoded = [example["image"]]
    else:
        chosen = _spread(len(builders.video_times(example)), FRAMES)
        encoded = opened.encoded(example)(chosen)
    text = example.get("caption") or example.get("key") or b""
    return [Image.open(io.BytesIO(still)) for still in encoded], text.decode()


def _histogram(numbers: Sequence[float]) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n+1"]]:
    """Counts and edges of bars, of numbers to three digits: 29.99 and 30 share one."""
    return np.histogram([float(f"{number:.3g}") for number in numbers], BINS)


# The sheet.


def _heading(text: str) -> Image.Image:
    panel = Image.new("RGB", (WIDTH, 2 * media.LABEL_SIZE), "white")
    font = ImageFont.load_default(media.LABEL_SIZE)
    text = media.shortened(text, WIDTH - 8, font)
    ImageDraw.Draw(panel).text((4, media.LABEL_SIZE // 2), text, fill="#282828", font=font)
    return panel


def _row(pictures: Sequence[Image.Image], text: str) -> UInt8[np.ndarray, "h w 3"]:
    """Pictures side by side, the longer side a tile, below a line of text."""
    row = Image.new("RGB", (WIDTH, TILE + 4), "white")
    for column, picture in enumerate(pictures):
        small = picture.convert("RGB")
        small.thumbnail((TILE - 4, TILE))
        row.paste(small, (column * TILE + 2, 0))
    return np.concatenate([np.asarray(_heading(text)), np.asarray(row)])


def _bars(counts: Sequence[int], edges: Sequence[float]) -> Image.Image:
    """A histogram, with the numbers at which its bars begin."""
    panel = Image.new("RGB", (WIDTH, TILE + 20), "white")
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(10)
    step = WIDTH / len(counts)
    for i, count in enumerate(counts):
        height = TILE * count / max(counts)
        box = (i * step + 2, TILE - height, (i + 1) * step - 2, TILE)
        draw.rectangle(box, fill="#4472a8")
        draw.text((i * step + 2, TILE + 4), f"{edges[i]:.3g}", fill="#282828", font=font)
    return panel


# The page.


def _page(
    folder: str | os.PathLike,
    split: str,
    number: int,
    report: Mapping[str, Any] | None,
    samples: Sequence[tuple[list[Image.Image], str]],
    dropped: Sequence[Mapping[str, Any]] | None,
    values: Mapping[str, Sequence[float]],
    words: collections.Counter,
) -> str:
    """All of it as HTML that needs no other file. Captions and names are strangers' text."""
    title = html.escape(pathlib.Path(folder).name)
    parts = [f"<h1>{title}</h1><p>{number} records in the split {html.escape(split)}.</p>"]
    if report is not None:
        rows = [("kept", report["kept"]), *report["skipped"].items()]
        parts.append(f"<h2>What became of the source</h2>{_table(('', 'records'), rows)}")
        rows = [(name, *found.values()) for name, found in report["filters"].items()]
        names = ("filter", "limit", "judged", "dropped", "could not judge")
        parts.append(f"<h2>Filters</h2>{_table(names, rows)}")
    for name, numbers in values.items():
        counts, edges = _histogram(numbers)
        spans = [f"{a:.4g} to {b:.4g}" for a, b in itertools.pairwise(edges)]
        parts.append(f"<h2>{html.escape(name)}</h2>{_meters(spans, counts)}")
    if words:
        names, counts = zip(*words.most_common(30), strict=True)
        parts.append(f"<h2>words of the captions</h2>{_meters(names, counts)}")
    parts.append("<h2>Kept</h2>")
    for pictures, text in samples:
        shown = "".join(map(_img, pictures))
        parts.append(f"<figure>{shown}<figcaption>{html.escape(text)}</figcaption></figure>")
    parts.append("<h2>Dropped</h2>" if dropped else "")
    for item in dropped or []:
        shown = _img(Image.open(io.BytesIO(bytes.fromhex(item["picture"]))))
        text = html.escape(f"{item['reason']}: {item['detail']} ({item['key']})")
        parts.append(f"<figure>{shown}<figcaption>{text}</figcaption></figure>")
    style = (
        "body{font:14px sans-serif;margin:2em}figure{display:inline-block;margin:4px;"
        "max-width:60em}figcaption{max-width:40em;overflow-wrap:anywhere}td,th{padding:2px 8px;"
        "text-align:left}meter{width:20em}"
    )
    head = f"<meta charset=utf-8><title>{title}</title><style>{style}</style>"
    return f"<!doctype html><html><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def cells(tag: str, row: Sequence[Any]) -> str:
        return "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in row)

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', names)}</tr>{body}</table>"


def _meters(names: Sequence[str], counts: Sequence[int]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(str(name))}</td><td>{count}</td>"
        f"<td><meter max={max(counts)} value={count}></meter></td></tr>"
        for name, count in zip(names, counts, strict=True)
    )
    return f"<table>{rows}</table>"


def _img(picture: Image.Image) -> str:
    small = picture.convert("RGB")
    small.thumbnail((TILE, TILE))
    buffer = io.BytesIO()
    small.save(buffer, "jpeg", quality=85)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'

"""MSR-VTT (Xu et al. 2016), zero-shot: FID and CLIPSIM of a video per caption (MAV §4.1).

Papers take the 59,794 captions of the test split, of 2,990 videos with 20 captions each, and do not
say which 6 are missing. mav takes those that are in the file and not empty; the report counts them.
"""

import os
import pathlib

from mav.data import readers
from mav.evaluate import clips, protocol

PROTOCOL = protocol.Protocol(
    "msrvtt", "MSR-VTT", needs=("inception", "clip"), samples=59_794, together=20
)


def captions(path: str | os.PathLike) -> list[str]:
    """All captions of the test split, video by video. path: test_videodatainfo.json."""
    table = _test_split(path)
    return [caption for texts in table.values() for caption in texts]


def prompts(path: str | os.PathLike, num: int | None = None) -> list[str]:
    """A caption for each sample. num: so many, evenly spaced; None is all."""
    found = captions(path)
    num = len(found) if num is None else num
    if not 1 <= num <= len(found):
        raise ValueError(f"num_prompts={num} is impossible; {path} has {len(found)} captions.")
    return [found[i * len(found) // num] for i in range(num)]


def _test_split(path: str | os.PathLike) -> dict[str, list[str]]:
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{path} is not there; name MSR-VTT's test_videodatainfo.json.")
    videos, texts = readers.msrvtt(path)
    names = [video["video_id"] for video in videos if video.get("split", "test") == "test"]
    clean = lambda name: [" ".join(text.split()) for text in texts[name] if text.strip()]
    found = {name: clean(name) for name in names}
    if not any(found.values()):
        raise ValueError(f"{path} has no captions of the split test.")
    return found


def real(
    path: str | os.PathLike,
    media: str | os.PathLike | None,
    view: clips.View,
    partial: bool = False,
) -> clips.Clips:
    """Clips of the test split's videos.

    media: folder of the videos, None is that of the JSON. partial: takes those that there are.
    Raises ValueError if some are missing.
    """
    wanted = _test_split(path)
    source = readers.open_source("videos", path, format="msrvtt", media=media)
    records = [record for shard in source.shards() for record in source.read(shard)]
    found = {one.key: one for one in records if isinstance(one, readers.Record)}
    missing = [one for one in records if one.key in wanted and one.key not in found]
    if missing and (not partial or len(missing) == len(wanted)):
        raise ValueError(
            f"{source.media} lacks {len(missing)} of the {len(wanted)} videos of the split test, "
            f"the first being {missing[0].key} ({missing[0].reason}: {missing[0].detail}); name "
            "their folder by --media."
        )
    names = [name for name in wanted if name in found]
    facts = dict(kind="MSR-VTT", split="test")
    paths = [found[name].media for name in names]
    return clips.of_files(paths, names, view, facts, strict=False)

"""UCF-101 (Soomro et al. 2012), zero-shot: FVD and IS of videos of its 101 classes (MAV §4.1).

ucf101.json has, of each class, how many videos split 1 trains on, and one sentence. The paper's own
sentences were not published; these are mav's, and the report has their hash.
"""

import functools
import json
import os
import pathlib

import numpy as np

from mav.data import readers
from mav.evaluate import clips, protocol

PROTOCOL = protocol.Protocol("ucf101", "UCF-101", needs=("i3d", "c3d"), samples=10_000)
SPLITS = ("train", "test", "all")
TABLE = pathlib.Path(__file__).with_name("ucf101.json")


@functools.cache
def classes() -> dict[str, dict]:
    """Of each class its sentence and its number of videos in trainlist01."""
    return json.loads(TABLE.read_text(encoding="utf-8"))


def counts(num: int) -> dict[str, int]:
    """Of `num` samples those of each class, as in the training split, by largest remainders."""
    shares = np.array([row["train"] for row in classes().values()])
    exact = num * shares / shares.sum()
    found = np.floor(exact).astype(int)
    largest = np.argsort(found - exact, kind="stable")[: num - found.sum()]
    found[largest] += 1
    return dict(zip(classes(), found.tolist(), strict=True))


def prompts(num: int = PROTOCOL.samples) -> list[str]:
    """A sentence for each sample, in an order that mixes the classes."""
    sentences = [classes()[name]["sentence"] for name, k in counts(num).items() for _ in range(k)]
    return [sentences[i] for i in np.random.default_rng(0).permutation(num)]


def real(
    root: str | os.PathLike, split: str, view: clips.View, partial: bool = False
) -> clips.Clips:
    """Clips of the data set's videos.

    root: folder with the videos and ucfTrainTestlist somewhere below it. split: "train" and "test"
    are those of list 1, "all" is every video there. partial: takes what there is of a list.
    Raises ValueError if videos of the list are missing.
    """
    if split not in SPLITS:
        raise ValueError(f"real_split={split!r} is unknown; choose {', '.join(SPLITS)}.")
    if not pathlib.Path(root).is_dir():
        raise FileNotFoundError(f"{root} is not a folder; name that of UCF-101.")
    source = readers.open_source("videos", root, format="ucf101")
    records = [record for shard in source.shards() for record in source.read(shard)]
    found = {record.key.lower(): record for record in records}  # HandStand and Handstand
    if split != "all":
        lists = readers.ucf101_splits(root)
        if f"{split}list01" not in lists:
            raise ValueError(f"{root} has no {split}list01.txt below it; unpack UCF-101's lists.")
        names = [name.lower() for name in lists[f"{split}list01"]]
        missing = [name for name in names if name not in found]
        if missing and not partial:
            raise ValueError(
                f"{root} lacks {len(missing)} of the {len(names)} videos of {split}list01, the "
                f"first being {missing[0]}."
            )
        found = {name: found[name] for name in names if name in found}
    if not found:
        raise ValueError(f"{root} holds none of its .avi files.")
    chosen = [found[name] for name in sorted(found)]
    facts = dict(kind="UCF-101", split=split if split == "all" else f"{split}list01")
    return clips.of_files(
        [record.media for record in chosen],
        [record.caption for record in chosen],
        view,
        facts,
        strict=False,
    )

import csv
import gzip
import io
import json
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet
import pytest

from mav.data import readers


def items(kind, path, **options):
    source = readers.open_source(kind, path, **options)
    return [item for shard in source.shards() for item in source.read(shard)]


def records(kind, path, **options):
    found = items(kind, path, **options)
    assert all(isinstance(item, readers.Record) for item in found), found
    return found


def reasons(found):
    return [item.reason for item in found if isinstance(item, readers.Skipped)]


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def write_tar(path, members, mode="w"):
    """members: (name, content), or TarInfo without content."""
    with tarfile.open(path, mode) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return path


def sample(key, caption="a dog", suffix="jpg"):
    meta = dict(url=f"http://x/{key}", punsafe=0.25, LANGUAGE="en", caption="from json")
    return [
        (f"{key}.{suffix}", key.encode()),
        (f"{key}.txt", caption.encode()),
        (f"{key}.json", json.dumps(meta).encode()),
    ]


# What people have.


def test_a_folder_of_videos_is_read_in_order_without_opening_them(tmp_path):
    write(tmp_path, {"b.mkv": b"2", "a/c.MP4": b"1", "a/c.txt": "a cat", ".hidden.mp4": b"0"})
    first, second = records("videos", tmp_path)
    assert (first.key, first.caption, first.media) == ("a/c.MP4", "a cat", tmp_path / "a/c.MP4")
    assert (second.key, second.caption, second.origin) == ("b.mkv", None, {"file": "b.mkv"})


def test_images_take_their_captions_from_text_or_json(tmp_path):
    meta = json.dumps(dict(caption="of json", pwatermark=0.75, nsfw="UNLIKELY"))
    write(tmp_path, {"1.png": b"x", "1.txt": " of\n text ", "2.webp": b"y", "2.json": meta})
    first, second = records("images", tmp_path)
    assert (first.caption, first.media) == ("of text", b"x")
    assert (second.caption, second.scores) == ("of json", dict(watermark=0.75, nsfw="UNLIKELY"))


def test_a_big_folder_comes_in_shards(tmp_path, monkeypatch):
    monkeypatch.setitem(readers.FILES, "videos", 2)
    write(tmp_path, {f"{i}.mp4": b"x" for i in range(5)})
    source = readers.open_source("videos", tmp_path)
    assert [shard.files for shard in source.shards()] == [
        ("0.mp4", "1.mp4"),
        ("2.mp4", "3.mp4"),
        ("4.mp4",),
    ]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tars_of_the_downloaders(tmp_path, mode):
    suffix = ".tar" if mode == "w" else ".tar.gz"
    for shard in range(2):
        samples = [m for i in range(3) for m in sample(f"0000{shard}000{i}", f"caption {i}")]
        write_tar(tmp_path / f"0000{shard}{suffix}", samples, mode)
    write(tmp_path, {"00000.parquet": b"a list of all URLs", "00000_stats.json": "{}"})
    found = records("images", tmp_path)
    assert [r.key for r in found] == [f"0000{s}000{i}" for s in range(2) for i in range(3)]
    assert found[4].caption == "caption 1"
    assert found[4].media == b"000010001"
    assert found[4].scores == dict(nsfw=0.25, language="en")
    name = f"00001{suffix}"
    assert found[4].origin == dict(file=name, member="000010001.jpg", url="http://x/000010001")
    assert len(records("images", f"{tmp_path}/*0{suffix}")) == 3


def test_video_tars_need_no_caption_and_may_hold_sound(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.mp4", b"v"), ("1.mp3", b"a"), ("x/2.webm", b"w")])
    found = records("videos", tmp_path / "a.tar")
    assert [(r.key, r.media, r.caption) for r in found] == [("1", b"v", None), ("x/2", b"w", None)]


def test_webvid(tmp_path):
    rows = "videoid,name,page_idx,page_dir,duration,contentUrl\n"
    rows += '7,"A dog, running",0,000_050,PT00H00M17S,http://x/7\n8,"a ""cat""",0,000_050,,u\n'
    write(tmp_path, {"results.csv": rows, "v/000_050/7.mp4": b"", "v/000_050/8.mp4": b""})
    first, second = records("videos", tmp_path / "results.csv", media=tmp_path / "v")
    assert (first.key, first.caption) == ("7", "A dog, running")
    assert first.media.samefile(tmp_path / "v/000_050/7.mp4")
    assert first.origin["url"] == "http://x/7"
    assert second.caption == 'a "cat"'


def test_hdvila_gives_the_spans_of_its_clips(tmp_path):
    clips = [dict(clip_id=f"ab.{i}.mp4", span=[f"00:01:1{i}.500", "01:00:00"]) for i in range(2)]
    line = json.dumps(dict(video_id="ab", url="http://x", clip=clips))
    write(tmp_path, {"part0.jsonl": f"{line}\n", "ab.mp4": b""})
    first, second = records("videos", tmp_path / "part0.jsonl")
    assert (first.key, first.span) == ("ab.0.mp4", (70.5, 3600.0))
    assert (second.span, second.origin["media"]) == ((71.5, 3600.0), "ab.mp4")


def test_rows_of_a_long_list_are_each_read_once(tmp_path, monkeypatch):
    monkeypatch.setitem(readers.FILES, "videos", 3)
    captions = [f"one, {i}" if i % 2 else f'two\n"lines" {i} \u00e9' for i in range(11)]
    with open(tmp_path / "list.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "caption", "start", "end"))
        rows.writerows(("a.mp4", caption, i, i + 1) for i, caption in enumerate(captions))
    write(tmp_path, {"a.mp4": b""})
    source = readers.open_source("videos", tmp_path / "list.csv")
    assert len(source.shards()) == 4
    found = [r for shard in source.shards() for r in source.read(shard)]
    assert [r.caption for r in found] == [" ".join(c.split()) for c in captions]
    assert [r.span for r in found] == [(i, i + 1) for i in range(11)]
    assert len({r.key for r in found}) == 11


def test_parquet_with_columns_of_other_names(tmp_path):
    columns = dict(
        PIC=[b"1", b"2", b"3"],
        TEXT=["a", "b", "c"],
        pwatermark=pa.array([0.25, None, 0.75], pa.float32()),
        NSFW=["UNLIKELY", "NSFW", None],
    )
    pa.parquet.write_table(pa.table(columns), tmp_path / "p.parquet", row_group_size=2)
    found = records("images", tmp_path / "p.parquet", columns=dict(media="PIC"))
    assert [r.media for r in found] == [b"1", b"2", b"3"]
    assert [r.caption for r in found] == ["a", "b", "c"]
    wanted = [dict(watermark=0.25, nsfw="UNLIKELY"), dict(nsfw="NSFW"), dict(watermark=0.75)]
    assert [r.scores for r in found] == wanted


def test_parquet_of_hugging_face_and_of_paths(tmp_path):
    image = [dict(bytes=b"1", path="1.jpg"), dict(bytes=None, path="2.jpg")]
    pa.parquet.write_table(pa.table(dict(image=image, text=["a", "b"])), tmp_path / "p.parquet")
    write(tmp_path, {"2.jpg": b"2"})
    assert [r.media for r in records("images", tmp_path / "p.parquet")] == [b"1", b"2"]


def test_ucf101(tmp_path):
    name = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi"
    lists = {
        "ucfTrainTestlist/classInd.txt": "1 ApplyEyeMakeup\n",
        "ucfTrainTestlist/trainlist01.txt": f"{name} 1\r\n",
        "ucfTrainTestlist/testlist01.txt": f"{name.replace('g08', 'g01')}\n",
    }
    write(tmp_path, {f"UCF-101/{name}": b"", **lists})
    (record,) = records("videos", tmp_path)
    assert (record.key, record.caption) == (name, "Apply Eye Makeup")
    splits = readers.ucf101_splits(tmp_path)
    assert splits == dict(trainlist01=[name], testlist01=[name.replace("g08", "g01")])


def test_msrvtt(tmp_path):
    videos = [{"video_id": f"video{i}", "split": "test", "start time": 1.5} for i in range(2)]
    pairs = [("video1", "a cat"), ("video0", "a dog"), ("video1", "cats")]
    sentences = [dict(sen_id=0, video_id=video, caption=caption) for video, caption in pairs]
    table = json.dumps(dict(info={}, videos=videos, sentences=sentences))
    write(tmp_path, {"test_videodatainfo.json": table, "TestVideo/video1.mp4": b""})
    path = tmp_path / "test_videodatainfo.json"
    missing, record = items("videos", path)
    assert (missing.key, missing.reason) == ("video0", "missing file")
    assert (record.key, record.caption) == ("video1", "a cat")
    assert readers.msrvtt(path)[1] == dict(video0=["a dog"], video1=["a cat", "cats"])


# What is wrong with it.


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"1.png": b"x"}, "empty caption"),
        ({"1.png": b"x", "1.txt": "  \n"}, "empty caption"),
        ({"1.png": b"x", "1.txt": b"caf\xe9"}, "text is not UTF-8"),
        ({"1.png": b"x", "1.json": b'{"caption": "caf\xe9"}'}, "text is not UTF-8"),
        ({"1.png": b"x", "1.json": '{"caption": '}, "bad JSON"),
        ({"1.png": b"x", "1.json": '["a"]'}, "bad JSON"),
        ({"1.png": b"x", "1.json": "[" * 100_000}, "bad JSON"),
        ({"1.png": b"x", "1.json": '{"caption": 3}'}, "bad caption"),
        ({"1.png": b"x", "1.txt": "x" * 2**20 + "y"}, "too many bytes"),
        ({"1.png": b"x" * 101, "1.txt": "a"}, "too many bytes"),
        ({"1.psd": b"x", "1.txt": "a"}, "unknown suffix"),
    ],
)
def test_a_bad_file_is_skipped_and_the_next_is_read(tmp_path, monkeypatch, files, reason):
    monkeypatch.setitem(readers.MAX_BYTES, "images", 100)
    write(tmp_path, {**files, "2.png": b"y", "2.txt": "fine"})
    bad, good = items("images", tmp_path)
    assert (bad.key.partition(".")[0], bad.reason) == ("1", reason)
    assert good.caption == "fine"


def test_what_may_not_be_read_is_skipped(tmp_path, monkeypatch):
    def refuse(path, *_):
        if os.fspath(path).endswith("1.png"):  # root may read all there is
            raise PermissionError(13, "Permission denied")
        return original(path, *_)

    original = readers._read_media
    monkeypatch.setattr(readers, "_read_media", refuse)
    write(tmp_path, {"1.png": b"x", "1.txt": "a", "2.png": b"y", "2.txt": "b"})
    bad, good = items("images", tmp_path)
    assert (bad.reason, bad.detail, good.key) == ("unreadable file", "Permission denied", "2.png")


def link(name, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        (sample("/etc/passwd"), "unsafe name in tar"),
        (sample("../../x"), "unsafe name in tar"),
        (sample("a/../../x"), "unsafe name in tar"),
        ([link("1.jpg"), ("1.txt", b"a")], "no file in tar"),
        ([link("1.jpg", tarfile.LNKTYPE), ("1.txt", b"a")], "no file in tar"),
        ([link("1.jpg", tarfile.FIFOTYPE), ("1.txt", b"a")], "no file in tar"),
        ([("1.txt", b"a")], "no image in sample"),
        ([("1.jpg", b"x"), ("1.jpg", b"y"), ("1.txt", b"a")], "duplicate key"),
        ([("1.jpg", b"x"), ("1.png", b"y"), ("1.txt", b"a")], "duplicate key"),
        ([("1.jpg", b"x" * 101), ("1.txt", b"a")], "too many bytes"),
        ([("1.jpg", b"x"), ("1.txt", b"\xff")], "text is not UTF-8"),
        ([("1.jpg", b"x")], "empty caption"),
    ],
)
def test_a_bad_sample_is_skipped_and_the_next_is_read(tmp_path, monkeypatch, members, reason):
    monkeypatch.setitem(readers.MAX_BYTES, "images", 100)
    write_tar(tmp_path / "a.tar", [*members, *sample("2", "fine")])
    bad, good = items("images", tmp_path / "a.tar")
    assert bad.reason == reason
    assert (good.key, good.caption) == ("2", "fine")


def test_a_key_that_comes_again_is_skipped(tmp_path):
    write_tar(tmp_path / "a.tar", [*sample("1", "first"), *sample("2"), *sample("1", "second")])
    found = items("images", tmp_path / "a.tar")
    assert [type(item).__name__ for item in found] == ["Record", "Record", "Skipped"]
    assert (found[2].key, found[2].reason) == ("1", "duplicate key")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_truncated_tar_gives_what_is_whole(tmp_path, suffix):
    path = write_tar(tmp_path / "a.tar", [m for i in range(4) for m in sample(f"{i}")])
    whole = path.read_bytes()
    counts = set()
    for length in (100, 700, 512 * 7, 512 * 7 + 100, 512 * 13 + 5, 512 * 20 + 1):
        cut = whole[:length]
        if suffix == ".tar.gz":
            cut = gzip.compress(whole, 0)[:length]
        write(tmp_path, {f"cut{suffix}": cut})
        found = items("images", tmp_path / f"cut{suffix}")
        kept = [item.key for item in found if isinstance(item, readers.Record)]
        assert kept == [f"{i}" for i in range(len(kept))]
        assert len(kept) < 4
        if length % 512:
            assert "damaged tar" in reasons(found)
        counts.add(len(kept))
    assert max(counts) > 1


def test_a_file_that_is_no_tar_is_skipped(tmp_path):
    for content in (b"", b"no tar", os.urandom(2048)):
        write(tmp_path, {"a.tar": content})
        assert reasons(items("images", tmp_path / "a.tar")) == ["damaged tar"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.mp4,x,5,3", "bad time span"),
        ("a.mp4,x,now,later", "bad time span"),
        ("a.mp4,x,-1,3", "bad time span"),
        ("a.mp4,x,0,inf", "bad time span"),
        ("a.mp4,x,nan,3", "bad time span"),
        ("b.mp4,x,,", "missing file"),
        ("../out.mp4,x,,", "file outside the media folder"),
        ("/etc/passwd,x,,", "file outside the media folder"),
        (",x,,", "no file named"),
        ("a.mp4,x", "bad row"),
        (b"a.mp4,caf\xe9,,", "text is not UTF-8"),
        ("a.mp4," + "x" * 200_000 + ",,", "bad row"),
    ],
)
def test_a_bad_row_is_skipped_and_the_next_is_read(tmp_path, row, reason):
    row = row if isinstance(row, bytes) else row.encode()
    rows = b"\xef\xbb\xbfpath,caption,start,end\n" + row + b"\na.mp4,fine,1,00:02\n"
    write(tmp_path, {"in/list.csv": rows, "in/a.mp4": b"", "out.mp4": b""})
    bad, good = items("videos", tmp_path / "in/list.csv")
    assert bad.reason == reason
    assert (good.caption, good.span) == ("fine", (1, 2))


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "3",
        "[" * 100_000,
        '{"video_id": "a", "clip": [{"span": ["0"]}]}',
        '{"clip": [3]}',
    ],
)
def test_a_bad_line_is_skipped_and_the_next_is_read(tmp_path, line):
    write(tmp_path, {"l.jsonl": f'{line}\n\n{{"path": "a.mp4"}}', "a.mp4": b""})
    bad, good = items("videos", tmp_path / "l.jsonl")
    assert bad.reason == "bad row"
    assert good.media.name == "a.mp4"


def test_damage_inside_a_parquet_ends_that_row_group(tmp_path):
    path = tmp_path / "p.parquet"
    table = pa.table(dict(image=[os.urandom(5000) for _ in range(40)], text=["a"] * 40))
    pa.parquet.write_table(table, path, row_group_size=20, use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36
    path.write_bytes(content)
    found = items("images", path)
    assert reasons(found) == ["damaged parquet"]
    assert len(found) >= 21


def test_sources_that_cannot_be_told_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="as a pattern matches no file"):
        readers.open_source("videos", tmp_path / "*.tar")
    with pytest.raises(ValueError, match=r"nothing that holds videos"):
        readers.open_source("videos", tmp_path)
    write_tar(tmp_path / "a.tar", [])
    write(tmp_path, {"b.mp4": b""})
    with pytest.raises(ValueError, match=r"both folder and tar in it; .* --format"):
        readers.open_source("videos", tmp_path)
    assert readers.open_source("videos", tmp_path, format="tar").names == ("a.tar",)
    with pytest.raises(ValueError, match="choose from folder, tar"):
        readers.open_source("videos", tmp_path, format="zip")
    with pytest.raises(ValueError, match="no role 'captoin'"):
        readers.open_source("videos", tmp_path, columns=dict(captoin="x"))
    pa.parquet.write_table(pa.table(dict(URL=["http://x"], TEXT=["a"])), tmp_path / "l.parquet")
    with pytest.raises(ValueError, match=r"columns URL, TEXT, of which none .* --columns media="):
        items("images", tmp_path / "l.parquet")

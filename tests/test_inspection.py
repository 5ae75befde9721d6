import html.parser
import json
import time

import numpy as np
import pytest
from PIL import Image

from mav import cli
from mav.data import inspection
from test_prepare import build, image_folder, moving, picture


class Page(html.parser.HTMLParser):
    """Tags and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, text):
        self.texts.append(text)


def look(folder, *arguments):
    assert cli.main(["data", "inspect", str(folder), *arguments]) == 0
    return Page((folder / "inspect.html").read_text("utf-8"))


def test_images_with_what_was_dropped(tmp_path):
    folder = image_folder(tmp_path / "in", 6)
    (folder / "5.txt").write_text("<script>alert(1)</script> a picture")
    (folder / "bad.png").write_bytes(picture(7))
    (folder / "bad.txt").write_text("hardcore porn")
    build("images", folder, tmp_path / "out", test_share=0)
    page = look(tmp_path / "out")
    assert "script" not in {tag for tag, _ in page.tags}  # captions are text, whatever is in them
    assert "<script>alert(1)</script> a picture" in page.texts
    assert any(text.startswith("filter toxic: ") and "(bad.png)" in text for text in page.texts)
    assert sum(tag == "img" for tag, _ in page.tags) == 7
    assert all(a["src"].startswith("data:image/jpeg") for tag, a in page.tags if tag == "img")
    with Image.open(tmp_path / "out" / "inspect.png") as sheet:
        assert sheet.width == 768
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 100


def test_histograms_of_videos_count_what_is_there(tmp_path):
    (tmp_path / "in").mkdir()
    for i, fps in enumerate((10, 20, 25)):
        moving(tmp_path / "in" / f"{i}.mp4", 40, fps, look=i)
    build("videos", tmp_path / "in", tmp_path / "out", test_share=0, filter_text="seconds")
    found = inspection.run(tmp_path / "out", tmp_path / "elsewhere")
    assert found["frames per second"] == pytest.approx([10, 20, 25], rel=1e-3)
    assert found["length in seconds"] == pytest.approx([3.9, 1.95, 1.56], abs=2e-3)
    assert found["shorter side of the source in pixels"] == [64, 64, 64]
    assert (tmp_path / "elsewhere" / "inspect.png").exists()
    assert json.loads((tmp_path / "out" / "dropped.json").read_text()) == []


def test_numbers_that_are_shown_alike_share_a_bar():
    counts, edges = inspection._histogram([29.999, 30, 30.0004, 2.47, 2.4667])
    assert counts.tolist() == [2, *[0] * (len(counts) - 2), 3]
    assert (edges[0], edges[-1]) == (2.47, 30)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("text", ["", "null", '{"name": ', '{"a": 1}'])
def test_a_damaged_data_set_is_named_in_one_line(tmp_path, capsys, name, text):
    folder = image_folder(tmp_path / "in", 2)
    build("images", folder, tmp_path / "out", test_share=0)
    (tmp_path / "out" / name).write_text(text)
    capsys.readouterr()
    assert cli.main(["data", "inspect", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'out'} is a damaged data set; `mav data build`" in said
    assert said.count("\n") == 1


def test_a_caption_of_any_length_is_cut_at_once():
    start = time.process_time()
    heading = np.asarray(inspection._heading("a ball " * 15_000))
    assert time.process_time() - start < 1
    assert (heading[:, 700:764] < 128).any()
    assert (heading[:, 764:] == 255).all()


def test_a_folder_that_is_no_data_set_is_named(tmp_path, capsys):
    assert cli.main(["data", "inspect", str(tmp_path)]) == 2
    assert "is not a prepared data set" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

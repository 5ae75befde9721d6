"""The README and the pages of docs: their links lead somewhere, their Python runs."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "mav/cascades/README.md"]
name = lambda page: str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_that_are_there(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    for link in links:
        if not link.startswith("https://"):
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_of_python_are_python(page):
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S):
        ast.parse(block)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_page_of_edits_makes_its_pictures(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "pictures").mkdir()
    for file in ("run.py", "edits.md"):
        (docs / file).write_text((ROOT / "docs" / file).read_text("utf-8"), "utf-8")
    subprocess.run([sys.executable, docs / "run.py", "edits"], check=True)
    made = {path.name for path in (docs / "pictures").iterdir()}
    assert made == set(re.findall(r"\(pictures/(.+?)\)", (docs / "edits.md").read_text("utf-8")))

"""The README and the pages of docs: links lead somewhere, Python runs, what they name is there."""

import ast
import functools
import pathlib
import re
import runpy
import subprocess
import sys
import tomllib

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
FOLDERS = (ROOT, ROOT / "docs", ROOT / "mav/cascades")
PAGES = [page for folder in FOLDERS for page in sorted(folder.glob("*.md"))]
name = lambda page: str(page.relative_to(ROOT))


@functools.cache
def defined(file):
    """Names in a Python file: `f`, `Class`, `Class.method`, `Class.field`, `TABLE`."""
    found = set()

    def collect(body, prefix):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                collect(node.body, f"{prefix}{node.name}.")
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            for target in targets:
                if isinstance(target, ast.Name):
                    found.add(prefix + target.id)

    collect(ast.parse(file.read_text("utf-8")).body, "")
    return found


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


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_names_that_link_to_code_are_defined_there(page):
    """[`stages.embed_first_frame`](../mav/stages.py): the file, then what is in it."""
    for text, link in re.findall(r"\[`([^`]+)`\]\(([^)]+\.py)\)", page.read_text("utf-8")):
        if "/" not in text:  # which is the file alone
            file = page.parent / link
            assert text.removeprefix(f"{file.stem}.") in defined(file), text


def test_every_page_is_on_the_site():
    site = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]
    named = {page for entry in site["nav"] for pages in entry.values() for page in np.ravel(pages)}
    assert named == {page.name for page in ROOT.glob("docs/*.md")}


def said():
    """What the code can say: its texts, with a star for what is filled in, and launch's lines."""
    for file in [*ROOT.glob("mav/**/*.py"), *ROOT.glob("configs/*.py")]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = node.values
                yield "".join(p.value if isinstance(p, ast.Constant) else "*" for p in parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
    for file in ROOT.glob("launch/*.sh"):
        yield from file.read_text("utf-8").splitlines()


def test_every_message_of_the_page_on_trouble_is_one_of_the_code():
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    messages = re.findall(r"^\| `(.+?)` \|", page, re.M)
    assert len(messages) > 50
    texts = "\n".join(said())
    for message in messages:
        pattern = ".*".join(re.escape(part.strip(" ")) for part in message.split("..."))
        assert re.search(pattern, texts), message


def test_the_pages_of_commands_and_configs_are_what_these_say_now():
    made = runpy.run_path(str(ROOT / "docs" / "reference.py"))
    for page, write in (("cli", made["cli_page"]), ("configs", made["configs_page"])):
        text = (ROOT / "docs" / f"{page}.md").read_text("utf-8")
        assert text == write(), "run python docs/reference.py"


def test_the_figure_of_the_architecture_is_what_its_script_draws():
    made = runpy.run_path(str(ROOT / "docs" / "figure.py"))
    assert made["PATH"].read_text("utf-8") == made["draw"](), "run python docs/figure.py"


def test_the_gallery_is_what_its_script_writes():
    made = runpy.run_path(str(ROOT / "docs" / "gallery.py"))
    text = (ROOT / "docs" / "gallery.md").read_text("utf-8")
    assert text == made["page"](), "run python docs/gallery.py"


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

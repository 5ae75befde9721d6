"""Runs the Python blocks of a page from top to bottom, in this folder, where its pictures go.

python docs/run.py edits        # docs/edits.md; minutes of both cores
"""

import os
import pathlib
import re
import sys
from typing import Any

from mav import cli

HERE = pathlib.Path(__file__).resolve().parent


def blocks(page: pathlib.Path) -> list[str]:
    """The Python blocks of a page, each moved down to its line, so that errors point there."""
    text = page.read_text("utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return ["\n" * text.count("\n", 0, match.start(1)) + match[1] for match in found]


def run(name: str) -> dict[str, Any]:
    """Runs one page. Returns what its code has named."""
    page, names = HERE / f"{name}.md", {}
    cli.cache_compilations()
    cli.choose_cpu_convolutions()
    os.chdir(HERE)
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)
    return names


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (HERE / f"{sys.argv[1]}.md").is_file():
        pages = ", ".join(sorted(path.stem for path in HERE.glob("*.md")))
        sys.exit(f"name one page of docs: {pages}")
    run(sys.argv[1])

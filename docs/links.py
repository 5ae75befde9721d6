"""For the site: links to files of the repository, which is not part of it, become their words.

`zensical.toml` names it; on GitHub the pages are read without it. The site is built from the root,
by `python -m zensical build --strict`, so that this is found.
"""

from xml.etree import ElementTree

from markdown import Extension, Markdown
from markdown.treeprocessors import Treeprocessor


class Outside(Treeprocessor):
    """Takes the link from what leads out of docs."""

    def run(self, root: ElementTree.Element) -> None:
        for link in root.iter("a"):
            if link.get("href", "").startswith("../"):
                link.tag = "span"
                link.attrib.clear()


class Links(Extension):
    """`Outside`, before Zensical moves links to where pages are on the site."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        md.treeprocessors.register(Outside(md), "outside", 10)


def makeExtension(**options) -> Links:  # noqa: N802
    """What Python-Markdown asks for."""
    return Links(**options)

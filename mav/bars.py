"""Progress bars: they move on terminals and in notebooks, and write a line at a time into files."""

import contextlib
import contextvars
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from tqdm.auto import tqdm

SECONDS = 10.0  # from one line of a file to the next

_hidden = contextvars.ContextVar("hidden", default=False)


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """No bar is seen within."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


def bar(iterable: Iterable | None = None, *, disable: bool = False, **options: Any) -> tqdm:
    """A bar of tqdm. Where standard error is a file, it becomes a line every `SECONDS`."""
    if not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        lines = dict(mininterval=SECONDS, maxinterval=SECONDS, ascii=True, ncols=80)
        options = dict(file=Lines(sys.stderr), **lines) | options
    return tqdm(iterable, disable=disable or _hidden.get(), **options)


class Lines:
    """A text file in which what tqdm draws over the last state of a bar begins a new line."""

    def __init__(self, file: TextIO):
        self.file = file

    def write(self, text: str) -> None:
        """Writes a state; what only moves or clears is left out."""
        if state := text.strip():
            self.file.write(f"{state}\n")

    def flush(self) -> None:
        """So that a line is there when it is written."""
        self.file.flush()

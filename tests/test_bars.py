import contextlib
import io
import os
import pty
import sys
import termios

from mav import bars


def test_a_log_file_gets_whole_lines_few_of_them(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    assert sum(bars.bar(range(1000), desc="decoder", unit="call")) == 499500
    first, last = log.getvalue().splitlines()
    assert "\r" not in log.getvalue()
    assert "0/1000" in first
    assert last.startswith("decoder: 100%")
    assert "1000/1000" in last
    assert max(map(len, (first, last))) <= 80


def test_without_seconds_between_them_every_state_is_a_line_of_a_log_file(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(bars, "SECONDS", 0.0)
    list(bars.bar(range(20), miniters=1))
    assert len(log.getvalue().splitlines()) >= 20


def test_a_terminal_sees_one_line_that_moves(monkeypatch):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 40))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        list(bars.bar(range(20), mininterval=0, miniters=1))
    seen = b"".join(_pieces(ours)).decode()
    assert seen.count("\r") > 20
    assert seen.count("\n") == 1
    assert max(map(len, seen.split("\r"))) <= 40


def _pieces(screen: int):
    """What was written to a terminal that is closed by now; a read may end before it does."""
    with os.fdopen(screen, "rb", buffering=0) as file, contextlib.suppress(OSError):
        while piece := file.read(2**16):  # Linux says EIO at the end
            yield piece


def test_hidden_bars_say_nothing_and_count_all_the_same(capsys):
    with bars.hidden():
        assert list(bars.bar(range(3))) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    list(bars.bar(range(3)))
    assert "3/3" in capsys.readouterr().err

"""The plan's table in narrow and wide terminals, seen through a real one of each size."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from gptjax.stages.plan import COLUMNS, shown_columns

ROW = ("1.3e+13", "128", "12", "1,000,000", "900,000", "950,000", "3,276,800", "16", "12,800")
ROW += ("0.00123", "1.317e+13", "1.251e+13", "12345.6")


def test_columns_that_fit_are_whole():
    assert shown_columns([ROW], 200) == list(COLUMNS)
    for width in (60, 80, 100, 130):
        shown = shown_columns([ROW], width)
        cells = dict(zip(COLUMNS, ROW, strict=True))
        assert sum(max(len(name), len(cells[name])) + 3 for name in shown) + 1 <= width
        assert {"params", "tokens", "FLOPs", "seconds"} <= set(shown)


SHOW = """
from gptjax.stages import plan
from rich.console import Console
rows = [{row!r}] * 3
plan._print_table(Console(), rows)
"""
PANEL = """
import time
from rich.console import Console
from gptjax.engines.display import Display
shown = object.__new__(Display)
shown._started, shown._done, shown._cells, shown._total = time.monotonic(), set(), [1], 2.0
Console().print(shown._panel(1.0, 5.0, []))
"""


def in_terminal(code, columns, lines):
    """What a program prints in a pseudo-terminal of that size."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=child,
        stdout=child,
        stderr=child,
        env={**kept, "TERM": "xterm", "NO_COLOR": "1"},
        cwd=Path(__file__).parents[2],
    )
    os.close(child)
    text = b""
    while True:
        try:
            some = os.read(parent, 65536)
        except OSError:
            break
        if not some:
            break
        text += some
    assert process.wait() == 0, text.decode()
    return re.sub("\x1b\\[[0-9;]*m", "", text.decode()).splitlines()


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 50)])
def test_a_terminal_shows_whole_columns(columns, lines):
    shown = in_terminal(SHOW.format(row=ROW), columns, lines)
    text = "\n".join(shown)
    assert max(map(len, shown)) <= columns and "…" not in text
    assert ("columns have no" in text) == (columns == 80)
    assert "1,000,000" in text and "12345.6" in text


def test_the_header_of_the_live_table_has_a_line_of_its_own():
    shown = in_terminal(PANEL, 80, 24)
    assert any(line.split()[:2] == ["budget", "width"] for line in shown), shown

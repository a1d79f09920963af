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

from gptjax.scaling import Table
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
from pathlib import Path
from gptjax.stages import plan
from rich.console import Console
rows = [{row!r}] * 3
plan._print_table(Console(), rows, Path({path!r}))
"""
PANEL = """
import time
from rich.console import Console
from gptjax.engines import display
shown = object.__new__(display.Display)
shown._started, shown._done, shown._count, shown._total = time.monotonic(), display._Sums(), 1, 2.0
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


WIDEN = """
import fcntl, struct, termios
print("wider", flush=True)
fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(file, lines) of a terminal of 80 columns and of the same when it has 200."""
    paths = {columns: tmp_path_factory.mktemp("plan") / "plan.csv" for columns in (80, 200)}
    narrow, wide = (SHOW.format(row=ROW, path=str(path)) for path in paths.values())
    shown = in_terminal(narrow + PANEL + WIDEN + wide, 80, 24)
    place = shown.index("wider")
    return {80: (paths[80], shown[:place]), 200: (paths[200], shown[place + 1 :])}


@pytest.mark.parametrize("columns", [80, 200])
def test_a_terminal_shows_whole_columns(columns, both):
    """What it has no room for is in a file, and the sentence says in which; the live table too."""
    path, shown = both[columns]
    text = "\n".join(shown)
    sentences = [line for line in shown if "columns have no" in line]
    assert all(len(line) <= columns for line in shown if line not in sentences) and "…" not in text
    assert path.exists() == (columns == 80) == any(f"{path} has all" in line for line in sentences)
    if path.exists():
        table = Table.read(path)
        assert len(table) == 3 and list(table.columns) == list(COLUMNS)
        assert table.numbers("params")[0] == 1_000_000 and table.numbers("6ND")[0] == 1.251e13
    assert "1,000,000" in text and "12345.6" in text
    # The live table's header has a line of its own.
    assert columns != 80 or any(line.split()[:2] == ["budget", "width"] for line in shown), shown

"""Style of figures, and the one function that saves them.

Figures are `matplotlib.figure.Figure` objects on the Agg canvas; no pyplot, no global state. Every
colour has a role (`INK`, `ACCENT`, the k-th budget). In files the roles keep their light values; in
the page's inline SVG they become CSS variables, so that one drawing serves a light and a dark page.
"""

import contextlib
import functools
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from fontTools import subset
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from gptjax.files import write_atomic
from gptjax.report.config import FORMATS
from gptjax.report.numbers import power_text, tick_text

LAYOUT_TABLES = ("GSUB", "GPOS", "GDEF", "kern")
WIDTH, HEIGHT = 4.3, 3.2  # inches: a paper column, with text at 8 points

# role: (light, dark)
ROLES = {
    "ink": ("#1b1f24", "#e8eaed"),
    "muted": ("#5b6471", "#a3abb6"),
    "grid": ("#e3e6ea", "#2c323a"),
    "paper": ("#fffffe", "#16191e"),
    "accent": ("#0b5fa6", "#6fb4f5"),
    "second": ("#b3500b", "#f3a562"),
}
INK, MUTED, GRID, PAPER, ACCENT, SECOND = (light for light, _ in ROLES.values())

# plasma is perceptually uniform and safe for the colour-blind. The ends that would vanish on the
# page (yellow on white, indigo on black) are cut off.
_LIGHT_SPAN, _DARK_SPAN = (0.0, 0.74), (0.40, 0.97)

RC: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "figure.facecolor": PAPER,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.size": 1.8,
    "ytick.minor.size": 1.8,
    "legend.fontsize": 7.0,
    "legend.title_fontsize": 7.0,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.borderaxespad": 0.3,
    "legend.labelspacing": 0.35,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "gptjax",
    "pdf.fonttype": 42,
    "path.simplify": True,
}


@dataclass(frozen=True)
class Palette:
    """One sequential colour for each budget, in rising order."""

    light: tuple[str, ...]
    dark: tuple[str, ...]

    def __getitem__(self, index: int) -> str:
        return self.light[index]


@functools.cache
def palette(count: int) -> Palette:
    """Colours for `count` budgets, from the smallest to the largest; one at least."""
    count = max(count, 1)
    colormap = matplotlib.colormaps["plasma"]

    def sample(span: tuple[float, float]) -> tuple[str, ...]:
        steps = max(count - 1, 1)
        return tuple(
            to_hex(colormap(span[0] + (span[1] - span[0]) * i / steps)) for i in range(count)
        )

    return Palette(sample(_LIGHT_SPAN), sample(_DARK_SPAN))


def new_figure(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """An empty figure in house style and its axes; sizes in inches."""
    with drawing():
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.add_subplot()


def settle(figure: Figure) -> None:
    """Fix the layout once, so that every format gets the same one and none computes it again."""
    for ax in figure.axes:
        for artist in [*ax.lines, *ax.collections]:
            artist.set_in_layout(False)  # clipped to the axes, so they cannot need room
    with drawing():
        engine = figure.get_layout_engine()
        if engine is not None:
            engine.execute(figure)
        figure.set_layout_engine(None)  # "none" would draw twice each time it is saved


def drawing() -> contextlib.AbstractContextManager[None]:
    """The context in which draw functions and saving run, so that style is always the same."""
    return matplotlib.rc_context(RC)


def log_axis(ax: Axes, which: str, kind: str = "power") -> None:
    """Make axis `which` ('x' or 'y') logarithmic with plain-text labels that never collide.

    Args:
      kind: 'power' (10¹²), 'count' (12.5k) or 'loss' (1.5).
    """
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    low, high = sorted(axis.get_view_interval())
    decades = _decades(low, high)
    if kind == "loss":
        steps: Sequence[float] = _loss_ticks(low, high)
        axis.set_major_locator(FixedLocator(list(steps)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        return
    subs = (1.0,) if decades > 2.2 else (1.0, 3.0) if decades > 1.1 else (1.0, 2.0, 5.0)
    text = tick_text if kind == "count" else power_text
    axis.set_major_locator(LogLocator(base=10, subs=subs, numticks=12))
    axis.set_minor_locator(LogLocator(base=10, subs=range(2, 10), numticks=99))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_formatter(NullFormatter())


def _decades(low: float, high: float) -> float:
    return math.log10(high / low) if low > 0 and high > low else 1.0


def _loss_ticks(low: float, high: float) -> list[float]:
    """Between four and eight round values of a loss axis, which rarely spans a decade."""
    for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < 7:
            return [k * step for k in range(first, last + 1) if k > 0]
    return [low, high]


def save(figure: Figure, folder: Path, name: str, formats: Sequence[str], dpi: int) -> list[Path]:
    """Write `figure` as `folder/name.{format}`, each whole or not at all; returns the paths.

    The bytes depend on the drawing alone: no dates, no random identifiers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind in formats:
        buffer = io.BytesIO()
        with drawing(), _without_layout_tables():
            figure.savefig(buffer, format=kind, dpi=dpi, metadata=FORMATS[kind])
        path = folder / f"{name}.{kind}"
        write_atomic(path, buffer.getvalue())
        paths.append(path)
    return paths


@contextlib.contextmanager
def _without_layout_tables() -> Iterator[None]:
    """Fonts go into a PDF without the tables that lay out text, which a PDF places by glyph.

    Reading those of DejaVu Sans to subset them takes longer than drawing the figure.
    """
    load = subset.load_font

    def without(*arguments: Any, **options: Any) -> Any:
        font = load(*arguments, **options)
        for name in LAYOUT_TABLES:
            if name in font:
                del font[name]
        return font

    subset.load_font = without
    try:
        yield
    finally:
        subset.load_font = load

"""Figure of memorization: exposure and extraction of canaries against repetitions, by size."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gptjax.report import style


def draw(
    folder: Path, rows: list[dict[str, Any]], digits: int, formats: tuple[str, ...], dpi: int
) -> list[Path]:
    """Write `memorization.*`; the dashed line is the exposure of the first rank."""
    widths = sorted({row["width"] for row in rows})
    colours = style.palette(len(widths))
    with style.drawing():
        figure = Figure(figsize=(6.4, 2.7), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 2)
        for ax, key in zip(axes, ("exposure", "extracted"), strict=True):
            for i, width in enumerate(widths):
                counts = sorted({row["repetitions"] for row in rows})
                means = [
                    np.mean([r[key] for r in rows if (r["width"], r["repetitions"]) == (width, n)])
                    for n in counts
                ]
                ax.plot(counts, means, "o-", color=colours[i], label=f"width {width}")
            ax.set_xscale("log")
            ax.set_xlabel("times in the text")
        axes[0].axhline(digits * math.log2(10), color=style.MUTED, ls="--", lw=0.8)
        axes[0].set_ylabel("exposure (bits)")
        axes[1].set_ylabel("share extracted")
        axes[0].legend()
    style.settle(figure)
    return style.save(figure, folder / "figures", "memorization", formats, dpi)

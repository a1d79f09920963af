"""Figure of context extensions: loss by position, and retrieval of a needle by length."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gptjax.report import style


def draw(folder: Path, content: dict[str, Any], formats: tuple[str, ...], dpi: int) -> list[Path]:
    """Write `context_extension.*`; dashed: where training ended, dotted: needles by a guess."""
    colours = style.palette(len(content["methods"]))
    with style.drawing():
        figure = Figure(figsize=(7.4, 2.6), layout="constrained")
        FigureCanvasAgg(figure)
        loss, by_length, by_depth = figure.subplots(1, 3)
        for i, (name, row) in enumerate(content["methods"].items()):
            found, line = row["needle"], {"color": colours[i], "label": name}
            rate = np.array(found["rate"], float)
            loss.plot(row["position"], row["loss"], "o-", **line)
            by_length.plot(found["lengths"], rate.mean(axis=0), "o-", **line)
            by_depth.plot(found["depths"], rate[:, -1], "o-", **line)
        for ax in (loss, by_length):
            ax.axvline(content["trained"], color=style.MUTED, ls="--", lw=0.8)
            ax.set_xlabel("tokens")
        for ax in (by_length, by_depth):
            ax.axhline(0.1, color=style.MUTED, ls=":", lw=0.8)
            ax.set_ylim(-0.05, 1.05)
        loss.set_ylabel("loss up to there (nats per token)")
        by_length.set_ylabel("needles found")
        by_depth.set_xlabel(f"depth of the needle in {found['lengths'][-1]} tokens")
        loss.legend(fontsize=6)
    style.settle(figure)
    return style.save(figure, folder / "figures", "context_extension", formats, dpi)

"""Figure of context extensions: loss by position, and retrieval of a needle by length."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gptjax.report import style


def draw(folder: Path, content: dict[str, Any], formats: tuple[str, ...], dpi: int) -> list[Path]:
    """Write `context_extension.*`; the dashed line is where training ended."""
    colours = style.palette(len(content["methods"]))
    with style.drawing():
        figure = Figure(figsize=(6.4, 2.9), layout="constrained")
        FigureCanvasAgg(figure)
        loss, found = figure.subplots(1, 2)
        for i, (name, row) in enumerate(content["methods"].items()):
            loss.plot(row["position"], row["loss"], "o-", color=colours[i], label=name)
            rate = np.mean(row["needle"]["rate"], axis=0)
            found.plot(row["needle"]["lengths"], rate, "o-", color=colours[i], label=name)
        for ax in (loss, found):
            ax.axvline(content["trained"], color=style.MUTED, ls="--", lw=0.8)
            ax.set_xlabel("tokens")
        found.axhline(0.1, color=style.MUTED, ls=":", lw=0.8)
        loss.set_ylabel("loss up to there (nats per token)")
        found.set_ylabel("needles found")
        loss.legend()
    style.settle(figure)
    return style.save(figure, folder / "figures", "context_extension", formats, dpi)

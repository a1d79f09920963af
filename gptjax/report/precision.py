"""Figure of the loss that quantization adds, against bits, by size and tokens per parameter."""

from pathlib import Path
from typing import Any

import numpy as np

from gptjax.report import style


def draw(folder: Path, rows: Any, law: Any, formats: tuple[str, ...], dpi: int) -> list[Path]:
    """Write `precision.*`: each cell's measured points, and the law where it was fitted.

    Args:
      rows: columns params, tokens, bits, loss of the points.
      law: `predict(params, tokens, bits=…)` gives (value, low, high).
    """
    figure, ax = style.new_figure()
    fitted = np.unique(law.runs.columns["bits"])
    ratios = rows["tokens"] / rows["params"]
    cells = sorted({*zip(ratios, rows["params"], rows["tokens"], strict=True)})
    colours = style.palette(len(cells))
    with style.drawing():
        for i, (_, params, tokens) in enumerate(cells):
            mine = (rows["params"] == params) & (rows["tokens"] == tokens)
            bits = np.linspace(fitted.min(), fitted.max(), 30)
            line = law.predict(np.full(30, params), np.full(30, tokens), bits=bits)[0]
            ax.plot(rows["bits"][mine], rows["loss"][mine], "o", ms=3, color=colours[i])
            label = f"N {params:.2g}, D/N {tokens / params:.0f}"
            ax.plot(bits, line, lw=0.9, color=colours[i], label=label if len(cells) < 10 else None)
        ax.set_yscale("log")
        ax.set_xlabel("bits of a weight P")
        ax.set_ylabel("loss added (nats per token)")
        ax.set_title("Colours: tokens per parameter, from few (dark) to many", fontsize=7)
        if len(cells) < 10:
            ax.legend(fontsize=6)
    style.settle(figure)
    return style.save(figure, folder / "figures", "precision", formats, dpi)

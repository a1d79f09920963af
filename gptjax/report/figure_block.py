"""A figure's part of a page: its claim, the drawing as SVG, a caption, and links to its files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from gptjax.report import svg
from gptjax.report.style import Palette
from gptjax.report.template import render


def figure_block(
    figure: Figure,
    name: str,
    claim: str,
    colours: Palette,
    *,
    caption: str = "",
    saved: Sequence[Path] = (),
    hover: Mapping[str, tuple[str, str]] | None = None,
) -> str:
    """The HTML of a figure that is drawn and settled.

    Args:
      saved: files under `figures/` beside the page, which it links.
      hover: see `svg.inline_svg`.
    """
    return render(
        "figure",
        name=name,
        claim=claim,
        drawing=svg.inline_svg(figure, name, claim, colours, hover or {}),
        caption=caption,
        links=[(path.name, path.suffix[1:].upper()) for path in saved],
    )

"""Choice of figures for a page: those that its laws and tables can support."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from gptjax.report import figures, words
from gptjax.report.view import (
    DRAWN,
    DRAWN_CURVES,
    Scene,
    curves_by_cell,
    headline,
    part,
    real,
)
from gptjax.scaling.laws.saved import Laws

CAPTIONS = {
    "curves": "Each line is one run, coloured by its budget; the thick line is the least loss of "
    "any run at that much compute.",
    "isoflop": "Runs of one budget share a colour; a parabola in log N through each, its minimum "
    "with interval. Hollow runs and dotted parabolas were left out.",
    "optimum": "Diamonds are the valleys' minima, bands are intervals, stars the prediction. Right "
    "of the dashed line nothing was trained.",
    "contours": "Lines of equal predicted loss, shaded more where it is lower; the thick line is "
    "the best size for each compute. Hollow runs were left out of the fit.",
    "residuals": "A bend here would mean that the law does not hold over the whole range.",
    "holdout": "The law was fitted to the smaller budgets only; the points are what training then "
    "measured.",
}


@dataclass(frozen=True)
class Plot:
    """One figure of the page: how it is drawn, the sentence it supports, how to read it."""

    name: str
    claim: str
    caption: str
    draw: Callable[[Axes], None]


def choose_plots(
    laws: Laws, scene: Scene, curves: Mapping[str, Sequence[Any]], curve_points: int
) -> list[Plot]:
    """The figures that can be drawn, in the order of the page."""
    found, holdout = laws.laws, (laws.holdout or {})
    parametric, isoflop = part(found, "chinchilla_parametric"), part(found, "isoflop")
    lines = curves_by_cell(curves, curve_points)
    noise = real(laws.data.get("seed_noise"))
    plots: list[Plot] = []
    counts = dict.fromkeys(("isoflop", "contours", "residuals"), (len(scene.runs), DRAWN))
    counts["curves"] = (len(lines), DRAWN_CURVES)

    def offer(name: str, possible: object, claim: str, draw: Callable[[Axes], None]) -> None:
        if possible:
            caption = words.optimum_others(laws) * (name == "optimum") + CAPTIONS[name]
            caption += words.drawn(*counts.get(name, (0, 0)))
            plots.append(Plot(name, claim, caption, draw))

    offer(
        "curves",
        lines,
        words.curves_claim(laws, len(lines)),
        lambda ax: figures.draw_curves(ax, scene, lines, part(found, "envelope")),
    )
    offer(
        "isoflop",
        isoflop.get("valleys") and scene.runs,
        words.isoflop_claim(laws),
        lambda ax: figures.draw_isoflop(ax, scene, isoflop),
    )
    offer(
        "optimum",
        words.exponents(laws),
        words.optimum_claim(laws),
        lambda ax: figures.draw_optimum(ax, scene, found, headline(laws)),
    )
    offer(
        "contours",
        parametric and scene.runs,
        words.contours_claim(laws),
        lambda ax: figures.draw_contours(ax, scene, parametric),
    )
    offer(
        "residuals",
        parametric.get("residuals") and scene.runs,
        words.residuals_claim(laws),
        lambda ax: figures.draw_residuals(ax, scene, parametric, noise),
    )
    offer(
        "holdout",
        holdout.get("rows"),
        words.holdout_claim(laws),
        lambda ax: figures.draw_holdout(ax, scene, holdout),
    )
    return plots

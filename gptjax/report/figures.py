"""The figures: each function draws on the axes it is given, and does nothing else.

Sections of `laws.json` go in as they are; `scene` gives the runs and their colours. Runs are
points, fits are lines, intervals are bands. An empty section draws what is left.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from gptjax.report import style, svg
from gptjax.report.numbers import exact_text, fixed_text, interval_text, power_text
from gptjax.report.style import ACCENT, INK, MUTED, PAPER, SECOND
from gptjax.report.view import (
    ANSWERING,
    APPROACHES,
    DRAWN_CURVES,
    Json,
    Run,
    Scene,
    number,
    part,
    real,
    series,
    spread,
)

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]

_DASHES = {"chinchilla_parametric": "-", "isoflop": (0, (4, 1.6)), "envelope": (0, (1, 1.4))}
_NAMES = {"chinchilla_parametric": "parametric", "isoflop": "IsoFLOP", "envelope": "envelope"}


def draw_curves(ax: Axes, scene: Scene, curves: Curves, envelope: Json) -> None:
    """Training curves, loss (nats per token) against FLOPs, with their lower envelope.

    Args:
      curves: cell to (flops, loss).
      envelope: `laws.envelope`, for `curve_points` and `points`; may be empty.
    """
    colours = style.palette(len(scene.budgets))
    gids, runs = scene.gids, scene.by_cell
    for cell, (flops, loss) in spread(list(curves.items()), DRAWN_CURVES):
        colour = colours[runs[cell].shade] if cell in runs else MUTED
        ax.plot(flops, loss, color=colour, lw=0.8, alpha=0.7, gid=gids.get(cell))
    edge = part(envelope, "curve_points")
    if len(series(edge, "flops")):
        ax.plot(series(edge, "flops"), series(edge, "loss"), color=INK, lw=1.5, zorder=4)
    ax.set_xlabel("training compute C (FLOPs)")
    ax.set_ylabel(f"training loss ({scene.loss_unit})")
    ends = [loss[-1] for _, loss in curves.values()]
    if ends:
        tops = [loss.max() for _, loss in curves.values()]
        lows = [loss.min() for _, loss in curves.values()]
        starts = [flops[loss <= 1.7 * max(ends)][:1] for flops, loss in curves.values()]
        ax.set_ylim(min(lows) * 0.97, min(max(tops), 1.7 * max(ends)))
        ax.set_xlim(left=min((s[0] for s in starts if len(s)), default=None))
    style.log_axis(ax, "x")
    style.log_axis(ax, "y", "loss")
    extra = [Line2D([], [], color=INK, lw=1.5, label="envelope")] if len(edge) else []
    _budget_legend(ax, scene, extra)


def draw_isoflop(ax: Axes, scene: Scene, isoflop: Json) -> None:
    """IsoFLOP valleys: runs, the parabola of each budget and its minimum with interval.

    Args:
      isoflop: `laws.isoflop`, for `valleys`; without it the runs alone are drawn.
    """
    colours = style.palette(len(scene.budgets))
    minima = []
    for valley in isoflop.get("valleys") or []:
        colour = colours[scene.shade(real(valley.get("budget")))]
        used = bool(valley.get("used"))
        curve = part(valley, "curve")
        line = "-" if used else (0, (1, 1.6))
        ax.plot(series(curve, "params"), series(curve, "loss"), color=colour, lw=1.2, ls=line)
        lowest = part(valley, "minimum")
        if used and lowest:
            minima.append((number(lowest, "params"), number(lowest, "loss"), colour))
    valley_cells = _valley_cells(isoflop)
    _points(
        ax,
        scene,
        [
            (
                run,
                run.params,
                run.loss,
                bool(run.used and valley_cells.get(run.cell, not valley_cells)),
            )
            for run in scene.drawn
        ],
    )
    if minima:
        xs, ys = [m[0].value for m in minima], [m[1].value for m in minima]
        ax.plot(xs, ys, color=INK, lw=0.8, zorder=4)
    for params, loss, colour in minima:
        _interval_bar(ax, params, loss.value)
        ax.plot([params.value], [loss.value], "D", ms=5.2, color=colour, mec=INK, mew=1.0, zorder=6)
    ax.set_xlabel(scene.params_label)
    ax.set_ylabel(f"held-out loss ({scene.loss_unit})")
    style.log_axis(ax, "x", "count")
    style.log_axis(ax, "y", "loss")
    mark = Line2D([], [], marker="D", ms=4.6, color=PAPER, mec=INK, ls="", label="minimum")
    _budget_legend(ax, scene, [mark] if minima else [])


def draw_optimum(ax: Axes, scene: Scene, laws: Json, prediction: Json) -> None:
    """Optimal parameters and tokens against compute, for each approach, with bands.

    Args:
      laws: the `laws` section; `optimum` of each approach is a line, minima are points.
      prediction: the headline prediction, marked where its compute lies; may be empty.
    """
    handles = []
    for quantity, colour, exponent in (("params", ACCENT, "a"), ("tokens", SECOND, "b")):
        banded = False
        for name in APPROACHES:
            law = part(laws, name)
            value = number(part(law, "params"), exponent)
            if not np.isfinite(value.value):
                continue
            line = part(law, "optimum")
            flops, middle = series(line, "flops"), series(line, quantity)
            if len(middle):
                ax.plot(flops, middle, color=colour, lw=1.4, ls=_DASHES[name], zorder=3)
            if not banded:
                banded = _band(ax, line, quantity, colour)
            text = f"{_NAMES[name]}: {exponent} = {fixed_text(value.value, 3)} "
            text += interval_text(value.low, value.high, lambda v: fixed_text(v, 3))
            handles.append(Line2D([], [], color=colour, ls=_DASHES[name], label=text))
        _valley_minima(ax, laws, quantity, colour)
        _headline_mark(ax, prediction, quantity, colour)
    _trained_limit(ax, scene)
    ax.set_xlabel("training compute C (FLOPs)")
    ax.set_ylabel("compute-optimal count")
    style.log_axis(ax, "x")
    style.log_axis(ax, "y", "count")
    _name_lines(ax, laws)
    if handles:
        ax.legend(
            handles=handles,
            ncols=2,
            fontsize=6.4,
            handlelength=2.1,
            columnspacing=1.0,
            loc="lower left",
            bbox_to_anchor=(-0.16, 1.0),
            handletextpad=0.5,
        )


def draw_contours(ax: Axes, scene: Scene, parametric: Json) -> None:
    """Contours of the fitted L(N, D) over compute and parameters, runs, efficient frontier.

    Args:
      parametric: `laws.chinchilla_parametric`, for `surface` and `optimum`.
    """
    surface, line = part(parametric, "surface"), part(parametric, "optimum")
    flops, params = series(surface, "flops"), series(surface, "params")
    loss = np.array([[real(v) for v in row] for row in surface.get("loss") or []])
    if loss.ndim == 2 and loss.shape == (len(params), len(flops)) and np.isfinite(loss).any():
        shown = _rows_of_interest(params, line, scene)
        _contours(ax, flops, params[shown], loss[shown], [run.loss for run in scene.runs])
        ax.set_xlim(flops.min(), flops.max())
        ax.set_ylim(params[shown].min(), params[shown].max())
    ax.plot(series(line, "flops"), series(line, "params"), color=ACCENT, lw=2.0, zorder=4)
    points = [(run, run.flops, run.params, run.used) for run in scene.drawn]
    _points(ax, scene, points, clip=False)
    ax.grid(False)
    ax.set_xlabel("training compute C (FLOPs)")
    ax.set_ylabel(scene.params_label)
    style.log_axis(ax, "x")
    style.log_axis(ax, "y", "count")
    frontier = Line2D([], [], color=ACCENT, lw=2.0, label="frontier")
    _budget_legend(ax, scene, [frontier] if len(series(line, "flops")) else [])


def draw_residuals(ax: Axes, scene: Scene, parametric: Json, noise: float) -> None:
    """Residuals of the parametric fit, measured over fitted loss minus one, against compute.

    Args:
      parametric: `laws.chinchilla_parametric`, for `residuals`.
      noise: standard deviation of log loss between seeds, drawn as a band; NaN where unknown.
    """
    runs = {run.cell: run for run in scene.drawn}
    points = []
    for row in parametric.get("residuals") or []:
        run = runs.get(str(row.get("cell")))
        if run is not None and np.isfinite(real(row.get("log_residual"))):
            value = 100 * np.expm1(real(row.get("log_residual")))
            points.append((run, run.flops, value, run.used))
    _points(ax, scene, points)
    ax.axhline(0, color=ACCENT, lw=1.4, zorder=2)
    extra: list[Artist] = [Line2D([], [], color=ACCENT, lw=1.4, label="the law")]
    if noise > 0:
        ax.axhspan(-100 * noise, 100 * noise, color=ACCENT, alpha=0.14, lw=0, zorder=1)
        extra.append(Patch(facecolor=ACCENT, alpha=0.2, lw=0, label="seed noise"))
    most = max(map(abs, ax.get_ylim()))
    ax.set_ylim(-most, most)
    ax.set_xlabel("training compute C (FLOPs)")
    ax.set_ylabel("measured above the law (%)")
    style.log_axis(ax, "x")
    _budget_legend(ax, scene, extra)


def draw_holdout(ax: Axes, scene: Scene, holdout: Json) -> None:
    """Held-out runs: measured loss as points, the loss predicted without them as line and band.

    Where each held-out budget has one loss a size, the axes are those of the valleys; elsewhere
    predicted is drawn against measured. Bands are the predictive intervals.
    """
    rows = [row for row in holdout.get("rows") or [] if np.isfinite(real(row.get("predicted")))]
    rows = [row for row in rows if real(row.get("loss")) > 0]
    groups: dict[float, list[Json]] = {}
    for row in rows:
        groups.setdefault(real(row.get("budget")), []).append(row)
    valleys = all(
        budget > 0 and len({real(r["params"]) for r in group}) == len(group) > 2
        for budget, group in groups.items()
    )
    (_holdout_valleys if valleys else _holdout_diagonal)(ax, scene, groups)


def _holdout_valleys(ax: Axes, scene: Scene, groups: Mapping[float, list[Json]]) -> None:
    colours = style.palette(len(scene.budgets))
    for budget, group in sorted(groups.items()):
        group = sorted(group, key=lambda row: real(row["params"]))
        params, predicted, low, high = (
            np.array([real(row.get(key)) for row in group])
            for key in ("params", "predicted", "low", "high")
        )
        colour = colours[scene.shade(budget)]
        ax.fill_between(params, low, high, color=ACCENT, alpha=0.16, lw=0)
        ax.plot(params, predicted, color=ACCENT, lw=1.5)
        for row in spread(group, ANSWERING):
            _held_out_point(ax, scene, row, real(row["params"]), colour)
    ax.set_xlabel(scene.params_label)
    ax.set_ylabel(f"held-out loss ({scene.loss_unit})")
    style.log_axis(ax, "x", "count")
    _pad(ax)
    style.log_axis(ax, "y", "loss")
    _holdout_legend(ax, "predicted, with 95 % interval")


def _holdout_diagonal(ax: Axes, scene: Scene, groups: Mapping[float, list[Json]]) -> None:
    colours = style.palette(len(scene.budgets))
    rows = [row for group in groups.values() for row in group]
    ends = np.array([real(row[key]) for row in rows for key in ("loss", "predicted")])
    if len(ends):
        line = np.geomspace(ends.min() * 0.98, ends.max() * 1.02, 20)
        ax.fill_between(line, line * 0.98, line * 1.02, color=ACCENT, alpha=0.14, lw=0)
        ax.plot(line, line, color=ACCENT, lw=1.2)
    for row in spread(rows, ANSWERING):
        measured = real(row["loss"])
        ax.vlines(measured, real(row.get("low")), real(row.get("high")), color=MUTED, lw=0.9)
        budget = real(row.get("budget"))
        shade = scene.shade(budget if budget > 0 else real(row.get("flops")))
        _held_out_point(ax, scene, row, measured, colours[shade], "predicted")
    ax.set_xlabel(f"measured loss ({scene.loss_unit})")
    ax.set_ylabel(f"predicted loss ({scene.loss_unit})")
    style.log_axis(ax, "x", "loss")
    style.log_axis(ax, "y", "loss")
    _holdout_legend(ax, "predicted = measured, ± 2 %")


def _held_out_point(
    ax: Axes, scene: Scene, row: Json, x: float, colour: str, key: str = "loss"
) -> None:
    ax.plot(
        [x],
        [real(row[key])],
        "o",
        ms=5,
        color=colour,
        mec=PAPER,
        mew=0.7,
        zorder=5,
        gid=scene.gids.get(str(row.get("cell"))),
    )


def _holdout_legend(ax: Axes, line: str) -> None:
    handles = [
        Line2D([], [], color=ACCENT, lw=1.5, label=line),
        Line2D([], [], marker="o", ls="", ms=4.5, color=MUTED, label="measured"),
    ]
    ax.legend(handles=handles, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0))


def _pad(ax: Axes, least: float = 0.015) -> None:
    """Give a nearly flat loss axis at least ± `least` (relative), so that noise looks small."""
    low, high = ax.get_ylim()
    middle = (low * high) ** 0.5 if low > 0 else 0.5 * (low + high)
    ax.set_ylim(min(low, middle * (1 - least)), max(high, middle * (1 + least)))


def _valley_cells(isoflop: Json) -> dict[str, bool]:
    """Cell to whether its valley and the point itself were used."""
    return {
        str(point.get("cell")): bool(valley.get("used")) and bool(point.get("used", True))
        for valley in isoflop.get("valleys") or []
        for point in valley.get("points") or []
    }


Point = tuple[Run, float, float, bool]
"""A run, where it is drawn, and whether it is filled: hollow where the fit left it out."""


def _points(ax: Axes, scene: Scene, points: Sequence[Point], *, clip: bool = True) -> None:
    """Runs as points of one artist a colour; its gid lists those that answer to the pointer."""
    groups: dict[tuple[int, bool], list[tuple[float, float, str]]] = {}
    for run, x, y, filled in points:
        mine = groups.setdefault((run.shade, bool(filled)), [])
        mine.append((x, y, scene.gids.get(run.cell, "")))
    for (shade, filled), places in groups.items():
        xs, ys, names = zip(*places, strict=True)
        gid = svg.JOINED.join(names) if all(names) else None
        # Nothing between two points: a line would leave marks where it is cut at the figure's edge.
        apart = np.full((2 * len(xs) - 1, 2), np.nan)
        apart[::2] = np.c_[xs, ys]
        ax.plot(*apart.T, **_marker(scene, shade, filled), gid=gid, clip_on=clip)


def _marker(scene: Scene, shade: int, filled: bool) -> dict[str, Any]:
    colour = style.palette(len(scene.budgets))[shade]
    face, edge, width = (colour, PAPER, 0.5) if filled else (PAPER, colour, 1.0)
    size = 4.3 if len(scene.runs) <= 120 else 3.2
    return {
        "ls": "",
        "marker": "o",
        "ms": size,
        "mfc": face,
        "mec": edge,
        "mew": width,
        "zorder": 5,
    }


def _interval_bar(ax: Axes, x, y: float) -> None:
    if np.isfinite(x.low) and np.isfinite(x.high):
        ax.plot([x.low, x.high], [y, y], color=INK, lw=1.0, zorder=5, solid_capstyle="butt")


def _band(ax: Axes, line: Json, quantity: str, colour: str) -> bool:
    flops, low, high = (
        series(line, key) for key in ("flops", f"{quantity}_low", f"{quantity}_high")
    )
    if not len(low) or len(low) != len(flops) or not np.isfinite(low * high).any():
        return False
    ax.fill_between(flops, low, high, color=colour, alpha=0.17, lw=0, zorder=1)
    return True


def _valley_minima(ax: Axes, laws: Json, quantity: str, colour: str) -> None:
    for valley in part(laws, "isoflop").get("valleys") or []:
        found = number(part(valley, "minimum"), quantity)
        if not valley.get("used") or not np.isfinite(found.value):
            continue
        budget = real(valley.get("budget"))
        if np.isfinite(found.low) and np.isfinite(found.high):
            ax.vlines(budget, found.low, found.high, color=colour, lw=0.9, zorder=4)
        ax.plot([budget], [found.value], "D", ms=4.0, color=colour, mec=PAPER, mew=0.6, zorder=5)


def _headline_mark(ax: Axes, prediction: Json, quantity: str, colour: str) -> None:
    x, y = real(prediction.get("flops")), real(prediction.get(quantity))
    if x > 0 and y > 0:
        ax.plot([x], [y], "*", ms=9, color=colour, mec=PAPER, mew=0.7, zorder=6)


def _trained_limit(ax: Axes, scene: Scene) -> None:
    """A vertical line at the most compute of any run: what is right of it is extrapolation."""
    if not scene.runs:
        return
    most = max(run.flops for run in scene.runs)
    ax.axvline(most, color=MUTED, lw=0.8, ls=(0, (2, 2)), zorder=0)
    ax.annotate(
        "extrapolated →",
        (most, 0.0),
        xycoords=("data", "axes fraction"),
        xytext=(3, 3),
        textcoords="offset points",
        fontsize=6.4,
        color=MUTED,
    )


def _name_lines(ax: Axes, laws: Json) -> None:
    """Write 'tokens D' and 'parameters N' below the lines they belong to, which rise away."""
    for quantity, text, colour in (
        ("params", "parameters N", ACCENT),
        ("tokens", "tokens D", SECOND),
    ):
        for name in APPROACHES:
            line = part(laws, name, "optimum")
            flops, middle = series(line, "flops"), series(line, quantity)
            if len(middle) > 4:
                k = len(middle) // 5
                ax.annotate(
                    text,
                    (flops[k], middle[k]),
                    xytext=(8, -8),
                    va="top",
                    color=colour,
                    textcoords="offset points",
                    fontsize=8,
                    weight="bold",
                )
                break


def _rows_of_interest(params: np.ndarray, line: Json, scene: Scene) -> np.ndarray:
    """The rows of the surface within a factor of three of the runs and the frontier."""
    sizes = np.array([run.params for run in scene.runs])
    sizes = np.concatenate([sizes, series(line, "params")])
    if not len(sizes):
        return np.ones(len(params), dtype=bool)
    shown = (params >= np.nanmin(sizes) / 3) & (params <= np.nanmax(sizes) * 3)
    return shown if np.count_nonzero(shown) > 2 else np.ones(len(params), dtype=bool)


def _contours(ax: Axes, flops: np.ndarray, params: np.ndarray, loss: np.ndarray, runs) -> None:
    """Lines of equal loss; the shading deepens with each level, so no level needs a colour."""
    finite = loss[np.isfinite(loss)]
    low = finite.min()
    high = min(finite.max(), 1.15 * max(runs)) if runs else finite.max()
    levels = _round_levels(low, high, 13)
    for level in levels:
        ax.contourf(
            flops, params, loss, levels=[0.0, level], colors=[ACCENT], alpha=0.035, zorder=0
        )
    if levels:
        lines = ax.contour(flops, params, loss, levels=levels, colors=[MUTED], linewidths=0.6)
        spots = _label_spots(flops, params, loss, levels)
        ax.clabel(
            lines,
            [level for level, _ in spots],
            fmt=lambda v: exact_text(v, 3),
            fontsize=6.4,
            inline_spacing=2,
            manual=[spot for _, spot in spots],
        )


def _label_spots(flops: np.ndarray, params: np.ndarray, loss: np.ndarray, levels: list[float]):
    """Where each level crosses one row of sizes above the runs, so that labels stand clear."""
    row = int(0.86 * (len(params) - 1))
    spots = []
    for level in levels:
        crossing = np.flatnonzero((loss[row, :-1] >= level) & (loss[row, 1:] < level))
        if len(crossing) and 0 < crossing[0] < 0.8 * len(flops):
            spots.append((level, (float(flops[crossing[0]]), float(params[row]))))
    return spots if len(spots) < 8 else spots[::2]


def _round_levels(low: float, high: float, most: int) -> list[float]:
    """At most `most` evenly spaced round values between `low` and `high`."""
    for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0):
        first, last = int(np.ceil(low / step)), int(np.floor(high / step))
        if last - first < most:
            return [k * step for k in range(first, last + 1)]
    return []


def _budget_legend(ax: Axes, scene: Scene, extra: Sequence[Artist]) -> None:
    """The budgets above the axes, where no data can lie under them."""
    colours = style.palette(len(scene.budgets))
    chosen = range(len(scene.budgets))
    if len(scene.budgets) > 8:
        chosen = sorted({round(i) for i in np.linspace(0, len(scene.budgets) - 1, 8)})  # type: ignore[assignment]
    handles: list[Artist] = [
        Line2D(
            [], [], marker="o", ls="", ms=4.3, color=colours[i], label=power_text(scene.budgets[i])
        )
        for i in chosen
    ]
    if not [*handles, *extra]:
        return
    ax.legend(
        handles=_by_rows([*handles, *extra], 5),
        ncols=5,
        title=scene.budget_label,
        alignment="left",
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        handlelength=1.2,
        handletextpad=0.3,
        columnspacing=1.1,
    )


def _by_rows(handles: Sequence[Artist], columns: int) -> list[Artist]:
    """Reorder for a legend, which fills column by column, so that it reads row by row."""
    if len(handles) <= columns:
        return list(handles)
    rows = -(-len(handles) // columns)
    full = len(handles) - columns * (rows - 1)  # columns that reach the last row
    order = []
    for column in range(columns):
        order += [row * columns + column for row in range(rows - (column >= full))]
    return [handles[i] for i in order]

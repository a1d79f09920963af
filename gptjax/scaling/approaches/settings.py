"""Hyperparameter laws from sweep records: the best learning rate or batch as a function of N and D.

Runs that agree in everything but one setting make a valley of the loss in its logarithm, whose
minimum is the best setting there. Like an IsoFLOP valley (`approaches/valley.py`) it is used only
with an inner minimum; any other group is kept with the reason. The power law y = K N^a D^b through
the minima (Bi et al. 2024, arXiv:2401.02954; Li et al. 2025, arXiv:2503.04715) is weighted by how
well each is known.
"""

import dataclasses
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.approaches import valley
from gptjax.scaling.approaches.valley import Curve
from gptjax.scaling.config import FitConfig
from gptjax.scaling.fit.fit import fit
from gptjax.scaling.fit.result import Fit
from gptjax.scaling.tables import column_names
from gptjax.scaling.tables.runs import Runs, prepare, same_keys
from gptjax.scaling.tables.table import Table, as_table

POINTS = 4  # fewest values of a setting; three make a parabola and leave nothing to judge it by
NEAR = 8.0  # values farther than this factor from the minimum are dropped: the loss is no parabola


@dataclasses.dataclass(frozen=True)
class Best:
    """The best value of a setting among runs that agree in everything else.

    Attributes:
      at: what they agree in, by column.
      value: the best setting; NaN when there is none.
      stderr: of its logarithm, from the scatter of all groups about their parabolas.
      loss: at the best.
      runs: how many runs the parabola uses.
      reason: why the group has no best setting; '' when it has.
    """

    at: dict[str, float]
    value: float
    stderr: float
    loss: float
    runs: int
    reason: str


@dataclasses.dataclass(frozen=True)
class SettingLaw:
    """Best settings and the power law through them.

    Attributes:
      setting: the column.
      best: one entry a group, used or not.
      law: the fit of K N^a D^b (or of whatever form was asked for) to the used ones.
    """

    setting: str
    best: tuple[Best, ...]
    law: Fit

    @property
    def used(self) -> list[Best]:
        return [best for best in self.best if not best.reason]


def setting_law(
    table: Any,
    setting: str = "learning_rate",
    *,
    form: Any = "power_nd",
    nested: tuple[str, ...] = (),
    config: FitConfig | None = None,
    **options: Any,
) -> SettingLaw:
    """Find the best values of a setting and fit them as a power law of params and tokens.

    Args:
      table: runs with params, tokens, loss and the setting's column.
      setting: the column whose best value is wanted.
      form: the law of the best values.
      nested: further settings that were swept with it; the loss at each value of `setting` is the
        one at their own best.
      config, options: as in `fit`.

    Raises:
      UserError: for a column that is missing, or fewer usable groups than the law has parameters.

    >>> from gptjax import scaling
    >>> rate, size = (x.ravel() for x in np.meshgrid(np.geomspace(1e-4, 1e-2, 7), [1e6, 1e7, 1e8]))
    >>> best = 0.3 * size**-0.3
    >>> runs = {"params": size, "tokens": 20 * size, "learning_rate": rate,
    ...         "loss": 3 + 0.1 * np.log(rate / best) ** 2 + 1e-6 * np.cos(rate * 1e6)}
    >>> power = scaling.Form(
    ...     name="power_n", equation="y = K N^a", columns=("params",), linear=("K",),
    ...     parameters=(scaling.amplitude("K", "params", "a", -1.0), scaling.free("a")),
    ...     loss=lambda p, x: p["K"] * scaling.power(x["params"], p["a"]), of_loss=False)
    >>> found = setting_law(runs, form=power, resamples=0)
    >>> len(found.used), round(found.law.values["a"], 2)
    (3, -0.3)
    """
    config = dataclasses.replace(config or FitConfig(), **options)
    best = best_settings(table, setting, nested, config)
    used = [one for one in best if not one.reason]
    if not used:
        raise UserError(f"no group of runs has a best {setting}; the first: {best[0].reason}")
    found = {
        "params": [one.at["params"] for one in used],
        "tokens": [one.at["tokens"] for one in used],
        "best": [one.value for one in used],
        "loss_stderr": [one.stderr * one.value for one in used],
    }
    config = dataclasses.replace(
        config,
        column_params="params",
        column_tokens="tokens",
        column_loss="best",
        column_flops="",
        column_budget="",
        column_group="",
        where="",
        flops_convention="6nd",
        weights="stderr",
        loss_kind="squares_log",
        exclude_below_flops=0.0,
        exclude_below_tokens=0.0,
        exclude_above_loss=0.0,
    )
    return SettingLaw(setting, tuple(best), fit(found, form, config=config))


def best_settings(
    table: Any, setting: str, nested: tuple[str, ...] = (), config: FitConfig | None = None
) -> list[Best]:
    """The best value of a setting in every group of equal params and tokens."""
    runs = prepare(table, config, ("params", "tokens", setting, *nested))
    for name in (setting, *nested):
        if name not in runs.columns or not np.all(np.isfinite(runs.columns[name])):
            raise UserError(f"the table has no complete column {name}; give it for every run")
        if np.any(runs.columns[name] <= 0):
            raise UserError(f"{name} must be above zero in every run; leave other runs out")
    keys = {"params": runs.params, "tokens": runs.tokens}
    values, losses = runs.columns[setting], runs.loss
    _refuse_hidden(table, runs, setting, nested)
    if nested:
        keys, values, losses = _over(runs, setting, nested)
    groups = same_keys(keys)
    points = [(np.log(values[rows]), losses[rows]) for rows in groups]
    curves = _curves(points)
    scatter = _pooled(points, curves)
    return [
        _best({name: float(column[rows[0]]) for name, column in keys.items()}, x, curve, scatter)
        for rows, (x, _), curve in zip(groups, points, curves, strict=True)
    ]


def _refuse_hidden(table: Any, runs: Runs, setting: str, nested: tuple[str, ...]) -> None:
    """Refuse a setting that is judged while another column varies inside its groups."""
    hidden = varying(table, runs, (setting, *nested))
    if hidden:
        name = hidden[0]
        raise UserError(
            f"the best {setting} is judged while {name} varies among runs of equal N and D; "
            f"name both in fit.settings, or keep one {name} with fit.where"
        )


def varying(table: Any, runs: Runs, own: tuple[str, ...] = ()) -> list[str]:
    """The columns that differ among runs of equal N and D and are no function of `own` there.

    A column counts as another setting when its name says so or its values repeat over the table,
    and it is neither a seed nor a result. An empty cell is a value like any other.
    """
    groups = same_keys({"params": runs.params, "tokens": runs.tokens})
    groups = [rows for rows in groups if len(rows) > 1]
    if not groups:
        return []
    found = []
    judged = [runs.columns[name] for name in own]
    columns = _text_columns(as_table(table), runs) | runs.columns
    for name, column in columns.items():
        if name in own or _is_no_setting(name, column, len(runs)):
            continue
        if column.dtype.kind == "f":
            column = np.nan_to_num(column, nan=EMPTY)
        inside = [rows for rows in groups if len(set(column[rows].tolist())) > 1]
        if any(_varies_apart(column[rows], [values[rows] for values in judged]) for rows in inside):
            found.append(name)
    return found


def _text_columns(table: Table, runs: Runs) -> dict[str, np.ndarray]:
    """The columns of text, in the rows that became runs."""
    where = {place: row for row, place in enumerate(table.places.tolist())}
    rows = np.array([where[place] for place in runs.place.tolist()])
    return {n: c[rows].astype(str) for n, c in table.columns.items() if c.dtype.kind != "f"}


EMPTY = -1e300  # stands for an empty cell


def _is_no_setting(name: str, column: np.ndarray, runs: int) -> bool:
    """Seeds, names, results, and what differs from run to run without a setting's name."""
    if column_names.is_setting(name):
        return False
    return column_names.is_no_setting(name) or len(set(column.tolist())) > runs / 3


def _varies_apart(column: np.ndarray, own: list[np.ndarray]) -> bool:
    """Whether `column` is no function of the settings judged, monotone where each run is alone."""
    if not own:
        return True
    by_own: dict[Any, set] = {}
    for key, value in zip(zip(*(v.tolist() for v in own), strict=True), column, strict=True):
        by_own.setdefault(key, set()).add(value)
    if column.dtype.kind != "f" and len(by_own) == len(column):
        return len(set(column.tolist())) < len(column)  # else it is a label of the setting
    if len(by_own) < len(column) or len(own) > 1:
        return any(len(values) > 1 for values in by_own.values())
    steps = np.diff(column[np.argsort(own[0], kind="stable")])
    return bool(np.any(steps > 0) and np.any(steps < 0))


def setting_laws(table: Any, config: FitConfig, at: tuple[float, float] | None) -> list[dict]:
    """The `settings` block of laws.json: for each of `fit.settings` its law, or why there is none.

    Args:
      table: all runs.
      config: `settings` names the columns; each is judged at the best of the others.
      at: params and tokens at which the law is read, where they are known.
    """
    entries = []
    for setting in config.settings:
        nested = tuple(other for other in config.settings if other != setting)
        entry: dict[str, Any] = {"setting": setting, "nested": nested}
        try:
            found = setting_law(table, setting, nested=nested, config=config)
            entries.append(entry | _describe(found, at))
        except UserError as error:
            entries.append(entry | {"sentence": f"No law of the best {setting}: {error}."})
    return entries


def _describe(found: SettingLaw, at: tuple[float, float] | None) -> dict[str, Any]:
    law, name = found.law, found.setting.replace("_", " ")
    sentence = (
        f"The best {name} follows K N^a D^b with a = {law.params['a']} and b = {law.params['b']}, "
        f"from {len(found.used)} of {len(found.best)} groups of equal N and D"
    )
    entry: dict[str, Any] = {
        "equation": law.form.equation,
        "paper": law.form.paper,
        "params": {
            key: {"value": one.value, "low": one.low, "high": one.high, "stderr": one.stderr}
            for key, one in law.params.items()
        },
        "best": [dataclasses.asdict(one) for one in found.best],
        "doubts": list(law.warnings),
    }
    if at is not None:
        value, low, high = law.predict(*at, noise=False)
        entry["at"] = {"params": at[0], "tokens": at[1], "value": value, "low": low, "high": high}
        sentence += (
            f"; at {at[0]:.3g} parameters and {at[1]:.3g} tokens it is {value:.3g} "
            f"[{low:.3g}, {high:.3g}]"
        )
    return entry | {"sentence": sentence + "."}


def _over(
    runs: Runs, setting: str, nested: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Each value of `setting` with the loss at the best of the settings swept beside it."""
    inner, *rest = nested
    held = {"params": runs.params, "tokens": runs.tokens, setting: runs.columns[setting]}
    held |= {name: runs.columns[name] for name in rest}
    found: dict[str, list[float]] = {name: [] for name in (*held, "loss")}
    groups = same_keys(held)
    points = [(np.log(runs.columns[inner][rows]), runs.loss[rows]) for rows in groups]
    for rows, curve in zip(groups, _curves(points), strict=True):
        if curve.reason:
            continue
        for name, column in held.items():
            found[name].append(float(column[rows[0]]))
        found["loss"].append(curve.y)
    if not found["loss"]:
        raise UserError(f"no value of {setting} has an inner best {inner}; sweep it more widely")
    columns = {name: np.array(values) for name, values in found.items()}
    return (
        {"params": columns["params"], "tokens": columns["tokens"]},
        columns[setting],
        columns["loss"],
    )


def _curves(groups: list[tuple[np.ndarray, np.ndarray]]) -> list[Curve]:
    """The valley of each group of (log values, losses), all of one degree."""

    def found(degree: int) -> list[Curve]:
        return [
            valley.find(x, y, width=np.log(NEAR), fewest=POINTS, degree=degree, word="value")
            for x, y in groups
        ]

    curves = found(2)
    used = [(x[c.used], y[c.used]) for (x, y), c in zip(groups, curves, strict=True)]
    degree = valley.choose_degree([(x, y) for x, y in used if len(x)])
    return curves if degree == 2 else found(degree)


def _pooled(groups: list[tuple[np.ndarray, np.ndarray]], curves: list[Curve]) -> float:
    """Standard deviation of a run about its curve, from all groups together."""
    squares, freedom = 0.0, 0
    for (x, y), curve in zip(groups, curves, strict=True):
        if not curve.reason:
            fitted = valley.design(x[curve.used], curve) @ curve.coefficients
            squares += float(np.sum((y[curve.used] - fitted) ** 2))
            freedom += int(curve.used.sum()) - len(curve.coefficients)
    return float(np.sqrt(squares / max(freedom, 1)))


def _best(at: dict[str, float], x: np.ndarray, curve: Curve, scatter: float) -> Best:
    if curve.reason:
        return Best(at, float("nan"), float("nan"), float("nan"), 0, curve.reason)
    design = valley.design(x[curve.used], curve)
    covariance = np.linalg.pinv(design.T @ design) * max(scatter, 1e-12) ** 2
    order = np.arange(len(curve.coefficients))
    u = curve.x - curve.centre
    powers = order * u ** np.maximum(order - 1, 0)  # derivatives of the slope by coefficients
    bend = float(np.sum(order * (order - 1) * curve.coefficients * u ** np.maximum(order - 2, 0)))
    stderr = float(np.sqrt(powers @ covariance @ powers)) / bend
    count = int(curve.used.sum())
    return Best(at, float(np.exp(curve.x)), max(stderr, 1e-9), curve.y, count, "")

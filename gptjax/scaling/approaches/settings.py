"""Hyperparameter laws from sweep records: the best learning rate or batch as a function of N and D.

Runs that agree in everything but one setting make a parabola of the loss in its logarithm, whose
minimum is the best setting there. Like an IsoFLOP valley it is used only with an inner minimum and
positive curvature; any other group is kept with the reason. The power law y = K N^a D^b through
the minima (Bi et al. 2024, arXiv:2401.02954; Li et al. 2025, arXiv:2503.04715) is weighted by how
well each is known.
"""

import dataclasses
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.config import FitConfig
from gptjax.scaling.fit.fit import fit
from gptjax.scaling.fit.result import Fit
from gptjax.scaling.tables.runs import Runs, prepare, same_keys

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
    if nested:
        keys, values, losses = _over(runs, setting, nested)
    groups = same_keys(keys)
    parts = [_parabola(np.log(values[rows]), losses[rows]) for rows in groups]
    scatter = _pooled(parts)
    return [
        _best({name: float(column[rows[0]]) for name, column in keys.items()}, part, scatter)
        for rows, part in zip(groups, parts, strict=True)
    ]


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


@dataclasses.dataclass(frozen=True)
class _Parabola:
    """loss = c0 + c1 u + c2 u^2 with u = ln(setting) - centre; `reason` says why not."""

    coefficients: np.ndarray
    centre: float
    log_values: np.ndarray
    residual: np.ndarray
    reason: str = ""


def _over(
    runs: Runs, setting: str, nested: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Each value of `setting` with the loss at the best of the settings swept beside it."""
    inner, *rest = nested
    held = {"params": runs.params, "tokens": runs.tokens, setting: runs.columns[setting]}
    held |= {name: runs.columns[name] for name in rest}
    found: dict[str, list[float]] = {name: [] for name in (*held, "loss")}
    for rows in same_keys(held):
        part = _parabola(np.log(runs.columns[inner][rows]), runs.loss[rows])
        if part.reason:
            continue
        for name, column in held.items():
            found[name].append(float(column[rows[0]]))
        found["loss"].append(_bottom(part)[1])
    if not found["loss"]:
        raise UserError(f"no value of {setting} has an inner best {inner}; sweep it more widely")
    columns = {name: np.array(values) for name, values in found.items()}
    return (
        {"params": columns["params"], "tokens": columns["tokens"]},
        columns[setting],
        columns["loss"],
    )


def _parabola(log_values: np.ndarray, losses: np.ndarray) -> _Parabola:
    """Least squares; values far from the minimum are dropped one round a time."""
    used = np.ones(len(losses), bool)
    for _ in range(10):
        distinct = len(np.unique(np.round(log_values[used], 9)))
        if distinct < POINTS:
            return _Parabola(
                np.full(3, np.nan),
                0.0,
                log_values,
                np.zeros(0),
                f"{distinct} values near the minimum; {POINTS} are needed",
            )
        centre = float(np.mean(log_values[used]))
        u = log_values[used] - centre
        coefficients = np.polyfit(u, losses[used], 2)[::-1]
        residual = losses[used] - np.polynomial.polynomial.polyval(u, coefficients)
        part = _Parabola(coefficients, centre, log_values[used], residual)
        if coefficients[2] <= 0:
            return dataclasses.replace(part, reason="the loss curves down: there is no minimum")
        bottom = centre - coefficients[1] / (2 * coefficients[2])
        if bottom <= log_values[used].min():
            return dataclasses.replace(part, reason="the minimum lies below the smallest value")
        if bottom >= log_values[used].max():
            return dataclasses.replace(part, reason="the minimum lies above the largest value")
        near = np.abs(log_values - bottom) <= np.log(NEAR)
        if np.array_equal(near & used, used):
            return part
        used = used & near
    return part


def _bottom(part: _Parabola) -> tuple[float, float]:
    """(log setting, loss) at the minimum."""
    c0, c1, c2 = part.coefficients
    return part.centre - c1 / (2 * c2), c0 - c1**2 / (4 * c2)


def _pooled(parts: list[_Parabola]) -> float:
    """Standard deviation of a run about its parabola, from all groups together."""
    squares = [float(np.sum(part.residual**2)) for part in parts if not part.reason]
    freedom = sum(len(part.residual) - 3 for part in parts if not part.reason)
    return float(np.sqrt(sum(squares) / max(freedom, 1)))


def _best(at: dict[str, float], part: _Parabola, scatter: float) -> Best:
    if part.reason:
        return Best(at, float("nan"), float("nan"), float("nan"), 0, part.reason)
    log_value, loss = _bottom(part)
    design = np.vander(part.log_values - part.centre, 3, increasing=True)
    covariance = np.linalg.pinv(design.T @ design) * max(scatter, 1e-12) ** 2
    _, c1, c2 = part.coefficients
    gradient = np.array([0.0, -1 / (2 * c2), c1 / (2 * c2**2)])
    stderr = float(np.sqrt(gradient @ covariance @ gradient))
    return Best(
        at, float(np.exp(log_value)), max(stderr, 1e-9), float(loss), len(part.residual), ""
    )

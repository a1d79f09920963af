"""Everything that a report shows, from a table of runs: the content of `laws.json`."""

import dataclasses
import math
import threading
from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.approaches import emergence, settings
from gptjax.scaling.approaches.envelope import fit_envelope
from gptjax.scaling.approaches.isoflop import IsoFlop, fit_isoflop, method_bias
from gptjax.scaling.approaches.mixture import Mixture, mix, rivals
from gptjax.scaling.approaches.settings import varying
from gptjax.scaling.config import FitConfig
from gptjax.scaling.fit import compare_forms, diagnostics
from gptjax.scaling.fit.fit import fit, fit_runs
from gptjax.scaling.fit.holdout import hold_out, without_largest
from gptjax.scaling.fit.optimum import Cost, cost_of
from gptjax.scaling.fit.result import Fit
from gptjax.scaling.forms import form_named, load
from gptjax.scaling.laws import describe, design, joint, verdict
from gptjax.scaling.laws.saved import Laws
from gptjax.scaling.tables.runs import Runs, best_of_each, prepare, require
from gptjax.scaling.tables.table import as_table
from gptjax.threads import in_threads, unless_refused

LINE_POINTS = 60
CHECKED_RUNS = 10_000  # most runs that the checks of a law and its rival forms are fitted to
HELD_RESAMPLES = 250  # enough for the intervals of the held-out runs
EVERY_COUNT = "params_non_embedding"  # a column of tables that say what they count
STATED = "stated"  # counted as the table has it, which does not say how
PARAMETRIC = "chinchilla_parametric"
ROLLED = ("chinchilla", "power_mean")  # forms whose forecasts are rolled out


Watch = Callable[[int, int], None]
"""Told how many of a fit's parts are done, and of how many."""

Spread = Callable[[Sequence[Callable[[], Any]], Callable[[], None]], list[Any]]
"""Makes independent calls, as `in_threads` does: (calls, what to do after each) -> results."""


@dataclasses.dataclass
class Steps:
    """Counts the parts of a fit that are done, and makes them."""

    watch: Watch
    spread: Spread
    total: int = 0
    done: int = 0
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def made(self, calls: dict[str, Callable[[], Any]]) -> dict[str, Any]:
        """The results of calls; where one ends in a UserError, the error."""
        found = self.spread(list(calls.values()), self.tick)
        return dict(zip(calls, found, strict=True))

    def tick(self) -> None:
        with self._lock:  # so that every number is told once, in order
            self.done += 1
            self.watch(self.done, self.total)


def fit_laws(
    runs: Any,
    curves: Any = None,
    config: FitConfig | None = None,
    *,
    watch: Watch = lambda done, total: None,
    spread: Spread = in_threads,
) -> dict[str, Any]:
    """Fit every law that the config names and collect what a report needs.

    Args:
      runs: the table of runs (path, columns, records or Table).
      curves: the table of training curves, for the envelope; None leaves that law out.
      config: all settings.
      watch: called with (parts done, parts in all), from any thread.
      spread: makes the independent parts.

    Returns:
      Plain JSON types only; numbers that are not finite are None.

    Raises:
      UserError: when the table is wrong, or no law at all can be fitted to it.
    """
    config = config or FitConfig()
    load(config.form_files)
    runs = as_table(runs)
    config = dataclasses.replace(config, forms=with_rivals(config.forms))
    table = best_of_each(prepare(runs, config, _needs(config)), config.settings)
    require(table, "a scaling law", 3)
    some, said = _some_of(table)
    makers = _makers(table, curves, config)
    checks = _checks(runs, some, config) if PARAMETRIC in makers else {}
    steps = Steps(watch, spread, len(makers) + len(checks) + len(_names_of_later(makers, config)))
    solved = steps.made({**makers, **checks})
    results = {name: solved[name] for name in makers if not isinstance(solved[name], UserError)}
    refused = [f"{name}: {solved[name]}" for name in makers if name not in results]
    if not results:
        raise UserError(_no_law(refused))
    checked = {name: solved[name] for name in checks} if PARAMETRIC in results else {}
    checked = {name: unless_refused(result) for name, result in checked.items()}
    later = steps.made(_later(runs, some, results, checked, config))
    checked |= {name: unless_refused(result) for name, result in later.items()}
    warnings = [*table.warnings, *said, *_swept(runs, table, config)]
    for result in results.values():
        warnings += [w for w in getattr(result, "warnings", ()) if w not in warnings]
    found = _found(runs, table, results, checked, config)
    found = dataclasses.replace(found, warnings=[*warnings, *refused])
    return verdict.completed(Laws.from_json(plain(found.to_json()))).to_json()


def _later(
    runs: Any, table: Runs, results: dict[str, Any], checked: dict[str, Any], config: FitConfig
) -> dict[str, Callable[[], Any]]:
    """What rests on the parametric law, by its name; each independent of the others."""
    if PARAMETRIC not in results:
        return {}
    law, valleys = results[PARAMETRIC], results.get("isoflop")
    target = _targets(law.runs, config)[0]
    calls: dict[str, Callable[[], Any]] = {
        "mixture": lambda: _mixture(table, law, checked["rivals"], config),
        "holdout": lambda: _holdout(law, table, valleys, config),
        "drift": lambda: diagnostics.drift(table, law, target),
        "run_next": lambda: _run_next(law, target, config),
        "conventions": lambda: _convention_table(runs, table, law, checked, config),
        "method": lambda: method_bias(table, law, config),
    }
    return {name: calls[name] for name in _names_of_later(results, config)}


def _names_of_later(laws: Container[str], config: FitConfig) -> list[str]:
    """Of the parts that rest on the parametric law, those that are made beside these laws."""
    if PARAMETRIC not in laws:
        return []
    made = {
        "mixture": config.diagnostics and not config.tied_exponents,
        "holdout": True,
        **dict.fromkeys(("drift", "run_next", "conventions"), config.diagnostics),
        "method": config.diagnostics and "isoflop" in laws,
    }
    return [name for name in made if made[name]]


def _found(
    runs: Any,
    table: Runs,
    results: dict[str, Any],
    checked: dict[str, Any],
    config: FitConfig,
) -> Laws:
    """The laws, what they predict, and the checks of them by name; without warnings."""
    mixed = checked.get("mixture")
    prediction = predictions(results, table, config)
    if mixed is not None:
        prediction = [*mixed_predictions(mixed, table, config), *prediction]
    flops = line_flops(table, config)
    laws = {name: describe.law(result, table, flops) for name, result in results.items()}
    if "method" in checked:
        laws["isoflop"]["method"] = checked["method"]
    counted = conventions(table, config)
    return Laws(
        settings=dataclasses.asdict(config),
        conventions={**counted, "table": checked.get("conventions", [])},
        data=describe.data(table),
        runs=describe.runs(table),
        left_out=[dataclasses.asdict(entry) for entry in table.left_out],
        laws=laws,
        prediction=prediction,
        mixture=None if mixed is None else describe.mixture(mixed),
        holdout=checked.get("holdout"),
        scores=checked.get("scores", ()),
        rollout=checked.get("rollout", ()),
        drift=checked.get("drift", ()),
        run_next=checked.get("run_next"),
        emergence=_emergence(results),
        settings_laws=_settings_laws(runs, prediction, config),
        chains=joint.chains(table, results.get(PARAMETRIC), prediction, config),
        outputs=joint.outputs(runs.where(np.isin(runs.places, table.place)), prediction, config),
    )


def _some_of(table: Runs) -> tuple[Runs, list[str]]:
    """The runs that checks and rival forms are fitted to, and a sentence where they are a sample.

    Every k-th by compute, and the best of the largest budget, which rollouts predict.
    """
    rows = len(table)
    if rows <= CHECKED_RUNS:
        return table, []
    order = np.argsort(table.flops, kind="stable")
    keep = np.zeros(rows, bool)
    keep[order[np.linspace(0, rows - 1, CHECKED_RUNS).round().astype(int)]] = True
    top = np.flatnonzero(table.budget == table.budgets[-1])
    keep[top[np.argmin(table.loss[top])]] = True
    said = (
        f"the laws rest on all {rows:,} runs; hold-out, scores, rollouts, drift and the other "
        f"forms of the mixture on {keep.sum():,} of them, every k-th by compute"
    )
    return table.take(keep), [said]


def _mixture(table: Runs, law: Fit, beside: list[Fit], config: FitConfig) -> Mixture:
    """The forms beside the parametric law."""
    if len(law.runs) != len(table):  # forms are weighed on the same runs
        law = fit_runs(table, law.form, config, quick=True)
    return mix(table, law, config, beside=beside)


def _targets(table: Runs, config: FitConfig) -> tuple[float, ...]:
    """The budgets that are predicted."""
    return config.predict_flops or (float(table.budget.max()) * config.extrapolate,)


def mixed_predictions(mixed: Mixture, table: Runs, config: FitConfig) -> list[dict[str, Any]]:
    """The mixture's entry for each target budget."""
    largest = float(table.budget.max())
    entries = []
    for flops in _targets(table, config):
        entry: dict[str, Any] = {**mixed.at(flops), "law": "mixture", "flops": flops}
        entry |= {"factor": flops / largest, "tokens_per_param": entry["tokens"] / entry["params"]}
        entry["forms"] = mixed.each_at(flops)
        entries.append(entry)
    return entries


def _settings_laws(runs: Any, prediction: list[dict[str, Any]], config: FitConfig) -> list[dict]:
    """The laws of the best settings, read at the first prediction."""
    if not config.settings:
        return []
    at = (prediction[0]["params"], prediction[0]["tokens"]) if prediction else None
    return settings.setting_laws(runs, config, at)


def _no_law(refused: list[str]) -> str:
    """Why no law at all could be fitted, each approach with its own reason."""
    if not refused:
        return "fit.approaches and fit.forms name no law; name one"
    reasons: dict[str, list[str]] = {}
    for entry in refused:
        name, _, why = entry.partition(": ")
        reasons.setdefault(why, []).append(name)
    parts = [f"{', '.join(names)}: {why}" for why, names in reasons.items()]
    return parts[0] if len(parts) == 1 else f"no law can be fitted: {'; '.join(parts)}"


def with_rivals(forms: tuple[str, ...]) -> tuple[str, ...]:
    """The forms, with the smooth one beside a sigmoid."""
    rivals = emergence.RIVALS if "sigmoid" in forms else ()
    return tuple(dict.fromkeys((*forms, *rivals)))


def _needs(config: FitConfig) -> tuple[str, ...]:
    """The columns that the laws read."""
    always = ("params", "tokens") if config.approaches else ()
    read = (column for name in config.forms for column in form_named(name).columns)
    return tuple(dict.fromkeys((*always, *read)))


def _emergence(results: dict[str, Any]) -> dict[str, Any] | None:
    """The sigmoid beside its smooth rival; None without both."""
    if not set(emergence.RIVALS) <= set(results):
        return None
    try:
        found = emergence.compare(*(results[name] for name in emergence.RIVALS))
    except UserError:
        return None
    return emergence.describe(found)


def _swept(runs: Any, table: Runs, config: FitConfig) -> list[str]:
    """A sentence where a setting varies among runs that the laws take for equal."""
    needs = _needs(config)
    names = [name for name in varying(runs, table) if name not in needs]
    if config.settings or not names:
        return []
    return [
        f"runs of equal N and D differ in {' and '.join(names[:3])}, and {verdict.VARIED}: name "
        "what was swept by fit.settings to use the best run of each N and D, or keep one value by "
        "fit.where"
    ]


def _makers(table: Runs, curves: Any, config: FitConfig) -> dict[str, Any]:
    """What to fit, by its key in laws.json."""
    makers: dict[str, Any] = {}
    if "parametric" in config.approaches:
        makers[PARAMETRIC] = lambda: fit(table, "chinchilla", config=config)
    if "isoflop" in config.approaches:
        makers["isoflop"] = lambda: fit_isoflop(table, config)
    if "envelope" in config.approaches and curves is not None:
        makers["envelope"] = lambda: fit_envelope(curves, table, config)
    for name in config.forms:
        key = PARAMETRIC if name == "chinchilla" else name
        makers[key] = lambda name=name: fit(table, name, config=config)
    return makers


def _checks(runs: Any, table: Runs, config: FitConfig) -> dict[str, Any]:
    """What a reviewer asks and does not need the laws for."""
    if not config.diagnostics:
        return {}
    forms = tuple(dict.fromkeys((*config.compare, *config.forms)))
    form = form_named("chinchilla")
    checks: dict[str, Any] = {
        "rollout": lambda: compare_forms.rollout(table, ROLLED, config),
        "scores": lambda: compare_forms.scores(table, forms, config),
    }
    if not config.tied_exponents:
        checks["rivals"] = lambda: rivals(table, config)
    if len(diagnostics.countings(runs, config)) > 1:
        checks["conventions"] = lambda: diagnostics.convention_table(runs, form, config)
    return checks


def _convention_table(
    runs: Any, table: Runs, law: Fit, checked: dict[str, Any], config: FitConfig
) -> list[dict[str, Any]]:
    """The fits under every counting; the law itself where the table allows one alone."""
    if "conventions" in checked:
        return list(checked["conventions"])
    (one,) = diagnostics.countings(runs, config)
    return [diagnostics.convention_row(table, law, one)]


def line_flops(table: Runs, config: FitConfig) -> np.ndarray:
    """Budgets from the smallest run to the farthest prediction, for lines and bands."""
    far = max((table.flops.max() * config.extrapolate, *config.predict_flops))
    return np.geomspace(table.flops.min(), far, LINE_POINTS)


def conventions(table: Runs, config: FitConfig) -> dict[str, Any]:
    """What N and C count in these laws."""
    cost: Cost = cost_of(table)
    ours = EVERY_COUNT in table.columns
    exact = config.flops_convention == "exact" and not any("6 N D" in w for w in table.warnings)
    return {
        "params": config.params_convention if ours and not config.column_params else STATED,
        "flops": "6nd" if not exact else "exact" if ours and not config.column_flops else STATED,
        "loss": _unit_of_loss(config, ours),
        "cost": {"kappa": cost.kappa, "slope": cost.slope, "spread": cost.spread},
    }


def _unit_of_loss(config: FitConfig, ours: bool) -> str:
    """The unit of the loss, as far as the table or the config says it."""
    if config.loss_unit == "nats" and config.column_loss not in ("", "loss", "val_loss"):
        return f"as in column {config.column_loss}"
    return "nats per token" if ours and not config.column_loss else "nats"


def predictions(results: dict[str, Any], table: Runs, config: FitConfig) -> list[dict[str, Any]]:
    """One entry for each law and target budget, the parametric law first."""
    largest = float(table.budget.max())
    targets = _targets(table, config)
    entries = []
    for name, result in results.items():
        if isinstance(result, Fit) and not result.form.splits_compute:
            continue
        line = describe.optimum_lines(result, np.array(targets))
        for i, flops in enumerate(targets):
            entry = {key: values[i] for key, values in line.items() if values is not None}
            entry |= {"law": name, "flops": flops, "factor": flops / largest}
            entry |= {"tokens_per_param": entry["tokens"] / entry["params"]}
            entries.append(entry)
    return entries


def _holdout(
    law: Fit, table: Runs, valleys: IsoFlop | None, config: FitConfig
) -> dict[str, Any] | None:
    """The largest budgets predicted from the smaller ones; None where that cannot be done."""
    if config.holdout_budgets == 0:
        return None
    few = dataclasses.replace(config, resamples=min(config.resamples, HELD_RESAMPLES))
    try:
        held = hold_out(table, law.form, without_largest(table, config.holdout_budgets), few)
    except UserError:
        return None
    rest = held.heldout
    error = held.relative_error
    rows = [
        {
            "cell": str(rest.cell[i]),
            "budget": rest.budget[i],
            "params": rest.params[i],
            "tokens": rest.tokens[i],
            "flops": rest.flops[i],
            "loss": rest.loss[i],
            "predicted": held.predicted[i],
            "low": held.low[i],
            "high": held.high[i],
            "relative_error": error[i],
        }
        for i in range(len(rest))
    ]
    best = int(np.argmin(rest.loss))
    top = held.law.optimum(float(rest.budget.max()))
    seen = [v for v in valleys.used if v.budget == rest.budget.max()] if valleys else []
    return {
        "budgets": [float(b) for b in rest.budgets],
        "n_train": len(held.law.runs),
        "n_heldout": len(rest),
        "law": PARAMETRIC,
        "relative_error": abs(error[best]),
        "mean_relative_error": float(np.mean(np.abs(error))),
        "max_relative_error": float(np.max(np.abs(error))),
        "coverage": held.coverage,
        "best": rows[best],
        "rows": rows,
        "optimum": {
            "flops": top.flops,
            "params": top.params.to_json(),
            "tokens": top.tokens.to_json(),
            "loss": top.loss.to_json(),
            "valley_params": seen[0].params if seen else None,
            "valley_loss": seen[0].loss if seen else None,
        },
    }


def _run_next(law: Fit, target: float, config: FitConfig) -> dict[str, Any] | None:
    """The next cells for as many FLOPs as were spent, or for the config's allowance."""
    allowance = config.next_allowance or float(law.runs.flops.sum())
    try:
        plan = design.run_next(law, target, allowance, quantity=config.next_quantity)
    except UserError:
        return None
    return design.describe_plan(law, plan)


def plain(value: Any) -> Any:
    """Plain JSON types: NumPy scalars and arrays become Python's, what is not finite None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.bool_ | bool):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value

"""From a table to runs that a law can be fitted to: columns chosen, numbers checked, rows sorted.

What is certainly a mistake in the table raises one sentence; what is a legitimate reason not to
use a run (it failed, it is below the cut) is kept as a reason beside the run's name.
"""

import dataclasses
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from gptjax.errors import UserError, nearest
from gptjax.scaling.config import LOSS_UNITS, FitConfig
from gptjax.scaling.tables import curves, dialects, passes, states, summaries, units
from gptjax.scaling.tables.table import Table, as_table

# Beyond these a unit is wrong: no model, corpus or budget on Earth is near.
LIMITS = {"params": 1e18, "tokens": 1e21, "flops": 1e36, "loss": 1e4}
UNIFORM = 1e-6  # relative spread under which a column counts as constant


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A run that no law uses, and why."""

    cell: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Runs:
    """The usable runs, one array element each, in the table's order.

    Attributes:
      params, tokens, flops, loss: numbers, loss in nats per token.
      stderr: standard error of the loss, NaN where unknown.
      budget: nominal FLOPs that the run belongs to.
      group: index of what is resampled together (its trunk, or itself).
      columns: every numeric column of the table, for forms that need others.
      place: the row number of each run in the table.
    """

    cell: np.ndarray
    params: np.ndarray
    tokens: np.ndarray
    flops: np.ndarray
    loss: np.ndarray
    stderr: np.ndarray
    budget: np.ndarray
    group: np.ndarray
    columns: dict[str, np.ndarray]
    place: np.ndarray
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[str, ...] = ()
    group_by: str = "run"

    def __len__(self) -> int:
        return len(self.loss)

    def take(self, keep: np.ndarray) -> "Runs":
        """The runs where the mask `keep` is true."""
        changed: dict[str, Any] = {
            field.name: getattr(self, field.name)[keep]
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), np.ndarray)
        }
        changed["columns"] = {name: column[keep] for name, column in self.columns.items()}
        changed["group"] = np.unique(changed["group"], return_inverse=True)[1]
        return dataclasses.replace(self, **changed)

    @property
    def budgets(self) -> np.ndarray:
        return np.unique(self.budget)

    @property
    def groups(self) -> int:
        return len(np.unique(self.group))


CURVE = "only a curve's last point is a run"
UNMEASURED = "no loss in this row: a later one of the same run has it"


def prepare(
    table: Any, config: FitConfig | None = None, needs: tuple[str, ...] = ("params", "tokens")
) -> Runs:
    """The usable runs of a table.

    Args:
      table: a Table, a mapping of columns, a list of records or a path.
      config: which columns, which counting convention, which cuts.
      needs: which of params and tokens must be there; ones stand in for the others.

    Raises:
      UserError: for a missing column, text or an impossible number in one, or no usable run.
    """
    config = config or FitConfig()
    table, left_out, warnings = _drop(as_table(table).named(), config)
    given, table = table, _stand_in(table, config, needs)
    table, said = _tokens_of_flops(table, config)
    warnings = [*warnings, *said]
    names = _column_names(table, config)
    stated = {what for what in names if names[what] in given}
    table, left, said, config = _last_points(table, names, stated, config)
    left_out, warnings = [*left_out, *left], [*warnings, *said]
    unit = {"params": config.unit_params, "tokens": config.unit_tokens, "flops": config.unit_flops}
    values = {
        what: _in_units(table.numbers(name), what, unit.get(what, 1.0) if what in stated else 1.0)
        for what, name in names.items()
    }
    for name in needs:
        if name in table:
            table.numbers(name)  # raises at the first text
    for what, array in values.items():
        _check(table, names[what], what, array, raw=not config.loss_kind.endswith("_log"))
    if config.check_units:
        warnings += units_check(table, names, values, stated, config)
    grown = any(CURVE in one.reason for one in left)
    values["tokens"], said = passes.tokens_seen(table, values, stated, config, grown=grown)
    warnings += said
    values["loss"] = _nats(values["loss"], config.loss_unit)
    if config.flops_convention == "6nd" or "flops" not in values:
        if config.flops_convention == "exact" and {"params", "tokens"} <= set(needs):
            warnings.append("the table has no column of FLOPs, so C = 6 N D is used")
        values["flops"] = 6.0 * values["params"] * values["tokens"]
    columns = _others(table, values)
    if "flops" not in names and set(table.columns) != set(given.columns):
        del columns["flops"]  # of stand-ins: no form may read it
    group, group_by = _groups(table, config)
    runs = Runs(
        cell=_cells(table),
        params=values["params"],
        tokens=values["tokens"],
        flops=values["flops"],
        loss=values["loss"],
        stderr=_stderr(table),
        budget=_budgets(table, values["flops"], config),
        group=group,
        columns=columns,
        place=np.asarray(table.places),
        left_out=tuple(left_out),
        warnings=tuple(warnings),
        group_by=group_by,
    )
    return _cut(runs, config, needs)


def units_check(
    table: Table,
    names: dict[str, str],
    values: dict[str, np.ndarray],
    stated: set[str],
    config: FitConfig,
) -> list[str]:
    """Refuse counts and losses in other units, where their columns carry the usual meaning.

    Returns:
      Sentences about numbers that are possible and rare.
    """
    units.check(table.name, table.places, values, stated)
    if config.loss_unit == "nats":
        units.check_loss(table.name, names["loss"], values["loss"])
    said = units.unusual(values) if {"params", "tokens"} <= stated else []
    active = next((name for name in table.columns if units.of_active(name)), "")
    if active and active != names["params"] and "params" in stated:
        said.append(
            f"N is {names['params']}, and the table has {active} too: 6 N D counts the parameters "
            f"that are active for a token, so name it by fit.column_params={active} if the law is "
            "to be one of those"
        )
    return said


def _nats(loss: np.ndarray, unit: str) -> np.ndarray:
    return LOSS_UNITS[unit](loss)


def _last_points(
    table: Table, names: dict[str, str], stated: set[str], config: FitConfig
) -> tuple[Table, list[LeftOut], list[str], FitConfig]:
    """Without the inner points of curves; runs of one name are resampled together otherwise."""
    if config.column_group or not {"params", "tokens"} <= stated:
        return table, [], [], config
    between = curves.unmeasured(table, names["params"], names["tokens"], names["loss"])
    cells = _cells(table)
    left = [LeftOut(str(cells[i]), UNMEASURED) for i in np.flatnonzero(between)]
    notes = [f"{len(left)} rows without {names['loss']} lie before one of the same run"] * any(left)
    table = table.where(~between)
    found = curves.repeated_names(table, names["params"], names["tokens"])
    if found is None:
        return table, left, notes, config
    column, count = found.column, len(set(found.label))
    if not found.curves:
        said = (
            f"{column} names {count} models in {len(table)} rows: rows of one name are resampled "
            "together; name another column by fit.column_group if they are separate runs"
        )
        return table, left, [*notes, said], dataclasses.replace(config, column_group=column)
    last = curves.last_points(found.label, table.numbers(names["tokens"]))
    cells = _cells(table)  # of the rows that are left
    why = f"an earlier point of the same {column}: {CURVE}"
    inner = [LeftOut(str(cells[i]), why) for i in np.flatnonzero(~last)]
    said = (
        f"{len(table)} rows are points of {count} curves, told apart by {column}: the last of "
        f"each is used and {len(inner)} are left out"
    )
    return table.where(last), [*left, *inner], [*notes, said], config


def _drop(table: Table, config: FitConfig) -> tuple[Table, list[LeftOut], list[str]]:
    """Without rows that a selection or an unfinished run rules out."""
    if len(table) == 0:
        raise UserError(f"{table.name} has no rows; give one row for each run")
    table = select(table, config.where)
    table, summed = _without_summaries(table)
    found, warnings = states.unfinished(table)
    warnings = [*summed, *warnings]
    why = states.reasons(table, found)
    cells = _cells(table)
    left_out = [LeftOut(cells[i], reason) for i, reason in sorted(why.items())]
    table = table.where(np.array([i not in found for i in range(len(table))]))
    if len(table) == 0:
        what = "failed" if set(found.values()) == {"failed"} else "is unfinished"
        raise UserError(f"every run of {table.name} {what}; first reason: {left_out[0].reason}")
    if left_out:
        listed = ", ".join(
            f"{one.cell} ({found[i]})" for i, one in zip(found, left_out, strict=True)
        )
        warnings.insert(0, f"{len(left_out)} run(s) that did not finish are left out: {listed}")
    return table, left_out, warnings


def _without_summaries(table: Table) -> tuple[Table, list[str]]:
    """Without rows of means and totals, and a sentence of them."""
    found = summaries.summary_rows(table)
    if not found:
        return table, []
    listed = ", ".join(f"row {table.places[i]} ({what})" for i, what in found.items())
    keep = np.array([i not in found for i in range(len(table))])
    return table.where(keep), [f"rows that summarise others are left out: {listed}"]


_CONDITION = re.compile(r"\s*([^=!<>]+?)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*")
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def select(table: Table, where: str) -> Table:
    """The rows where every condition of `where` holds.

    Raises:
      UserError: for a condition that cannot be read, an unknown column, or no row left.
    """
    for condition in filter(None, where.split(",")):
        found = _CONDITION.fullmatch(condition)
        if not found or not found[3]:
            raise UserError(
                f"where={where!r} is not column=value; write it like data=c4 or params>1e7, with "
                "commas between conditions"
            )
        column, sign, value = table.find(found[1]), found[2], found[3]
        if sign in _COMPARE:
            bound = dialects.number(value, suffixes=True)
            if bound is None:
                raise UserError(
                    f"where={where!r}: {value!r} is not a number; give one after {sign}"
                )
            keep = _COMPARE[sign](table.numbers(column), bound)
        else:
            keep = (table.text(column) == value) == (sign == "=")
        table = table.where(np.asarray(keep, bool))
        if len(table) == 0:
            raise UserError(f"where={where!r} matches no row of {table.name}")
    return table


def _stand_in(table: Table, config: FitConfig, needs: tuple[str, ...]) -> Table:
    """With ones for a size or a token count that a form does not read and the table lacks."""
    known = {
        "params": ("params", "N", f"params_{config.params_convention}"),
        "tokens": ("tokens", "D"),
    }
    given = {"params": config.column_params, "tokens": config.column_tokens}
    missing = [
        what
        for what, names in known.items()
        if what not in needs and not given[what] and not any(name in table for name in names)
    ]
    ones = {what: np.ones(len(table)) for what in missing}
    return table.with_columns(ones)


def _in_units(numbers: np.ndarray, what: str, unit: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        found = numbers * unit
    if np.any(np.isfinite(numbers) & ~np.isfinite(found)):
        raise UserError(
            f"fit.unit_{what}={unit:g} times a number of the table is none; give the size of the "
            "column's unit, such as 1e9"
        )
    return found


def _tokens_of_flops(table: Table, config: FitConfig) -> tuple[Table, list[str]]:
    """With D = C / 6N where the table has sizes and FLOPs and no tokens, and a sentence of it.

    A column whose name is nearly that of tokens is left for the refusal that names it.
    """
    if config.column_tokens or any(name in table for name in ("tokens", "D")):
        return table, []
    size = (config.column_params, f"params_{config.params_convention}", "params", "N")
    spent = (config.column_flops, "flops", "C")
    params, flops = (next((n for n in names if n in table), "") for names in (size, spent))
    mistyped = "did you mean" in nearest("tokens", table.columns)
    if not (params and flops) or mistyped:
        return table, []
    counts = table.numbers(params) * config.unit_params
    with np.errstate(divide="ignore", invalid="ignore"):
        tokens = table.numbers(flops) * config.unit_flops / (6 * counts)
    if config.check_units:
        units.derived(table.name, counts, tokens, flops)
    said = f"the table has no column of tokens, so D = C / 6N from {flops} and {params} is used"
    return table.with_columns({"tokens": tokens}), [said]


def _column_names(table: Table, config: FitConfig) -> dict[str, str]:
    """Which column holds what; '' for a missing column of FLOPs."""
    wanted = {
        "params": (config.column_params, f"params_{config.params_convention}", "params", "N"),
        "tokens": (config.column_tokens, "tokens", "D"),
        "loss": (config.column_loss, "loss", "val_loss"),
    }
    names = {}
    for what, choices in wanted.items():
        if choices[0]:
            names[what] = table.find(choices[0])
        else:
            found = [name for name in choices[1:] if name in table]
            if what == "tokens" and not found:
                passes.check_batches(table)
            names[what] = found[0] if found else table.find(*choices[1:], what=what)
    flops = (config.column_flops,) if config.column_flops else ("flops", "C")
    if config.column_flops or any(name in table for name in flops):
        names["flops"] = table.find(*flops)
    return names


def _check(table: Table, column: str, what: str, values: np.ndarray, *, raw: bool) -> None:
    """One sentence for the first number that cannot be; a named target has a sign of its own.

    A share or a score may be 0 or below where no log is taken.
    """
    named = what == "loss" and column not in ("loss", "val_loss")
    signed = named and raw
    limit = 1e25 if named else LIMITS[what]  # another target may count steps or tokens
    for row, value in zip(table.places, values, strict=True):
        place = f"{table.name} row {row}: {column}"
        if np.isnan(value):
            raise UserError(f"{place} is missing or NaN; remove the row or give it status=failed")
        if np.isinf(value):
            raise UserError(f"{place}={value} is not finite; remove the row or correct it")
        if value <= 0 and not signed:
            hint = "; or fit it without a log by fit.loss_kind=squares" if named else ""
            raise UserError(
                f"{place}={value:g} must be above zero; remove the row or correct it{hint}"
            )
        if abs(value) > limit:
            raise UserError(f"{place}={value:g} is beyond {limit:g}; check the column's unit")


def _cells(table: Table) -> np.ndarray:
    return np.array([str(value) for value in table.text(table.name_column)], dtype=object)


def _stderr(table: Table) -> np.ndarray:
    if "loss_stderr" not in table:
        return np.full(len(table), np.nan)
    stderr = table.numbers("loss_stderr")
    if np.any(stderr < 0):
        row = int(table.places[np.flatnonzero(stderr < 0)[0]])
        raise UserError(f"{table.name} row {row}: loss_stderr is negative; correct the cell")
    return stderr


def _groups(table: Table, config: FitConfig) -> tuple[np.ndarray, str]:
    """What a resample draws together: an explicit column, trunks, or single runs."""
    column = config.column_group
    if not column and config.group_by in ("auto", "trunk") and "trunk" in table:
        column = "trunk"
    if config.group_by == "trunk" and not column:
        raise UserError("group_by=trunk, but the table has no column trunk; use group_by=run")
    if not column or config.group_by == "run":
        return np.arange(len(table)), "run"
    labels = [
        label if label else f"\0{i}" for i, label in enumerate(table.text(table.find(column)))
    ]
    group = np.unique(np.array(labels, dtype=str), return_inverse=True)[1]
    alone = len(np.unique(group)) == len(group)
    return group, "run" if alone else column


def _budgets(table: Table, flops: np.ndarray, config: FitConfig) -> np.ndarray:
    """The nominal budget of each run: its column, else clusters of FLOPs by their median."""
    column = config.column_budget or ("budget" if "budget" in table else "")
    if column:
        values = table.numbers(table.find(column))
        if np.all(np.isfinite(values) & (values > 0)):
            return values
        if config.column_budget:
            raise UserError(f"{table.name}: column {column} must hold positive budgets in FLOPs")
    order = np.argsort(flops, kind="stable")
    budget = np.empty_like(flops)
    start = 0
    for end in range(1, len(order) + 1):
        last = end == len(order)
        if last or flops[order[end]] > flops[order[start]] * (1 + config.budget_tolerance):
            budget[order[start:end]] = np.median(flops[order[start:end]])
            start = end
    return budget


def _others(table: Table, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    numeric = {n: c for n, c in table.columns.items() if c.dtype.kind == "f"}
    return {**numeric, **values}


def _cut(runs: Runs, config: FitConfig, needs: tuple[str, ...]) -> Runs:
    """Without runs below the config's cuts, and without copies of a run."""
    names = dict.fromkeys(("params", "tokens", "flops", "loss", *needs))
    telling = [runs.columns[name] for name in names if name in runs.columns]
    reasons: dict[int, str] = {}
    seen: dict[tuple, int] = {}
    most = config.exclude_highest_losses
    highest = set(np.argsort(runs.loss, kind="stable")[-most:].tolist()) if most else set()
    for i in range(len(runs)):
        key = tuple(float(column[i]) for column in telling)
        if runs.flops[i] < config.exclude_below_flops:
            reasons[i] = f"below exclude_below_flops={config.exclude_below_flops:g}"
        elif runs.tokens[i] < config.exclude_below_tokens:
            reasons[i] = f"below exclude_below_tokens={config.exclude_below_tokens:g}"
        elif 0 < config.exclude_above_loss < runs.loss[i]:
            reasons[i] = f"above exclude_above_loss={config.exclude_above_loss:g}"
        elif i in highest:
            reasons[i] = f"among the exclude_highest_losses={config.exclude_highest_losses}"
        elif key in seen and not config.keep_duplicates:
            reasons[i] = f"the same numbers as {runs.cell[seen[key]]}: a duplicate adds nothing"
        seen.setdefault(key, i)
    keep = np.array([i not in reasons for i in range(len(runs))])
    left_out = (*runs.left_out, *(LeftOut(runs.cell[i], why) for i, why in reasons.items()))
    copies = sum("duplicate" in why for why in reasons.values())
    warnings = runs.warnings
    if copies:
        warnings += (f"{copies} duplicated run(s) left out",)
    if not keep.any():
        raise UserError(
            f"no run is left to fit; the first was left out because {left_out[0].reason}"
        )
    return dataclasses.replace(runs.take(keep), left_out=left_out, warnings=warnings)


def require(runs: Runs, form: str, rows: int, columns: tuple[str, ...] = ()) -> None:
    """Refuse runs from which `form` cannot be fitted, in one sentence.

    Raises:
      UserError: too few runs, a constant loss, or a column with a single value.
    """
    if len(runs) < rows:
        raise UserError(
            f"{form} needs at least {rows} runs and the table has {len(runs)}; add runs"
        )
    if np.ptp(runs.loss) <= UNIFORM * np.abs(runs.loss).mean():
        raise UserError(
            f"every run has loss={runs.loss[0]:g}: a constant loss has no law; check the column"
        )
    for column in columns:
        values = runs.columns[column] if column in runs.columns else getattr(runs, column)
        if np.ptp(values) <= UNIFORM * np.abs(values).mean():
            raise UserError(
                f"every run has {column}={values[0]:g}, so {form} cannot tell how the loss depends "
                f"on {column}; add runs of at least one other value"
            )


def same_keys(keys: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Rows of equal keys, in the order of their first row."""
    rows: dict[tuple[float, ...], list[int]] = {}
    for i, key in enumerate(zip(*keys.values(), strict=True)):
        rows.setdefault(tuple(float(f"{value:.9g}") for value in key), []).append(i)
    return [np.array(index) for index in rows.values()]


def best_of_each(runs: Runs, settings: tuple[str, ...]) -> Runs:
    """The run of least loss among those of equal params and tokens; the others with the reason."""
    if not settings:
        return runs
    groups = same_keys({"params": runs.params, "tokens": runs.tokens})
    best = [int(rows[np.argmin(runs.loss[rows])]) for rows in groups]
    beaten = [
        LeftOut(
            runs.cell[row],
            f"a run of the same N and D has a better {' and '.join(settings)}: {runs.cell[kept]}",
        )
        for rows, kept in zip(groups, best, strict=True)
        for row in rows
        if row != kept
    ]
    keep = np.isin(np.arange(len(runs)), best)
    return dataclasses.replace(runs.take(keep), left_out=(*runs.left_out, *beaten))


def seed_noise(runs: Runs) -> float:
    """Standard deviation of log loss between runs that differ only in their seed; NaN without."""
    keys = np.stack([runs.params, runs.tokens], axis=1)
    _, which = np.unique(keys, axis=0, return_inverse=True)
    which = which.ravel()
    with np.errstate(divide="ignore", invalid="ignore"):  # a score may be zero or below
        logs = np.log(runs.loss)
    count = np.bincount(which)
    if np.all(count < 2):
        return float("nan")
    mean = np.bincount(which, logs) / count
    freedom = np.sum(count - 1)
    return float(np.sqrt(np.sum((logs - mean[which]) ** 2) / freedom))

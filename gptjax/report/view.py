"""The view of laws and runs that page and figures draw: the only file that knows the keys.

Anything may be missing: an absent interval is NaN, an absent section is empty, so that a sweep with
a failed run or a refused fit still gets its page.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from gptjax.report.numbers import count_text, exact_text, fixed_text, power_text
from gptjax.scaling.config import PARAMS_CONVENTIONS
from gptjax.scaling.laws.saved import Json, Laws

# law: its name, from approach 3 to approach 1 of Hoffmann et al. 2022
APPROACHES = {
    "chinchilla_parametric": "parametric L(N, D)",
    "isoflop": "IsoFLOP valleys",
    "envelope": "curve envelope",
}


class Number(NamedTuple):
    """A value and its interval; NaN where unknown."""

    value: float
    low: float
    high: float


MISSING = Number(math.nan, math.nan, math.nan)


def real(value: Any) -> float:
    """A float; NaN for None, text and booleans."""
    if isinstance(value, bool) or value is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def number(section: Json | None, key: str) -> Number:
    """`section[key]` as a Number, whether it is stored as an interval, a plain number or not."""
    found = (section or {}).get(key)
    if isinstance(found, Mapping):
        return Number(*(real(found.get(name)) for name in Number._fields))
    return MISSING._replace(value=real(found))


def bounded(section: Json, key: str) -> Number:
    """The Number whose bounds lie beside it as `key_low` and `key_high`."""
    return Number(*(real(section.get(key + end)) for end in ("", "_low", "_high")))


def series(section: Json | None, key: str) -> np.ndarray:
    """`section[key]` as a float array; null becomes NaN, absent becomes empty."""
    values = (section or {}).get(key)
    return np.array([real(v) for v in (values if values is not None else [])], dtype=float)


def part(section: Json | None, *path: str) -> Json:
    """The object at `path`, or an empty one."""
    for key in path:
        section = (section or {}).get(key)
        if not isinstance(section, Mapping):
            return {}
    return section or {}


ANSWERING = 500
"""Runs up to which each point of a figure answers when it is pointed at."""

DRAWN = 1000
"""Most runs that a figure shows as points."""

DRAWN_CURVES = 200
"""Most training curves that a figure shows."""


def spread(items: Sequence[Any], most: int) -> Sequence[Any]:
    """All, or so many at even distances, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, most).round().astype(int))]


@dataclass(frozen=True)
class Run:
    """One run to draw: its numbers, its colour and the text shown when it is pointed at."""

    cell: str
    params: float
    tokens: float
    flops: float
    budget: float
    loss: float
    stderr: float
    used: bool
    shade: int
    text: str


@dataclass(frozen=True)
class Scene:
    """The runs and the budgets they belong to, which all figures colour alike."""

    runs: tuple[Run, ...]
    budgets: tuple[float, ...]
    params_label: str = "parameters N"
    loss_unit: str = "nats per token"
    budget_label: str = "budget (FLOPs)"

    @functools.cached_property
    def gids(self) -> dict[str, str]:
        """Cell to the identifier of its artists in a figure; none where there are too many."""
        if len(self.runs) > ANSWERING:
            return {}
        return {run.cell: f"r{i}" for i, run in enumerate(self.runs)}

    @functools.cached_property
    def by_cell(self) -> dict[str, Run]:
        return {run.cell: run for run in self.runs}

    @property
    def drawn(self) -> tuple[Run, ...]:
        """The runs that figures show: all, or `DRAWN` of them spread evenly over the plan."""
        return tuple(spread(self.runs, DRAWN))

    def shade(self, budget: float) -> int:
        """Index of the palette colour of the budget nearest to `budget`."""
        if not self.budgets or not budget > 0:
            return 0
        return int(np.argmin(np.abs(np.log(self.budgets) - math.log(budget))))


def unit_of_loss(laws: Laws) -> str:
    """The unit of the loss, as far as it is known."""
    return str(laws.conventions.get("loss") or "nats per token")


def scene(laws: Laws, table: Mapping[str, Sequence[Any]] | None) -> Scene:
    """The runs of `laws`, with what `runs.csv` adds for hovering."""
    rows = [row for row in laws.runs if _drawable(row)]
    known = sorted({real(row.get("budget")) for row in rows if real(row.get("budget")) > 0})
    budgets = tuple(known) or _bins([real(row["flops"]) for row in rows])
    details = {str(row.get("cell")): row for row in table_rows(table)}
    reasons = {str(row.get("cell")): str(row.get("reason")) for row in laws.left_out}
    counted = PARAMS_CONVENTIONS.get(str(laws.conventions.get("params")))
    empty = Scene(
        runs=(),
        budgets=budgets,
        params_label=counted.label if counted else "parameters N",
        loss_unit=unit_of_loss(laws),
        budget_label="budget (FLOPs)" if known else "compute (FLOPs), about",
    )
    runs = []
    for row in rows:
        cell = str(row.get("cell"))
        budget = real(row.get("budget"))
        runs.append(
            Run(
                cell=cell,
                params=real(row["params"]),
                tokens=real(row["tokens"]),
                flops=real(row["flops"]),
                budget=budget,
                loss=real(row["loss"]),
                stderr=real(row.get("loss_stderr")),
                used=bool(row.get("used", True)),
                shade=empty.shade(budget if budget > 0 else real(row["flops"])),
                text=_hover_text(
                    row, details.get(cell, {}), reasons.get(cell, ""), empty.loss_unit
                ),
            )
        )
    return replace(empty, runs=tuple(runs))


def _drawable(row: Json) -> bool:
    """Whether a point can be put on logarithmic axes."""
    values = [real(row.get(key)) for key in ("params", "tokens", "flops", "loss")]
    return all(math.isfinite(value) and value > 0 for value in values)


def _bins(flops: Sequence[float]) -> tuple[float, ...]:
    """Stand-ins for budgets where the table names none: one a half decade, six at most."""
    if not flops:
        return ()
    low, high = math.log10(min(flops)), math.log10(max(flops))
    count = max(1, min(6, round(2 * (high - low)) + 1))
    return tuple(float(f"{10**x:.1e}") for x in np.linspace(low, high, count))


def _hover_text(row: Json, detail: Json, reason: str, unit: str) -> str:
    params, tokens = real(row["params"]), real(row["tokens"])
    stderr = real(row.get("loss_stderr"))
    noise = f" ± {fixed_text(stderr, 2)}" if stderr > 0 else ""
    shape = [
        f"{name.replace('_', ' ')} {exact_text(real(detail[name]))}"
        for name in ("depth", "width", "batch_size", "steps", "learning_rate", "seed")
        if math.isfinite(real(detail.get(name)))
    ]
    lines = [
        f"run {row.get('cell')}",
        f"loss {fixed_text(real(row['loss']), 5)}{noise} {unit}",
        f"{count_text(params)} parameters, {count_text(tokens)} tokens"
        f" ({fixed_text(tokens / params, 3)} each)",
        f"{power_text(real(row['flops']), 2)} FLOPs",
        ", ".join(shape),
        f"left out: {reason}" if reason else "",
    ]
    return "\n".join(line for line in lines if line)


def table_rows(table: Mapping[str, Sequence[Any]] | None) -> list[dict[str, Any]]:
    """The rows of a table given as columns; a run without a name is called by its row."""
    if not table:
        return []
    names = list(table)
    columns = [list(table[name]) for name in names]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    label = next((name for name in ("cell", "name", "run") if name in table), None)
    return [
        {**row, "cell": row[label] if label else f"row {number}"}
        for number, row in enumerate(rows, start=1)
    ]


def curves_by_cell(
    curves: Mapping[str, Sequence[Any]] | None, most: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(flops, loss) of each run's training curve, thinned to `most` points even in log FLOPs."""
    if not curves or any(name not in curves for name in ("cell", "flops", "loss")):
        return {}
    flops, loss = (np.array([real(v) for v in curves[name]]) for name in ("flops", "loss"))
    rows: dict[str, list[int]] = {}
    for row, cell in enumerate(curves["cell"]):
        rows.setdefault(str(cell), []).append(row)
    usable = np.isfinite(loss) & (loss > 0) & (flops > 0)
    found = {}
    for cell, mine in rows.items():
        chosen = np.array(mine)[usable[mine]]
        if len(chosen) > 1:
            chosen = chosen[np.argsort(flops[chosen], kind="stable")]
            found[cell] = _thin(flops[chosen], loss[chosen], most)
    return found


def _thin(flops: np.ndarray, loss: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    if len(flops) <= most:
        return flops, loss
    wanted = np.geomspace(flops[0], flops[-1], most)
    keep = np.unique(np.clip(np.searchsorted(flops, wanted), 0, len(flops) - 1))
    return flops[keep], loss[keep]


def exponents(laws: Laws) -> dict[str, tuple[Number, Number]]:
    """(a, b) of each approach that was fitted: N_opt ∝ C^a and D_opt ∝ C^b."""
    found = {}
    for name in APPROACHES:
        params = part(laws.law(name), "params")
        a, b = number(params, "a"), number(params, "b")
        if math.isfinite(a.value) or math.isfinite(b.value):
            found[name] = (a, b)
    return found


def other_laws(laws: Laws) -> dict[str, Json]:
    """The laws that are none of Chinchilla's three approaches, by name."""
    found = laws.laws.items()
    return {k: law for k, law in found if k not in APPROACHES and isinstance(law, Mapping)}


def headline(laws: Laws) -> Json:
    """The first prediction: the law that the answer rests on, beyond the largest budget."""
    entries = laws.prediction
    return entries[0] if entries else {}


def holdout_error(laws: Laws) -> float:
    """Relative error of the predicted loss of the largest budget's best run; NaN if unchecked."""
    return real((laws.holdout or {}).get("relative_error"))


def law_label(name: str) -> str:
    return APPROACHES[name] if name in APPROACHES else name.replace("_", " ")

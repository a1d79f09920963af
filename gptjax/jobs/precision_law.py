"""job=precision_law: a sweep whose cells are scored in few bits too, and the law of the cost."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Printed

from gptjax import scaling
from gptjax.config import Config
from gptjax.errors import UserError
from gptjax.files import write_json
from gptjax.job import Job
from gptjax.scaling.fit.holdout import Holdout, hold_out
from gptjax.scaling.laws.fit_laws import plain
from gptjax.scaling.tables.runs import Runs
from gptjax.stages.sweep import run_sweep

FORM = "precision_post"
MOST_LOSE = 0.9
"""Share of cells that lose something from which their bits are in the law: in noise half of them
would, and to leave out the other half would raise the mean."""


def check(config: Config) -> None:
    """Refuse a sweep without bits, and one that measures too few of them."""
    if len(set(config.sweep.quantize_bits)) < 2:
        raise UserError(
            f"sweep.quantize_bits={config.sweep.quantize_bits} gives job=precision_law nothing to "
            "compare; give two or more, for example (8,6,4,3)"
        )


def main(config: Config, folder: Path) -> int:
    """Run the sweep, then fit `quantized.csv`; started again, it does what is missing."""
    status = run_sweep(config, folder)
    if status != 0:
        return status
    path = folder / "quantized.csv"
    if not path.exists():
        raise UserError(
            f"--workdir={folder} has no cell that was scored in few bits; train its cells again "
            "with sweep.quantize_bits"
        )
    laws_of(config, folder, scaling.Table.read(path))
    return 0


def laws_of(config: Config, folder: Path, table: scaling.Table) -> None:
    """Fit the rows that a law of positive numbers can have, write precision.json, print, draw."""
    from gptjax.report import precision  # matplotlib is slow to import

    added, bits = table.numbers("loss"), table.numbers("bits")
    lost = {float(p): float(np.mean(added[bits == p] > 0.0)) for p in np.unique(bits)}
    clear = np.isin(bits, [p for p, share in lost.items() if share >= MOST_LOSE])
    if len(np.unique(bits[clear])) < 2:
        raise UserError(
            f"sweep.quantize_bits={config.sweep.quantize_bits} has fewer than two numbers of bits "
            f"at which {MOST_LOSE:.0%} of the cells lose anything, so there is no law; add fewer "
            "bits, or raise data.heldout_fraction"
        )
    kept = table.where(clear & (added > 0.0))
    runs = scaling.prepare(kept, config.fit, ("params", "tokens", "bits"))
    law = scaling.fit(runs, FORM, config=config.fit)
    largest = runs.tokens / runs.params
    held = hold_out(runs, law.form, largest < largest.max() * (1 - 1e-9), config.fit)
    found = content(law, held, int(clear.sum()) - len(kept), lost)
    write_json(folder / "precision.json", found)
    seen = scaling.prepare(table.where(added > 0.0), config.fit, ("params", "tokens", "bits"))
    rows = {name: seen.columns[name] for name in ("params", "tokens", "bits")} | {"loss": seen.loss}
    precision.draw(folder, rows, law, config.report.formats, config.report.dpi)
    _print(found, folder)


def content(law: Any, held: Holdout, dropped: int, lost: dict[float, float]) -> dict[str, Any]:
    """The content of precision.json: plain types only.

    Args:
      dropped: rows of the law's bits where nothing was lost.
      lost: by bits, the share of cells that lost anything.
    """
    error = np.abs(np.log(held.predicted / held.heldout.loss))
    rows = [
        {"params": n, "tokens": d, "bits": p, "measured": y, "predicted": m, "low": lo, "high": hi}
        for n, d, p, y, m, lo, hi in zip(
            *_columns(held.heldout),
            held.heldout.loss,
            held.predicted,
            held.low,
            held.high,
            strict=True,
        )
    ]
    return plain(
        {
            "form": law.form.name,
            "equation": law.form.equation,
            "paper": law.form.paper,
            "params": {
                name: {"value": one.value, "low": one.low, "high": one.high}
                for name, one in law.params.items()
            },
            "points": len(law.runs),
            "without_added_loss": dropped,
            "share_that_loses": {f"{p:g}": share for p, share in lost.items()},
            "warnings": list(law.warnings),
            "held_out": {
                "what": "the cells with the most tokens per parameter",
                "median_factor": float(np.exp(np.median(error))),
                "inside": held.coverage,
                "rows": rows,
            },
        }
    )


def _columns(runs: Runs) -> tuple[np.ndarray, ...]:
    return runs.params, runs.tokens, runs.columns["bits"]


def _print(found: dict[str, Any], folder: Path) -> None:
    table = Printed(title=found["equation"])
    for name in ("", "value", "interval"):
        table.add_column(name)
    for name, one in found["params"].items():
        low, high = _shown(one["low"], ".3g"), _shown(one["high"], ".3g")
        table.add_row(name, _shown(one["value"], ".4g"), f"[{low}, {high}]")
    Console(width=100).print(table, markup=False)
    held, factor = found["held_out"], found["held_out"]["median_factor"]
    noise = [p for p, share in found["share_that_loses"].items() if share < MOST_LOSE]
    if noise:
        print(f"not in the law, as too many cells lost nothing there: {', '.join(noise)} bits")
    print(
        f"{found['points']} points, {found['without_added_loss']} more where nothing was lost; "
        f"held out, {held['what']}: predicted within a factor of {_shown(factor, '.2f')} "
        f"(median), {_shown(held['inside'], '.0%')} inside their intervals; "
        f"{folder / 'precision.json'}"
    )


def _shown(value: float | None, form: str) -> str:
    """A number, or a dash for one that was not finite."""
    return "–" if value is None else format(value, form)


JOB = Job(main, check=check, many_runs=True, trains=True)

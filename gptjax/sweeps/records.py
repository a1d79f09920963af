"""Records: one file for each cell, whole or absent; the tables are collected from them.

A record holds what is a function of the cell and of its environment, and nothing else, so that an
interrupted sweep ends with the same bytes as one that never stopped. Times and workers go to
`timing/` beside it. The first record of a cell stays: it is created and never replaced. It is read
with a check of its schema, its cell and its checksum.
"""

import csv
import io
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gptjax import identity, models
from gptjax.cost.flops import flops_6nd
from gptjax.errors import UserError
from gptjax.files import create_json, finite, read_json, write_atomic, write_json
from gptjax.identity import digest
from gptjax.sweeps.environment import environment
from gptjax.sweeps.plan import Cell, identity_of
from gptjax.train import RunResult, RunSpec

SCHEMA = 3
"""Version of a record. Version 1 named cells by every field, 2 had no checksum."""

RUN_COLUMNS = (
    "cell",
    "status",
    "reason",
    "budget",
    "flops",
    "flops_6nd",
    "params_total",
    "params_non_embedding",
    "params_non_embedding_with_head",
    "tokens",
    "loss",
    "loss_stderr",
    "bits_per_byte",
    "train_loss",
    "depth",
    "width",
    "num_heads",
    "head_dim",
    "mlp_width",
    "seq_len",
    "batch_size",
    "steps",
    "learning_rate",
    "seed",
    "trunk",
)
QUANTIZED_COLUMNS = (
    "cell",
    "budget",
    "flops",
    "flops_6nd",
    "params_total",
    "params_non_embedding",
    "params_non_embedding_with_head",
    "tokens",
    "bits",
    "loss",
    "loss_before",
    "loss_after",
    "loss_stderr",
    "width",
    "seed",
    "trunk",
)
"""`loss` is what the bits add: the column that `scaling.fit` reads."""
CURVE_COLUMNS = ("cell", "step", "tokens", "flops", "loss")
TIMING_COLUMNS = (
    "cell",
    "worker",
    "seconds",
    "compile",
    "train",
    "evaluate",
    "checkpoint",
    "flops_per_s",
    "product_flops_per_s",
    "bundle",
    "width",
    "ended",
    "updates",
    "earlier",
    "score",
)


def record_path(workdir: Path, cell: Cell) -> Path:
    """Where the record of a cell lies."""
    return workdir / "records" / f"{cell.id}.json"


def has_record(workdir: Path, cell: Cell) -> bool:
    """Whether the cell is done or known to fail."""
    return record_path(workdir, cell).exists()


def describe(cell: Cell) -> dict[str, Any]:
    """The columns of `runs.csv` that are known of a cell before it runs."""
    run, model = cell.run, cell.run.model
    count = models.count_params(model)
    return {
        "cell": cell.id,
        "budget": cell.budget,
        "flops": cell.flops,
        "flops_6nd": flops_6nd(run),
        "params_total": count.total,
        "params_non_embedding": count.non_embedding,
        "params_non_embedding_with_head": count.non_embedding_with_head,
        "tokens": run.tokens,
        "depth": model.depth,
        "width": model.width,
        "num_heads": model.num_heads,
        "head_dim": model.head_width,
        "mlp_width": model.hidden_width,
        "seq_len": model.seq_len,
        "batch_size": run.batch_size,
        "steps": run.steps,
        "learning_rate": run.optim.learning_rate,
        "seed": run.seed,
        "trunk": run.trunk,
    }


def write_done(
    workdir: Path,
    cell: Cell,
    result: RunResult,
    *,
    entropy: float | None,
    worker: str,
    bundle: str = "",
    scored: Mapping[str, Mapping[str, float]] | None = None,
    score_seconds: float = 0.0,
    sources: Mapping[str, float] | None = None,
    product_flops_per_s: float = 0.0,
) -> None:
    """Write the record of a finished run.

    Where the corpus knows its exact entropy, the loss is the entropy plus the paired divergence
    (model − exact log-probability on the same tokens), which has the same expectation as the plain
    mean without the sampling noise of the held-out text; the plain mean is kept beside it.

    Args:
      scored: what was measured besides, by its key in the record, in `score_seconds`.
      sources: of a run on a mixture, its columns by source.
      product_flops_per_s: what the worker's best product reaches; 0: not measured.
    """
    score, noise = result.evaluation, result.noise_scale_tokens
    loss = score.loss if score.excess is None else float(entropy or 0.0) + score.excess
    record = {
        "schema": SCHEMA,
        "status": "done",
        "reason": "",
        **describe(cell),
        "loss": loss,
        "loss_plain": score.loss,
        "loss_stderr": score.stderr,
        "bits_per_byte": score.bits_per_byte,
        "train_loss": result.curve_losses[-1],
        "history": result.history,
        "curve": {"step": result.curve_steps, "loss": result.curve_losses},
        "params_sha256": result.params_digest,
        "skipped_steps": result.skipped_steps,
        **({} if noise is None else {"noise_scale_tokens": noise}),
        **({"sources": dict(sources)} if sources else {}),
        **(scored or {}),
        "run": cell.run.canonical,
        "corpus": cell.corpus,
        "made_by": environment(),
    }
    seconds = {**result.seconds, **({"score": score_seconds} if scored else {})}
    total, done = sum(seconds.values()), result.earlier + result.updates
    timing = {
        "cell": cell.id,
        "worker": worker,
        "seconds": total,
        **seconds,
        "flops_per_s": cell.flops * done / cell.run.steps / max(seconds["train"], 1e-9),
        "product_flops_per_s": product_flops_per_s,
        "bundle": bundle or cell.id,
        "width": cell.run.model.width,
        "ended": time.time(),
        "updates": result.updates,
        "earlier": result.earlier,
    }
    if not has_record(workdir, cell):
        write_json(workdir / "timing" / f"{cell.id}.json", timing)
    _create(record_path(workdir, cell), record)


def write_failed(workdir: Path, cell: Cell, reason: str) -> None:
    """Write the record of a cell that could not be trained, with the reason."""
    record = {
        "schema": SCHEMA,
        "status": "failed",
        "reason": reason,
        **describe(cell),
        "run": cell.run.canonical,
        "corpus": cell.corpus,
    }
    _create(record_path(workdir, cell), record)


def read_record(workdir: Path, cell: Cell) -> dict[str, Any]:
    """The record of a cell.

    Raises:
      UserError: where there is none, or it is not what a worker wrote for this cell.
    """
    path = record_path(workdir, cell)
    record = read_json(path)
    try:
        _check(path, record, cell)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path} is not a record; {TRAIN_AGAIN}") from error
    return record


def read_records(workdir: Path, cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """The records that exist, in the order of the plan; raises as `read_record`."""
    return [read_record(workdir, cell) for cell in cells if has_record(workdir, cell)]


TRAIN_AGAIN = "delete it to train the cell again"


def _check(path: Path, record: dict[str, Any], cell: Cell) -> None:
    if record["schema"] > SCHEMA:
        raise UserError(
            f"{path} was written by a newer gptjax (schema {record['schema']}; this one reads up "
            f"to {SCHEMA}); upgrade gptjax"
        )
    name = identity_of(record["run"], record["corpus"])
    if name != cell.id or record["cell"] != cell.id:
        raise UserError(f"{path} holds the record of another cell ({name}); {TRAIN_AGAIN}")
    if record["schema"] >= 3 and record.get("sha256") != _checksum(record):
        raise UserError(
            f"{path} was changed after it was written (its checksum differs); {TRAIN_AGAIN}"
        )
    columns = [name for name in RUN_COLUMNS if record["status"] == "done" and name not in record]
    if columns or record["status"] not in ("done", "failed"):
        raise ValueError(f"no {columns}")


def _checksum(record: dict[str, Any]) -> str:
    content = {name: value for name, value in record.items() if name != "sha256"}
    return digest(finite(content), length=64)


def _create(path: Path, record: dict[str, Any]) -> None:
    """Write a record with its checksum; where there is one already, it stays."""
    if create_json(path, {**record, "sha256": _checksum(record)}):
        return
    first = read_json(path)
    if first.get("loss") != record.get("loss") or first["status"] != record["status"]:
        print(
            f"gptjax: {path} is there already with {_result(first)}; it stays, and "
            f"{_result(record)} is not used",
            file=sys.stderr,
            flush=True,
        )


def _result(record: dict[str, Any]) -> str:
    return f"loss {record['loss']}" if record["status"] == "done" else "a failure"


def set_failed_aside(workdir: Path, cells: Iterable[Cell]) -> int:
    """Move the records of failures to `failed/`, so that their cells are open; returns how many."""
    count = 0
    for cell in cells:
        path = record_path(workdir, cell)
        if not path.exists() or read_record(workdir, cell)["status"] != "failed":
            continue
        aside = workdir / "failed"
        aside.mkdir(exist_ok=True)
        number = len(list(aside.glob(f"{cell.id}-*.json")))
        path.rename(aside / f"{cell.id}-{number}.json")
        count += 1
    return count


def failures(records: Iterable[dict[str, Any]]) -> list[str]:
    """A line for each cell that failed, and how they are tried again."""
    failed = [record for record in records if record["status"] == "failed"]
    lines = [
        f"cell {one['cell']} (width {one['width']}, budget {one['budget']:g}) failed: "
        f"{one['reason']}"
        for one in failed
    ]
    again = "--config.sweep.retry_failed=true tries failed cells again"
    return [*lines, again] if lines else []


def adopt_version_1(workdir: Path) -> int:
    """Write the records of version 1 again under the names of their cells of today.

    Returns:
      how many there were. The old files stay.
    """
    count = 0
    for path in sorted((workdir / "records").glob("*.json")):
        record = read_json(path)
        if record["schema"] != 1:
            continue
        run = identity.from_version_1(RunSpec, record["run"])
        trunk = record["trunk"] and digest({**run, "train.steps": 1})
        found = {**record, "schema": 2, "run": run, "trunk": trunk}
        found["cell"] = identity_of(run, record["corpus"])
        _adopt(workdir, path.stem, found)
        count += 1
    return count


def _adopt(workdir: Path, old: str, record: dict[str, Any]) -> None:
    timing = workdir / "timing" / f"{old}.json"
    if timing.exists():
        content = {**read_json(timing), "cell": record["cell"]}
        write_json(timing.with_stem(record["cell"]), content)
    path = workdir / "records" / f"{record['cell']}.json"
    if not path.exists():
        write_json(path, record)


def open_cells(workdir: Path, cells: Iterable[Cell]) -> list[Cell]:
    """The cells that have no record yet."""
    return [cell for cell in cells if not has_record(workdir, cell)]


def write_tables(
    workdir: Path, cells: Sequence[Cell], found: Sequence[dict[str, Any]] | None = None
) -> None:
    """Collect `runs.csv`, `curves.csv` and `timing.csv` from the records, or those `found`."""
    records = read_records(workdir, cells) if found is None else found
    besides = [{**record.get("sources", {}), **record.get("scores", {})} for record in records]
    rows = [{**more, **record} for more, record in zip(besides, records, strict=True)]
    names = dict.fromkeys(name for more in besides for name in more)
    write_atomic(workdir / "runs.csv", _csv((*RUN_COLUMNS, *names), rows))
    write_atomic(workdir / "curves.csv", _csv(CURVE_COLUMNS, _curve_rows(records)))
    small = list(_quantized_rows(records))
    if small:
        write_atomic(workdir / "quantized.csv", _csv(QUANTIZED_COLUMNS, small))
    timings = [workdir / "timing" / f"{record['cell']}.json" for record in records]
    rows = [read_json(path) for path in timings if path.exists()]
    write_atomic(workdir / "timing.csv", _csv(TIMING_COLUMNS, rows))


def _quantized_rows(records: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """A row for each cell and number of bits; a cell's rows are resampled together."""
    for record in records:
        for bits, loss in record.get("quantized", {}).items():
            yield {
                **record,
                "cell": f"{record['cell']}-{bits}",
                "trunk": record["trunk"] or record["cell"],
                "bits": int(bits),
                "loss": loss - record["loss_plain"],
                "loss_before": record["loss_plain"],
                "loss_after": loss,
            }


def _curve_rows(records: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    for record in records:
        if record["status"] != "done":
            continue
        per_step = record["batch_size"] * record["seq_len"]
        per_token = record["flops"] / record["tokens"]
        for step, loss in zip(record["curve"]["step"], record["curve"]["loss"], strict=True):
            yield {
                "cell": record["cell"],
                "step": step,
                "tokens": step * per_step,
                "flops": step * per_step * per_token,
                "loss": loss,
            }


def _csv(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_text(row.get(column)) for column in columns])
    return out.getvalue()


def _text(value: Any) -> str:
    """A number with all its digits; nothing for what is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else str(value)

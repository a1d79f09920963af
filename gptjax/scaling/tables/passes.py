"""Passes over the data: whether a column of tokens counts every pass, one pass, or one device.

A law of the tokens of one epoch is wrong by the number of epochs, which nothing else in the fit
shows: FLOPs, steps and batches say which it is, and where they do not the table is refused.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.config import FitConfig
from gptjax.scaling.tables.column_names import words_of
from gptjax.scaling.tables.table import Table

SEVERAL = 1.01  # epochs from which on the two readings differ
EXACT, ROUGH = 0.05, 0.3  # log distance within which steps times batch, or C / 6 N, are the tokens
SURE = 4.0  # the other reading of a number of devices is that many times farther

PREFIXES = frozenset(
    (
        *("args", "config", "data", "global", "hparams", "max", "mean", "n", "nb", "no", "num"),
        *("number", "of", "optimizer", "params", "per", "device", "sys", "total", "train"),
        *("trained", "trainer", "training"),
    )
)
NAMES = {
    "epochs": ("epoch", "epochs", "passes"),
    "unique": ("unique_tokens", "tokens_per_epoch", "epoch_tokens", "tokens_unique"),
    "steps": ("step", "steps", "iteration", "iterations", "iters", "updates"),
    "batch": ("batch", "batch_size", "batch_tokens", "tokens_per_batch", "tokens_per_step"),
    "length": (
        *("seq_len", "sequence_length", "seq_length", "context", "context_length", "ctx_len"),
        *("block_size", "n_ctx", "ctx", "max_seq_len", "max_seq_length"),
    ),
    "accumulation": (
        *("grad_acc", "grad_accum", "accum", "accumulation", "accumulation_steps"),
        *("grad_accum_steps", "gradient_accumulation", "gradient_accumulation_steps"),
        *("accumulate_grad_batches", "grad_accumulation", "grad_accumulation_steps"),
    ),
    "devices": (
        *("world_size", "gpus", "devices", "accelerators", "tpus", "dp", "dp_size"),
        *("data_parallel", "data_parallel_size", "gpu_count", "num_gpus", "n_gpus", "nproc"),
    ),
}
"""Names of columns by what they hold, without PREFIXES."""
FACTORS = ("accumulation", "devices")


def tokens_seen(
    table: Table,
    values: dict[str, np.ndarray],
    stated: set[str],
    config: FitConfig,
    *,
    grown: bool,
) -> tuple[np.ndarray, list[str]]:
    """The tokens that each run was trained on, and a sentence where they are not the column's.

    Args:
      table: the rows of `values`.
      values: plain counts of params, tokens and perhaps flops.
      stated: which of them the table has.
      config: its `tokens_convention` decides; 'auto' looks at the other columns.
      grown: the tokens grow with the steps of a run, so that they count every pass.

    Raises:
      UserError: where the table can be read in two ways, or has no epochs to multiply by.
    """
    tokens, convention = values["tokens"], config.tokens_convention
    if convention == "seen" or "tokens" not in stated:
        return tokens, []
    column = _column(table, "epochs")
    if convention == "one_epoch":
        return tokens * _epochs(table, column), [f"D is tokens times {column}, as fit has it"]
    _all_devices(table, values, stated)
    if not column or grown:
        return tokens, []
    found = _reading(table, values, stated, column)
    if found == "one_epoch":
        said = f"tokens are those of one epoch by {_evidence(table, stated)}: D = tokens times "
        return tokens * _epochs(table, column), [f"{said}{column} is used"]
    if not found and np.nanmax(table.numbers(column), initial=0.0) > SEVERAL:
        raise UserError(
            f"{table.name} has {column} beside tokens, which may count every pass or one alone; "
            "set fit.tokens_convention=seen (D = tokens) or one_epoch (D = tokens times "
            f"{column})"
        )
    return tokens, []


def check_batches(table: Table) -> None:
    """Refuse a table that has steps and batches in the place of tokens, with what to multiply."""
    steps, batch, length = (_column(table, kind) for kind in ("steps", "batch", "length"))
    if steps and batch:
        times = f", times {length} if a batch is counted in sequences" if length else ""
        raise UserError(
            f"{table.name} has no column of tokens; add one, tokens = {steps} times {batch}{times}"
        )


def _column(table: Table, kind: str) -> str:
    """The numeric column of that kind; '' without one."""
    for name, column in table.columns.items():
        words = words_of(name)
        while len(words) > 1 and words[0] in PREFIXES:
            words = words[1:]
        known = "_".join(words) in NAMES[kind] or "_".join(words_of(name)) in NAMES[kind]
        if known and column.dtype.kind == "f":
            return name
    return ""


def _epochs(table: Table, column: str) -> np.ndarray:
    if not column:
        raise UserError(
            f"fit.tokens_convention=one_epoch, but {table.name} has no column of epochs; add one, "
            "or use seen"
        )
    epochs = table.numbers(column)
    wrong = np.flatnonzero(~(np.isfinite(epochs) & (epochs > 0)))
    if len(wrong):
        row = table.places[wrong[0]]
        raise UserError(
            f"{table.name} row {row}: {column} is not above zero, and D is tokens times {column}; "
            "correct the cell"
        )
    return epochs


def _reading(table: Table, values: dict[str, np.ndarray], stated: set[str], column: str) -> str:
    """'seen' or 'one_epoch' where all evidence agrees, else ''."""
    epochs = table.numbers(column)
    with np.errstate(divide="ignore", invalid="ignore"):
        told = np.isfinite(epochs) & (np.abs(np.log(epochs)) > SEVERAL - 1)
    if not told.any():
        return ""
    found = set()
    for truth, within in _counts(table, values, stated, epochs):
        tokens = values["tokens"]
        far = [_distance(truth, tokens, told), _distance(truth, tokens * epochs, told)]
        if far[0] < within and 2 * far[0] < far[1]:
            found.add("seen")
        elif far[1] < within < far[0] and 2 * far[1] < far[0]:  # else overhead may be all of it
            found.add("one_epoch")
    return found.pop() if len(found) == 1 else ""


def _distance(truth: np.ndarray, tokens: np.ndarray, rows: np.ndarray) -> float:
    """Median |ln| of the ratio of two counts."""
    with np.errstate(all="ignore"):
        far = np.abs(np.log(truth[rows] / tokens[rows]))
    return float(np.median(far)) if len(far) and np.all(np.isfinite(far)) else float("inf")


def _counts(
    table: Table, values: dict[str, np.ndarray], stated: set[str], epochs: np.ndarray
) -> Iterator[tuple[np.ndarray, float]]:
    """(tokens of all passes, how near they are when right) by every other column that tells."""
    if {"params", "flops"} <= stated:
        yield values["flops"] / (6 * values["params"]), ROUGH
    unique = _column(table, "unique")
    if unique:
        yield table.numbers(unique) * epochs, EXACT
    for count in _products(table):
        yield count, EXACT


def _products(table: Table) -> Iterator[np.ndarray]:
    """Steps times batch, with and without what a batch may leave out."""
    steps, batch = (_column(table, kind) for kind in ("steps", "batch"))
    if not (steps and batch):
        return
    base = table.numbers(steps) * table.numbers(batch)
    rest = [_column(table, kind) for kind in ("length", *FACTORS)]
    rest = [name for name in rest if name]
    for count in range(len(rest) + 1):
        for names in itertools.combinations(rest, count):
            yield np.prod([base, *(table.numbers(name) for name in names)], axis=0)


def _evidence(table: Table, stated: set[str]) -> str:
    """What told the reading, in words."""
    names = [_column(table, kind) for kind in ("unique", "steps", "batch")]
    names = [name for name in names if name]
    return _listed([*names, *(["the FLOPs"] if {"params", "flops"} <= stated else [])])


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def _all_devices(table: Table, values: dict[str, np.ndarray], stated: set[str]) -> None:
    """Refuse tokens that leave out a factor which the FLOPs have."""
    if not {"params", "flops"} <= stated:
        return
    truth = values["flops"] / (6 * values["params"])
    for name in filter(None, (_column(table, kind) for kind in FACTORS)):
        factor = table.numbers(name)
        told = np.isfinite(factor) & (factor > SEVERAL)
        far = _distance(truth, values["tokens"], told)
        near = _distance(truth, values["tokens"] * factor, told)
        if near < ROUGH / 2 and SURE * near < far:
            raise UserError(
                f"{table.name}: FLOPs are 6 N D times {name} ({np.median(factor[told]):g} in the "
                "middle row), so tokens may be those of one part of a batch alone; multiply them, "
                "or set fit.tokens_convention=seen if they are all"
            )

"""Settings of a fit: conventions of counting, laws to fit, intervals."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gptjax.fields import setting


class Counted(NamedTuple):
    """A convention of counting, in words and on an axis."""

    words: str
    label: str


PARAMS_CONVENTIONS = {
    "total": Counted("all parameters", "parameters N (total)"),
    "non_embedding": Counted("parameters without embeddings", "parameters N (no embeddings)"),
    "non_embedding_with_head": Counted(
        "parameters without embeddings, but with the output head", "parameters N (body + head)"
    ),
}
"""Which parameters N counts."""
FLOPS_CONVENTIONS = {
    "exact": "exact FLOPs, counted matmul by matmul",
    "6nd": "FLOPs as 6·N·D",
}
"""Which FLOPs C counts, in words."""
TOKENS_CONVENTIONS = {
    "auto": "as FLOPs, or steps and batches, say",
    "seen": "of every pass",
    "one_epoch": "of one pass",
}
"""Which tokens the table's column counts, in words."""
LOSS_KINDS = {
    "huber_log": "Huber on log residuals",
    "squares_log": "least squares on log residuals",
    "lad_log": "least absolute log residuals",
    "huber": "Huber on residuals",
    "squares": "least squares on residuals",
    "lad": "least absolute residuals",
}
"""Loss functions of a fit, in words."""
QUANTITIES = ("loss", "log_params")
"""Quantities whose interval a plan of further runs may shrink."""
LOSS_UNITS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nats": lambda loss: loss,
    "bits": lambda loss: loss * np.log(2),
    "perplexity": np.log,
}
"""Nats a token of a loss in each unit."""
APPROACHES = ("envelope", "isoflop", "parametric")


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How a table of runs becomes laws (the `fit` section of an experiment)."""

    params_convention: str = setting(
        "non_embedding_with_head",
        "which parameters N counts",
        choices=PARAMS_CONVENTIONS,
    )
    flops_convention: str = setting(
        "exact", "which FLOPs C counts: per-matmul, or 6 N D", choices=FLOPS_CONVENTIONS
    )
    tokens_convention: str = setting(
        "auto",
        "which tokens the table's column counts where another has epochs: seen, of every pass, or "
        "one_epoch (D is tokens times epochs); auto tells by FLOPs, or by steps times batch, and "
        "asks otherwise",
        choices=TOKENS_CONVENTIONS,
    )
    approaches: tuple[str, ...] = setting(
        APPROACHES, "which of Chinchilla's three approaches to run", choices=APPROACHES
    )
    forms: tuple[str, ...] = setting((), "further law forms to fit beside them, by name")
    form_files: tuple[str, ...] = setting(
        (), "Python files with further forms, each a FORM or FORMS of gptjax.scaling.Form"
    )
    loss_kind: str = setting(
        "huber_log",
        "loss function of the fit, of log residuals or of raw ones",
        choices=LOSS_KINDS,
    )
    delta: float = setting(1e-3, "Huber's switch from squares to absolute values", above=0)
    weights: str = setting(
        "none", "weigh runs equally, or by their loss_stderr", choices=("none", "stderr")
    )
    e_fixed: float | None = setting(
        None, "irreducible loss when it is known, in nats", minimum=0, maximum=1e4
    )
    tied_exponents: bool = setting(False, "force alpha = beta in the parametric law")
    starts: int = setting(64, "starting points of every fit", minimum=1, maximum=100_000)
    resamples: int = setting(1000, "bootstrap resamples", minimum=0, maximum=1_000_000)
    confidence: float = setting(0.95, "level of every interval", above=0.5, below=1.0)
    group_by: str = setting(
        "auto",
        "unit of a resample: runs, or trunks when runs share them",
        choices=("auto", "run", "trunk"),
    )
    seed: int = setting(0, "seed of the resamples", minimum=0)
    holdout_budgets: int = setting(1, "how many of the largest budgets are held out", minimum=0)
    exclude_below_flops: float = setting(0.0, "runs with fewer FLOPs are left out", minimum=0)
    exclude_below_tokens: float = setting(0.0, "runs with fewer tokens are left out", minimum=0)
    exclude_above_loss: float = setting(0.0, "runs with more nats are left out; 0: none", minimum=0)
    extrapolate: float = setting(
        10.0, "predict at this multiple of the largest budget", minimum=1, maximum=1e12
    )
    predict_flops: tuple[float, ...] = setting(
        (), "budgets to predict instead, in FLOPs", above=0, maximum=1e36
    )
    budget_tolerance: float = setting(
        0.1, "runs within this relative distance in FLOPs share a budget", above=0, below=1
    )
    valley_points: int = setting(5, "fewest runs of a usable IsoFLOP valley", minimum=4)
    valley_factor: float = setting(
        4.0, "runs whose size is farther than this factor from the minimum are dropped", above=1
    )
    compare: tuple[str, ...] = setting(
        ("chinchilla", "kaplan_nd"), "law forms scored on held-out budgets, by name"
    )
    diagnostics: bool = setting(True, "hold-out scores, convention table, drift, run next")
    next_allowance: float = setting(
        0.0,
        "FLOPs that the plan of further runs may spend; 0: as many as were spent",
        minimum=0,
    )
    next_quantity: str = setting("loss", "whose interval that plan shrinks", choices=QUANTITIES)
    settings: tuple[str, ...] = setting(
        (),
        "columns, such as learning_rate, whose best value at each N and D is fitted as K N^a D^b; "
        "the other laws then use the best run of each N and D",
    )
    chained: tuple[str, ...] = setting(
        (),
        "columns, such as the error on a task, that are predicted through the loss, each by "
        "fit.chain_form",
    )
    chain_form: str = setting(
        "error_of_loss", "law form of one column, the loss, that fit.chained follow"
    )
    outputs: tuple[str, ...] = setting(
        (),
        "columns, such as losses on several held-out sets, that are fitted together by "
        "fit.outputs_form with the parameters fit.shared in common",
    )
    outputs_form: str = setting("chinchilla", "law form of each of fit.outputs")
    shared: tuple[str, ...] = setting(
        ("alpha", "beta"), "parameters that are the same for all of fit.outputs"
    )
    column_params: str = setting("", "column that holds N, where the table is not ours")
    column_tokens: str = setting("", "column that holds D, where the table is not ours")
    column_loss: str = setting("", "column that holds the loss, where the table is not ours")
    column_flops: str = setting("", "column that holds C; without one, 6 N D is used")
    column_budget: str = setting("", "column that groups runs into budgets")
    column_group: str = setting("", "column whose equal values are resampled together")
    where: str = setting(
        "",
        "keep rows where every condition holds: column=value, !=, <, <=, > or >=, with commas "
        "between, for example dataset=c4,params>1e7",
    )
    exclude_highest_losses: int = setting(
        0, "how many runs of the highest loss are left out", minimum=0
    )
    keep_duplicates: bool = setting(False, "use runs that repeat another's numbers too")
    unit_params: float = setting(
        1.0, "parameters that one unit of the params column stands for, such as 1e6", above=0
    )
    unit_tokens: float = setting(
        1.0, "tokens that one unit of the tokens column stands for, such as 1e9", above=0
    )
    unit_flops: float = setting(
        1.0, "FLOPs that one unit of the FLOPs column stands for, such as 8.64e19", above=0
    )
    check_units: bool = setting(True, "refuse counts that no run can have")
    loss_unit: str = setting(
        "nats",
        "unit of the loss column; bits and perplexities are fitted as nats",
        choices=LOSS_UNITS,
    )

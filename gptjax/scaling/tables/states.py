"""States of runs: which rows of an export are finished runs, in the words of common trackers.

W&B, MLflow, Optuna and SLURM each have their own; a crashed run's last loss is no final loss.
"""

import re

import numpy as np

from gptjax.scaling.tables.table import Table

COLUMNS = frozenset(
    ("status", "state", "run_state", "run_status", "trial_state", "trial_status", "job_state")
)
FINISHED = frozenset(
    ("finished", "done", "complete", "completed", "success", "succeeded", "successful", "ok")
)
UNFINISHED = frozenset(
    (
        *("crashed", "crash", "killed", "running", "failed", "fail", "failure", "error", "errored"),
        *("preempted", "preempting", "pending", "queued", "scheduled", "waiting", "starting"),
        *("aborted", "abort", "canceled", "cancelled", "cancelling", "timeout", "timed_out"),
        *("time_out", "out_of_memory", "oom", "node_fail", "boot_fail", "deadline", "pruned"),
        *("stopped", "stopping", "interrupted", "suspended", "paused", "revoked", "requeued"),
        *("requeue", "resizing", "configuring", "completing", "terminated", "lost", "unfinished"),
        *("incomplete", "in_progress", "active", "diverged", "early_stopped", "dead", "stale"),
    )
)


def word(value: str) -> str:
    """A state as one of the words above, where it is one: 'RunStatus.FAILED' → 'failed'.

    >>> [word(v) for v in ("Crashed ", "CANCELLED by 1000", "TrialState.PRUNED", "OUT_OF_ME+")]
    ['crashed', 'cancelled', 'pruned', 'out_of_memory']
    """
    text = value.strip().lower().rpartition(".")[2]
    cut = text.endswith("+")  # SLURM shortens what does not fit
    text = re.sub(r"[\s\-]+", "_", text.rstrip("+").strip())
    known = FINISHED | UNFINISHED
    if text in known:
        return text
    if cut:
        return min((name for name in known if name.startswith(text)), default=text)
    first = text.partition("_")[0]
    return first if first in known else text


def columns_of(table: Table) -> list[str]:
    """The columns that hold a state."""
    return [
        name
        for name in table.columns
        if re.sub(r"[^a-z]+", "_", name.strip().lower()).strip("_") in COLUMNS
        or name.lower().endswith((".status", ".state"))
    ]


def unfinished(table: Table) -> tuple[dict[int, str], list[str]]:
    """(state by row of each unfinished run, sentences about states that are not known)."""
    found: dict[int, str] = {}
    doubts = []
    for column in columns_of(table):
        words = [word(str(value)) for value in table.text(column)]
        known = [text for text in words if text in FINISHED or text in UNFINISHED]
        found |= {i: text for i, text in enumerate(words) if text in UNFINISHED}
        strange = sorted({t for t in words if t and t not in FINISHED and t not in UNFINISHED})
        if known and strange:
            doubts.append(
                f"{column}={strange[0]} is no state that is known, so its runs are used as "
                "finished; select rows with fit.where"
            )
    return found, doubts


def reasons(table: Table, states: dict[int, str]) -> dict[int, str]:
    """Why each unfinished run is left out, with the reason that the table gives."""
    given = table.text("reason") if "reason" in table else np.full(len(table), "")
    return {
        i: f"failed: {given[i] or 'no reason recorded'}"
        if state == "failed"
        else f"{state}: the run is not finished"
        for i, state in states.items()
    }

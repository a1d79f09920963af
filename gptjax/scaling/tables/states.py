"""States of runs: which rows of an export are finished runs, in the words of common trackers.

W&B, MLflow, Optuna, Ray Tune, ClearML, Neptune, SLURM and clouds each have their own words, flags
and exit codes; a crashed run's last loss is no final loss.
"""

import re
from collections.abc import Callable

import numpy as np

from gptjax.scaling.tables.column_names import letters_of, words_of
from gptjax.scaling.tables.dialects import EMPTY
from gptjax.scaling.tables.table import Table

STATE_NAMES = ("state", "status", "outcome", "result")
"""How the name of a column of states ends."""
FILLERS = frozenset(
    ("is", "has", "was", "did", "run", "trial", "job", "sys", "info", "attributes", "training")
)
FINISHED_FLAGS = frozenset(
    ("finished", "done", "complete", "completed", "success", "successful", "succeeded")
)
UNFINISHED_FLAGS = frozenset(
    (
        *("failed", "fail", "failure", "crashed", "crash", "killed", "aborted", "canceled"),
        *("cancelled", "preempted", "pruned", "running", "active", "diverged", "oom", "errored"),
        *("error", "interrupted", "timeout", "timed_out", "unfinished", "incomplete", "pending"),
    )
)
EXIT_CODES = frozenset(
    ("exit_code", "exitcode", "exit_status", "return_code", "returncode", "retcode", "rc")
)
PROGRESS = frozenset(("progress", "percent_complete", "percent_done", "fraction_done"))
TRUE = frozenset(("true", "t", "yes", "y", "1", "1.0", "✓", "✔"))
FALSE = frozenset(("", "false", "f", "no", "n", "0", "0.0", "nan", "none", "null", "✗", "✘", "-"))
EXITED_WELL = frozenset(("0", "0:0", "0.0"))

FINISHED = frozenset(
    (
        *("finished", "done", "complete", "completed", "success", "succeeded", "successful", "ok"),
        *("ended", "passed", "published", "publishing", "closed", "inactive", "cd"),
    )
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
        *("created", "draft", "open", "new", "nan"),
        *("f", "ca", "to", "nf", "pr", "r", "pd", "bf", "dl", "s", "cg", "rq", "st", "rv"),
    )
)
_NO_FAULT = re.compile(r"(?<![a-z0-9])(no|without|zero|0)_(any_)?(error|failure|fault|issue)s?")
_UNFINISHED_STEMS = re.compile(
    r"(?<![a-z])(not|never|no|non|un)_?(yet_)?(finish|complet|done|end|success|succe|respond)"
    r"|(?<![a-z])(oom|hung|hang|stall|prun)"
    r"|crash|kill|fail|error|abort|cancel|preempt|evict|time_?d?_?out|time_limit"
    r"|out_of_mem|interrupt|diverg|stuck|lost|stop|pending|queue|running|pause|suspend"
    r"|unfinish|incomplete|partial|progress|ongoing|wait|schedul|provision|exception|zombie"
    r"|sig(kill|term|int)|unsuccess|unknown_host|unreachable"
)
_FINISHED_STEMS = re.compile(r"finish|complet|success|succeed|(?<![a-z])(done|ended|ok)(?![a-z])")


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
    return first if first in UNFINISHED and len(first) > 3 else text


def is_finished(text: str) -> bool | None:
    """Whether a word of `word` means a finished run; None for a word that says neither.

    >>> [is_finished(v) for v in ("oomkilled", "job_state_succeeded", "not_finished", "archived")]
    [False, True, False, None]
    """
    if text in FINISHED or text in UNFINISHED:
        return text in FINISHED
    plain = _NO_FAULT.sub("ok", text)
    if _UNFINISHED_STEMS.search(plain):
        return False
    return True if _FINISHED_STEMS.search(plain) else None


def _flag(name: str) -> str:
    """A column's name without the words that say nothing."""
    return "_".join(part for part in letters_of(name) if part not in FILLERS)


def _is_state(name: str) -> bool:
    parts = letters_of(name)
    return parts in (["st"], ["s"]) or (bool(parts) and parts[-1].endswith(STATE_NAMES))


Found = tuple[dict[int, str], list[str]]
"""(what is said of each unfinished row, sentences of doubt)."""


def _by_word(table: Table, column: str) -> Found:
    """Rows whose state is a word for a run that did not finish.

    Numbers under a longer name, such as `random_state`, are no states.
    """
    words = [word(str(value)) for value in table.text(column)]
    if _flag(column) not in STATE_NAMES and not any(
        re.search("[a-z]", w) for w in {*words} - EMPTY
    ):
        return {}, []
    ends = {text: is_finished(text) for text in set(words) - {""}}
    doubts = []
    if "terminated" in ends and True not in ends.values():
        ends["terminated"] = True
        doubts.append(
            f"{column}=TERMINATED is Ray Tune's word for a trial that ran to its end, so such runs "
            "are used; select rows with fit.where if it means another thing here"
        )
    known = set(ends.values()) - {None}
    strange = sorted(text for text, end in ends.items() if end is None)
    plain = letters_of(column)[-1] in ("state", "status")
    if strange and (known or (plain and len(ends) > 1)):
        doubts.append(
            f"{column}={strange[0]} is no state that is known, so its runs are used as "
            "finished; select rows with fit.where"
        )
    if known and "" in words:
        doubts.append(
            f"{column} is empty in {words.count('')} row(s), which are used as finished; select "
            "rows with fit.where"
        )
    return {i: text for i, text in enumerate(words) if ends.get(text) is False}, doubts


def _flags(table: Table, column: str) -> list[str]:
    """The cells of a column of flags, in small letters; none where it holds another thing.

    Numbers other than 0 and 1, and texts that begin with a digit, such as the limit `24h`, are no
    flags.
    """
    cells = [str(value).strip().lower() for value in table.text(column)]
    numbers = [
        cell for cell in cells if cell not in FALSE | TRUE and cell.lstrip("+-.")[:1].isdigit()
    ]
    return cells if any(cells) and not numbers else []


def _by_finished_flag(table: Table, column: str) -> Found:
    """Rows whose flag is no, or a word for a run that did not finish."""
    cells = enumerate(_flags(table, column))
    no = [i for i, cell in cells if cell in FALSE or is_finished(word(cell)) is False]
    return {i: f"not {_flag(column)}" for i in no}, []


def _by_unfinished_flag(table: Table, column: str) -> Found:
    """Rows whose flag is yes, or a text, as of an error, that does not say that there is none."""
    cells = enumerate(_flags(table, column))
    yes = [i for i, cell in cells if cell not in FALSE and is_finished(word(cell)) is not True]
    return {i: _flag(column) for i in yes}, []


def _by_exit_code(table: Table, column: str) -> Found:
    codes = [str(value).strip() for value in table.text(column)]
    if not any(codes):
        return {}, []
    if any(code and not re.fullmatch(r"-?[\d.]+(:\d+)?", code) for code in codes):
        return _by_word(table, column)
    said = {i: f"{column} {code}" if code else f"no {column}" for i, code in enumerate(codes)}
    return {i: text for i, text in said.items() if codes[i] not in EXITED_WELL}, []


def _by_progress(table: Table, column: str) -> Found:
    """Rows below the whole, which is 1 or 100."""
    try:
        shares = np.array([float(cell.strip().rstrip("%") or "nan") for cell in table.text(column)])
    except ValueError:
        return {}, []
    whole = np.nanmax(shares) if np.isfinite(shares).any() else 0
    if whole not in (1, 100):
        return {}, []
    below, unknown = np.flatnonzero(shares < whole).tolist(), int(np.isnan(shares).sum())
    doubts = [
        f"{column} is empty in {unknown} row(s), which are used as finished; select rows with "
        "fit.where"
    ]
    found = {i: f"{column} {shares[i]:g} of {whole:g}" for i in below}
    return found, doubts if unknown else []


REACHED = ("step", "global_step", "iteration", "iter", "epoch", "tokens", "update")
PLANNED = ("max", "target", "planned", "total")
PLACES = frozenset(("config", "summary", "args", "trainer", "train", "training", "sys", "hparams"))
"""Words of names that say where a tracker keeps them."""
NEAR = 0.99  # of the plan, from which on a run is at its end


def _short_of_plan(table: Table) -> dict[int, str]:
    """Rows whose steps or tokens are fewer than planned in another column, where most reach it.

    Where few do, the columns mean another thing, or the rows are points of curves.
    """
    plain = {"_".join(w for w in words_of(name) if w not in PLACES): name for name in table.columns}
    for reached in REACHED:
        kinds = PLANNED[:-1] if reached == "tokens" else PLANNED  # all tokens are no plan
        names = (f"{kind}_{what}" for kind in kinds for what in (reached, f"{reached}s"))
        planned = next((name for name in names if name in plain), "")
        if not planned or reached not in plain:
            continue
        got, whole = (table.columns[plain[name]] for name in (reached, planned))
        if got.dtype.kind != "f" or whole.dtype.kind != "f":
            continue
        short = np.flatnonzero(got < NEAR * whole)
        if len(short) and 2 * np.sum(got >= NEAR * whole) > len(table):
            name = plain[reached]
            return {int(i): f"{name} {got[i]:g} of {whole[i]:g}" for i in short}
    return {}


READERS: tuple[tuple[Callable[[str], bool], Callable[[Table, str], Found]], ...] = (
    (lambda name: _flag(name) in EXIT_CODES, _by_exit_code),
    (_is_state, _by_word),
    (lambda name: _flag(name) in FINISHED_FLAGS, _by_finished_flag),
    (lambda name: _flag(name) in UNFINISHED_FLAGS, _by_unfinished_flag),
    (lambda name: _flag(name) in PROGRESS, _by_progress),
)
"""By the name of a column: how it says that a run did not finish; the first that fits."""


def columns_of(table: Table) -> list[str]:
    """The columns that hold states as words."""
    return [name for name in table.columns if _is_state(name)]


def unfinished(table: Table) -> Found:
    """(state by row of each unfinished run, sentences about states that are not known)."""
    found: dict[int, str] = {}
    doubts: list[str] = []
    for column in table.columns:
        read = next((read for fits, read in READERS if fits(column)), None)
        if read is not None:
            rows, said = read(table, column)
            found, doubts = {**rows, **found}, [*doubts, *said]
    return {**_short_of_plan(table), **found}, doubts


def reasons(table: Table, states: dict[int, str]) -> dict[int, str]:
    """Why each unfinished run is left out, with the reason that the table gives."""
    given = table.text("reason") if "reason" in table else np.full(len(table), "")
    return {
        i: f"failed: {given[i] or 'no reason recorded'}"
        if state == "failed"
        else f"{state}: the run is not finished"
        for i, state in states.items()
    }

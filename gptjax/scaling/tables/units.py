"""Units of params, tokens, FLOPs and loss: numbers that no run can have, and columns that disagree.

A law fitted to millions of parameters and billions of tokens looks right and predicts sizes that
are wrong by orders of magnitude, so tables in other units are refused until they say which.
"""

import math

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.tables.column_names import letters_of, words_of

LEAST = {"params": 100.0, "tokens": 1000.0}
PER_PARAMETER = (1e-3, 1e6)  # tokens per parameter of the middle run
WHOLE = 1e4  # counts below this are whole numbers; sizes derived as C / 6 D are not
RATIO = 300.0  # C is within this factor of 6 N D, whatever N counts
JUMP = 3000.0  # tokens per parameter of neighbouring runs differ by less
SIZES = 1e4  # as do sizes
USUAL = (0.1, 3000.0)  # of the middle run; Chinchilla has 20, small models of today up to 2,000
PERPLEXITY = ("perplexity", "ppl", "pplx")
BITS = {"bits", "bpb", "bpc", "bpw", "bpt"}
LOSS_WORDS = {"loss", "nll", "xent", "ce", "cross"}
HIGHEST_LOSS = 14.0  # nats: a uniform guess over a million tokens
REPAIR = (
    "give plain counts, or say what one unit is by fit.unit_params, fit.unit_tokens, "
    "fit.unit_flops (fit.check_units=False uses the numbers as they are)"
)


def check(name: str, places: np.ndarray, values: dict[str, np.ndarray], given: set[str]) -> None:
    """Refuse a table whose numbers cannot be plain counts.

    Args:
      name: of the table.
      places: row numbers for the sentence.
      values: params, tokens and perhaps flops.
      given: which of them the table has.

    Raises:
      UserError: naming the column, the value and the repair.
    """
    for what, least in LEAST.items():
        if what in given:
            _counts(name, places, what, values[what], least)
    if {"params", "tokens"} <= given:
        middle = float(np.median(values["tokens"] / values["params"]))
        if not PER_PARAMETER[0] < middle < PER_PARAMETER[1]:
            raise UserError(
                f"{name}: the middle row has {middle:.3g} tokens per parameter, which no run has: "
                f"params and tokens are in different units; {REPAIR}"
            )
        _jumps(name, places, "tokens per parameter", values["tokens"] / values["params"], JUMP)
        _jumps(name, places, "params", values["params"], SIZES)
        if "flops" in given:
            ratio = values["flops"] / (6 * values["params"] * values["tokens"])
            _near_six(name, places, ratio)


def check_loss(name: str, column: str, loss: np.ndarray) -> None:
    """Refuse a loss that no language model has in nats per token."""
    parts = letters_of(column)
    unit = _unit_by_name(column, parts)
    if unit:
        raise UserError(
            f"{name}: {column} is in {unit} by its name; set fit.loss_unit={unit}, and it is "
            "fitted in nats"
        )
    if set(parts) & LOSS_WORDS and np.median(loss) > HIGHEST_LOSS:
        raise UserError(
            f"{name}: the middle {column} is {np.median(loss):g}, above {HIGHEST_LOSS:g} nats per "
            "token; if it is a perplexity, set fit.loss_unit=perplexity"
        )


def _unit_by_name(column: str, parts: list[str]) -> str:
    """The unit that a loss has by its name; '' for nats, and for those of weights of a few bits."""
    if any(part.endswith(PERPLEXITY) for part in parts):
        return "perplexity"
    words = ["", *words_of(column), ""]
    for before, word, after in zip(words, words[1:], words[2:], strict=False):
        # `4bits`, `bits4`, `4 bits` and `bits 4` are of weights, `c4_bits` of a loss.
        if word in BITS and not (before.isdigit() or after.isdigit()):
            return "bits"
    return ""


def of_active(column: str) -> bool:
    """Whether a column counts the parameters of a mixture of experts that a token uses.

    >>> [of_active(name) for name in ("active_params", "n_activated_parameters", "active")]
    [True, True, False]
    """
    words = set(words_of(column))
    return bool(words & {"active", "activated"}) and bool(words & {"params", "parameters", "n"})


def derived(name: str, params: np.ndarray, tokens: np.ndarray, flops: str) -> None:
    """Refuse tokens that were made of FLOPs in another unit."""
    middle = float(np.nanmedian(tokens / params)) if len(params) else math.nan
    if not PER_PARAMETER[0] < middle < PER_PARAMETER[1]:
        raise UserError(
            f"{name}: D = C / 6N is {middle:.3g} tokens per parameter in the middle row, which no "
            f"run has: {flops} or params is in another unit; {REPAIR}"
        )


def unusual(values: dict[str, np.ndarray]) -> list[str]:
    """A sentence where tokens per parameter are possible and rare: perhaps a unit is wrong."""
    middle = float(np.median(values["tokens"] / values["params"]))
    if USUAL[0] <= middle <= USUAL[1]:
        return []
    return [
        f"the middle run has {middle:.3g} tokens per parameter, which is rare: if params or tokens "
        "are in thousands or millions, say so by fit.unit_params or fit.unit_tokens"
    ]


def _counts(name: str, places: np.ndarray, what: str, values: np.ndarray, least: float) -> None:
    broken = (values < WHOLE) & (values != np.round(values))
    wrong = np.flatnonzero((values < least) | broken)
    if len(wrong):
        i = int(wrong[0])
        raise UserError(
            f"{name} row {places[i]}: {what}={values[i]:g} is no plain count ({len(wrong)} of "
            f"{len(values)} rows): is it in millions or billions? {REPAIR}"
        )


def _jumps(name: str, places: np.ndarray, what: str, values: np.ndarray, most: float) -> None:
    """Refuse values that fall into two clusters far apart: rows in other units."""
    order = np.argsort(values)
    steps = values[order][1:] / values[order][:-1]
    if len(steps) and steps.max() > most:
        cut = int(np.argmax(steps)) + 1
        few = order[:cut] if cut <= len(order) / 2 else order[cut:]
        i = int(few.min())
        raise UserError(
            f"{name}: {what} jumps by a factor {steps.max():.0f} between {len(few)} rows and the "
            f"others (row {places[i]} has {values[i]:.3g}): are they in one unit? {REPAIR}"
        )


def _near_six(name: str, places: np.ndarray, ratio: np.ndarray) -> None:
    middle = float(np.median(ratio))
    if not 1 / RATIO < middle < RATIO:
        raise UserError(
            f"{name}: FLOPs are {middle:.3g} times 6 N D in the middle row, which no count of a "
            f"run gives: params, tokens or flops are in another unit; {REPAIR}"
        )
    far = np.flatnonzero((ratio / middle > RATIO) | (ratio / middle < 1 / RATIO))
    if len(far):
        i = int(far[0])
        raise UserError(
            f"{name} row {places[i]}: FLOPs are {ratio[i]:.3g} times 6 N D, against {middle:.3g} "
            f"in the middle row; {REPAIR}"
        )

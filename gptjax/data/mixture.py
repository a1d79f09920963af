"""Mixtures of sources: what `data.sources` and `data.weights` say, and the order they ask for.

The order of sources is a cycle in which each source has its exact part at every place: after any
number of examples n a source with weight w was chosen n·w times, less than once more or less
(Tijdeman 1980, "The chairman assignment problem"). So the source of an example and its number in
that source are a pure function of the example's number, and nothing has to be kept.
"""

import dataclasses
import functools
import math
import re
import shlex
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from gptjax.errors import UserError, nearest
from gptjax.fields import from_text, leaves, make, nested, replaced

if TYPE_CHECKING:
    from gptjax.data.config import DataConfig

PLACES = 1 << 14
"""The longest cycle: weights of up to four decimals are exact, others rounded to its parts."""
ROUNDED = 1e-6
"""How far from 1 weights may sum."""
OF_MIXTURE = ("sources", "weights", "phases", "repeats", "targets")
SHARED = ("tokenizer", "vocab_size", "end_of_document", "lossy", "mask_", "cache_dir", "processes")
"""Beginnings of the settings that all sources of a mixture have in common."""


def sources_of(config: "DataConfig") -> dict[str, "DataConfig"]:
    """The settings of each source of a mixture, by its label.

    Raises:
      UserError: for an entry that is not LABEL: KEY=VALUE, a key that is no setting of one source,
        and a label that is given twice.
    """
    plain = dataclasses.replace(config, sources=(), weights=(), phases=(), targets=())
    found: dict[str, DataConfig] = {}
    for text in config.sources:
        label, colon, rest = text.partition(":")
        label = label.strip()
        if not colon or not re.fullmatch(r"\w[\w.-]*", label):
            raise UserError(
                f"data.sources has {text!r}; write it as LABEL: KEY=VALUE KEY=VALUE, for example "
                "'code: source=python-stdlib'"
            )
        if label in found:
            raise UserError(f"data.sources has the label {label!r} twice; name each apart")
        found[label] = _changed(plain, rest)
    return found


def _changed(plain: "DataConfig", text: str) -> "DataConfig":
    hints = {
        leaf.key: leaf.hint
        for leaf in leaves(type(plain))
        if leaf.key not in OF_MIXTURE and not leaf.key.startswith(SHARED)
    }
    changes: dict[str, Any] = {}
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"data.sources has {text.strip()!r}: {error}; close the quotes") from error
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"data.sources has {word!r} without a value; write {key}=VALUE")
        if key not in hints:
            raise UserError(
                f"data.sources has {key}, which is no setting of one source; {nearest(key, hints)}"
            )
        changes[key] = from_text(f"data.sources {key}", hints[key], value)
    make(type(plain), nested(changes), "data")  # checks choices and limits
    return replaced(plain, changes)


def check(config: "DataConfig") -> None:
    """Refuse weights, phases, repeats and targets that do not fit `data.sources`.

    Raises:
      UserError: naming the field.
    """
    if not config.sources:
        return _check_alone(config)
    labels, phases = sources_of(config), len(config.phases) + 1
    count = len(labels)
    if len(config.weights) != count * phases:
        raise UserError(
            f"data.weights has {len(config.weights)} entries for {count} data.sources"
            + (f" in {phases} phases" if phases > 1 else "")
            + f"; give {count * phases}"
        )
    for phase, row in enumerate(rows_of(config.weights, config.phases)):
        if abs(sum(row) - 1) > ROUNDED:
            where = f" of phase {phase + 1}" if phases > 1 else ""
            raise UserError(
                f"data.weights{where} sum to {sum(row):.6g}; give weights that sum to 1"
            )
        for weight, count_of, label in zip(row, counts_of(row), labels, strict=True):
            if weight > 0 and not count_of:
                raise UserError(
                    f"data.weights gives {label!r} a part of {weight:g}, and {1 / PLACES:.2g} is "
                    "the least that is exact; give 0 or more than that"
                )
    if list(config.phases) != sorted(set(config.phases)):
        raise UserError(f"data.phases={config.phases} must rise; sort them and give each once")
    if len(config.repeats) not in (1, count):
        raise UserError(
            f"data.repeats has {len(config.repeats)} entries for {count} data.sources; give one, "
            "or one for each"
        )
    if config.targets and (len(config.targets) != count or abs(sum(config.targets) - 1) > ROUNDED):
        raise UserError(
            f"data.targets={config.targets} must have one part for each of {count} data.sources "
            "and sum to 1"
        )


def _check_alone(config: "DataConfig") -> None:
    """One source has no settings of a mixture."""
    named = [name for name in ("weights", "phases", "targets") if getattr(config, name)]
    if named:
        raise UserError(
            f"data.{named[0]} is for a mixture and data.sources is empty; name the sources, or "
            f"leave data.{named[0]} out"
        )


def check_repeats(
    config: "DataConfig", sizes: dict[str, int], reads: Sequence[float], tokens: int
) -> None:
    """Refuse a run that reads a source more often than `data.repeats` lets it.

    Args:
      sizes: windows of each source, by label.
      reads: windows that the run reads of each.
      tokens: of a window.

    Raises:
      UserError: naming the source, what it has and what would be read.
    """
    leave = config.repeats * (len(sizes) if len(config.repeats) == 1 else 1)
    for (label, size), read, most in zip(sizes.items(), reads, leave, strict=True):
        if read > most * size + 1:
            raise UserError(
                f"data.sources: {label!r} has {size * tokens:,} tokens and the run would read "
                f"{round(read) * tokens:,} of it, {read / size:.3g} times and more than "
                f"data.repeats={most:g}; give it a smaller weight, more text, or leave to repeat"
            )


def counts_of(weights: Sequence[float]) -> tuple[int, ...]:
    """How often each source is in a cycle; the cycle's length is their sum.

    >>> counts_of((0.7, 0.2, 0.1)), counts_of((0.5, 0.5)), counts_of((1.0, 0.0))
    ((7, 2, 1), (1, 1), (1, 0))
    """
    exact = [Fraction(repr(float(weight))) for weight in weights]
    length = math.lcm(*(one.denominator for one in exact))
    if length <= PLACES and sum(exact) == 1:
        return tuple(int(one * length) for one in exact)
    shares = np.asarray(weights, float) / sum(weights) * PLACES
    counts = np.floor(shares).astype(int)
    largest = np.argsort(counts - shares, kind="stable")[: PLACES - counts.sum()]
    counts[largest] += 1
    return tuple(int(count) for count in counts)


@functools.lru_cache(maxsize=4096)
def cycle(counts: tuple[int, ...]) -> np.ndarray:
    """The source of each place of a cycle, int32 of the cycle's length.

    At place n the choice is, of the sources that lag behind by enough, the one that would be late
    first; it keeps every source within 1 − 1/(2K − 2) of its part, for K sources.
    """
    some = [source for source, count in enumerate(counts) if count]
    length, spread = sum(counts), 2 * len(some) - 2
    if not spread:
        return np.full(length, some[0], np.int32)
    given, chosen = dict.fromkeys(some, 0), np.empty(length, np.int32)
    for n in range(1, length + 1):
        best, soonest = -1, math.inf
        for source in some:
            lag = spread * (n * counts[source] - given[source] * length)
            late = ((spread - 1) * length - lag) / counts[source]
            if lag >= length and late < soonest:
                best, soonest = source, late
        given[best] += 1
        chosen[n - 1] = best
    return chosen


def reads_of(
    weights: Sequence[float], phases: Sequence[float], steps: int, batch: int
) -> np.ndarray:
    """Examples that a run reads of each source, to less than one for each phase."""
    ends = phase_ends(phases, steps)
    spans = np.diff([0, *ends]) * batch
    rows = np.array([counts_of(row) for row in rows_of(weights, phases)], float)
    return spans @ (rows / rows.sum(1, keepdims=True))


def rows_of(weights: Sequence[float], phases: Sequence[float]) -> list[Sequence[float]]:
    """The weights of each phase."""
    count = len(weights) // (len(phases) + 1)
    return [weights[first : first + count] for first in range(0, len(weights), count)]


def phase_ends(phases: Sequence[float], steps: int) -> list[int]:
    """The steps at which the phases of a run end, the last one included.

    >>> phase_ends((0.5, 0.9), 10)
    [5, 9, 10]
    """
    return [*(round(part * steps) for part in phases), steps]

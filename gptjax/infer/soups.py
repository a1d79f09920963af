"""Soups: the average of the parameters of several models of one shape, which is one model again.

Wortsman et al., "Model soups" (2022), arXiv:2203.05482. It works for checkpoints of one run and for
models fine-tuned from one: weights of separate initialisations are not aligned, and their average
predicts nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from gptjax.errors import UserError

Loss = Callable[[Any], float]


def average(members: Sequence[Any], weights: Sequence[float]) -> Any:
    """Σ w·θ / Σ w, in float32."""
    shares = np.asarray(weights, np.float64) / np.sum(weights)

    def leaf(*leaves: Any) -> np.ndarray:
        total = sum(
            share * np.asarray(x, np.float64) for share, x in zip(shares, leaves, strict=True)
        )
        return np.asarray(total, np.float32)

    return jax.tree.map(leaf, *members)


def uniform(members: Sequence[Any], loss: Loss, options: Any) -> tuple[Any, list[float]]:
    """All with the same weight."""
    weights = [1.0] * len(members)
    return average(members, weights), weights


def weighted(members: Sequence[Any], loss: Loss, options: Any) -> tuple[Any, list[float]]:
    """By `ensemble.weights`."""
    weights = list(options.weights)
    return average(members, weights), weights


def ema(members: Sequence[Any], loss: Loss, options: Any) -> tuple[Any, list[float]]:
    """Exponential: the last counts most, each earlier one `ensemble.decay` of the one after it."""
    weights = [options.decay ** (len(members) - 1 - i) for i in range(len(members))]
    return average(members, weights), weights


def greedy(members: Sequence[Any], loss: Loss, options: Any) -> tuple[Any, list[float]]:
    """From the best member on, each that does not raise the held-out loss (their algorithm 1)."""
    losses = [loss(member) for member in members]
    order = sorted(range(len(members)), key=losses.__getitem__)
    chosen, best = [order[0]], losses[order[0]]
    for i in order[1:]:
        tried = average([members[j] for j in (*chosen, i)], [1.0] * (len(chosen) + 1))
        found = loss(tried)
        if found <= best:
            chosen, best = [*chosen, i], found
    weights = [float(i in chosen) for i in range(len(members))]
    return average(members, weights), weights


SOUPS: dict[str, Callable[[Sequence[Any], Loss, Any], tuple[Any, list[float]]]] = {
    "soup": uniform,
    "weighted_soup": weighted,
    "ema_soup": ema,
    "greedy_soup": greedy,
}
"""The choices of `ensemble.combination` that make one model."""


def check_shapes(members: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse members of other shapes.

    Raises:
      UserError: naming the first parameter that differs.
    """
    first = _shapes(members[0])
    for name, member in zip(names[1:], members[1:], strict=True):
        for path in sorted({*first} | {*_shapes(member)}):
            ours, theirs = first.get(path), _shapes(member).get(path)
            if ours != theirs:
                raise UserError(
                    f"{path} is {theirs or 'missing'} in {name} and {ours or 'missing'} in "
                    f"{names[0]}; a soup wants members of one shape, another ensemble does not"
                )


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    flat = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x.shape for p, x in flat}


def check_aligned(soup: float, members: Sequence[float]) -> None:
    """Refuse an average that is worse than every member.

    Raises:
      UserError: with the losses.
    """
    if soup > max(members):
        raise UserError(
            f"the average of the parameters loses {soup:.4g} nats per token and the worst member "
            f"{max(members):.4g}: their weights are not aligned, as those of separate seeds are "
            "not; give checkpoints of one run, or ensemble.combination=em"
        )

"""Path rules: regular expressions over parameter paths such as `blocks/attention/query`."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from optax.contrib import MuonDimensionNumbers

from gptjax.errors import UserError

Params = Any

MATRICES = (
    (r"attention/(global_)?(query|key|value|gate)$", MuonDimensionNumbers((-3,), (-2, -1))),
    (r"attention/out$", MuonDimensionNumbers((-3, -2), (-1,))),
    (r"mlp/(up|gate|down)$", MuonDimensionNumbers((-2,), (-1,))),
)
"""Matrices that multiply the residual stream in a block, with their input and output axes from the
end: D·NH, NH·D, D·F, F·D. Axes in front of them, such as the layers, hold separate matrices."""


def map_paths(function: Callable[[str, Any], Any], params: Params) -> Params:
    """`function(path, leaf)` for every leaf, in a tree of the same structure."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf),
        params,
    )


def matches(expressions: Sequence[str], path: str) -> bool:
    """Whether one of the expressions is found in the path."""
    return any(re.search(expression, path) for expression in expressions)


def decay_mask(params: Params, no_decay: Sequence[str]) -> Params:
    """True for each parameter that is decayed: its path matches none of the expressions."""
    return map_paths(lambda path, _: not matches(no_decay, path), params)


def learning_rate_factors(params: Params, multipliers: Sequence[str]) -> Params:
    """For each parameter the product of the factors whose expression its path matches.

    A number, or an array that is multiplied along the first axis, the layers.

    Raises:
      UserError: where a rule has another number of factors than a parameter layers.
    """
    rules = parse_multipliers(multipliers)

    def factor_of(path: str, leaf: Any) -> Any:
        matching = [factors for rule, factors in rules if re.search(rule, path)]
        return math.prod(_along_layers(path, leaf, factors) for factors in matching)

    return map_paths(factor_of, params)


def _along_layers(path: str, leaf: Any, factors: tuple[float, ...]) -> Any:
    if len(factors) == 1:
        return factors[0]
    if not leaf.ndim or leaf.shape[0] != len(factors):
        raise UserError(
            f"optim.multipliers has {len(factors)} factors for {path}, whose first axis has "
            f"{leaf.shape[0] if leaf.ndim else 1}; give one for each layer, or one for all"
        )
    return np.asarray(factors, np.float32).reshape(-1, *(1,) * (leaf.ndim - 1))


def matrix_axes(params: Params) -> Params:
    """MuonDimensionNumbers of the matrices inside blocks; None for all other parameters."""

    def axes(path: str, _: Any) -> MuonDimensionNumbers | None:
        return next((axes for rule, axes in MATRICES if re.search(rule, path)), None)

    return map_paths(axes, params)


def parse_multipliers(texts: Sequence[str]) -> list[tuple[str, tuple[float, ...]]]:
    """(expression, factors) of each EXPRESSION=FACTOR or "EXPRESSION=FACTOR FACTOR …"

    >>> parse_multipliers(["embed=0.5", "mlp/(up|down)$=1 2"])
    [('embed', (0.5,)), ('mlp/(up|down)$', (1.0, 2.0))]

    Raises:
      UserError: where a text has no factor, a negative one, or is no regular expression.
    """
    rules = []
    for text in texts:
        expression, _, factor_text = text.rpartition("=")
        try:
            factors = tuple(float(factor) for factor in factor_text.split())
        except ValueError:
            factors = (-1.0,)
        if not (expression and factors) or not all(0.0 <= factor < math.inf for factor in factors):
            raise UserError(
                f"optim.multipliers has {text!r}, which is not EXPRESSION=FACTOR with a factor of "
                "at least 0; write it like embed=0.5"
            )
        check_expressions("optim.multipliers", [expression])
        rules.append((expression, factors))
    return rules


def check_expressions(field: str, expressions: Sequence[str]) -> None:
    """Check that each text is a regular expression.

    Raises:
      UserError: naming the field, the text and what is wrong with it.
    """
    for expression in expressions:
        try:
            re.compile(expression)
        except re.error as error:
            raise UserError(
                f"{field} has {expression!r}, which is no regular expression ({error}); correct it"
            ) from error

"""Path rules: regular expressions over parameter paths such as `blocks/attention/query`."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
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
    """For each parameter the product of the factors whose expression its path matches."""
    rules = parse_multipliers(multipliers)
    return map_paths(
        lambda path, _: math.prod(factor for rule, factor in rules if re.search(rule, path)),
        params,
    )


def matrix_axes(params: Params) -> Params:
    """MuonDimensionNumbers of the matrices inside blocks; None for all other parameters."""

    def axes(path: str, _: Any) -> MuonDimensionNumbers | None:
        return next((axes for rule, axes in MATRICES if re.search(rule, path)), None)

    return map_paths(axes, params)


def parse_multipliers(texts: Sequence[str]) -> list[tuple[str, float]]:
    """(expression, factor) of each EXPRESSION=FACTOR.

    >>> parse_multipliers(["embed=0.5", "mlp/(up|down)$=2"])
    [('embed', 0.5), ('mlp/(up|down)$', 2.0)]

    Raises:
      UserError: where a text has no factor, a negative one, or is no regular expression.
    """
    rules = []
    for text in texts:
        expression, _, factor_text = text.rpartition("=")
        try:
            factor = float(factor_text)
        except ValueError:
            factor = -1.0
        if not expression or not 0.0 <= factor < math.inf:
            raise UserError(
                f"optim.multipliers has {text!r}, which is not EXPRESSION=FACTOR with a factor of "
                "at least 0; write it like embed=0.5"
            )
        check_expressions("optim.multipliers", [expression])
        rules.append((expression, factor))
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

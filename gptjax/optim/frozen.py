"""Frozen parameters: leaves that keep their bits, chosen by path rules (`optim.frozen`).

A tree of trainable parameters has None in the place of a frozen leaf, so that gradients, optimizer
state and averages have nothing there.
"""

from collections.abc import Sequence
from typing import Any

import jax

from gptjax.errors import UserError
from gptjax.optim.path_rules import map_paths, matches

Params = Any


def trainable(params: Params, frozen: Sequence[str]) -> Params:
    """The parameters without those whose path matches one of the expressions.

    Raises:
      UserError: where an expression matches no parameter, or no parameter is left.
    """
    if not frozen:
        return params
    paths = jax.tree.leaves(map_paths(lambda path, _: path, params))
    for expression in frozen:
        if not any(matches([expression], path) for path in paths):
            raise UserError(
                f"optim.frozen has {expression!r}, which matches no parameter; the paths are like "
                f"{paths[0]} and {paths[-1]}"
            )
    left = map_paths(lambda path, leaf: None if matches(frozen, path) else leaf, params)
    if not jax.tree.leaves(left):
        raise UserError(
            f"optim.frozen={tuple(frozen)} matches every parameter, and nothing is left to train; "
            "take an expression out"
        )
    return left


def merged(trained: Params, params: Params) -> Params:
    """`trained`, with the leaves of `params` where it has None."""
    return jax.tree.map(
        lambda one, other: other if one is None else one,
        trained,
        params,
        is_leaf=lambda leaf: leaf is None,
    )


def like(params: Params, trained: Params) -> Params:
    """`params` with None where `trained` has it."""
    return jax.tree.map(
        lambda one, other: None if one is None else other,
        trained,
        params,
        is_leaf=lambda leaf: leaf is None,
    )

"""Gradient clipping by the global norm, in a form that is fast on a CPU."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

Params = Any


def global_norm(tree: Params) -> Array:
    """√Σ x² over all leaves, float32.

    As `optax.tree.norm`, by inner products: XLA's CPU backend takes thirty times as long for the
    sum of the squares of a large matrix as for the product of the same numbers with themselves.
    """
    parts = [_square(leaf) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(parts, start=jnp.zeros((), jnp.float32)))


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """g·min(1, limit/‖g‖) (Pascanu et al. 2013, arXiv:1211.5063), as optax's.

    One factor for all leaves, so that the compiler fuses the multiplication with the update.
    """

    def update(updates: Params, state: Any, params: Params = None) -> tuple[Params, Any]:
        norm = global_norm(updates)
        factor = jnp.where(norm > limit, limit / norm, 1.0)
        return jax.tree.map(lambda g: (g * factor).astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _square(x: Array) -> Array:
    """Σ x² as an inner product over all axes: made flat, an array that lies on several devices
    would be gathered first."""
    axes = tuple(range(x.ndim))
    return jax.lax.dot_general(x, x, ((axes, axes), ((), ())), preferred_element_type=jnp.float32)

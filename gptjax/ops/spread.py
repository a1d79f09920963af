"""Where tokens know their place in the sequence, and where they see each other.

A layout over devices may cut sequences, lay their tokens in another order and compute attention in
its own way. Models and losses are written for one device; they only say by the functions below
where order and attention are, and get what the layout does inside `spread_over`, nothing outside.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Spread:
    """What a layout does to sequences.

    Attributes:
      order: T → positions of the tokens in the order in which arrays have them, None: 0…T−1.
      attend: (kernel, q_BTNH, k_BTKH, v_BTKH, its options) → what the kernel would give.
    """

    order: Callable[[int], np.ndarray | None]
    attend: Callable[..., jax.Array]


_SPREAD: ContextVar[Spread | None] = ContextVar("spread", default=None)


@contextlib.contextmanager
def spread_over(spread: Spread | None) -> Iterator[None]:
    """Within it, what is traced has its sequences as `spread` says."""
    token = _SPREAD.set(spread)
    try:
        yield
    finally:
        _SPREAD.reset(token)


def in_order(x: jax.Array, axis: int = 0) -> jax.Array:
    """`x`, whose axis counts positions, in the order in which arrays have tokens.

    >>> with spread_over(Spread(lambda T: np.array([2, 0, 1]), attend_by)):
    ...     in_order(jnp.array([10, 11, 12])).tolist()
    [12, 10, 11]
    """
    spread = _SPREAD.get()
    order = None if spread is None else spread.order(x.shape[axis])
    return x if order is None else jnp.take(x, order, axis=axis)


def attend_by(
    kernel: Callable[..., jax.Array],
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    **options: Any,
) -> jax.Array:
    """`kernel(q, k, v, **options)`, computed where the layout has the tokens."""
    spread = _SPREAD.get()
    if spread is None:
        return kernel(q_BTNH, k_BTKH, v_BTKH, **options)
    return spread.attend(kernel, q_BTNH, k_BTKH, v_BTKH, **options)

"""Sequence sharding: the order of tokens and attention across them, which a layout may replace.

A layout over devices may shard sequences, reorder their tokens and compute attention in its own
way. Models and losses are written for one device: they say where order and attention matter by
`in_order` and `attend_by`, which do what the layout wants inside `shard_sequences` and nothing
outside.
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
class SequenceSharding:
    """A layout's order of tokens, and its attention.

    Attributes:
      order: T → positions of the tokens in the order in which arrays have them, None: 0…T−1.
      attend: (kernel, q_BTNH, k_BTKH, v_BTKH, its options) → what the kernel would give.
    """

    order: Callable[[int], np.ndarray | None]
    attend: Callable[..., jax.Array]


_SHARDING: ContextVar[SequenceSharding | None] = ContextVar("spread", default=None)


@contextlib.contextmanager
def shard_sequences(spread: SequenceSharding | None) -> Iterator[None]:
    """Within it, what is traced has its sequences as `spread` says."""
    token = _SHARDING.set(spread)
    try:
        yield
    finally:
        _SHARDING.reset(token)


def in_order(x: jax.Array, axis: int = 0) -> jax.Array:
    """`x`, whose axis counts positions, in the order in which arrays have tokens.

    >>> with shard_sequences(SequenceSharding(lambda T: np.array([2, 0, 1]), attend_by)):
    ...     in_order(jnp.array([10, 11, 12])).tolist()
    [12, 10, 11]
    """
    spread = _SHARDING.get()
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
    spread = _SHARDING.get()
    if spread is None:
        return kernel(q_BTNH, k_BTKH, v_BTKH, **options)
    return spread.attend(kernel, q_BTNH, k_BTKH, v_BTKH, **options)

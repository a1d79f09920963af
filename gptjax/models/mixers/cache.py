"""Caches of mixers: what a layer keeps of earlier tokens, so that a further token costs little.

A mixer declares the arrays that it keeps (`Mixer.cache`); sizes, sharding and bytes follow from
that. Modules read and write them as linen variables, and the pytree outside is
`gptjax.models.decode.Cache`.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

CACHE, KEPT = "cache", "kept"
"""The linen collection, and the variable of a mixer in it."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """One array of a cache, of one row of the batch.

    Attributes:
      shape: without the batch.
      axes: logical axis names, one for each of `shape`.
      dtype: its type; None: the activations'.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    dtype: Any = None

    def zeros(self, batch: int, activations: Any) -> jax.Array:
        """The array before the first token."""
        return jnp.zeros((batch, *self.shape), self.dtype or activations)


@dataclasses.dataclass(frozen=True)
class Stream:
    """A cache that forgets all but the first and the last tokens (Xiao et al., 2023).

    Attributes:
      first: attention sinks, k above 0; `last`: the most recent tokens.
    """

    first: int = 4
    last: int = 1020

    def kept(self, heads: int, width: int) -> dict[str, Kept]:
        """Keys before their rotation, and values."""
        first, last = ring(heads, self.first, width), ring(heads, self.last, width)
        return {"first_k": first, "first_v": first, "k": last, "v": last}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoding:
    """Where the tokens of a call stand, for layers with a cache.

    In every row the tokens that count come first; those after them have negative positions
    (`TokenInfo.positions_BT`) and leave no trace in the cache.

    Attributes:
      before_B: tokens that the cache holds before these.
      after_B: and after these.
      fresh: the cache holds nothing yet, so that a layer may compute as in training.
      stream: how the cache forgets; None: it does not.
    """

    before_B: jax.Array
    after_B: jax.Array
    fresh: bool = dataclasses.field(default=False, metadata={"static": True})
    stream: Stream | None = dataclasses.field(default=None, metadata={"static": True})


def kept(module: nn.Module) -> dict[str, jax.Array]:
    """The arrays that a mixer's cache holds."""
    # A copy, because linen's put_variable writes into the dict that it has.
    return dict(module.get_variable(CACHE, KEPT))


def keep(module: nn.Module, arrays: dict[str, jax.Array]) -> None:
    """Put the mixer's arrays back after the tokens of this call."""
    module.put_variable(CACHE, KEPT, arrays)


def ring(heads: int, slots: int, width: int) -> Kept:
    """Keys or values of so many tokens, head by head."""
    return Kept((heads, slots, width), ("kv_heads", None, "head_dim"))

"""Token-by-token caches: for mixers that keep summaries of finished blocks, or running sums."""

from typing import Any

import jax
import jax.numpy as jnp

from gptjax.models.mixers.attention import Attention
from gptjax.models.mixers.mixer import TokenInfo

Arrays = dict[str, jax.Array]


class OneByOneAttention(Attention):
    """Attention to earlier tokens that a cache holds in a form of its own.

    Several further tokens go through a scan; kinds override `attend_one`.
    """

    def attend_one(
        self, cache: Arrays, token: Arrays, position_B1: jax.Array, arrays: dict[str, Any]
    ) -> tuple[jax.Array, Arrays]:
        """(o_B1NH of one further token, the cache after it).

        Args:
          token: "q", "k" and "v" of it, [B, 1, heads, H], and those arrays of `per_token`.
          position_B1: negative in rows that have no further token, which write nothing.
          arrays: of `own_arrays`, the same for all tokens.
        """
        raise NotImplementedError

    def per_token(self) -> tuple[str, ...]:
        """Names of those own arrays that have one entry for each token."""
        return ()

    def attend_cached(
        self,
        cache: Arrays,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        info: TokenInfo,
        arrays: dict[str, Any],
    ) -> tuple[jax.Array, Arrays]:
        """One token after the other."""
        positions_BT = info.positions_BT
        assert positions_BT is not None
        tokens = {"q": q, "k": k, "v": v, **{name: arrays[name] for name in self.per_token()}}
        same = {name: x for name, x in arrays.items() if name not in tokens}
        if q.shape[1] == 1:
            return self.attend_one(cache, tokens, positions_BT, same)

        def step(cache: Arrays, one: tuple[Arrays, jax.Array]) -> tuple[Arrays, jax.Array]:
            token, position_B = one
            token = {name: x[:, None] for name, x in token.items()}
            o_B1NH, cache = self.attend_one(cache, token, position_B[:, None], same)
            return cache, o_B1NH[:, 0]

        by_token = {name: jnp.moveaxis(x, 1, 0) for name, x in tokens.items()}
        cache, o_TBNH = jax.lax.scan(step, cache, (by_token, positions_BT.T))
        return jnp.moveaxis(o_TBNH, 0, 1), cache


def beside(cache: Arrays, one: str, two: str) -> jax.Array:
    """Two arrays of a cache as one [B, K, S, H]."""
    return jnp.concatenate([cache[one], cache[two]], axis=2)

"""Performer attention, FAVOR+ (Choromanski et al., 2020): random features in place of scores.

The features are drawn once and kept.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.fields import setting
from gptjax.models.mixers import kernels, pattern
from gptjax.models.mixers.attention import attention_flops, attention_params
from gptjax.models.mixers.cache import Kept
from gptjax.models.mixers.mixer import Mixer, TokenInfo, register
from gptjax.models.mixers.one_by_one import Arrays, OneByOneAttention

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class PerformerConfig:
    """Performer layers."""

    features: int = setting(
        0,
        "performer: random features of a head; 0: head_dim·ln(head_dim), upwards",
        minimum=0,
        was="random_features",
    )


class PerformerAttention(OneByOneAttention):
    """Linear attention through positive random features of queries and keys."""

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, options: dict) -> jax.Array:
        """By running sums of features times values."""
        return ops.performer_attention(q, k, v, self._features(), **options)

    def fill(
        self,
        cache: Arrays,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        info: TokenInfo,
        arrays: dict[str, Any],
    ) -> Arrays:
        """The sums over the first tokens."""
        assert info.positions_BT is not None
        scale = kernels.options(self.config).get("scale")
        there_BT = info.positions_BT >= 0
        return {"sums": ops.performer_sums(k, v, self._features(), there_BT, scale=scale)}

    def attend_one(
        self, cache: Arrays, token: Arrays, position_B1: jax.Array, arrays: dict[str, Any]
    ) -> tuple[jax.Array, Arrays]:
        """By the sums with the token's own."""
        scale, w_KFH = kernels.options(self.config).get("scale"), self._features()
        there_B1 = position_B1 >= 0
        own = ops.performer_sums(token["k"], token["v"], w_KFH, there_B1, scale=scale)
        sums_BKFU = cache["sums"] + own
        return ops.performer_read(sums_BKFU, token["q"], w_KFH, scale=scale), {"sums": sums_BKFU}

    def _features(self) -> jax.Array:
        cfg = self.config
        return jnp.asarray(ops.orthogonal_features(cfg.kv_heads, cfg.head_width, cfg.feature_count))


def performer_flops(*, num_heads: int, num_kv_heads: int, head_dim: int, features: int) -> float:
    """FLOPs a token of random features, of the state's update and of its reading, with its sums.

    >>> performer_flops(num_heads=1, num_kv_heads=1, head_dim=2, features=5)
    100.0
    """
    heads = num_heads + num_kv_heads
    return 2.0 * heads * features * (head_dim + head_dim + 1)


def _flops(config: "ModelConfig") -> float:
    return attention_flops(config, 0.0) + performer_flops(
        num_heads=config.num_heads,
        num_kv_heads=config.kv_heads,
        head_dim=config.head_width,
        features=config.feature_count,
    )


def _cache(config: "ModelConfig", tokens: int) -> dict[str, Kept]:
    shape = config.kv_heads, config.feature_count, config.head_width + 1
    return {"sums": Kept(shape, ("kv_heads", None, None), jnp.float32)}


def _check(config: "ModelConfig") -> None:
    pattern.check_without(config, "performer", pattern.NO_SCORES)
    pattern.check_distances(config, "performer")


register(
    "performer",
    Mixer(
        module=PerformerAttention,
        params=attention_params,
        flops=_flops,
        # Running sums in float32, whatever the context.
        cache_bytes=lambda config, context: (
            4 * config.kv_heads * config.feature_count * (config.head_width + 1)
        ),
        held=lambda config, segmented: pattern.held(config, config.feature_count),
        check=_check,
        cache=_cache,
        rewinds=False,
    ),
)

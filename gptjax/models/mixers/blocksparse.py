"""Block-sparse attention (Abdin et al., 2024, "Phi-3 Technical Report"), as Phi-3-small has it.

All heads see the last blocks; of earlier ones each head sees every stride-th, from its own start.
"""

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.fields import setting
from gptjax.models.mixers import pattern
from gptjax.models.mixers.attention import Attention, attention_flops, attention_params, key_cache
from gptjax.models.mixers.mixer import Mixer, register

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class BlocksparseConfig:
    """Which blocks the heads of blocksparse layers see."""

    local_blocks: int = setting(
        2,
        "blocksparse: last blocks that all heads see, the own included (Phi-3-small: 16)",
        minimum=1,
        was="sparse_local_blocks",
    )
    stride: int = setting(
        4,
        "blocksparse: of so many earlier blocks a head sees one (Phi-3-small: 8)",
        minimum=1,
        was="sparse_stride",
    )


class BlocksparseAttention(Attention):
    """Attention to the last blocks, and to some earlier ones that differ between heads."""

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, options: dict) -> jax.Array:
        """By blocks."""
        cfg = self.config
        return ops.blocksparse_attention(
            q,
            k,
            v,
            block=cfg.block_tokens,
            local_blocks=cfg.mixer.blocksparse.local_blocks,
            stride=cfg.mixer.blocksparse.stride,
            **options,
        )

    def sees(self) -> ops.Sees:
        """The last blocks, and of earlier ones those of each head."""
        cfg = self.config
        a, stride = cfg.block_tokens, cfg.mixer.blocksparse.stride
        own_N11 = jnp.asarray(ops.seen_blocks(cfg.num_heads, stride))[:, None, None]

        def rule(i_BT1: jax.Array, j_B1S: jax.Array) -> jax.Array:
            near = i_BT1 // a - j_B1S // a < cfg.mixer.blocksparse.local_blocks
            return near[:, None] | ((j_B1S // a)[:, None] % stride == own_N11)

        return rule


def blocksparse_keys(seq_len: int, block: int, local_blocks: int, stride: int) -> float:
    """Keys of a query that sees its last blocks, and one of `stride` blocks before them.

    Phi-3-small at its longest text:

    >>> blocksparse_keys(8192, 64, 16, 8)
    1920.0
    """
    near = min(seq_len, local_blocks * block)
    return near + (seq_len - near) / stride


def _keys(config: "ModelConfig") -> float:
    return blocksparse_keys(
        config.seq_len,
        config.block_tokens,
        config.mixer.blocksparse.local_blocks,
        config.mixer.blocksparse.stride,
    )


def _cache_bytes(config: "ModelConfig", context: int) -> int:
    """Of each key head the blocks that one of its queries' heads still sees."""
    number = jnp.dtype(config.compute_dtype).itemsize
    return 2 * config.head_width * number * _seen_again(config, context)


def _seen_again(config: "ModelConfig", context: int) -> int:
    """Tokens, summed over key heads, that queries from `context` on still see."""
    finished, begun = divmod(context, config.block_tokens)
    old = max(0, finished - config.mixer.blocksparse.local_blocks + 1)
    seen_KG = ops.seen_blocks(config.num_heads, config.mixer.blocksparse.stride).reshape(
        config.kv_heads, -1
    )
    kept = sum(
        len(range(remainder, old, config.mixer.blocksparse.stride))
        for seen_G in seen_KG.tolist()
        for remainder in set(seen_G)
    )
    recent = config.kv_heads * (finished - old)
    return (kept + recent) * config.block_tokens + config.kv_heads * begun


register(
    "blocksparse",
    Mixer(
        module=BlocksparseAttention,
        params=attention_params,
        flops=lambda config: attention_flops(config, _keys(config)),
        cache_bytes=_cache_bytes,
        held=lambda config, segmented: pattern.held(config, _keys(config)),
        check=lambda config: pattern.check_latent(config, "blocksparse"),
        cache=key_cache,
    ),
)

"""Kinds of attention that leave pairs of tokens out, as a config has them.

strided, fixed: Child et al. (2019), "Generating Long Sequences with Sparse Transformers"; the
dense and banded layers that GPT-3 alternates are the pattern ('global', 'local').
blocksparse: Abdin et al. (2024), "Phi-3 Technical Report", as Phi-3-small's released code has it.
longformer: Beltagy et al. (2020), causal, with the first tokens as the global ones.
linformer: Wang et al. (2020), but by blocks, because its projections over all positions show every
query the future.
performer: Choromanski et al. (2020), FAVOR+, with features that are drawn once and kept.
reformer: Kitaev et al. (2020), with rotations that are drawn once and kept, and with a window in
the sorted bucket where the paper has chunks, whose borders depend on later tokens.
"""

from typing import Any

import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.models.config import ModelConfig


def attend_sparsely(
    config: ModelConfig,
    kind: str,
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    segment_ids_BT: jax.Array | None,
    options: dict[str, Any],
) -> jax.Array:
    """Attention of one of the kinds in `config.SPARSE`; `options` are what its operation takes."""
    options = {"segment_ids_BT": segment_ids_BT, **options}
    qkv = q_BTNH, k_BTKH, v_BTKH
    if kind == "strided":
        return ops.strided_attention(*qkv, stride=config.block_tokens, **options)
    if kind == "fixed":
        block, summary = config.block_tokens, config.sparse_summary
        return ops.fixed_attention(*qkv, block=block, summary=summary, **options)
    if kind == "blocksparse":
        return ops.blocksparse_attention(
            *qkv,
            block=config.block_tokens,
            local_blocks=config.sparse_local_blocks,
            stride=config.sparse_stride,
            **options,
        )
    if kind == "longformer":
        return ops.longformer_attention(*qkv, window=config.window, **options)
    if kind == "linformer":
        return ops.linformer_causal_attention(*qkv, **options)
    if kind == "performer":
        w_KFH = ops.orthogonal_features(config.kv_heads, config.head_width, config.feature_count)
        return ops.performer_attention(*qkv, jnp.asarray(w_KFH), **options)
    factors = ops.bucket_factors(config.bucket_count)
    turns = ops.hash_rotations(config.num_heads, config.head_width, config.lsh_rounds, factors)
    return ops.lsh_attention(
        q_BTNH, v_BTKH, jnp.asarray(turns), factors=factors, chunk=config.lsh_chunk, **options
    )


def extra_size(config: ModelConfig, kind: str) -> int:
    """Parameters of one attention of that kind beyond those of ordinary attention."""
    projection = config.width + config.has_bias("qkv")
    heads, kv_heads = (
        projection * config.head_width * n for n in (config.num_heads, config.kv_heads)
    )
    if kind == "linformer":
        return 2 * config.block_tokens * config.sparse_summary
    return {"longformer": heads + 2 * kv_heads, "reformer": -kv_heads}.get(kind, 0)


def cache_bytes(config: ModelConfig, context: int) -> int:
    """Bytes that a decoder must keep of `context` tokens to go on, in all its layers.

    Keys, values and latent vectors in the type of the activations, states in float32. What no later
    token can see is not counted: a window keeps its last tokens, `fixed` the last of each block.
    `strided` and `reformer` keep every token, because any may be seen again; `blocksparse` of each
    key head the blocks that one of its queries' heads still sees.

    >>> cache_bytes(ModelConfig(depth=1, width=8, num_heads=2, vocab_size=9), 10)
    640
    """
    return sum(_kept(config, layer.mixer, context) for layer in config.layers_of_depth)


def _kept(config: ModelConfig, kind: str, context: int) -> int:
    number = jnp.dtype(config.compute_dtype).itemsize
    H, K, block = config.head_width, config.kv_heads, config.block_tokens
    finished, begun = divmod(context, block)
    if kind == "ssm":
        window = (config.ssm_conv - 1) * number
        return config.ssm_width * (window + 4 * config.ssm_state)
    if kind == "performer":
        return 4 * K * config.feature_count * (H + 1)
    if kind == "blocksparse":
        return 2 * H * number * _seen_again(config, context)
    tokens = {
        "local": min(config.window, context),
        "longformer": min(config.window + config.global_tokens, context),
        "fixed": config.sparse_summary * finished + begun,
        "linformer": config.sparse_summary * finished + begun,
    }.get(kind, context)
    if config.kv_rank:
        return tokens * number * (config.kv_rank + config.rope_dim)
    hashes = 4 * config.num_heads * config.lsh_rounds if kind == "reformer" else 0
    return tokens * (2 * K * H * number + hashes)


def _seen_again(config: ModelConfig, context: int) -> int:
    """Tokens, summed over key heads, that blocksparse queries from `context` on still see."""
    finished, begun = divmod(context, config.block_tokens)
    old = max(0, finished - config.sparse_local_blocks + 1)
    seen_KG = ops.seen_blocks(config.num_heads, config.sparse_stride).reshape(config.kv_heads, -1)
    kept = sum(
        len(range(remainder, old, config.sparse_stride))
        for seen_G in seen_KG.tolist()
        for remainder in set(seen_G)
    )
    recent = config.kv_heads * (finished - old)
    return (kept + recent) * config.block_tokens + config.kv_heads * begun

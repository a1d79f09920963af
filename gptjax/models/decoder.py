"""The decoder-only transformer as Flax linen modules.

Blocks are stacked: every parameter below `blocks` has a leading axis of length `depth`, whether
the blocks are scanned or unrolled, so that a checkpoint does not depend on that choice.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.models.config import ModelConfig
from gptjax.models.kernels import attend
from gptjax.models.parts import (
    Norm,
    activation_type,
    bias_at,
    hidden_init,
    initializer,
    merge_heads,
    norm_scale,
    normed,
    parameter,
    residual_init,
)


class Attention(nn.Module):
    """Projections to heads, positions by rotation, attention, projection back.

    Attributes:
      kind: "global", or "local" for attention within the config's window.
    """

    config: ModelConfig
    kind: str = "global"

    @nn.compact
    def __call__(self, x_BTD: jax.Array, segment_ids_BT: jax.Array | None) -> jax.Array:
        cfg = self.config
        D, N, K, H = cfg.width, cfg.num_heads, cfg.kv_heads, cfg.head_width
        q_BTNH = self._heads(x_BTD, "query", N, "heads")
        k_BTKH = self._heads(x_BTD, "key", K, "kv_heads")
        v_BTKH = self._heads(x_BTD, "value", K, "kv_heads")
        q_BTNH = self._head_norm(q_BTNH, "query_norm_scale", "heads")
        k_BTKH = self._head_norm(k_BTKH, "key_norm_scale", "kv_heads")
        if cfg.positions == "rotary":
            q_BTNH, k_BTKH = rotate(cfg, q_BTNH), rotate(cfg, k_BTKH)
        o_BTNH = self._attend(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT)
        if cfg.attention_gate:
            o_BTNH = o_BTNH * jax.nn.sigmoid(self._heads(x_BTD, "gate", N, "heads"))
        axes = ("heads", "head_dim", "embed")
        w_NHD = parameter(self, "out", (N, H, D), axes, residual_init(cfg))
        b_D = bias_at(self, "out", "out_bias", (D,), ("embed",))
        return ops.linear(merge_heads(o_BTNH), w_NHD.reshape(N * H, D), b_D)

    def _head_norm(self, x_BTNH: jax.Array, name: str, axis: str) -> jax.Array:
        cfg = self.config
        N, H = x_BTNH.shape[2:]
        if cfg.qk_norm == "none":
            return x_BTNH
        if cfg.qk_norm == "shared":
            return normed(cfg, x_BTNH, norm_scale(self, name, (H,), ("head_dim",)))
        scale_NH = norm_scale(self, name, (N, H), (axis, "head_dim"))
        by_head = jax.vmap(functools.partial(normed, cfg), in_axes=(2, 0), out_axes=2)
        return by_head(x_BTNH, scale_NH)

    def _attend(
        self,
        q_BTNH: jax.Array,
        k_BTKH: jax.Array,
        v_BTKH: jax.Array,
        segment_ids_BT: jax.Array | None,
    ) -> jax.Array:
        cfg = self.config
        N = cfg.num_heads
        extras: dict[str, Any] = {}
        if cfg.positions == "alibi":
            extras["slopes_N"] = jnp.array(ops.alibi_slopes(N), jnp.float32)
        if cfg.attention_sinks:
            extras["sinks_N"] = parameter(self, "sink_bias", (N,), ("heads",), initializer(cfg))
        return attend(cfg, self.kind, q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, extras)

    def _heads(self, x_BTD: jax.Array, name: str, heads: int, axis: str) -> jax.Array:
        cfg = self.config
        D, H = cfg.width, cfg.head_width
        axes = ("embed", axis, "head_dim")
        w_DNH = parameter(self, name, (D, heads, H), axes, hidden_init(cfg))
        b_NH = bias_at(self, "qkv", f"{name}_bias", (heads, H), (axis, "head_dim"))
        y = ops.linear(x_BTD, w_DNH.reshape(D, -1), None if b_NH is None else b_NH.reshape(-1))
        return y.reshape(*x_BTD.shape[:2], heads, H)


class FeedForward(nn.Module):
    """Two matrices around a non-linearity, or three where it gates."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        cfg = self.config
        D, F = cfg.width, cfg.hidden_width
        activation, gated = ops.FEED_FORWARD[cfg.mlp]
        h_BTF = self._up(x_BTD, "up")
        h_BTF = activation(self._up(x_BTD, "gate")) * h_BTF if gated else activation(h_BTF)
        h_BTF = nn.with_logical_constraint(h_BTF, ("batch", "seq", "mlp"))
        w_FD = parameter(self, "down", (F, D), ("mlp", "embed"), residual_init(cfg))
        return ops.linear(h_BTF, w_FD, bias_at(self, "mlp", "down_bias", (D,), ("embed",)))

    def _up(self, x_BTD: jax.Array, name: str) -> jax.Array:
        cfg = self.config
        D, F = cfg.width, cfg.hidden_width
        w_DF = parameter(self, name, (D, F), ("embed", "mlp"), hidden_init(cfg))
        return ops.linear(x_BTD, w_DF, bias_at(self, "mlp", f"{name}_bias", (F,), ("mlp",)))


class Block(nn.Module):
    """Attention and feed-forward, each added to the stream, normed before, after or both.

    Attributes:
      kind: what its attention is, an element of the config's layer_pattern.
    """

    config: ModelConfig
    kind: str = "global"

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, segment_ids_BT: jax.Array | None
    ) -> tuple[jax.Array, None]:
        cfg = self.config
        attention = Attention(cfg, self.kind, name="attention")
        feed_forward = FeedForward(cfg, name="mlp")
        norm1, scale = Norm(cfg, name="attention_norm"), cfg.residual_scale
        norm2 = Norm(cfg, name="mlp_norm") if cfg.block != "parallel_shared_norm" else norm1

        def add(x_BTD: jax.Array, y_BTD: jax.Array) -> jax.Array:
            return x_BTD + (y_BTD if scale == 1.0 else y_BTD * scale)

        if cfg.block != "sequential":
            h_BTD = norm1(x_BTD)
            g_BTD = norm2(x_BTD) if norm2 is not norm1 else h_BTD
            x_BTD = add(x_BTD, attention(h_BTD, segment_ids_BT) + feed_forward(g_BTD))
        elif cfg.norm_place == "pre":
            x_BTD = add(x_BTD, attention(norm1(x_BTD), segment_ids_BT))
            x_BTD = add(x_BTD, feed_forward(norm2(x_BTD)))
        elif cfg.norm_place == "post":
            x_BTD = norm1(add(x_BTD, attention(x_BTD, segment_ids_BT)))
            x_BTD = norm2(add(x_BTD, feed_forward(x_BTD)))
        else:
            after1 = Norm(cfg, name="attention_out_norm")
            after2 = Norm(cfg, name="mlp_out_norm")
            x_BTD = add(x_BTD, after1(attention(norm1(x_BTD), segment_ids_BT)))
            x_BTD = add(x_BTD, after2(feed_forward(norm2(x_BTD))))
        return nn.with_logical_constraint(x_BTD, ("batch", "seq", "embed")), None


class Embedding(nn.Module):
    """Token vectors, with learned or sinusoidal positions added."""

    config: ModelConfig

    @nn.compact
    def __call__(self, tokens_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The input of the first block, and the table for a tied head."""
        cfg = self.config
        D, T = cfg.width, tokens_BT.shape[1]
        w_VD = parameter(self, "tokens", (cfg.vocab_size, D), ("vocab", "embed"), initializer(cfg))
        x_BTD = w_VD.astype(activation_type(cfg))[tokens_BT]
        if cfg.embedding_scale != 1.0:
            # Rounded to the activations' type first, as Gemma's published code does.
            x_BTD = x_BTD * jnp.asarray(cfg.embedding_scale or math.sqrt(D), x_BTD.dtype)
        if cfg.positions == "learned":
            p_TD = parameter(
                self, "positions", (cfg.seq_len, D), ("positions", "embed"), initializer(cfg)
            )
            x_BTD = x_BTD + p_TD[:T].astype(x_BTD.dtype)
        elif cfg.positions == "sinusoidal":
            # Vaswani et al. (2017), 3.4: the table is scaled up to meet sinusoids of size one.
            waves_TD = ops.sinusoids(jnp.arange(T), D)
            x_BTD = x_BTD * math.sqrt(D) + waves_TD.astype(x_BTD.dtype)
        return x_BTD, w_VD


class Decoder(nn.Module):
    """Tokens to logits."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        tokens_BT: jax.Array,
        segment_ids_BT: jax.Array | None = None,
        shift_BTD: jax.Array | None = None,
    ) -> jax.Array:
        """float32 logits [B, T, V]."""
        cfg = self.config
        x_BTD, w_VD = Embedding(cfg, name="embed")(tokens_BT)
        if shift_BTD is not None:
            x_BTD = x_BTD + shift_BTD.astype(x_BTD.dtype)
        x_BTD = nn.with_logical_constraint(x_BTD, ("batch", "seq", "embed"))
        if self.is_initializing() or not (unrolled(cfg) or len(cfg.layer_pattern) > 1):
            x_BTD = self._scanned(x_BTD, segment_ids_BT)
        else:
            run = _unrolled if unrolled(cfg) else _scanned_by_period
            x_BTD = run(cfg, self.variables["params"]["blocks"], x_BTD, segment_ids_BT)
        if cfg.norm_place != "post":
            x_BTD = Norm(cfg, name="final_norm")(x_BTD)
        if not cfg.tied_head:
            w_DV = parameter(
                self, "head", (cfg.width, cfg.vocab_size), ("embed", "vocab"), initializer(cfg)
            )
        else:
            w_DV = w_VD.T
        logits_BTV = ops.linear(x_BTD, w_DV, dtype=jnp.float32)
        if cfg.logit_scale != 1.0:
            logits_BTV = logits_BTV * cfg.logit_scale
        if cfg.logit_soft_cap:
            logits_BTV = cfg.logit_soft_cap * jnp.tanh(logits_BTV / cfg.logit_soft_cap)
        return nn.with_logical_constraint(logits_BTV, ("batch", "seq", "vocab"))

    def _scanned(self, x_BTD: jax.Array, segment_ids_BT: jax.Array | None) -> jax.Array:
        cfg = self.config
        block = nn.remat(Block, prevent_cse=False) if cfg.remat == "block" else Block
        stack = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=cfg.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x_BTD, _ = stack(cfg, cfg.layer_pattern[0], name="blocks")(x_BTD, segment_ids_BT)
        return x_BTD


def sizes(config: ModelConfig) -> tuple[int, int]:
    """(parameters of the embedding, all others but an untied head), without tracing the modules.

    A plan counts hundreds of shapes, and tracing one takes a tenth of a second.
    """
    D = config.width
    norm = D * (1 + (config.norm == "layernorm" and config.has_bias("norm")))
    norms = {"pre": 2, "post": 2, "both": 4}[config.norm_place]
    norms -= config.block == "parallel_shared_norm"
    block = _attention_size(config) + _feed_forward_size(config) + norms * norm
    positions = config.seq_len if config.positions == "learned" else 0
    last = norm * (config.norm_place != "post")
    return (config.vocab_size + positions) * D, config.depth * block + last


def _attention_size(config: ModelConfig) -> int:
    D, N, K, H = config.width, config.num_heads, config.kv_heads, config.head_width
    inputs = N * (1 + config.attention_gate) + 2 * K
    weights = D * H * (inputs + N)
    biases = config.has_bias("qkv") * H * inputs + config.has_bias("out") * D
    head_norms = {"none": 0, "shared": 2 * H, "per_head": (N + K) * H}[config.qk_norm]
    return weights + biases + head_norms + config.attention_sinks * N


def _feed_forward_size(config: ModelConfig) -> int:
    D, F = config.width, config.hidden_width
    up = 2 if ops.FEED_FORWARD[config.mlp][1] else 1
    return D * F * (up + 1) + config.has_bias("mlp") * (up * F + D)


def unrolled(config: ModelConfig) -> bool:
    """Whether the blocks are unrolled: asked for, or 'auto' on CPU, where a scan costs time."""
    if config.layers == "auto":
        return jax.default_backend() == "cpu" and config.depth <= 24
    return config.layers == "unroll"


def _unrolled(
    config: ModelConfig, stacked: Any, x_BTD: jax.Array, segment_ids_BT: jax.Array | None
) -> jax.Array:
    """Apply the blocks one by one, each to its slice of the stacked parameters."""
    leaves, tree = jax.tree.flatten(nn.unbox(stacked))
    kinds = config.layers_of_depth[: leaves[0].shape[0]]
    # The transpose of unstack is one stack; that of indexing would be a padded sum per layer.
    layers = zip(*(jnp.unstack(leaf) for leaf in leaves), strict=True)
    for kind, layer in zip(kinds, layers, strict=True):
        x_BTD = _block_of(config, kind)(jax.tree.unflatten(tree, layer), x_BTD, segment_ids_BT)
    return x_BTD


def _scanned_by_period(
    config: ModelConfig, stacked: Any, x_BTD: jax.Array, segment_ids_BT: jax.Array | None
) -> jax.Array:
    """Scan over the periods of the layer pattern, each unrolled; a last part of one follows."""
    period = len(config.layer_pattern)
    whole = config.depth // period * period
    params = nn.unbox(stacked)

    def body(x_BTD: jax.Array, layers: Any) -> tuple[jax.Array, None]:
        return _unrolled(config, layers, x_BTD, segment_ids_BT), None

    def by_period(leaf: jax.Array) -> jax.Array:
        return leaf[:whole].reshape(whole // period, period, *leaf.shape[1:])

    if whole:
        x_BTD, _ = jax.lax.scan(body, x_BTD, jax.tree.map(by_period, params))
    if whole == config.depth:
        return x_BTD
    rest = jax.tree.map(lambda leaf: leaf[whole:], params)
    return _unrolled(config, rest, x_BTD, segment_ids_BT)


def _block_of(config: ModelConfig, kind: str) -> Any:
    """(parameters of one block, x, segments) -> x, recomputed in the backward pass if so set."""

    def block(params: Any, x_BTD: jax.Array, segment_ids_BT: jax.Array | None) -> jax.Array:
        return Block(config, kind, parent=None).apply({"params": params}, x_BTD, segment_ids_BT)[0]

    return jax.checkpoint(block) if config.remat == "block" else block


def rotate(config: ModelConfig, x_BTNH: jax.Array) -> jax.Array:
    """Rotary positions as the config has them, for tokens 0…T−1."""
    T = x_BTNH.shape[1]
    options: dict[str, Any] = {"base": config.rope_base}
    if config.rope_scaling != "none" or config.rotary_width != config.head_width:
        scaling = ops.RopeScaling(
            factor=config.rope_factor,
            trained_len=config.rope_trained_len or config.seq_len,
            slow=config.rope_slow,
            fast=config.rope_fast,
            attention_factor=config.rope_attention_factor,
            mscale=config.rope_mscale,
            mscale_all_dim=config.rope_mscale_all_dim,
            short_factors=config.rope_short_factors,
            long_factors=config.rope_long_factors,
        )
        find = ops.ROPE_SCALINGS[config.rope_scaling]
        turns_C, factor = find(config.rotary_width, config.rope_base, T, scaling)
        options = {"frequencies_C": jnp.asarray(turns_C, jnp.float32), "factor": factor}
    interleaved = config.rope_layout == "interleaved"
    return ops.rotary(x_BTNH, jnp.arange(T), interleaved=interleaved, **options)

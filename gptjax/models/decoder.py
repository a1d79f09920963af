"""The decoder-only transformer as Flax linen modules.

Blocks are stacked: every parameter below `blocks` has a leading axis of length `depth`, whether
the blocks are scanned or unrolled, so that a checkpoint does not depend on that choice.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.models.config import ModelConfig


def _parameter(
    module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str, ...], init: Any
) -> jax.Array:
    """A float32 parameter with logical axis names."""
    boxed: Any = nn.with_logical_partitioning(init, axes)
    return module.param(name, boxed, shape, jnp.float32)


def _bias(
    module: Any, name: str, shape: tuple[int, ...], axes: tuple[str, ...]
) -> jax.Array | None:
    """A parameter that starts at zero, where the config wants biases."""
    if not module.config.use_bias:
        return None
    return _parameter(module, name, shape, axes, nn.initializers.zeros)


def _merge_heads(x_BTNH: jax.Array) -> jax.Array:
    B, T, N, H = x_BTNH.shape
    return x_BTNH.reshape(B, T, N * H)


def _dtype(config: ModelConfig) -> jnp.dtype:
    return jnp.dtype(config.compute_dtype)


class Norm(nn.Module):
    """LayerNorm or RMSNorm, with the config's epsilon and biases."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        cfg = self.config
        D = x_BTD.shape[-1]
        scale = _parameter(self, "scale", (D,), ("embed",), nn.initializers.ones)
        if cfg.norm == "rmsnorm":
            return ops.rms_norm(x_BTD, scale, eps=cfg.norm_eps)
        bias = _bias(self, "bias", (D,), ("embed",))
        return ops.layer_norm(x_BTD, scale, bias, eps=cfg.norm_eps)


class Attention(nn.Module):
    """Projections to heads, positions by rotation, attention, projection back."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array, segment_ids_BT: jax.Array | None) -> jax.Array:
        cfg = self.config
        D, N, K, H = cfg.width, cfg.num_heads, cfg.kv_heads, cfg.head_width
        q_BTNH = self._heads(x_BTD, "query", N, "heads")
        k_BTKH = self._heads(x_BTD, "key", K, "kv_heads")
        v_BTKH = self._heads(x_BTD, "value", K, "kv_heads")
        if cfg.positions == "rotary":
            positions_T = jnp.arange(x_BTD.shape[1])
            q_BTNH = ops.rotary(q_BTNH, positions_T, base=cfg.rope_base)
            k_BTKH = ops.rotary(k_BTKH, positions_T, base=cfg.rope_base)
        o_BTNH = ops.attention(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT=segment_ids_BT)
        axes = ("heads", "head_dim", "embed")
        w_NHD = _parameter(self, "out", (N, H, D), axes, _residual_init(cfg))
        b_D = _bias(self, "out_bias", (D,), ("embed",))
        return ops.linear(_merge_heads(o_BTNH), w_NHD.reshape(N * H, D), b_D)

    def _heads(self, x_BTD: jax.Array, name: str, heads: int, axis: str) -> jax.Array:
        cfg = self.config
        D, H = cfg.width, cfg.head_width
        w_DNH = _parameter(self, name, (D, heads, H), ("embed", axis, "head_dim"), _init(cfg))
        b_NH = _bias(self, f"{name}_bias", (heads, H), (axis, "head_dim"))
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
        w_FD = _parameter(self, "down", (F, D), ("mlp", "embed"), _residual_init(cfg))
        return ops.linear(h_BTF, w_FD, _bias(self, "down_bias", (D,), ("embed",)))

    def _up(self, x_BTD: jax.Array, name: str) -> jax.Array:
        cfg = self.config
        D, F = cfg.width, cfg.hidden_width
        w_DF = _parameter(self, name, (D, F), ("embed", "mlp"), _init(cfg))
        return ops.linear(x_BTD, w_DF, _bias(self, f"{name}_bias", (F,), ("mlp",)))


class Block(nn.Module):
    """Attention and feed-forward, each added to the stream, normed before or after."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, segment_ids_BT: jax.Array | None
    ) -> tuple[jax.Array, None]:
        cfg = self.config
        attention, feed_forward = Attention(cfg, name="attention"), FeedForward(cfg, name="mlp")
        norm1, norm2 = Norm(cfg, name="attention_norm"), Norm(cfg, name="mlp_norm")
        if cfg.norm_place == "pre":
            x_BTD = x_BTD + attention(norm1(x_BTD), segment_ids_BT)
            x_BTD = x_BTD + feed_forward(norm2(x_BTD))
        else:
            x_BTD = norm1(x_BTD + attention(x_BTD, segment_ids_BT))
            x_BTD = norm2(x_BTD + feed_forward(x_BTD))
        return nn.with_logical_constraint(x_BTD, ("batch", "seq", "embed")), None


class Embedding(nn.Module):
    """Token vectors, with learned or sinusoidal positions added."""

    config: ModelConfig

    @nn.compact
    def __call__(self, tokens_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The input of the first block, and the table for a tied head."""
        cfg = self.config
        D, T = cfg.width, tokens_BT.shape[1]
        w_VD = _parameter(self, "tokens", (cfg.vocab_size, D), ("vocab", "embed"), _init(cfg))
        x_BTD = w_VD.astype(_dtype(cfg))[tokens_BT]
        if cfg.positions == "learned":
            p_TD = _parameter(
                self, "positions", (cfg.seq_len, D), ("positions", "embed"), _init(cfg)
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
    def __call__(self, tokens_BT: jax.Array, segment_ids_BT: jax.Array | None = None) -> jax.Array:
        """float32 logits [B, T, V]."""
        cfg = self.config
        x_BTD, w_VD = Embedding(cfg, name="embed")(tokens_BT)
        x_BTD = nn.with_logical_constraint(x_BTD, ("batch", "seq", "embed"))
        if self.is_initializing() or not unrolled(cfg):
            x_BTD = self._scanned(x_BTD, segment_ids_BT)
        else:
            x_BTD = _unrolled(cfg, self.variables["params"]["blocks"], x_BTD, segment_ids_BT)
        if cfg.norm_place == "pre":
            x_BTD = Norm(cfg, name="final_norm")(x_BTD)
        if not cfg.tied_head:
            w_DV = _parameter(
                self, "head", (cfg.width, cfg.vocab_size), ("embed", "vocab"), _init(cfg)
            )
        else:
            w_DV = w_VD.T
        logits_BTV = ops.linear(x_BTD, w_DV, dtype=jnp.float32)
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
        x_BTD, _ = stack(cfg, name="blocks")(x_BTD, segment_ids_BT)
        return x_BTD


def sizes(config: ModelConfig) -> tuple[int, int]:
    """(parameters of the embedding, all others but an untied head), without tracing the modules.

    A plan counts hundreds of shapes, and tracing one takes a tenth of a second.
    """
    D, N, K, H, F = (
        config.width, config.num_heads, config.kv_heads, config.head_width, config.hidden_width
    )  # fmt: skip
    bias = int(config.use_bias)
    up = 2 if ops.FEED_FORWARD[config.mlp][1] else 1
    attention = D * H * (2 * N + 2 * K) + bias * (H * (N + 2 * K) + D)
    feed_forward = D * F * (up + 1) + bias * (up * F + D)
    norm = D * (1 + bias * (config.norm == "layernorm"))
    blocks = config.depth * (attention + feed_forward + 2 * norm)
    positions = config.seq_len if config.positions == "learned" else 0
    return (config.vocab_size + positions) * D, blocks + norm * (config.norm_place == "pre")


def unrolled(config: ModelConfig) -> bool:
    """Whether the blocks are unrolled: asked for, or 'auto' on CPU, where a scan costs time."""
    if config.layers == "auto":
        return jax.default_backend() == "cpu" and config.depth <= 24
    return config.layers == "unroll"


def _unrolled(
    config: ModelConfig, stacked: Any, x_BTD: jax.Array, segment_ids_BT: jax.Array | None
) -> jax.Array:
    """Apply the blocks one by one, each to its slice of the stacked parameters."""

    def block(params: Any, x_BTD: jax.Array) -> jax.Array:
        return Block(config, parent=None).apply({"params": params}, x_BTD, segment_ids_BT)[0]

    if config.remat == "block":
        block = jax.checkpoint(block)
    leaves, tree = jax.tree.flatten(nn.unbox(stacked))
    # The transpose of unstack is one stack; that of indexing would be a padded sum per layer.
    for layer in zip(*(jnp.unstack(leaf) for leaf in leaves), strict=True):
        x_BTD = block(jax.tree.unflatten(tree, layer), x_BTD)
    return x_BTD


def _init(config: ModelConfig) -> Any:
    return nn.initializers.normal(config.init_scale)


def _residual_init(config: ModelConfig) -> Any:
    """GPT-2's: projections into the stream are scaled by 1/√(number of them)."""
    return nn.initializers.normal(config.init_scale / math.sqrt(2 * config.depth))

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
from gptjax.models.config import Layer, ModelConfig
from gptjax.models.experts import ROUTING, Experts, Routing, experts_size
from gptjax.models.kernels import attend
from gptjax.models.latent import LatentAttention, latent_size
from gptjax.models.mamba import Mamba, mamba_size
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
from gptjax.models.remat import (
    in_segments,
    recomputed,
    recomputed_module,
    scan_in_segments,
    segment_length,
)
from gptjax.models.rotation import rotate
from gptjax.models.sparse import extra_size
from gptjax.ops.backend import platform


class Attention(nn.Module):
    """Projections to heads, positions by rotation, attention, projection back.

    Attributes:
      kind: an element of the config's layer pattern, not "ssm".
    """

    config: ModelConfig
    kind: str = "global"

    @nn.compact
    def __call__(self, x_BTD: jax.Array, segment_ids_BT: jax.Array | None) -> jax.Array:
        cfg = self.config
        N, K = cfg.num_heads, cfg.kv_heads
        q_BTNH = self._heads(x_BTD, "query", N, "heads")
        shared = self.kind == "reformer"
        k_BTKH = q_BTNH if shared else self._heads(x_BTD, "key", K, "kv_heads")
        v_BTKH = self._heads(x_BTD, "value", K, "kv_heads")
        q_BTNH = self._head_norm(q_BTNH, "query_norm_scale", "heads")
        k_BTKH = self._head_norm(k_BTKH, "key_norm_scale", "kv_heads")
        if cfg.positions == "rotary":
            q_BTNH, k_BTKH = rotate(cfg, q_BTNH), rotate(cfg, k_BTKH)
        extras = self._extras() | self._of_kind(x_BTD)
        o_BTNH = attend(cfg, self.kind, q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, extras)
        o_BTNH = nn.with_logical_constraint(o_BTNH, ("batch", "seq", "heads", None))
        if cfg.attention_gate:
            o_BTNH = o_BTNH * jax.nn.sigmoid(self._heads(x_BTD, "gate", N, "heads"))
        return self._out(o_BTNH)

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

    def _extras(self) -> dict[str, Any]:
        """Slopes and sinks where the config has them."""
        cfg = self.config
        N = cfg.num_heads
        extras: dict[str, Any] = {}
        if cfg.positions == "alibi":
            extras["slopes_N"] = jnp.array(ops.alibi_slopes(N), jnp.float32)
        if cfg.attention_sinks:
            extras["sinks_N"] = parameter(self, "sink_bias", (N,), ("heads",), initializer(cfg))
        return extras

    def _of_kind(self, x_BTD: jax.Array) -> dict[str, Any]:
        """What only this kind of attention has: Linformer's summaries, Longformer's first rows."""
        cfg = self.config
        if self.kind == "linformer":
            shape, axes = (cfg.block_tokens, cfg.sparse_summary), ("positions", "rank")
            init = nn.initializers.normal(cfg.block_tokens**-0.5)
            names = ("key_summary", "value_summary")
            return {f"{name}_aR": parameter(self, name, shape, axes, init) for name in names}
        if self.kind != "longformer":
            return {}
        first_BgD = x_BTD[:, : cfg.global_tokens]
        q_BgNH = self._heads(first_BgD, "global_query", cfg.num_heads, "heads")
        k_BgKH = self._heads(first_BgD, "global_key", cfg.kv_heads, "kv_heads")
        v_BgKH = self._heads(first_BgD, "global_value", cfg.kv_heads, "kv_heads")
        if cfg.positions == "rotary":
            q_BgNH, k_BgKH = rotate(cfg, q_BgNH), rotate(cfg, k_BgKH)
        return {"global_q_BgNH": q_BgNH, "global_k_BSKH": k_BgKH, "global_v_BSKU": v_BgKH}

    def _heads(self, x_BTD: jax.Array, name: str, heads: int, axis: str) -> jax.Array:
        cfg = self.config
        D, H = x_BTD.shape[-1], cfg.head_width
        axes = ("embed", axis, "head_dim")
        w_DNH = parameter(self, name, (D, heads, H), axes, hidden_init(cfg))
        b_NH = bias_at(self, "qkv", f"{name}_bias", (heads, H), (axis, "head_dim"))
        y = ops.linear(x_BTD, w_DNH.reshape(D, -1), None if b_NH is None else b_NH.reshape(-1))
        y_BTNH = y.reshape(*x_BTD.shape[:2], heads, H)
        return nn.with_logical_constraint(y_BTNH, ("batch", "seq", axis, None))

    def _out(self, o_BTNH: jax.Array) -> jax.Array:
        cfg = self.config
        N, H, D = *o_BTNH.shape[2:], cfg.width
        axes = ("heads", "head_dim", "embed")
        w_NHD = parameter(self, "out", (N, H, D), axes, residual_init(cfg))
        b_D = bias_at(self, "out", "out_bias", (D,), ("embed",))
        return ops.linear(merge_heads(o_BTNH), w_NHD.reshape(N * H, D), b_D)


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
    """A mixer of tokens and a feed-forward, each added to the stream, normed before or after.

    Attributes:
      layer: what its mixer and its feed-forward are.
    """

    config: ModelConfig
    layer: Layer = Layer()

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        segment_ids_BT: jax.Array | None,
        seeds_B: jax.Array | None = None,
    ) -> tuple[jax.Array, None]:
        cfg, layer = self.config, self.layer
        mixer = _mixer(cfg, layer)(cfg, layer.mixer, name=layer.mixer_name)
        norm1, scale = Norm(cfg, name=f"{layer.mixer_name}_norm"), cfg.residual_scale

        def add(x_BTD: jax.Array, y_BTD: jax.Array) -> jax.Array:
            return x_BTD + (y_BTD if scale == 1.0 else y_BTD * scale)

        if layer.mlp == "none":
            return add(x_BTD, mixer(norm1(x_BTD), segment_ids_BT)), None
        feed_forward = _feed_forward(cfg, layer, seeds_B)
        norm2 = Norm(cfg, name="mlp_norm") if cfg.block != "parallel_shared_norm" else norm1
        if cfg.block != "sequential":
            h_BTD = norm1(x_BTD)
            g_BTD = norm2(x_BTD) if norm2 is not norm1 else h_BTD
            x_BTD = add(x_BTD, mixer(h_BTD, segment_ids_BT) + feed_forward(g_BTD))
        elif cfg.norm_place == "pre":
            x_BTD = add(x_BTD, mixer(norm1(x_BTD), segment_ids_BT))
            x_BTD = add(x_BTD, feed_forward(norm2(x_BTD)))
        elif cfg.norm_place == "post":
            x_BTD = norm1(add(x_BTD, mixer(x_BTD, segment_ids_BT)))
            x_BTD = norm2(add(x_BTD, feed_forward(x_BTD)))
        else:
            after1 = Norm(cfg, name=f"{layer.mixer_name}_out_norm")
            after2 = Norm(cfg, name="mlp_out_norm")
            x_BTD = add(x_BTD, after1(mixer(norm1(x_BTD), segment_ids_BT)))
            x_BTD = add(x_BTD, after2(feed_forward(norm2(x_BTD))))
        return nn.with_logical_constraint(x_BTD, ("batch", "seq", "embed")), None


def _feed_forward(config: ModelConfig, layer: Layer, seeds_B: jax.Array | None) -> Any:
    if layer.mlp == "experts":
        return functools.partial(Experts(config, name="mlp"), seeds_B=seeds_B)
    return FeedForward(config, name="mlp")


def _mixer(config: ModelConfig, layer: Layer) -> Any:
    if layer.mixer == "ssm":
        return Mamba
    return LatentAttention if config.kv_rank else Attention


class Stacks(nn.Module):
    """One stack of blocks for each structure, where layers do not have the same parameters."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array, segment_ids_BT: jax.Array | None) -> jax.Array:
        for name, layers in self.config.stacks.items():
            x_BTD, _ = _scan(self.config, layers, name)(x_BTD, segment_ids_BT)
        return x_BTD


def _scan(config: ModelConfig, layers: tuple[Layer, ...], name: str) -> Any:
    """Blocks like the first of `layers`, scanned, their parameters stacked below `name`."""
    block = recomputed_module(config.remat, Block)
    stack = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=len(layers),
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return stack(config, layers[0], name=name)


class Embedding(nn.Module):
    """Token vectors, with learned or sinusoidal positions added."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, tokens_BT: jax.Array, instead: tuple[jax.Array, jax.Array] | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The input of the first block, and the table for a tied head.

        Args:
          instead: (here_BT, x_BTD), vectors that stand for those of the tokens that are `here`.
        """
        cfg = self.config
        D, T = cfg.width, tokens_BT.shape[1]
        w_VD = parameter(self, "tokens", (cfg.vocab_size, D), ("vocab", "embed"), initializer(cfg))
        # Whole rows, to be looked up where they are wanted.
        table_VD = nn.with_logical_constraint(w_VD, ("vocab", None))
        x_BTD = table_VD.astype(activation_type(cfg))[tokens_BT]
        if cfg.embedding_scale != 1.0:
            # Rounded to the activations' type first, as Gemma's published code does.
            x_BTD = x_BTD * jnp.asarray(cfg.embedding_scale or math.sqrt(D), x_BTD.dtype)
        if instead is not None:
            here_BT, y_BTD = instead
            x_BTD = jnp.where(here_BT[..., None], y_BTD.astype(x_BTD.dtype), x_BTD)
        if cfg.positions == "learned":
            p_TD = parameter(
                self, "positions", (cfg.seq_len, D), ("positions", "embed"), initializer(cfg)
            )
            x_BTD = x_BTD + ops.in_order(p_TD[:T]).astype(x_BTD.dtype)
        elif cfg.positions == "sinusoidal":
            # Vaswani et al. (2017), 3.4: the table is scaled up to meet sinusoids of size one.
            waves_TD = ops.sinusoids(ops.in_order(jnp.arange(T)), D)
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
        seeds_B: jax.Array | None = None,
        *,
        features: bool = False,
    ) -> tuple[Any, Routing | None]:
        """float32 logits [B, T, V]; with `features` what the head multiplies, and its matrix.

        Beside them what the routers did, where there are any.
        """
        cfg, routing = self.config, None
        x_BTD, w_VD = Embedding(cfg, name="embed")(tokens_BT)
        if shift_BTD is not None:
            x_BTD = x_BTD + shift_BTD.astype(x_BTD.dtype)
        x_BTD = nn.with_logical_constraint(x_BTD, ("batch", "seq", "embed"))
        if self.is_initializing() and len(cfg.stacks) > 1:
            x_BTD = Stacks(cfg, name="blocks")(x_BTD, segment_ids_BT)
        elif self.is_initializing() or _is_one_scan(cfg):
            x_BTD, _ = _scan(cfg, cfg.layers_of_depth, "blocks")(x_BTD, segment_ids_BT)
        else:
            stacks = stacks_of(cfg, nn.unbox(self.variables["params"]["blocks"]))
            x_BTD, routing = run_blocks(cfg, stacks, x_BTD, segment_ids_BT, seeds_B)
        if cfg.norm_place != "post":
            x_BTD = Norm(cfg, name="final_norm")(x_BTD)
        if not cfg.tied_head:
            w_DV = parameter(
                self, "head", (cfg.width, cfg.vocab_size), ("embed", "vocab"), initializer(cfg)
            )
        else:
            w_DV = w_VD.T
        if features:
            return (x_BTD, w_DV), routing
        logits_BTV = ops.linear(x_BTD, w_DV, dtype=jnp.float32)
        if cfg.logit_scale != 1.0:
            logits_BTV = logits_BTV * cfg.logit_scale
        if cfg.logit_soft_cap:
            logits_BTV = cfg.logit_soft_cap * jnp.tanh(logits_BTV / cfg.logit_soft_cap)
        return nn.with_logical_constraint(logits_BTV, ("batch", "seq", "vocab")), routing


def sizes(config: ModelConfig, *, active: bool = False) -> tuple[int, int]:
    """(parameters of the embedding, all others but an untied head), without tracing the modules.

    A plan counts hundreds of shapes, and tracing one takes a tenth of a second.

    Args:
      active: of the experts, count only those that one token passes.
    """
    D = config.width
    norm = D * (1 + (config.norm == "layernorm" and config.has_bias("norm")))
    total = 0
    for layer in config.layers_of_depth:
        sublayers = 1 + (layer.mlp != "none")
        norms = sublayers * (2 if config.norm_place == "both" else 1)
        norms -= config.block == "parallel_shared_norm"
        total += norms * norm + _mixer_size(config, layer)
        if layer.mlp == "experts":
            total += experts_size(config, active=active)
        elif layer.mlp == "dense":
            total += _feed_forward_size(config)
    positions = config.seq_len if config.positions == "learned" else 0
    last = norm * (config.norm_place != "post")
    return (config.vocab_size + positions) * D, total + last


def _mixer_size(config: ModelConfig, layer: Layer) -> int:
    if layer.mixer == "ssm":
        return mamba_size(config)
    if config.kv_rank:
        return latent_size(config)
    return _attention_size(config) + extra_size(config, layer.mixer)


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
    """Whether the blocks are unrolled: asked for, or 'auto' on CPU, where a scan costs time.

    Not where something is computed again: XLA's CPU compiler finds that unrolled blocks compute
    the same twice, and keeps it.
    """
    if config.layers == "auto":
        shallow = config.depth <= 24 and config.remat == "none"
        return platform() == "cpu" and shallow
    return config.layers == "unroll"


def _is_one_scan(config: ModelConfig) -> bool:
    """Whether one linen scan runs all blocks: alike, and without anything to report."""
    alike = len(set(config.layers_of_depth)) == 1 and not config.num_experts
    return alike and not unrolled(config) and config.remat != "sqrt"


def stacks_of(config: ModelConfig, blocks: Any) -> dict[str, Any]:
    """The parameters below `blocks` by structure; with one structure they have no names of it."""
    return blocks if len(config.stacks) > 1 else dict.fromkeys(config.stacks, blocks)


def run_blocks(
    config: ModelConfig,
    stacks: dict[str, Any],
    x_BTD: jax.Array,
    segment_ids_BT: jax.Array | None,
    seeds_B: jax.Array | None = None,
) -> tuple[jax.Array, Routing | None]:
    """The stream after all layers of `config`, whose parameters are stacked by structure.

    Args:
      seeds_B: uint32, one for each sequence, of the routers' noise.

    Returns:
      Beside the stream what the routers did, in the order of the layers; None without routers.
    """
    run = _unrolled_in_segments if unrolled(config) else _scanned_by_period
    inputs = {name: {"params": stack} for name, stack in stacks.items()}
    if seeds_B is not None:
        for name in inputs:
            inputs[name]["seeds"] = _seeds_of_layers(config, name, seeds_B)
    return run(config, config.layers_of_depth, inputs, x_BTD, segment_ids_BT)


def _seeds_of_layers(config: ModelConfig, structure: str, seeds_B: jax.Array) -> jax.Array:
    """[layers of the structure, B] uint32."""
    layers = config.layers_of_depth
    numbers = jnp.array([i for i, layer in enumerate(layers) if layer.structure == structure])

    def of(number: jax.Array, seed: jax.Array) -> jax.Array:
        return jax.random.bits(jax.random.fold_in(jax.random.key(seed), number))

    return jax.vmap(lambda number: jax.vmap(functools.partial(of, number))(seeds_B))(numbers)


def _unrolled(
    config: ModelConfig,
    layers: tuple[Layer, ...],
    stacks: dict[str, Any],
    x_BTD: jax.Array,
    segment_ids_BT: jax.Array | None,
    *,
    segment: int = 0,
) -> tuple[jax.Array, Routing | None]:
    """Apply `layers` one by one, each to the next slice of its stack of parameters.

    With `segment`, so many at a time are recomputed in the backward pass.
    """
    own = by_layer(layers, stacks)

    def in_turn(some: tuple[Layer, ...], params: Any, x_BTD: jax.Array) -> tuple[jax.Array, list]:
        found = []
        for layer, one in zip(some, params, strict=True):
            x_BTD, routing = block_of(config, layer)(one, x_BTD, segment_ids_BT)
            found.append(routing)
        return x_BTD, found

    x_BTD, found = in_segments(in_turn, layers, own, x_BTD, segment)
    return x_BTD, _joined(found)


def by_layer(layers: tuple[Layer, ...], stacks: dict[str, Any]) -> list[Any]:
    """The slice of each of `layers` of its stack."""
    slices = {
        name: iter(unstacked(stacks[name]))
        for name in dict.fromkeys(layer.structure for layer in layers)
    }
    return [next(slices[layer.structure]) for layer in layers]


def unstacked(tree: Any) -> list[Any]:
    """The slices of all leaves along their first axis."""
    leaves, structure = jax.tree.flatten(tree)
    # The transpose of unstack is one stack; that of indexing would be a padded sum per layer.
    each = zip(*(jnp.unstack(leaf) for leaf in leaves), strict=True)
    return [jax.tree.unflatten(structure, one) for one in each]


def _joined(found: list[Routing | None]) -> Routing | None:
    """What the routers of one layer after another did."""
    real = [routing for routing in found if routing is not None]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *real) if real else None


def _unrolled_in_segments(
    config: ModelConfig, layers: tuple[Layer, ...], *rest: Any
) -> tuple[jax.Array, Routing | None]:
    segment = segment_length(config.remat, len(layers))
    return _unrolled(config, layers, *rest, segment=segment)


def _scanned_by_period(
    config: ModelConfig,
    layers: tuple[Layer, ...],
    stacks: dict[str, Any],
    x_BTD: jax.Array,
    segment_ids_BT: jax.Array | None,
) -> tuple[jax.Array, Routing | None]:
    """Unroll the layers before the pattern, scan over its periods, unroll what is left.

    Under `sqrt` the scan is one over segments, each a scan over its periods.
    """
    period = config.period
    start = config.dense_layers
    whole = (len(layers) - start) // period
    end = start + whole * period
    counts = _counts(layers[:start]), _counts(layers[start:end])

    def part(name: str, leaf: jax.Array, number: int) -> jax.Array:
        first = counts[0].get(name, 0)
        last = first + counts[1].get(name, 0)
        if number == 0:
            return leaf[:first]
        if number == 2:
            return leaf[last:]
        each = (last - first) // whole
        # Without an axis of length one, for which XLA copies all parameters first.
        by_period = (whole,) if each == 1 else (whole, each)
        return leaf[first:last].reshape(*by_period, *leaf.shape[1:])

    def parts(number: int, which: tuple[Layer, ...]) -> dict[str, Any]:
        return {
            name: jax.tree.map(lambda leaf: part(name, leaf, number), stacks[name])  # noqa: B023
            for name in _counts(which)
        }

    def body(x_BTD: jax.Array, slices: Any) -> tuple[jax.Array, Routing | None]:
        one = layers[start : start + period]
        stacked = {
            name: slices[name] if count > 1 else jax.tree.map(lambda leaf: leaf[None], slices[name])
            for name, count in _counts(one).items()
        }
        return _unrolled(config, one, stacked, x_BTD, segment_ids_BT)

    def some(number: int, x_BTD: jax.Array) -> tuple[jax.Array, Routing | None]:
        which = layers[:start] if number == 0 else layers[end:]
        return _unrolled(config, which, parts(number, which), x_BTD, segment_ids_BT)

    x_BTD, before = some(0, x_BTD)
    within: list[Routing | None] = []
    if whole:
        length = segment_length(config.remat, config.depth, period=period) // period
        x_BTD, within = scan_in_segments(body, x_BTD, parts(1, layers[start:end]), length)
    x_BTD, after = some(2, x_BTD)
    return x_BTD, _joined([before, *within, after])


def _counts(layers: tuple[Layer, ...]) -> dict[str, int]:
    """How many layers there are of each structure."""
    names = [layer.structure for layer in layers]
    return {name: names.count(name) for name in dict.fromkeys(names)}


def block_of(config: ModelConfig, layer: Layer) -> Any:
    """(parameters and seeds of one block, x, segments) -> (x, what its router did).

    Recomputed in the backward pass if so set.
    """
    collection, name = ROUTING

    def block(
        one: dict[str, Any], x_BTD: jax.Array, segment_ids_BT: jax.Array | None
    ) -> tuple[jax.Array, Routing | None]:
        module = Block(config, layer, parent=None)
        inputs = (x_BTD, segment_ids_BT, one.get("seeds"))
        (x_BTD, _), sown = module.apply({"params": one["params"]}, *inputs, mutable=[collection])
        if layer.mlp != "experts":
            return x_BTD, None
        (routing,) = sown[collection]["mlp"][name]
        return x_BTD, jax.tree.map(lambda leaf: leaf[None], routing)

    return recomputed(config.remat, block)

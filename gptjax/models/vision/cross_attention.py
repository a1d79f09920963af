"""Cross-attention blocks, and a decoder that has them between its own blocks.

Letters: `S` vectors that are attended to (of patches, of any width `W`), `D` the decoder's width.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.errors import UserError
from gptjax.fields import replaced
from gptjax.models import api
from gptjax.models.api import ParamCount
from gptjax.models.config import ModelConfig
from gptjax.models.layer_stack import block_of, by_layer, stacks_of, unstacked
from gptjax.models.mixers.attention import Attention
from gptjax.models.mixers.mixer import TokenInfo
from gptjax.models.mlp import FeedForward
from gptjax.models.norms import Norm
from gptjax.models.param_count import sizes
from gptjax.models.parameters import init_stacked, parameter
from gptjax.models.product import dense
from gptjax.models.remat import recomputed
from gptjax.models.stages import Stages

Params = Any  # nested dict of float32 arrays


class ShownAttention(Attention):
    """Attention to the vectors that a token is shown, with the config's heads and their norms.

    Queries and keys are not rotated, because the vectors have no order in the text.
    """

    @nn.compact
    def __call__(  # type: ignore[override]
        self,
        x_BTD: jax.Array | None,
        memory_BSW: jax.Array | None,
        visible_BTS: jax.Array | None,
        keys: tuple[jax.Array, jax.Array] | None = None,
    ) -> Any:
        """What attention adds to x_BTD.

        Args:
          x_BTD: None: (k_BSKH, v_BSKH) are returned, to be given as `keys` with other tokens.
          memory_BSW: the vectors; not read where there are `keys`.
        """
        cfg = self.config
        if keys is None:
            assert memory_BSW is not None
            k_BSKH = self.heads(memory_BSW, "key", cfg.kv_heads, "kv_heads")
            v_BSKH = self.heads(memory_BSW, "value", cfg.kv_heads, "kv_heads")
            keys = self._head_norm(k_BSKH, "key_norm_scale", "kv_heads"), v_BSKH
        if x_BTD is None:
            return keys
        q_BTNH = self.heads(x_BTD, "query", cfg.num_heads, "heads")
        q_BTNH = self._head_norm(q_BTNH, "query_norm_scale", "heads")
        return self.out(ops.bidirectional_attention(q_BTNH, *keys, visible_BTS=visible_BTS))


class GatedBlock(nn.Module):
    """x + tanh(α)·attention(norm(x), memory), then x + tanh(β)·mlp(norm(x)).

    Alayrac et al. (2022), figure 4, with α = β = 0 at first.

    Attributes:
      gate: α and β of fresh parameters; None: there are no gates.
    """

    config: ModelConfig
    gate: float | None = 0.0

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        memory_BSW: jax.Array | None,
        visible_BTS: jax.Array | None,
        mlp_BT: jax.Array | None = None,
        keys: tuple[jax.Array, jax.Array] | None = None,
    ) -> jax.Array:
        """The residual stream after the block.

        Args:
          memory_BSW: the vectors attended to; None: the normed residual stream itself.
          visible_BTS: which of it a token sees; None: all.
          mlp_BT: tokens to which the feed-forward adds something; None: all.
          keys: keys and values of the memory, in its place.
        """
        cfg = self.config
        h_BTD = Norm(cfg, name="attention_norm")(x_BTD)
        memory_BSW = h_BTD if memory_BSW is None else memory_BSW
        h_BTD = ShownAttention(cfg, name="attention")(h_BTD, memory_BSW, visible_BTS, keys)
        x_BTD = x_BTD + self._gated("attention_gate", h_BTD)
        h_BTD = FeedForward(cfg, name="mlp")(Norm(cfg, name="mlp_norm")(x_BTD))
        if mlp_BT is not None:
            h_BTD = h_BTD * mlp_BT[..., None].astype(h_BTD.dtype)
        x_BTD = x_BTD + self._gated("mlp_gate", h_BTD)
        return nn.with_logical_constraint(x_BTD, ("batch", "seq", "embed"))

    def _gated(self, name: str, h_BTD: jax.Array) -> jax.Array:
        if self.gate is None:
            return h_BTD
        gate = parameter(self, name, (), (), nn.initializers.constant(self.gate))
        return jnp.tanh(gate).astype(h_BTD.dtype) * h_BTD


def interleave(
    text: ModelConfig,
    blocks: Params,
    x_BTD: jax.Array,
    before: Sequence[int],
    extra: Sequence[Callable[[jax.Array], jax.Array]],
) -> jax.Array:
    """x after all layers of `text`, with extra[k] before its layer number before[k]; unrolled.

    Args:
      blocks: the parameters of the layers of `text`.
      before: in ascending order; `text.depth` means after the last layer.
    """
    layers = text.layers_of_depth
    own = by_layer(layers, stacks_of(text, blocks))
    for number in range(text.depth + 1):
        for place, block in zip(before, extra, strict=True):
            if place == number:
                x_BTD = block(x_BTD)
        if number < text.depth:
            x_BTD, _ = block_of(text, layers[number])({"params": own[number]}, x_BTD, TokenInfo())
    return x_BTD


@dataclasses.dataclass(frozen=True)
class CrossText:
    """A decoder with gated cross-attention layers among its own (Llama 3.2 Vision).

    The layers attend with the text model's heads, whose queries and keys are normed, and without
    positions; their norms and feed-forward are of the text model's kinds.

    Attributes:
      text: the model without them, and its depth.
      cross_layers: their numbers among all layers.
      extra_tokens: tokens beyond the vocabulary, which can be read and not be predicted.
      unshown: the vectors that a token before the first image attends to: "all", as
        `transformers` has it, or "none", as in Meta's code. Cross-attention's feed-forward adds
        nothing to it either way.
    """

    text: ModelConfig
    cross_layers: tuple[int, ...]
    extra_tokens: int = 8
    unshown: str = "all"

    @property
    def cross(self) -> ModelConfig:
        """The cross-attention layers, as a decoder's settings have them."""
        heads = replaced(self.text, {"mixer.latent.kv_rank": 0})
        return dataclasses.replace(
            heads,
            qk_norm="shared",
            block="sequential",
            norm_place="pre",
            layer_pattern=("global",),
            mlp_pattern=("dense",),
            depth=len(self.cross_layers),
            attention_gate=False,
            attention_sinks=False,
        )

    @property
    def depth(self) -> int:
        """All layers."""
        return self.text.depth + len(self.cross_layers)


def validate_cross(config: CrossText) -> None:
    """Check the fields against each other.

    Raises:
      UserError: naming the field, its value and the repair.
    """
    layers = config.cross_layers
    if not layers or list(layers) != sorted(set(layers) & set(range(config.depth))):
        raise UserError(
            f"cross_layers={layers} are not ascending numbers of the {config.depth} layers; give "
            f"some of 0 to {config.depth - 1}"
        )
    if config.extra_tokens < 0:
        raise UserError(f"extra_tokens={config.extra_tokens} must be at least 0")
    if config.unshown not in ("all", "none"):
        raise UserError(f"unshown={config.unshown!r} is not known; choose 'all' or 'none'")


def init_cross_text(config: CrossText, key: jax.Array) -> Params:
    """Fresh parameters {"text", "extra_tokens", "cross"}: the latter stacked, its gates closed.

    Raises:
      UserError: where the config's fields contradict each other.
    """
    validate_cross(config)
    text_key, extra_key, cross_key = jax.random.split(key, 3)
    D = config.text.width
    extra = jax.random.normal(extra_key, (config.extra_tokens, D)) * config.text.init_scale
    one_BTD, visible_BTS = jnp.zeros((1, 1, D)), jnp.ones((1, 1, 1), bool)
    block = GatedBlock(config.cross, parent=None)
    cross = init_stacked(block, config.cross.depth, cross_key, one_BTD, one_BTD, visible_BTS)
    return {"text": api.init(config.text, text_key), "extra_tokens": extra, "cross": cross}


def apply_cross_text(
    config: CrossText,
    params: Params,
    tokens_BT: jax.Array,
    memory_BSD: jax.Array | None = None,
    visible_BTS: jax.Array | None = None,
) -> jax.Array:
    """float32 logits [B, T, V] of the token that follows each position. Layers are unrolled.

    Args:
      tokens_BT: token ids below `text.vocab_size` + `extra_tokens`.
      memory_BSD: the vectors that cross-attention layers attend to, of the text's width; None:
        these layers are left out.
      visible_BTS: which of it a token is shown; None: all.

    Raises:
      UserError: where the input is longer than the positions that the model learns.
    """
    text, pieces = config.text.at_rest, Stages(config.text.at_rest)
    api.check_length(text, tokens_BT.shape[1])
    x_BTD = _embed(config, params, tokens_BT)
    if memory_BSD is None:
        x_BTD = interleave(text, params["text"]["blocks"], x_BTD, (), ())
        return pieces.logits(params["text"], x_BTD)
    memory_BSD, mlp_BT = memory_BSD.astype(x_BTD.dtype), None
    if visible_BTS is not None:
        mlp_BT = jnp.any(visible_BTS, axis=-1)
        if config.unshown == "all":
            visible_BTS = visible_BTS | ~mlp_BT[..., None]
    apply = recomputed(text.remat, GatedBlock(config.cross, parent=None).apply)

    def with_parameters(one: Params) -> Callable[[jax.Array], jax.Array]:
        return lambda x_BTD: apply({"params": one}, x_BTD, memory_BSD, visible_BTS, mlp_BT)

    cross = [with_parameters(one) for one in unstacked(params["cross"])]
    before = [layer - number for number, layer in enumerate(config.cross_layers)]
    x_BTD = interleave(text, params["text"]["blocks"], x_BTD, before, cross)
    return pieces.logits(params["text"], x_BTD)


def count_cross_text(config: CrossText) -> ParamCount:
    """Exact counts, from the settings alone.

    Raises:
      UserError: where the config's fields contradict each other.
    """
    validate_cross(config)
    count, D = api.count_params(config.text), config.text.width
    last_norm = sizes(dataclasses.replace(config.cross, depth=0))[1]
    cross = sizes(config.cross)[1] - last_norm + 2 * config.cross.depth
    return ParamCount(
        count.total + config.extra_tokens * D + cross,
        count.non_embedding + cross,
        count.non_embedding_with_head + cross,
    )


def _embed(config: CrossText, params: Params, tokens_BT: jax.Array) -> jax.Array:
    """The input of the first layer; the extra tokens' vectors are apart from the vocabulary's."""
    pieces, V = Stages(config.text), config.text.vocab_size
    if not config.extra_tokens:
        return pieces.embed(params["text"], tokens_BT)
    extra_BT = tokens_BT >= V
    y_BTD = dense(params["extra_tokens"], jnp.float32)[jnp.maximum(tokens_BT - V, 0)]
    known_BT = jnp.minimum(tokens_BT, V - 1)
    return pieces.embed(params["text"], known_BT, (extra_BT, y_BTD))

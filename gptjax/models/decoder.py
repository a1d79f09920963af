"""The decoder-only transformer as Flax linen modules: embedding, blocks, head."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.models.config import ModelConfig
from gptjax.models.dropout import EMBEDDING, dropped
from gptjax.models.experts import Routing
from gptjax.models.heads import SoftmaxMixture
from gptjax.models.layer_stack import (
    Between,
    Stacks,
    has_by_layer,
    is_one_scan,
    run_blocks,
    scan_of,
    stacks_of,
)
from gptjax.models.mixers.mixer import TokenInfo
from gptjax.models.norms import Norm
from gptjax.models.parameters import activation_type, initializer, parameter, weight
from gptjax.models.product import dense, product, rows, transposed

MIXTURE = "softmax_mixture"
"""Where the parameters of `model.softmaxes` are."""


class Embedding(nn.Module):
    """Token vectors, with learned or sinusoidal positions added."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        tokens_BT: jax.Array,
        instead: tuple[jax.Array, jax.Array] | None = None,
        positions_BT: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """The input of the first block, and the table for a tied head.

        Args:
          instead: (here_BT, x_BTD), vectors in the place of the embeddings of tokens `here`.
          positions_BT: where each token is; None: 0…T−1.
        """
        cfg = self.config
        D, T = cfg.width, tokens_BT.shape[1]
        w_VD = weight(self, "tokens", (cfg.vocab_size, D), ("vocab", "embed"), initializer(cfg))
        x_BTD = rows(w_VD, tokens_BT, activation_type(cfg))
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
            own = ops.in_order(p_TD[:T]) if positions_BT is None else p_TD[positions_BT]
            x_BTD = x_BTD + own.astype(x_BTD.dtype)
        elif cfg.positions == "sinusoidal":
            # Vaswani et al. (2017), 3.4: the table is scaled up to meet sinusoids of size one.
            positions = ops.in_order(jnp.arange(T)) if positions_BT is None else positions_BT
            x_BTD = x_BTD * math.sqrt(D) + ops.sinusoids(positions, D).astype(x_BTD.dtype)
        return x_BTD, w_VD


class Decoder(nn.Module):
    """Tokens to logits."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        tokens_BT: jax.Array,
        info: TokenInfo = TokenInfo(),  # noqa: B008
        shift_BTD: jax.Array | None = None,
        seeds_B: jax.Array | None = None,
        instead: tuple[jax.Array, jax.Array] | None = None,
        between: Between | None = None,
        *,
        features: bool = False,
    ) -> tuple[Any, Routing | None]:
        """float32 logits [B, T, V]; with `features` the head's input and its matrix.

        Also the routers' statistics, where there are routers.

        Args:
          instead: of `Embedding`; `between`: of `run_blocks`. Both are how a picture is seen.
        """
        cfg, routing = self.config, None
        x_BTD, w_VD = Embedding(cfg, name="embed")(tokens_BT, instead, info.positions_BT)
        if shift_BTD is not None:
            x_BTD = x_BTD + shift_BTD.astype(x_BTD.dtype)
        x_BTD = dropped(x_BTD, seeds_B, cfg.dropout.embedding, EMBEDDING)
        x_BTD = nn.with_logical_constraint(x_BTD, ("batch", "seq", "embed"))
        if self.is_initializing() and len(cfg.stacks) > 1:
            x_BTD = Stacks(cfg, name="blocks")(x_BTD, info)
        elif (fresh := self.is_initializing()) or (self._is_one_scan() and not between):
            x_BTD, _ = scan_of(cfg, cfg.layers_of_depth, "blocks", fresh=fresh)(x_BTD, info)
        else:
            stacks = stacks_of(cfg, nn.unbox(self.variables["params"]["blocks"]))
            x_BTD, routing = run_blocks(cfg, stacks, x_BTD, info, seeds_B, between)
        if cfg.norm_place != "post":
            x_BTD = Norm(cfg, name="final_norm")(x_BTD)
        if not cfg.tied_head:
            w_DV = weight(
                self, "head", (cfg.width, cfg.vocab_size), ("embed", "vocab"), initializer(cfg)
            )
        else:
            w_DV = transposed(w_VD)
        if features:
            return (x_BTD, dense(w_DV, x_BTD.dtype)), routing
        if cfg.softmaxes > 1:
            log_p_BTV = SoftmaxMixture(cfg, name=MIXTURE)(x_BTD, w_DV)
            return nn.with_logical_constraint(log_p_BTV, ("batch", "seq", "vocab")), routing
        logits_BTV = product(x_BTD, w_DV, dtype=jnp.float32)
        if cfg.logit_scale != 1.0:
            logits_BTV = logits_BTV * cfg.logit_scale
        if cfg.logit_soft_cap:
            logits_BTV = cfg.logit_soft_cap * jnp.tanh(logits_BTV / cfg.logit_soft_cap)
        return nn.with_logical_constraint(logits_BTV, ("batch", "seq", "vocab")), routing

    def _is_one_scan(self) -> bool:
        """Whether one scan runs all blocks, which their parameters allow where they are alike."""
        blocks = self.variables["params"]["blocks"]
        return is_one_scan(self.config) and not has_by_layer(blocks)

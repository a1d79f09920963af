"""Pipeline stages: a decoder split before and after its blocks, to run on different devices."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax.models.config import ModelConfig
from gptjax.models.decoder import MIXTURE, Embedding
from gptjax.models.experts import Routing
from gptjax.models.heads import SoftmaxMixture
from gptjax.models.layer_stack import run_blocks
from gptjax.models.mixers.mixer import TokenInfo
from gptjax.models.norms import Norm
from gptjax.models.product import product, transposed


@dataclasses.dataclass(frozen=True)
class Stages:
    """Embedding, blocks and head of a decoder whose layers all have the same parameters.

    `params` are those of the whole model; the blocks' are given apart, any number of layers.
    """

    config: ModelConfig

    def embed(
        self,
        params: Any,
        tokens_BT: jax.Array,
        instead: tuple[jax.Array, jax.Array] | None = None,
    ) -> jax.Array:
        """The input of the first block.

        Args:
          instead: (here_BT, x_BTD), vectors that stand for those of the tokens that are `here`.
        """
        module = Embedding(self.config, parent=None)
        x_BTD, _ = module.apply({"params": params["embed"]}, tokens_BT, instead)
        return nn.with_logical_constraint(x_BTD, ("batch", "seq", "embed"))

    def blocks(
        self, stacked: Any, x_BTD: jax.Array, segment_ids_BT: jax.Array | None
    ) -> tuple[jax.Array, Routing | None]:
        """The residual stream after the given layers, and their routers' statistics.

        The layer pattern begins with the first of the given layers.
        """
        depth = jax.tree.leaves(stacked)[0].shape[0]
        config = dataclasses.replace(self.config, depth=depth)
        layers, info = config.layers_of_depth, TokenInfo(segment_ids_BT)
        return run_blocks(config, {layers[0].structure: stacked}, x_BTD, info)

    def logits(self, params: Any, x_BTD: jax.Array) -> jax.Array:
        """float32 logits [B, T, V] of the residual stream after the last block."""
        cfg = self.config
        if cfg.norm_place != "post":
            normed: Any = Norm(cfg, parent=None).apply({"params": params["final_norm"]}, x_BTD)
            x_BTD = normed
        w_DV = transposed(params["embed"]["tokens"]) if cfg.tied_head else params["head"]
        if cfg.softmaxes > 1:
            head: Any = SoftmaxMixture(cfg, parent=None).apply
            log_p_BTV = head({"params": params[MIXTURE]}, x_BTD, w_DV)
            return nn.with_logical_constraint(log_p_BTV, ("batch", "seq", "vocab"))
        logits_BTV = cfg.logit_scale * product(x_BTD, w_DV, dtype=jnp.float32)
        if cfg.logit_soft_cap:
            logits_BTV = cfg.logit_soft_cap * jnp.tanh(logits_BTV / cfg.logit_soft_cap)
        return nn.with_logical_constraint(logits_BTV, ("batch", "seq", "vocab"))

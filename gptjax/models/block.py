"""Transformer block: a mixer of tokens and a feed-forward, each with its norm and residual sum."""

import dataclasses
import functools

import flax.linen as nn
import jax

from gptjax.models.config import Layer, ModelConfig
from gptjax.models.dropout import FEED_FORWARD, MIXER, dropped
from gptjax.models.mixers.mixer import TokenInfo, mixer_of
from gptjax.models.mlp import MLPS
from gptjax.models.norms import Norm


class Block(nn.Module):
    """A mixer of tokens and a feed-forward, each added to the residual stream with a norm.

    Attributes:
      layer: what its mixer and its feed-forward are.
    """

    config: ModelConfig
    layer: Layer = Layer()

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        info: TokenInfo,
        seeds_B: jax.Array | None = None,
    ) -> tuple[jax.Array, None]:
        cfg, layer = self.config, self.layer
        mixer = mixer_of(cfg, layer.mixer).module(cfg, layer.mixer, name=layer.mixer_name)
        norm1, scale = Norm(cfg, name=f"{layer.mixer_name}_norm"), cfg.residual_scale
        if cfg.dropout.attention:
            info = dataclasses.replace(info, seeds_B=seeds_B)

        def add(x_BTD: jax.Array, y_BTD: jax.Array, place: int) -> jax.Array:
            y_BTD = dropped(y_BTD, seeds_B, cfg.dropout.residual, place)
            return x_BTD + (y_BTD if scale == 1.0 else y_BTD * scale)

        mlp = MLPS[layer.mlp].module
        if mlp is None:
            return add(x_BTD, mixer(norm1(x_BTD), info), MIXER), None
        feed_forward = functools.partial(mlp(cfg, name="mlp"), seeds_B=seeds_B)
        norm2 = Norm(cfg, name="mlp_norm") if cfg.block != "parallel_shared_norm" else norm1
        if cfg.block != "sequential":
            h_BTD = norm1(x_BTD)
            g_BTD = norm2(x_BTD) if norm2 is not norm1 else h_BTD
            x_BTD = add(x_BTD, mixer(h_BTD, info) + feed_forward(g_BTD), MIXER)
        elif cfg.norm_place == "pre":
            x_BTD = add(x_BTD, mixer(norm1(x_BTD), info), MIXER)
            x_BTD = add(x_BTD, feed_forward(norm2(x_BTD)), FEED_FORWARD)
        elif cfg.norm_place == "post":
            x_BTD = norm1(add(x_BTD, mixer(x_BTD, info), MIXER))
            x_BTD = norm2(add(x_BTD, feed_forward(x_BTD), FEED_FORWARD))
        else:
            after1 = Norm(cfg, name=f"{layer.mixer_name}_out_norm")
            after2 = Norm(cfg, name="mlp_out_norm")
            x_BTD = add(x_BTD, after1(mixer(norm1(x_BTD), info)), MIXER)
            x_BTD = add(x_BTD, after2(feed_forward(norm2(x_BTD))), FEED_FORWARD)
        return nn.with_logical_constraint(x_BTD, ("batch", "seq", "embed")), None

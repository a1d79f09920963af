"""Maximal update parametrisation (muP): settings tuned at one width hold at every other.

Yang et al. 2022 (arXiv:2203.03466), table 8, for Adam: with m = width / base width,

| | first layer, biases, norms | matrices inside blocks | head |
|---|---|---|---|
| initial standard deviation | as at the base | as at the base / √m | as at the base |
| learning rate | as at the base | as at the base / m | as at the base |
| multiplied by | 1 | 1 | 1 / m |

and scores by 1/head_dim in the place of 1/√head_dim. So the logits of a tied head shrink by 1/m,
and the embedding keeps its learning rate.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gptjax import models
from gptjax.errors import UserError
from gptjax.models import ModelConfig
from gptjax.models.block import Block
from gptjax.models.decoder import Embedding
from gptjax.optim import OptimConfig

HIDDEN = r"^blocks/(attention|mlp)/(query|key|value|gate|out|up|down)$"
"""The matrices whose both sides grow with the width."""


def transfer_width(model: ModelConfig, optim: OptimConfig) -> tuple[ModelConfig, OptimConfig]:
    """`model` and `optim` with muP's scales and learning rates for the width of `model`.

    Only plain settings change, so the record shows them:
    `hidden_init_scale`, `logit_scale`, `attention_scale`, and a learning-rate multiplier.

    Raises:
      UserError: for a model with experts, latent attention, state spaces or pictures.
    """
    if optim.width_transfer == "none":
        return model, optim
    kinds = {(layer.mixer, layer.mlp) for layer in model.layers_of_depth}
    if model.vision.join:
        raise UserError(
            f"optim.width_transfer=mup has no rules for model.vision.join={model.vision.join}; set "
            "optim.width_transfer=none"
        )
    if model.softmaxes > 1:
        raise UserError(
            f"optim.width_transfer=mup has no rules for model.softmaxes={model.softmaxes}; set "
            "optim.width_transfer=none"
        )
    if model.mixer.latent.kv_rank or not kinds <= {("global", "dense"), ("local", "dense")}:
        raise UserError(
            "optim.width_transfer=mup knows the rules for attention and dense feed-forwards only; "
            "set optim.width_transfer=none, or model.layer_pattern=('global',), "
            "model.mlp_pattern=('dense',) and model.mixer.latent.kv_rank=0"
        )
    ratio = model.width / optim.base_width
    hidden = (model.hidden_init_scale or model.init_scale) / math.sqrt(ratio)
    transferred = dataclasses.replace(
        model,
        hidden_init_scale=hidden,
        logit_scale=model.logit_scale / ratio,
        attention_scale=_attention_scale(model, optim),
    )
    multipliers = (*optim.multipliers, f"{HIDDEN}={1 / ratio!r}")
    return transferred, dataclasses.replace(optim, multipliers=multipliers)


def _attention_scale(model: ModelConfig, optim: OptimConfig) -> float:
    """1/head_dim, times what makes it the usual scale at the base's head width."""
    if not optim.base_head_dim or optim.base_head_dim == model.head_width:
        return model.attention_scale
    usual = model.attention_scale or 1.0 / math.sqrt(model.head_width)
    return usual * math.sqrt(optim.base_head_dim / model.head_width)


def coordinate_check(
    model: ModelConfig, before: Any, after: Any, tokens_BT: Array
) -> dict[str, float]:
    """Coordinate check: root mean square change of a model's activations during training.

    Where settings transfer, each of these is as large at every width (Yang et al., appendix D.1);
    where they do not, some grow with the width, and a learning rate found at one is too large at
    the next.

    Args:
      before, after: parameters at the start and after a few steps.

    Returns:
      'embedding', 'block 0', 'block 1', … for the residual stream after each of them, and 'logits'.
    """
    pairs = zip(
        _coordinates(model, before, tokens_BT), _coordinates(model, after, tokens_BT), strict=True
    )
    names = ["embedding", *(f"block {i}" for i in range(model.depth)), "logits"]
    sizes = [float(jnp.sqrt(jnp.mean(jnp.square(b - a)))) for a, b in pairs]
    return dict(zip(names, sizes, strict=True))


@functools.partial(jax.jit, static_argnums=0)
def _coordinates(model: ModelConfig, params: Any, tokens_BT: Array) -> list[Array]:
    """The residual stream after the embedding and after each block, and the logits."""
    x_BTD, _ = Embedding(model).apply({"params": params["embed"]}, tokens_BT)
    found = [x_BTD]
    for i, layer in enumerate(model.layers_of_depth):
        weights = jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"])
        x_BTD, _ = Block(model, layer).apply({"params": weights}, x_BTD, models.TokenInfo())
        found.append(x_BTD)
    return [*found, models.apply(model, params, tokens_BT)]

"""Log-probability of each token: the one function on which all objectives of this room stand."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gptjax import models
from gptjax.align.feeds import ExampleFeed
from gptjax.models.product import product
from gptjax.train import Batch, Objective, RunSpec, Terms, routers

Params = Any
BATCH = 32
"""Examples that are scored at once outside of training."""


@dataclasses.dataclass(frozen=True)
class Scored:
    """What a model says of the targets of a batch.

    Attributes:
      logprobs_BT: log P(target | before), nats, float32; 0 where the target is not scored.
      entropy_BT: of the whole distribution, nats; 0 in the same places.
      x_BTD: the head's input, for heads of other kinds.
      routed: the routers' statistics, if there are routers.
    """

    logprobs_BT: Array
    entropy_BT: Array
    x_BTD: Any = None
    routed: Any = None


def score(spec: RunSpec, params: Params, batch: Batch, seeds_B: Array | None = None) -> Scored:
    """Log-probabilities of the scored targets, with dropout and noise where seeds are given.

    The logits are scaled and capped as the model's head has it; no temperature.
    """
    batch = batch.in_order()
    (x_BTD, w_DV), routed = models.forward(
        spec.model if seeds_B is not None else spec.model.at_rest,
        params,
        batch.inputs_BT,
        segment_ids_BT=batch.segment_ids_BT,
        positions_BT=batch.positions_BT,
        seeds_B=seeds_B,
        pictures_BYXC=batch.pictures_BYXC,
        features=True,
    )
    logprobs_BTV = jax.nn.log_softmax(_logits(spec.model, x_BTD, w_DV))
    picked_BT = jnp.take_along_axis(logprobs_BTV, batch.targets_BT[..., None], axis=-1)[..., 0]
    entropy_BT = -jnp.sum(jnp.exp(logprobs_BTV) * logprobs_BTV, axis=-1)
    here_BT = batch.weights_BT > 0
    logprobs_BT, entropy_BT = (jnp.where(here_BT, x, 0.0) for x in (picked_BT, entropy_BT))
    return Scored(logprobs_BT, entropy_BT, x_BTD, routed)


def _logits(config: models.ModelConfig, x_BTD: Array, w_DV: Array) -> Array:
    """As the model's head gives them, float32."""
    logits_BTV = product(x_BTD, w_DV, dtype=jnp.float32) * config.logit_scale
    if config.logit_soft_cap:
        logits_BTV = config.logit_soft_cap * jnp.tanh(logits_BTV / config.logit_soft_cap)
    return nn.with_logical_constraint(logits_BTV, ("batch", "seq", "vocab"))


def objective(
    spec: RunSpec,
    terms: Any,
    names: tuple[str, ...],
    count: Any,
) -> Objective:
    """An objective of sums, with the penalties and metrics of the model's routers.

    Args:
      terms: (params, batch, seeds_B) → (sum, sums, the routers' statistics).
      names: of the sums.
      count: batch → what they are divided by.
    """
    return Objective(
        lambda params, batch, seeds_B: Terms(*terms(params, batch, seeds_B)),
        count=count,
        seeded=spec.model.experts.router_noise or spec.model.dropout.is_on,
        penalty=lambda routed: models.router_penalty(spec.model, routed),
        metrics=lambda routed: routers.metrics(spec.model, routed),
        names=(*names, *routers.metric_names(spec.model)),
    )


def sequence_logprobs(spec: RunSpec, params: Params, feed: ExampleFeed) -> np.ndarray:
    """Σ_t log P of each example's scored targets, float32 [N], outside of training."""
    sums = jax.jit(
        lambda params, rows: jnp.sum(score(spec, params, feed.make(rows)).logprobs_BT, axis=-1)
    )
    return np.concatenate([np.asarray(sums(params, rows)) for rows in feed.parts(BATCH)])

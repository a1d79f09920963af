"""Training objectives: the function that a step minimises, as a value.

`make_train_step(spec, objective, layout)` works for any of them. Next-token prediction is one
(`next_token`); a reward model, preference optimisation or distillation is another file.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gptjax import models, ops
from gptjax.errors import UserError
from gptjax.models import Stages
from gptjax.parallel import pipeline
from gptjax.train import routers
from gptjax.train.config import RunSpec
from gptjax.train.feed import Batch

Params = Any


@dataclasses.dataclass(frozen=True)
class Terms:
    """An objective's terms on one batch or micro-batch.

    Attributes:
      sum: over whatever is counted (tokens, pairs, …); the objective is Σ sum / Σ count.
      sums: sums that are reported, divided by the same count: `loss` in the place of `sum`, others
        under their own names.
      means: pytree of arrays that are averaged over micro-batches, for `penalty` and `metrics`.
    """

    sum: Array
    sums: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    means: Any = None


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a training step minimises: Σ sum / Σ count over a batch, plus `penalty`.

    Called with (params, batch, seeds_B) it gives (sum, count, extras).

    Attributes:
      terms: (params, batch, seeds_B) → Terms.
      count: batch → what the sum is divided by. It does not depend on the parameters, because it is
        taken of the whole batch before the first micro-batch, so that k micro-batches give the
        gradient of one batch also when they hold unequal numbers of tokens.
      seeded: whether `terms` reads seeds_B, uint32: one for each sequence, by run, step and place
        in the batch. Otherwise they are None.
      penalty: means → a number that is minimised beside the quotient.
      metrics: means → numbers for the log, by name.
      names: names of all numbers that the log gets of it, `loss` excepted.
      stages: the objective in parts for the stages of a pipeline; None where it has none.
    """

    terms: Callable[[Params, Any, Array | None], Terms]
    count: Callable[[Any], Array] = lambda batch: jnp.sum(batch.weights_BT)
    seeded: bool = False
    penalty: Callable[[Any], Array | float] = lambda means: 0.0
    metrics: Callable[[Any], dict[str, Array]] = lambda means: {}
    names: tuple[str, ...] = ()
    stages: Callable[[], pipeline.Model] | None = None

    def __call__(
        self, params: Params, batch: Any, seeds_B: Array | None = None
    ) -> tuple[Array, Array, Terms]:
        """(sum, count, all terms) of a batch."""
        terms = self.terms(params, batch, seeds_B)
        return terms.sum, self.count(batch), terms


def next_token(spec: RunSpec) -> Objective:
    """The cross-entropy of the next token, with the penalties that the spec asks for.

    z-loss and label smoothing are part of what is minimised and not of the loss that is reported.
    """

    def terms(params: Params, batch: Batch, seeds_B: Array | None) -> Terms:
        shift_BTD = None
        if spec.optim.adversarial_epsilon > 0.0:
            shift_BTD = adversarial_shift(spec, params, batch, seeds_B)
        trained, nats_BT, routed = _losses(spec, params, batch, seeds_B, shift_BTD)
        return Terms(jnp.sum(trained), {"loss": jnp.sum(nats_BT)}, routed)

    return Objective(
        terms,
        seeded=spec.model.experts.router_noise or spec.model.dropout.is_on,
        penalty=lambda routed: models.router_penalty(spec.model, routed),
        metrics=lambda routed: routers.metrics(spec.model, routed),
        names=routers.metric_names(spec.model),
        stages=lambda: _stages(spec),
    )


def token_losses(
    spec: RunSpec, params: Params, batch: Batch, shift_BTD: Array | None = None
) -> Array:
    """Negative log-likelihood of each scored target, nats, [B, T] float32, outside of training.

    In the layout's order where it has one. `shift_BTD` is added to the embedded tokens.
    """
    spec = dataclasses.replace(spec, model=spec.model.at_rest)
    return _losses(spec, params, batch, None, shift_BTD)[1]


def adversarial_shift(
    spec: RunSpec, params: Params, batch: Batch, seeds_B: Array | None = None
) -> Array:
    """δ_BTD = ε·g/‖g‖ with g the gradient of a sequence's loss by its embeddings.

    One step of ascent from zero inside max L(x + δ) over ‖δ‖ ≤ ε, each sequence on its own (Miyato
    et al. 2017, arXiv:1605.07725, equation 8). The shift counts as a constant afterwards: at the
    maximum its own derivative does not matter (Danskin).
    """
    params = jax.lax.stop_gradient(params)

    def loss_of(shift_BTD: Array) -> Array:
        return jnp.sum(_losses(spec, params, batch, seeds_B, shift_BTD)[0])

    g_BTD = jax.grad(loss_of)(jnp.zeros((*batch.inputs_BT.shape, spec.model.width)))
    norm_B11 = jnp.sqrt(jnp.sum(jnp.square(g_BTD), axis=(1, 2), keepdims=True))
    return spec.optim.adversarial_epsilon * g_BTD / (norm_B11 + 1e-12)


def _losses(
    spec: RunSpec,
    params: Params,
    batch: Batch,
    seeds_B: Array | None,
    shift_BTD: Array | None,
) -> tuple[Array, Array, models.Routing | None]:
    """(minimised loss, by token or summed already; plain nats by token; the routers' terms)."""
    batch = batch.in_order()
    found, routed = models.forward(
        spec.model,
        params,
        batch.inputs_BT,
        segment_ids_BT=batch.segment_ids_BT,
        positions_BT=batch.positions_BT,
        shift_BTD=shift_BTD,
        seeds_B=seeds_B,
        pictures_BYXC=batch.pictures_BYXC,
        features=spec.loss_chunk > 0,
    )
    if spec.loss_chunk:
        x_BTD, w_DV = found
        head = ops.Head(
            logit_scale=spec.model.logit_scale,
            logit_soft_cap=spec.model.logit_soft_cap,
            z_loss=spec.z_loss,
            label_smoothing=spec.label_smoothing,
        )
        both = ops.chunked_cross_entropy(
            x_BTD, w_DV, batch.targets_BT, batch.weights_BT, chunk=spec.loss_chunk, head=head
        )
    else:
        both = ops.penalised_cross_entropy(
            found,
            batch.targets_BT,
            batch.weights_BT,
            z_loss=spec.z_loss,
            label_smoothing=spec.label_smoothing,
        )
    return *both, routed


def _stages(spec: RunSpec) -> pipeline.Model:
    """The plain cross-entropy in parts: embedding, blocks, and the loss after the last block."""
    pieces = Stages(spec.model)

    def embed(rest: Params, batch: Batch) -> Array:
        if batch.positions_BT is not None:
            raise UserError(
                "this feed gives positions to tokens, which a pipeline's stages do not pass on; "
                "set mesh.pipe=1"
            )
        return pieces.embed(rest, batch.inputs_BT)

    def blocks(layers: Params, x_BTD: Array, batch: Batch) -> Array:
        return pieces.blocks(layers, x_BTD, batch.segment_ids_BT)[0]

    def loss(rest: Params, x_BTD: Array, batch: Batch) -> Array:
        nats_BT = _cross_entropy(pieces.logits(rest, x_BTD), batch.targets_BT)
        return jnp.sum(nats_BT * batch.weights_BT)

    return pipeline.Model(embed, blocks, loss)


def _cross_entropy(logits_BTV: Array, targets_BT: Array) -> Array:
    """Nats by token. The target is picked by a comparison: XLA's partitioner fails on the gather of
    ops.cross_entropy inside a stage whose logits are sharded by fsdp and tensor."""
    chosen_BTV = targets_BT[..., None] == jnp.arange(logits_BTV.shape[-1])
    picked_BT = jnp.sum(jnp.where(chosen_BTV, logits_BTV, 0.0), axis=-1)
    return jax.nn.logsumexp(logits_BTV, axis=-1) - picked_BT

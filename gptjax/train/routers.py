"""Expert routers in training: the seeds of their noise, and their metrics."""

import jax
import jax.numpy as jnp
from jax import Array

from gptjax.models import ModelConfig, Routing, loss_names

NOISE = 0x4E  # separates the router's noise from initialisation and rounding


def noise_seeds(seed: Array, step: Array, sequences: int) -> Array:
    """uint32 [sequences]: by run, step and place in the batch, however it is split."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(NOISE), seed), step)
    return jax.random.bits(key, (sequences,))


def metric_names(model: ModelConfig) -> tuple[str, ...]:
    """Names of `metrics`; none for a model without experts."""
    if not model.experts.count:
        return ()
    losses = (f"experts/{name}" for name in loss_names(model))
    return ("experts/dropped_share", "experts/load_max_over_mean", *losses)


def metrics(model: ModelConfig, routing: Routing | None) -> dict[str, Array]:
    """Losses and dropped share as means over layers; the load of the fullest expert of any layer
    over the mean load."""
    if routing is None:
        return {}
    return {
        "experts/dropped_share": jnp.mean(routing.dropped),
        "experts/load_max_over_mean": jnp.max(routing.share_E) * model.experts.count,
        **{f"experts/{name}": jnp.mean(loss) for name, loss in routing.losses.items()},
    }

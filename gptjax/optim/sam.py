"""Sharpness-aware minimisation (SAM): the point where the second gradient is taken."""

from typing import Any

import jax
import jax.numpy as jnp

from gptjax.optim.clipping import global_norm
from gptjax.optim.config import OptimConfig

Params = Any

TINY = 1e-12  # a gradient of zero moves nothing


def ascend(config: OptimConfig, params: Params, grads: Params) -> Params:
    """The point w + ε at which sharpness-aware minimisation takes its gradient.

    ε = ρ·g/‖g‖ (Foret et al. 2021, arXiv:2010.01412, equation 2), or in the adaptive form
    ε = ρ·w²g/‖|w|g‖ (Kwon et al. 2021, arXiv:2102.11600, equation 4, p = 2).
    """
    if not config.sam_adaptive:
        scale = config.sam_rho / (global_norm(grads) + TINY)
        return jax.tree.map(lambda w, g: w + scale * g, params, grads)
    scaled = jax.tree.map(lambda w, g: jnp.abs(w) * g, params, grads)
    scale = config.sam_rho / (global_norm(scaled) + TINY)
    return jax.tree.map(lambda w, s: w + scale * jnp.abs(w) * s, params, scaled)

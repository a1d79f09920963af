"""The memory that a training step needs, by the compiler's own account."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gptjax.errors import UserError
from gptjax.train.config import RunSpec
from gptjax.train.state import init_state, make_hyper
from gptjax.train.step import Batch, make_train_step

BY_COST = ("none", "dots", "block", "sqrt")
"""Rematerialisation, from the least to the most work done again."""


def step_bytes(spec: RunSpec) -> tuple[int, int]:
    """(all bytes that a compiled step holds, those of them that are temporary)."""
    state = jax.eval_shape(lambda key: init_state(spec, key), jax.random.key(0))
    shape = (spec.batch_size, spec.model.seq_len)
    batch = jax.eval_shape(
        lambda: Batch(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32), jnp.zeros(shape))
    )
    hyper = jax.eval_shape(lambda: make_hyper(spec))
    step = jax.jit(make_train_step(spec, 0), donate_argnums=0)
    found: Any = step.lower(state, batch, hyper).compile().memory_analysis()
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return held + found.temp_size_in_bytes, found.temp_size_in_bytes


def resolve_remat(spec: RunSpec, budget_gb: float) -> RunSpec:
    """The spec with `model.remat=auto` replaced by the cheapest policy that fits the budget.

    What it was replaced by is part of the spec, hence of the run's identity.

    Raises:
      UserError: where none fits.
    """
    if spec.model.remat != "auto":
        return spec
    needed: dict[str, int] = {}
    for policy in BY_COST:
        model = dataclasses.replace(spec.model, remat=policy)
        resolved = dataclasses.replace(spec, model=model)
        needed[policy] = step_bytes(resolved)[0]
        if needed[policy] <= budget_gb * 2**30:
            return resolved
    least = min(needed, key=lambda policy: needed[policy])
    raise UserError(
        f"train.memory_gb={budget_gb:g} is too little for a step: it needs "
        f"{needed[least] / 2**30:.3g} GiB with model.remat={least}; raise train.micro_batches="
        f"{spec.micro_batches} or train.memory_gb"
    )

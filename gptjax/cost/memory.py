"""Memory of a training step: estimated from shapes, or counted by the compiler."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import models
from gptjax.errors import UserError
from gptjax.models import Layer
from gptjax.train import (
    RunSpec,
    init_state,
    make_hyper,
    make_train_step,
    next_token,
    next_token_batch,
)

BY_COST = ("none", "dots", "block", "sqrt")
"""Rematerialisation, from the least to the most work done again."""


def training_bytes(run: RunSpec) -> float:
    """Bytes that a training step holds on one device, estimated from above.

    Parameters, gradients and two moments in float32; activations as Korthikanti et al. 2022
    (arXiv:2205.05198, section 4.1) count them, s·b·h·(34 + 5·a·s/h) bytes a layer in 16 bits, twice
    that here, with the keys whose scores are held at a time in place of s; states of Mamba and what
    experts hold besides; the logits with their gradient and one copy; half as much again for what
    else the compiler keeps. Of twelve kinds of layers at 256 and 1,024 tokens, compiled for a CPU,
    each holds less, and no less than a quarter (`tests/cost/test_memory.py`).
    """
    model = run.model
    tokens = run.batch_size / run.micro_batches * model.seq_len
    layers = sum(_layer_bytes(run, layer) for layer in model.layers_of_depth)
    logits = 12.0 * model.vocab_size
    return 16.0 * models.count_params(model).total + 1.5 * tokens * (layers + logits)


def _layer_bytes(run: RunSpec, layer: Layer) -> float:
    """Of one token."""
    model = run.model
    mixing = models.mixer_of(model, layer.mixer).held(model, run.document_attention)
    experts = models.MLPS[layer.mlp].held(model)
    return 2.0 * (34.0 * model.width + mixing + experts)


def step_bytes(spec: RunSpec) -> tuple[int, int]:
    """(all bytes that a compiled step holds, those of them that are temporary)."""
    state = jax.eval_shape(lambda key: init_state(spec, key), jax.random.key(0))
    shape = (spec.batch_size, spec.model.seq_len)
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32)
    batch = jax.eval_shape(lambda tokens: next_token_batch(spec, tokens, tokens, 0), tokens)
    hyper = jax.eval_shape(lambda: make_hyper(spec))
    step = jax.jit(make_train_step(spec, next_token(spec)), donate_argnums=0)
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

"""Memory of a training step, estimated without compiling it."""

from gptjax import models
from gptjax.models import SPARSE, Layer
from gptjax.sweeps import shapes
from gptjax.train import RunSpec

STATES = 8.0
"""Copies of all states of a state-space layer that its backward pass finds, measured on a CPU."""

SPARSE_COPIES = 4.0
"""Copies of the scores of the kinds that leave pairs out, over those of dense attention."""

BLOCK = 256
"""Keys whose scores are held at a time where attention goes through blocks or a fused kernel."""


def training_bytes(run: RunSpec) -> float:
    """Bytes that a training step holds on one device, estimated from above.

    Parameters, gradients and two moments in float32; activations as Korthikanti et al. 2022
    (arXiv:2205.05198, section 4.1) count them, s·b·h·(34 + 5·a·s/h) bytes a layer in 16 bits, twice
    that here, with the keys whose scores are held at a time in place of s; states of Mamba and what
    experts hold besides; the logits with their gradient and one copy; half as much again for what
    else the compiler keeps. Of twelve kinds of layers at 256 and 1,024 tokens, compiled for a CPU,
    each holds less, and no less than a quarter (`tests/sweeps/test_memory.py`).
    """
    model = run.model
    tokens = run.batch_size / run.micro_batches * model.seq_len
    layers = sum(_layer_bytes(run, layer) for layer in model.layers_of_depth)
    logits = 12.0 * model.vocab_size
    return 16.0 * shapes.counts(model).total + 1.5 * tokens * (layers + logits)


def _layer_bytes(run: RunSpec, layer: Layer) -> float:
    """Of one token."""
    model = run.model
    if layer.mixer == "ssm":
        mixing = STATES * model.ssm_width * model.ssm_state
    elif layer.mixer == "performer":
        mixing = SPARSE_COPIES * 5.0 * model.num_heads * model.feature_count
    else:
        mixing = 5.0 * model.num_heads * _keys(run, layer.mixer)
    experts = 0.0
    if layer.mlp == "experts":
        experts = 16.0 * model.experts_per_token * model.expert_hidden_width
    return 2.0 * (34.0 * model.width + mixing + experts)


def _keys(run: RunSpec, mixer: str) -> float:
    """Keys of a query whose scores are held at a time.

    As on a CPU, which holds the most, so that every process of a sweep counts the same.
    """
    model = run.model
    if mixer in SPARSE:
        return SPARSE_COPIES * shapes.sparse_keys(model, mixer)
    kernel = models.attention_kernel(model, mixer, segmented=run.document_attention, backend="cpu")
    return model.seq_len if kernel in ("dense", "masked") else min(model.seq_len, BLOCK)

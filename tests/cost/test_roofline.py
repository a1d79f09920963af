"""What a step sends over each axis of a mesh, by hand, and what that adds to its time."""

import dataclasses

import pytest

from gptjax import models
from gptjax.cost.chips import parse_target
from gptjax.cost.roofline import estimate
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.parallel import MeshConfig
from gptjax.train import RunSpec

CHIP = parse_target("v5e-8").chip
MODEL = ModelConfig(
    depth=2,
    width=16,
    num_heads=2,
    seq_len=32,
    vocab_size=64,
    positions="rotary",
    use_bias=False,
    remat="none",
)
SPEC = RunSpec(model=MODEL, optim=OptimConfig(), batch_size=8, steps=10)
PARAMS = models.count_params(MODEL).total
STREAM = 8 * 32 * 16 * 4  # bytes of the batch's activations at one place, float32


def step(**changes):
    spec = dataclasses.replace(SPEC, micro_batches=changes.pop("micro_batches", 1))
    return estimate(spec, MeshConfig(**changes), 2, CHIP, 1e4)


def sent(axis, **changes):
    """Bytes of two devices, one axis of two."""
    found = step(**{"data": 1, axis: 2, **changes})
    rate = CHIP.rate((axis,), {axis: 2})
    assert list(found.seconds.network) == [axis]
    return found.seconds.network[axis] * rate


def test_the_sum_of_gradients_is_sent_twice_over_half_of_it():
    """Once to scatter it and once to gather it; again for each micro-batch."""
    assert sent("data", zero=0) == pytest.approx(2 * PARAMS / 2 * 4)
    assert sent("data", zero=0, micro_batches=2) == pytest.approx(2 * 2 * PARAMS / 2 * 4)


@pytest.mark.parametrize(
    "zero, halves",
    [
        (0, 2 * 4),  # gradients scattered and gathered
        (1, 2 * 4 + 4),  # and the new parameters gathered
        (2, 4 + 4),  # gradients scattered only
        (3, 4 + 2 * 4),  # and the parameters gathered for each pass
    ],
)
def test_what_fsdp_sends(zero, halves):
    assert sent("fsdp", zero=zero) == pytest.approx(halves * PARAMS / 2)


def test_what_tensor_parallelism_sends():
    """Two sums a block forward and two backward, one for the embedding and one for the head."""
    sums = 2 * (2 + 2) + 2
    assert sent("tensor") == pytest.approx(sums * 2 * STREAM / 2)


@pytest.mark.parametrize(
    "context, values",
    [
        ("ring", 3 * 2 * 16),  # keys and values; again backward, with their gradients
        ("all_to_all", 2 * 4 * 16 / 2),  # half of queries, keys, values and outputs, both ways
    ],
)
def test_what_a_cut_sequence_sends(context, values):
    gradients = 2 * PARAMS / 2 * 4
    tokens = 8 * 32 / 2
    wanted = gradients + 2 * tokens * values * 4
    assert sent("seq", zero=0, context=context) == pytest.approx(wanted)


def test_what_a_pipeline_sends():
    """The stream forward and its gradient back, whatever the micro-batches."""
    assert sent("pipe", micro_batches=2) == pytest.approx(2 * STREAM)


def test_nothing_hides_the_network():
    one, cut = (step(data=2, zero=0), step(data=1, tensor=2))
    for found in (one, cut):
        slower = max(found.seconds.compute, found.seconds.memory)
        network = sum(found.seconds.network.values())
        assert found.seconds.total == pytest.approx(slower + network) and network > 0

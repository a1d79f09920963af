"""Positions and parameters as arguments: packed texts, and leaves that are no arrays."""

import dataclasses

import compiled_model
import jax
import numpy as np
import pytest
from flat_settings import changed

from gptjax import models
from gptjax.models.product import multiply, product

SMALL = models.ModelConfig(vocab_size=11, depth=2, width=16, num_heads=2, seq_len=12)


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": "learned"},
        {"positions": "sinusoidal"},
        {"positions": "rotary"},
        {"positions": "rotary", "kv_rank": 8, "rope_dim": 4, "norm": "rmsnorm", "use_bias": False},
    ],
    ids=["learned", "sinusoidal", "rotary", "latent"],
)
def test_a_packed_text_is_the_text_alone(changes):
    """Two texts in one row, each with its own positions and segment: the logits of each alone."""
    config = changed(SMALL, **changes)
    params = compiled_model.fresh(config)
    tokens = np.random.default_rng(1).integers(0, 11, 12, np.int32)
    segments = np.array([[0] * 5 + [1] * 7] * 2, np.int32)
    places = np.array([[*range(5), *range(7)], [*range(12)]], np.int32)
    first, second = np.pad(tokens[:5], (0, 7)), np.pad(tokens[5:], (0, 5))

    @jax.jit
    def run(params, segments, places, twice, parts):
        """(packed, and with places that go on; each part alone, before what is not read)."""
        both = models.apply(config, params, twice, segment_ids_BT=segments, positions_BT=places)
        return both, models.apply(config, params, parts)

    inputs = np.stack([tokens] * 2), np.stack([first, second])
    found, alone = jax.device_get(run(params, segments, places, *inputs))
    packed, going_on = found
    np.testing.assert_allclose(packed, np.concatenate([alone[0, :5], alone[1, :7]]), atol=1e-5)
    assert np.abs(packed - going_on)[5:].max() > 1e-3 or (
        changes["positions"] == "rotary"  # only differences of positions count
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRank:
    """w = left·right, shaped as the last axes of `right` are."""

    left_DR: jax.Array
    right_RNH: jax.Array


@multiply.register
def _(leaf: LowRank, x, bias, inputs, dtype):
    assert inputs == 1
    return product(product(x, leaf.left_DR), leaf.right_RNH, bias, dtype=dtype)


def test_a_leaf_may_be_a_pytree():
    """A model whose queries are of low rank gives what it gives with the product of the factors."""
    config = changed(SMALL, layers="unroll")
    params = compiled_model.fresh(config)
    rng = np.random.default_rng(1)
    left = rng.standard_normal((2, 16, 3), np.float32)
    right = rng.standard_normal((2, 3, 2, 8), np.float32)
    tokens = rng.integers(0, 11, (2, 12), np.int32)

    def with_queries(query):
        attention = {**params["blocks"]["attention"], "query": query}
        return {**params, "blocks": {**params["blocks"], "attention": attention}}

    whole = with_queries(np.einsum("lDR,lRNH->lDNH", left, right))
    low = with_queries(LowRank(left, right))
    logits = [compiled_model.apply(config, params, tokens) for params in (low, whole)]
    np.testing.assert_allclose(*logits, rtol=2e-4, atol=1e-5)

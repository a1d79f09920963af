"""Bits by measured sensitivity within a budget: never worse than uniform bits at equal bytes."""

import compiled_model
import jax
import numpy as np
import pytest

from gptjax import models, ops, quant
from gptjax.errors import UserError
from gptjax.quant import QuantizeConfig, choose_bits, quantize, ruled_bits, uniform_bits
from gptjax.quant.sensitivity import Option, cheapest

CONFIG = models.ModelConfig(
    vocab_size=23, depth=2, width=16, num_heads=2, seq_len=12, positions="rotary", layers="unroll"
)
TOKENS = np.random.default_rng(2).integers(0, 23, (16, 12), np.int32)


def params():
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: x + np.float32(0.3) * rng.standard_normal(x.shape, np.float32),
        compiled_model.fresh(CONFIG),
    )


@jax.jit
def mean_loss(params, tokens):
    logits = models.apply(CONFIG, params, tokens[:, :-1])
    return ops.cross_entropy(logits, tokens[:, 1:]).mean()


def loss(params):
    return float(mean_loss(params, TOKENS))


def test_at_equal_bytes_it_is_not_worse_than_uniform(compiled_rounding):
    whole = params()
    settings = QuantizeConfig(bits=4, group=8, embedding_bits=32, budget_bits=(3, 4, 8))
    uniform = quantize(CONFIG, whole, settings, uniform_bits(CONFIG, settings))
    budget = quant.nbytes(uniform.params)
    fixed = ruled_bits(CONFIG, settings)
    bits = choose_bits(CONFIG, whole, settings, fixed, TOKENS, budget)
    mixed = quantize(CONFIG, whole, settings, bits)
    assert quant.nbytes(mixed.params) <= budget
    assert len(set(bits.values())) > 1 or bits == uniform_bits(CONFIG, settings)
    assert loss(mixed.params) <= loss(uniform.params) + 1e-5


def test_rules_stay_and_a_budget_that_is_too_small_is_refused(compiled_rounding):
    settings = QuantizeConfig(rules=("blocks/0/mlp=16",), budget_bits=(4, 8), group=8)
    fixed = ruled_bits(CONFIG, settings)
    bits = choose_bits(CONFIG, params(), settings, fixed, TOKENS[:4], 10**6)
    assert bits["blocks/0/mlp/up"] == 16 and bits["blocks/1/mlp/up"] == 8
    assert bits["embed/tokens"] == 8
    with pytest.raises(UserError, match=r"too small for the fewest of quantize\.budget_bits"):
        choose_bits(CONFIG, params(), settings, fixed, TOKENS[:4], 1000)


def test_the_cheapest_step_is_taken_first():
    """a: 1 nat for 4 bytes; b: 0.5 nats for 1 byte; c: free."""
    options = {
        "a": {4: Option(4, 1.0), 8: Option(8, 0.0)},
        "b": {4: Option(7, 0.5), 8: Option(8, 0.0)},
        "c": {4: Option(4, -0.1), 8: Option(8, 0.0)},
    }
    assert cheapest(options, 20) == {"a": 8, "b": 8, "c": 4}
    assert cheapest(options, 19) == {"a": 4, "b": 8, "c": 4}
    assert cheapest(options, 24) == {"a": 8, "b": 8, "c": 8}

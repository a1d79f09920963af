"""A mixer from outside the package: one registration, and it trains, is counted and is a choice."""

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_docs import reference

from gptjax import config as whole_config
from gptjax import models, ops
from gptjax.cost import flops, memory
from gptjax.errors import UserError
from gptjax.fields import make
from gptjax.models import Mixer, ModelConfig, mixers
from gptjax.models.mixers.attention import (
    Attention,
    attention_flops,
    attention_params,
    key_bytes,
)
from gptjax.optim import OptimConfig
from gptjax.train import RunSpec


class PairsAttention(Attention):
    """The mean of a token's value and of the one before it, gated by their keys."""

    def attend(self, q, k, v, options):
        """By shifting."""
        before = jnp.pad(v, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
        gate = jax.nn.sigmoid(jnp.sum(q * k, axis=-1, keepdims=True))
        return gate * v + (1 - gate) * before


@pytest.fixture(autouse=True)
def registered():
    mixers.register(
        "pairs",
        Mixer(
            module=PairsAttention,
            params=attention_params,
            flops=lambda config: attention_flops(config, 2),
            cache_bytes=lambda config, context: key_bytes(config, min(2, context)),
            held=lambda config, segmented: 5.0 * config.num_heads * 2,
        ),
    )
    yield
    del mixers.MIXERS["pairs"]


def small(**changes):
    values = {"depth": 2, "width": 8, "num_heads": 2, "seq_len": 8, "vocab_size": 11, **changes}
    return make(ModelConfig, {"layer_pattern": ("pairs", "global"), **values}, "model")


def test_it_is_a_choice():
    assert "pairs" in reference().render()
    setup = whole_config.make_config({"model": {"layer_pattern": ("pairs",)}})
    assert setup.model.layer_pattern == ("pairs",)
    with pytest.raises(UserError, match="did you mean pairs"):
        small(layer_pattern=("pair",))


def test_it_is_counted():
    model, plain = small(layer_pattern=("pairs",)), small(layer_pattern=("global",))
    assert models.count_params(model) == models.count_params(plain)
    assert models.count_params(model).total == sum(
        leaf.size for leaf in jax.tree.leaves(compiled_model.fresh(model))
    )
    spared = 2 * 3 * 4 * (8 - 2) * 8  # layers, training, products, keys, width
    training = flops.training_flops_per_token
    assert training(plain) - training(model) == spared
    assert models.cache_bytes(model, 100) == models.cache_bytes(plain, 2)


def test_it_trains():
    model = small()
    assert memory.estimate_bytes(RunSpec(model, OptimConfig(), batch_size=4, steps=20)).total > 0
    tokens = jnp.asarray(np.arange(4 * 9).reshape(4, 9) % 11, jnp.int32)

    def loss(params):
        logits, _ = models.forward(model, params, tokens[:, :-1])
        return jnp.mean(ops.cross_entropy(logits, tokens[:, 1:]))

    @jax.jit
    def step(params):
        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient)

    params, losses = compiled_model.fresh(model), []
    for _ in range(60):
        value, params = step(params)
        losses.append(float(value))
    assert losses[-1] < 0.7 * losses[0]

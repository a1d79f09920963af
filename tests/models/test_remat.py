"""Rematerialisation changes memory, never gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import models, ops

DEEP = models.ModelConfig(
    vocab_size=13, depth=7, width=16, num_heads=2, seq_len=12, init_scale=0.3, layers="unroll"
)
LAYOUTS = {
    "unrolled": {},
    "scanned": {"layers": "scan"},
    "scanned by period": {"layers": "scan", "layer_pattern": ("local", "global"), "window": 4},
}


def gradients(config, params, tokens):
    def loss(params):
        return jnp.mean(ops.cross_entropy(models.apply(config, params, tokens), tokens))

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_the_same(layout):
    config = dataclasses.replace(DEEP, **LAYOUTS[layout])
    tokens = jax.random.randint(jax.random.key(1), (2, 12), 0, 13)
    params = jax.jit(lambda key: models.init(config, key))(jax.random.key(0))
    expected = gradients(config, params, tokens)
    for policy in ("block", "sqrt", "dots"):
        got = gradients(dataclasses.replace(config, remat=policy), params, tokens)
        for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6)


def temporary_bytes(depth, policy):
    config = models.ModelConfig(
        vocab_size=8, depth=depth, width=64, num_heads=2, seq_len=64, remat=policy, layers="scan"
    )
    params = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((32, 64), jnp.int32)

    def loss(params, tokens):
        return jnp.mean(ops.cross_entropy(models.apply(config, params, tokens), tokens))

    program = jax.jit(jax.grad(loss)).lower(params, tokens).compile()
    return program.memory_analysis().temp_size_in_bytes


def test_memory_of_segments_grows_with_the_root_of_depth():
    stream = 4 * 32 * 64 * 64
    four, sixteen = (temporary_bytes(depth, "sqrt") for depth in (4, 16))
    assert sixteen < 2.1 * four  # √16 = 2·√4; without policy it is 4 times
    blocks = (temporary_bytes(16, "block") - temporary_bytes(4, "block")) / stream
    assert 11.5 < blocks < 12.5  # each of 12 more blocks keeps one stream


def test_products_are_kept_between_nothing_and_everything():
    none, dots, block = (temporary_bytes(4, policy) for policy in ("none", "dots", "block"))
    assert none > 1.5 * dots and dots > 1.5 * block

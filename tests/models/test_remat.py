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


def temporary_bytes(depth, policy, layers="unroll"):
    config = models.ModelConfig(
        vocab_size=8, depth=depth, width=64, num_heads=2, seq_len=64, remat=policy, layers=layers
    )
    params = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((32, 64), jnp.int32)

    def loss(params, tokens):
        return jnp.mean(ops.cross_entropy(models.apply(config, params, tokens), tokens))

    program = jax.jit(jax.grad(loss)).lower(params, tokens).compile()
    return program.memory_analysis().temp_size_in_bytes


def test_segments_grow_with_the_root_of_depth_and_blocks_with_depth():
    stream = 4 * 32 * 64 * 64
    per_block, root = (
        (temporary_bytes(36, policy) - temporary_bytes(9, policy)) / stream
        for policy in ("block", "sqrt")
    )
    assert 20 < per_block < 40  # 27 more blocks, each keeps one stream, parameters' copies beside
    assert root < per_block / 2  # 2·√36 − 2·√9 = 6 more streams


def test_each_policy_saves_in_both_layouts():
    for layers in ("unroll", "scan"):
        none, dots, block = (temporary_bytes(9, p, layers) for p in ("none", "dots", "block"))
        assert none > dots > block

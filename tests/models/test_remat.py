"""Rematerialisation changes memory, never gradients."""

import dataclasses
import functools
import itertools

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import models, ops

DEEP = models.ModelConfig(
    vocab_size=13, depth=7, width=16, num_heads=2, seq_len=12, init_scale=0.3, layers="unroll"
)
LAYOUTS = {
    "unrolled": {"depth": 2},
    "scanned": {"layers": "scan"},
    "scanned by period": {"layers": "scan", "layer_pattern": ("local", "global"), "window": 4},
}


def gradients(config, params, tokens):
    def loss(params, tokens):
        return jnp.mean(ops.cross_entropy(models.apply(config, params, tokens), tokens))

    return jax.jit(jax.value_and_grad(loss))(params, tokens)


@functools.cache
def plain(layout):
    """(config, parameters, tokens, loss and gradients) without rematerialisation."""
    config = dataclasses.replace(DEEP, **LAYOUTS[layout])
    tokens = np.random.default_rng(1).integers(0, 13, (2, 12), np.int32)
    params = compiled_model.fresh(config)
    return config, params, tokens, gradients(config, params, tokens)


QUICK = (("unrolled", "dots"), ("scanned by period", "sqrt"))


@pytest.mark.parametrize(
    ("layout", "policy"),
    [
        pytest.param(*each, marks=() if each in QUICK else pytest.mark.slow)
        for each in itertools.product(LAYOUTS, ("block", "sqrt", "dots"))
    ],
)
def test_gradients_are_the_same(layout, policy):
    config, params, tokens, expected = plain(layout)
    got = gradients(dataclasses.replace(config, remat=policy), params, tokens)
    for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6)


@functools.cache
def temporary_bytes(depth, policy, **changes):
    config = models.ModelConfig(
        vocab_size=8,
        depth=depth,
        width=64,
        num_heads=2,
        seq_len=32,
        remat=policy,
        mlp="relu",
        norm="rmsnorm",
        use_bias=False,
    )
    config = dataclasses.replace(config, **{"layers": "scan", **changes})
    params = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((128, 32), jnp.int32)

    def loss(params, tokens):
        return jnp.mean(ops.cross_entropy(models.apply(config, params, tokens), tokens))

    program = jax.jit(jax.grad(loss)).lower(params, tokens).compile()
    return program.memory_analysis().temp_size_in_bytes


def slope(policy, one, depths=(64, 256)):
    """b of what is held beyond a single block's ∝ depth^b."""
    small, large = (temporary_bytes(depth, policy) - one for depth in depths)
    return np.log(large / small) / np.log(depths[1] / depths[0])


def test_segments_keep_the_root_of_what_blocks_keep():
    one = temporary_bytes(1, "block")
    assert slope("block", one) == pytest.approx(1.0, abs=0.05)
    assert slope("sqrt", one) == pytest.approx(0.5, abs=0.15)
    assert temporary_bytes(64, "sqrt") < 0.7 * temporary_bytes(64, "block")


def test_a_policy_is_kept_where_layers_are_left_to_the_backend():
    """XLA's CPU compiler undoes the policy of unrolled blocks, so they are scanned."""
    scanned, chosen = (temporary_bytes(6, "block", layers=name) for name in ("scan", "auto"))
    assert chosen == scanned


def test_products_are_kept_between_nothing_and_everything():
    none, dots, block = (temporary_bytes(4, policy) for policy in ("none", "dots", "block"))
    assert none > 1.5 * dots and dots > 1.5 * block

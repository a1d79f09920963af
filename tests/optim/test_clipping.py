"""Our norm and clipping against optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax.optim import global_norm
from gptjax.optim.clipping import clip_by_global_norm


def tree(scale):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(257, 33), (7,), (2, 3, 4)]
    return [scale * jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True)]


def test_norm_equals_optax():
    assert global_norm(tree(0.3)) == pytest.approx(float(optax.tree.norm(tree(0.3))), rel=1e-6)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree(1.0))
    assert global_norm(half).dtype == jnp.float32


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e6])
def test_clipping_equals_optax(scale):
    ours, _ = clip_by_global_norm(1.0).update(tree(scale), optax.EmptyState())
    theirs, _ = optax.clip_by_global_norm(1.0).update(tree(scale), optax.EmptyState())
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_zero_gradient_stays_zero():
    ours, _ = clip_by_global_norm(1.0).update(tree(0.0), optax.EmptyState())
    assert all(np.all(np.asarray(leaf) == 0.0) for leaf in ours)

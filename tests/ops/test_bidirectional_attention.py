"""Attention that sees both ways, against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import ops


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_jaxs(masked):
    rng = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(rng.standard_normal((2, *shape)), jnp.float32)
        for shape in ((5, 4, 6), (7, 2, 6), (7, 2, 6))
    )
    visible = jnp.asarray(rng.random((2, 5, 7)) < 0.5).at[:, :, 3].set(True)
    mask = visible[:, None] if masked else None
    wanted = jax.nn.dot_product_attention(q, k, v, mask=mask)
    got = ops.bidirectional_attention(q, k, v, visible_BTS=visible if masked else None)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_who_sees_nothing_gets_nothing():
    q, k, v = jnp.ones((1, 2, 1, 3)), jnp.ones((1, 4, 1, 3)), jnp.ones((1, 4, 1, 2))
    visible = jnp.array([[[False] * 4, [True] * 4]])
    got = ops.bidirectional_attention(q, k, v, visible_BTS=visible)
    assert got[0, :, 0].tolist() == [[0.0, 0.0], [1.0, 1.0]]

"""Attention that sees both ways, against JAX's own."""

import jax
import numpy as np
import pytest

from gptjax import ops


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_jaxs(masked):
    rng = np.random.default_rng(0)
    q, k, v = (
        rng.standard_normal((2, *shape), np.float32) for shape in ((5, 4, 6), (7, 2, 6), (7, 2, 6))
    )
    visible = rng.random((2, 5, 7)) < 0.5
    visible[:, :, 3] = True

    @jax.jit
    def both(q, k, v, visible=None):
        mask = None if visible is None else visible[:, None]
        wanted = jax.nn.dot_product_attention(q, k, v, mask=mask)
        return ops.bidirectional_attention(q, k, v, visible_BTS=visible), wanted

    got, wanted = both(q, k, v, visible) if masked else both(q, k, v)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_who_sees_nothing_gets_nothing():
    q, k, v = (np.ones(shape, np.float32) for shape in ((1, 2, 1, 3), (1, 4, 1, 3), (1, 4, 1, 2)))
    visible = np.array([[[False] * 4, [True] * 4]])
    attend = jax.jit(ops.bidirectional_attention)
    got = np.asarray(attend(q, k, v, visible_BTS=visible))
    assert got[0, :, 0].tolist() == [[0.0, 0.0], [1.0, 1.0]]

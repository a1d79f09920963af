"""Weights with their outputs first: the same products, for few rows and many; the same answers."""

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import infer, models
from gptjax.infer.model import Embedding, OutputFirst
from gptjax.models.product import dense, product, transposed


@pytest.mark.parametrize("count", [1, 8, 40])
def test_products_are_those_of_the_array(count):
    """By one axis and by two, with a bias, below and above the rows that it is for."""
    rng = np.random.default_rng(0)
    w_NHD, bias_D = rng.normal(size=(4, 8, 24)), rng.normal(size=24)
    x_BNH = jnp.asarray(rng.normal(size=(count, 4, 8)), jnp.float32)
    w_NHD = jnp.asarray(w_NHD, jnp.float32)
    leaf = OutputFirst.of(w_NHD, 2)
    found = product(x_BNH, leaf, jnp.asarray(bias_D, jnp.float32), inputs=2)
    wanted = np.einsum("bnh,nhd->bd", x_BNH, w_NHD) + bias_D
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert (dense(leaf, "float32") == w_NHD).all()
    head = product(x_BNH[:, 0], transposed(Embedding(w_NHD[0].T)))
    np.testing.assert_allclose(head, x_BNH[:, 0] @ w_NHD[0], rtol=1e-4, atol=1e-4)


def test_large_matrices_are_turned_and_answers_stay():
    """Tied, with heads that share keys; norms, biases and small matrices stay as they are."""
    config = models.ModelConfig(
        vocab_size=300, depth=2, width=256, num_heads=4, num_kv_heads=1, seq_len=32, init_scale=0.3
    )
    params = compiled_model.fresh_layers(config, 0)
    plain = infer.Model(config, params)
    turned = infer.for_few_rows(plain)
    kinds = OutputFirst, Embedding
    leaves = jax.tree.leaves(turned.params, is_leaf=lambda x: isinstance(x, kinds))
    assert sum(isinstance(leaf, Embedding) for leaf in leaves) == 1
    assert sum(isinstance(leaf, OutputFirst) for leaf in leaves) >= 2 * 4
    prompts = [[1, 2, 3], [9], [4, 4, 8, 200]]
    asked = infer.sampling("greedy", max_tokens=8)
    pairs = zip(
        infer.generate(plain, prompts, asked), infer.generate(turned, prompts, asked), strict=True
    )
    for one, other in pairs:
        assert one.tokens == other.tokens
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-3)


def test_the_loop_of_one_text_copies_no_cache():
    """XLA turns the write of a single token into an update that it fuses into each reader."""
    config = models.ModelConfig(vocab_size=17, depth=1, width=16, num_heads=2, seq_len=24)
    params = jax.eval_shape(
        lambda: models.unstacked(config, models.init(config, jax.random.key(0)))
    )
    cache = jax.eval_shape(lambda: models.init_cache(config, 1, 24))

    def loop(params, cache, token_B):
        def one(number, carry):
            x_B1D, cache = models.decode(config, params, carry[0], carry[1][:, None])
            logits_BV = models.logits(config, params, x_B1D)[:, 0]
            return cache, jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)

        return jax.lax.fori_loop(0, 5, one, (cache, token_B))

    lowered = jax.jit(loop, donate_argnums=1).lower(
        params, cache, jax.ShapeDtypeStruct((1,), jnp.int32)
    )
    program = lowered.compile().as_text()
    assert "f32[1,2,24,8]" in program and "f32[1,2,24,8]{3,2,1,0} copy(" not in program

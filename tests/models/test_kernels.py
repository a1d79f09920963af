"""Which attention runs is a function of config and backend, and changes no result."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import models
from gptjax.errors import UserError
from gptjax.models.mixers.kernels import attention_kernel, describe

LONG = models.ModelConfig(
    vocab_size=13, depth=2, width=256, num_heads=2, seq_len=2048, compute_dtype="bfloat16"
)
CASES = [
    ("cpu", False, {}, "blockwise"),
    ("cpu", False, {"seq_len": 1024}, "dense"),
    ("cpu", False, {"attention_impl": "dense"}, "dense"),
    ("cpu", False, {"attention_impl": "dense", "attention_soft_cap": 5.0}, "masked"),
    ("cpu", False, {"attention_impl": "blockwise", "seq_len": 16}, "blockwise"),
    ("cpu", False, {"seq_len": 64, "attention_scale": 0.5}, "masked"),
    ("cpu", False, {"attention_sinks": True}, "masked"),
    ("cpu", False, {"positions": "alibi"}, "masked"),
    ("cpu", False, {"attention_soft_cap": 5.0}, "blockwise"),
    ("gpu", False, {}, "cudnn"),
    ("gpu", False, {"seq_len": 64}, "cudnn"),
    ("gpu", False, {"compute_dtype": "float32"}, "blockwise"),
    ("gpu", True, {}, "blockwise"),
    ("gpu", False, {"attention_soft_cap": 5.0}, "blockwise"),
    ("gpu", False, {"head_dim": 160}, "blockwise"),
    ("gpu", False, {"attention_impl": "blockwise"}, "blockwise"),
    ("tpu", True, {}, "splash"),
    ("tpu", False, {"head_dim": 64}, "blockwise"),
    ("tpu", False, {"seq_len": 64, "head_dim": 64}, "dense"),
]


@pytest.mark.parametrize(("backend", "segmented", "changes", "expected"), CASES)
def test_the_choice(backend, segmented, changes, expected):
    config = dataclasses.replace(LONG, **changes)
    assert attention_kernel(config, "global", segmented=segmented, backend=backend) == expected


def test_the_log_names_it():
    config = dataclasses.replace(LONG, seq_len=64, layer_pattern=("local", "global"), window=8)
    assert describe(config, segmented=False) == "masked in local layers, dense in global layers"


def test_what_blocks_do_not_have_is_refused():
    config = dataclasses.replace(LONG, attention_impl="blockwise", positions="alibi")
    with pytest.raises(UserError, match=r"no model\.positions=alibi; set model\.attention_impl"):
        models.validate(config)


def test_a_model_gives_the_same_numbers_by_blocks():
    """Its gradients are those of the function, which tests/ops has."""
    small = models.ModelConfig(
        vocab_size=13,
        depth=2,
        width=16,
        num_heads=4,
        num_kv_heads=2,
        seq_len=24,
        init_scale=0.5,
        layer_pattern=("local", "global"),
        window=5,
        attention_scale=0.3,
        attention_soft_cap=2.0,
    )
    tokens = jax.random.randint(jax.random.key(1), (2, 24), 0, 13)
    ids = jnp.cumsum(tokens == 0, axis=1)
    params = jax.jit(lambda key: models.init(small, key))(jax.random.key(0))

    @functools.partial(jax.jit, static_argnums=0)
    def by(impl, params):
        config = dataclasses.replace(small, attention_impl=impl)
        return models.apply(config, params, tokens, segment_ids_BT=ids)

    dense, blocks = (by(impl, params) for impl in ("dense", "blockwise"))
    np.testing.assert_allclose(dense, blocks, rtol=1e-4, atol=1e-5)

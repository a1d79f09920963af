"""`model.softmaxes`: a rank that the width does not bound, from forward passes and from caches."""

import dataclasses

import compiled_model
import jax
import numpy as np
import pytest

from gptjax import models
from gptjax.config import default_config, make_config
from gptjax.errors import UserError

CONFIG = models.ModelConfig(
    vocab_size=40, depth=1, width=4, num_heads=1, seq_len=48, positions="rotary", init_scale=1.0
)


def rank(log_p_NV):
    """Of the logits up to a constant of each row."""
    centred = np.asarray(log_p_NV - log_p_NV.mean(axis=-1, keepdims=True))
    values = np.linalg.svd(centred, compute_uv=False)
    return int(np.sum(values > 1e-4 * values[0]))


def test_probabilities_have_a_rank_above_the_width():
    """That of one softmax has not: tests/ops/test_mixture_heads.py."""
    tokens_BT = np.random.default_rng(1).integers(0, 40, (1, 48), np.int32)
    config = dataclasses.replace(CONFIG, softmaxes=3)
    params = compiled_model.fresh(config)
    sizes = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert models.count_params(config).total == sizes
    log_p_BTV = np.asarray(compiled_model.apply(config, params, tokens_BT))
    cached = compiled_model.fresh_logits(config, params, tokens_BT)
    np.testing.assert_allclose(cached, log_p_BTV, atol=1e-4)
    np.testing.assert_allclose(np.exp(log_p_BTV).sum(axis=-1), 1.0, rtol=1e-5)
    assert rank(log_p_BTV[0]) > 4


def test_what_reads_one_matrix_of_logits_is_refused():
    config = dataclasses.replace(CONFIG, softmaxes=2)
    with pytest.raises(UserError, match="leave those at their defaults"):
        models.validate(dataclasses.replace(config, logit_scale=2.0))
    with pytest.raises(UserError, match=r"model\.softmaxes=2 has no single matrix of logits"):
        models.features(config, None, np.zeros((1, 2), np.int32))
    asked = default_config()
    asked.model.softmaxes, asked.train.loss_chunk = 2, 64
    with pytest.raises(UserError, match=r"train\.loss_chunk=64 reads one matrix of logits"):
        make_config(asked.to_dict())

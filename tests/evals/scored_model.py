"""A tiny model of bytes that the tests of scores share."""

import functools

import compiled_model
import jax
import numpy as np

from gptjax import infer, models
from gptjax.data.tokenizers.byte import ByteTokenizer

CONFIG = models.ModelConfig(
    vocab_size=257, depth=2, width=16, num_heads=2, seq_len=64, init_scale=0.5
)


@functools.cache
def model():
    params = models.unstacked(CONFIG, compiled_model.drawn(CONFIG, 3))
    return infer.Model(CONFIG, params, ByteTokenizer(), name="tiny")


@functools.cache
def _program():
    params = jax.device_put(compiled_model.drawn(CONFIG, 3))
    return jax.jit(lambda ids: jax.nn.log_softmax(models.apply(CONFIG, params, ids)))


def by_whole_pass(context, tokens):
    """The log-probabilities of tokens, by the training forward pass."""
    ids = [*context, *tokens]
    row = np.zeros((1, CONFIG.seq_len), np.int32)
    row[0, : len(ids) - 1] = ids[:-1]
    log = np.asarray(_program()(row)[0])
    return log[np.arange(len(context) - 1, len(ids) - 1), list(tokens)]

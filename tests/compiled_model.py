"""The library's functions of a model, each compiled whole.

Called operation by operation, every shape of every operation is a program of its own, which takes a
test ten times as long.
"""

import functools
from typing import Any

import jax

from gptjax import models


@functools.partial(jax.jit, static_argnums=0)
def init(config: models.ModelConfig, key: Any) -> Any:
    return models.init(config, key)


@functools.partial(jax.jit, static_argnums=0)
def apply(config: models.ModelConfig, params: Any, tokens_BT: Any) -> Any:
    return models.apply(config, params, tokens_BT)


@functools.partial(jax.jit, static_argnums=0)
def fresh_logits(config: models.ModelConfig, params: Any, tokens_BT: Any) -> Any:
    """Logits of texts by way of an empty cache."""
    cache = models.init_cache(config, *tokens_BT.shape)
    x, _ = models.decode(config, params, cache, tokens_BT, fresh=True)
    return models.logits(config, params, x)

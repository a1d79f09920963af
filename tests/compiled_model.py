"""The library's functions of a model and of its training, each compiled whole.

Called operation by operation, every shape of every operation is a program of its own, which takes a
test ten times as long.
"""

import functools
from typing import Any

import jax
import numpy as np

from gptjax import convert, models, train
from gptjax.train.objectives import next_token
from gptjax.train.state import state_of


@functools.partial(jax.jit, static_argnums=0)
def init(config: models.ModelConfig, key: Any) -> Any:
    return models.init(config, key)


def drawn(config: models.ModelConfig, seed: int = 0) -> Any:
    """Parameters by NumPy, where any will do: no program. Norms are near 1, biases near 0."""
    rng = np.random.default_rng(seed)

    def one(path: Any, leaf: Any) -> np.ndarray:
        name = jax.tree_util.keystr(path)
        scale = 0.1 if "scale" in name or "bias" in name else config.init_scale
        values = scale * rng.standard_normal(leaf.shape) + ("scale" in name)
        return values.astype(leaf.dtype)

    shapes = convert.tensor_map.shapes_of(models.init, config)
    return jax.tree_util.tree_map_with_path(one, shapes)


def fresh(config: models.ModelConfig, seed: int = 0) -> Any:
    """Parameters of the sizes of fresh ones by NumPy, for tests to which their numbers are nothing.

    Initialisers compile for half a second.
    """
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        name = path[-1].key
        if name.endswith("scale"):
            return np.full(leaf.shape, 0.0 if config.norm_plus_one else 1.0, np.float32)
        size = np.float32(0.0 if name.endswith("bias") else config.init_scale)
        return size * rng.standard_normal(leaf.shape, np.float32)

    shapes = convert.tensor_map.shapes_of(models.init, config)
    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.lru_cache(maxsize=64)
def fresh_layers(config: models.ModelConfig, seed: int = 0) -> Any:
    """The same with the parameters of each layer apart, for decoding."""
    return jax.jit(functools.partial(models.unstacked, config))(fresh(config, seed))


@functools.partial(jax.jit, static_argnums=0)
def apply(config: models.ModelConfig, params: Any, tokens_BT: Any) -> Any:
    return models.apply(config, params, tokens_BT)


@functools.partial(jax.jit, static_argnums=0)
def fresh_logits(config: models.ModelConfig, params: Any, tokens_BT: Any) -> Any:
    """Logits of texts by way of an empty cache."""
    cache = models.init_cache(config, *tokens_BT.shape)
    x, _ = models.decode(config, params, cache, tokens_BT, fresh=True)
    return models.logits(config, params, x)


def init_state(spec: train.RunSpec, seed: int = 0) -> train.TrainState:
    """The state in which a run begins from fresh parameters by NumPy."""
    return _state_of(spec.origin, fresh(spec.model, seed))


@functools.partial(jax.jit, static_argnums=0)
def _state_of(origin: train.RunSpec, params: Any) -> train.TrainState:
    return state_of(origin, params)


def train_step(spec: train.RunSpec) -> Any:
    """(state, batch, hyper) → (state, metrics), next tokens; specs of one program share it."""
    return _train_step(spec.program)


@functools.lru_cache(maxsize=64)
def _train_step(program: train.RunSpec) -> Any:
    return jax.jit(train.make_train_step(program, next_token(program)))


@functools.partial(jax.jit, static_argnums=0)
def token_losses(spec: train.RunSpec, params: Any, batch: Any, shift: Any = None) -> Any:
    return train.token_losses(spec, params, batch, shift)

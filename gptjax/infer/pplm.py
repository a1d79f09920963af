"""Plug-and-play control of an answer (PPLM): the cached past is moved towards an attribute.

Dathathri et al. (2019), section 3. Before each token the past h of the cache is moved by gradient
steps of log P(a|h), where P(a|h) is the probability of a bag of words or what an attribute head
says of the last state; the model itself is not changed. A KL term keeps the distribution near the
model's, and the token is drawn from a geometric mean of the two.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import models
from gptjax.errors import UserError
from gptjax.infer.generate import SLOTS, Prompt, encoded, fitted, keys_of, padded, width_of
from gptjax.infer.model import Model
from gptjax.infer.settings import Sampling

Attribute = Callable[[jax.Array, jax.Array], jax.Array]
"""(log-probabilities [B, V] of the next token, the last state [B, D]) → log P(a|h) [B]."""


@dataclasses.dataclass(frozen=True)
class Bag:
    """log of the probability that the next token is one of a bag's (the paper's equation 4).

    Attributes:
      tokens: their ids.
    """

    tokens: tuple[int, ...]

    def __call__(self, log_BV: jax.Array, x_BD: jax.Array) -> jax.Array:
        """log Σ p of the bag's tokens."""
        return jax.nn.logsumexp(log_BV[:, jnp.asarray(self.tokens)], axis=-1)


@dataclasses.dataclass(frozen=True)
class Steering:
    """How far an answer is moved.

    Attributes:
      alpha: length of a step; 0 changes nothing.
      steps: gradient steps before each token.
      kl: weight of KL(moved, model's).
      mean: γ of p_moved^γ · p^(1 − γ).
    """

    alpha: float = 0.02
    steps: int = 3
    kl: float = 0.01
    mean: float = 0.95


def steer(
    model: Model,
    prompts: Sequence[Prompt],
    attribute: Attribute,
    steering: Steering = Steering(),
    sampling: Sampling = Sampling(),  # noqa: B008
    key: jax.Array | None = None,
) -> tuple[list[tuple[int, ...]], list[tuple[float, ...]]]:
    """(answers, log P(a|h) of the moved past at each token), with `sampling`'s temperature alone.

    Args:
      attribute: `Bag`, or a hashable function of log-probabilities and states, as a head is.

    Raises:
      UserError: as `generate`, and for a negative alpha.
    """
    if steering.alpha < 0.0:
        raise UserError(f"alpha={steering.alpha} must be at least 0")
    if model.others or model.stream is not None:
        raise UserError(
            f"{model.name} joins models or forgets tokens, and PPLM moves the whole past of one; "
            "give one model alone"
        )
    ids = [encoded(model, prompt) for prompt in prompts]
    limit = min(fitted(model, prompt, sampling).max_tokens for prompt in ids)
    length = models.rope_length(model.config, max(map(len, ids)) + limit)
    prompts_BT, counts_BT = padded([one[:-1] or one for one in ids], width_of(max(map(len, ids))))
    counts_BT &= np.array([[len(one) > 1] for one in ids])
    slots = -(-(max(map(len, ids)) + limit) // SLOTS) * SLOTS
    cache = models.init_cache(model.config, len(ids), slots)
    cache = _read(model.config, length, model.params, cache, prompts_BT, counts_BT)
    token_B = jnp.asarray([one[-1] for one in ids], jnp.int32)
    keys_B = keys_of([sampling] * len(ids), jax.random.key(0) if key is None else key)
    go_on = functools.partial(
        _step, model.config, attribute, steering, length, sampling.temperature
    )
    made: list[Any] = []
    for number in range(limit):
        key_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, number)
        token_B, said_B, cache = go_on(model.params, cache, token_B, key_B)
        made.append((token_B, said_B))
    tokens, said = (jnp.stack(x, axis=1).tolist() for x in zip(*made, strict=True))
    return [_ended(model, row) for row in tokens], [tuple(row) for row in said]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _read(
    config: Any,
    length: int | None,
    params: Any,
    cache: models.Cache,
    prompts_BT: jax.Array,
    counts_BT: jax.Array,
) -> models.Cache:
    """The cache after the prompts but for their last tokens."""
    return models.decode(config, params, cache, prompts_BT, counts_BT, fresh=True, length=length)[1]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _step(
    config: Any,
    attribute: Attribute,
    steering: Steering,
    length: int | None,
    temperature: float,
    params: Any,
    cache: models.Cache,
    token_B: jax.Array,
    key_B: jax.Array,
) -> tuple[jax.Array, jax.Array, models.Cache]:
    """(the next token, log P(a|h) after the moves, the model's own cache with the last token)."""

    def after(layers: Any) -> tuple[jax.Array, jax.Array, models.Cache]:
        moved = dataclasses.replace(cache, layers=layers)
        x_B1D, then = models.decode(config, params, moved, token_B[:, None], length=length)
        log_BV = jax.nn.log_softmax(models.logits(config, params, x_B1D)[:, 0])
        return log_BV, x_B1D[:, 0], then

    plain_BV, _, then = after(cache.layers)

    def goal(layers: Any) -> jax.Array:
        log_BV, x_BD, _ = after(layers)
        apart_B = jnp.sum(jnp.exp(log_BV) * (log_BV - plain_BV), axis=-1)
        return jnp.sum(attribute(log_BV, x_BD) - steering.kl * apart_B)

    layers = cache.layers
    for _ in range(steering.steps):
        layers = jax.tree.map(
            functools.partial(_moved, steering.alpha), layers, jax.grad(goal)(layers)
        )
    log_BV, x_BD, _ = after(layers)
    mixed_BV = steering.mean * log_BV + (1.0 - steering.mean) * plain_BV
    mixed_BV = mixed_BV if steering.alpha else plain_BV
    best_B = jnp.argmax(mixed_BV, axis=-1)
    if temperature:
        best_B = jax.vmap(jax.random.categorical)(key_B, mixed_BV / temperature)
    return best_B.astype(jnp.int32), attribute(log_BV, x_BD), then


def _moved(alpha: float, x: jax.Array, gradient: jax.Array) -> jax.Array:
    """x + α·∇/|∇|, the norm of each row and layer (the paper's equation 3 with γ = 1)."""
    axes = tuple(range(1, x.ndim))
    norm = jnp.sqrt(jnp.sum(jnp.square(gradient), axis=axes, keepdims=True))
    return x + (alpha * gradient / jnp.maximum(norm, 1e-12)).astype(x.dtype)


def _ended(model: Model, tokens: list[int]) -> tuple[int, ...]:
    """Up to the first end of document."""
    places = [tokens.index(end) for end in model.end_ids if end in tokens]
    return tuple(tokens[: min(places) + 1] if places else tokens)

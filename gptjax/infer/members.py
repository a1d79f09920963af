"""Several models as one: mixtures, contrastive decoding, and streams without an end.

What comes back is a `Model`: everything that samples, searches or serves takes it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import models
from gptjax.errors import UserError
from gptjax.infer.model import Model


@dataclasses.dataclass(frozen=True)
class Contrast:
    """log p_expert − log p_amateur where p_expert ≥ α·max p_expert, else impossible.

    Li et al., "Contrastive Decoding" (2022), equations 2 and 3.

    Attributes:
      alpha: the plausible set; 1: the expert's likeliest token alone.
      temperature: of the amateur.
    """

    alpha: float = 0.1
    temperature: float = 1.0

    def __call__(self, logits: Sequence[jax.Array]) -> jax.Array:
        """Logits [B, V] from the expert's and the amateur's."""
        expert, amateur = logits
        expert = jax.nn.log_softmax(expert)
        amateur = jax.nn.log_softmax(amateur / self.temperature)
        least = jnp.max(expert, axis=-1, keepdims=True) + jnp.log(self.alpha)
        return jnp.where(expert >= least, expert - amateur, -jnp.inf)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """log Σ w_i·p_i: the members' probabilities, averaged.

    Attributes:
      weights: positive; their sum is made one.
    """

    weights: tuple[float, ...]

    def __call__(self, logits: Sequence[jax.Array]) -> jax.Array:
        """Logits [B, V] from the members'."""
        log_w = jnp.log(jnp.asarray(self.weights) / sum(self.weights))
        each = jnp.stack([jax.nn.log_softmax(one) for one in logits])
        return jax.nn.logsumexp(each + log_w[:, None, None], axis=0)


def joined(members: Sequence[Model], combine: Any) -> Model:
    """One model of several that share a vocabulary.

    Args:
      combine: `Contrast`, `Mixture`, or another hashable function of the members' logits.

    Raises:
      UserError: for members of other vocabularies.
    """
    first, *others = members
    for other in others:
        if other.config.vocab_size != first.config.vocab_size:
            raise UserError(
                f"{other.name} has {other.config.vocab_size} tokens and {first.name} "
                f"{first.config.vocab_size}; members must share a vocabulary"
            )
    if isinstance(combine, Mixture) and len(combine.weights) != len(members):
        raise UserError(
            f"a mixture of {len(members)} models has weights={combine.weights}; give one for each"
        )
    params = tuple(member.params for member in members)
    name = " and ".join(member.name for member in members)
    return dataclasses.replace(
        first, params=params, others=tuple(others), combine=combine, name=name
    )


def streaming(model: Model, *, first: int = 4, last: int = 1020) -> Model:
    """The model without a limit of its context: it sees the first and the last tokens alone.

    Xiao et al., "Efficient Streaming Language Models with Attention Sinks" (2023).

    Raises:
      UserError: for layers or positions that cannot forget, or for more tokens than the context.
    """
    if first < 1 or last < 1 or first + last > model.config.seq_len:
        raise UserError(
            f"first={first} and last={last} must be at least 1, and no more together than the "
            f"{model.config.seq_len} tokens of context of {model.name}"
        )
    stream = models.Stream(first, last)
    jax.eval_shape(lambda: models.init_cache(model.config, 1, 1, stream))
    return dataclasses.replace(model, stream=stream)

"""Several models as one: mixtures, contrastive decoding, and streams without an end.

What comes back is a `Model`: everything that samples, searches or serves takes it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import models
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.infer.model import Model, load


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
        """Logits [..., V] from the expert's and the amateur's."""
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
        """Logits [..., V] from the members'."""
        log_w = jnp.log(jnp.asarray(self.weights) / sum(self.weights))
        each = [jax.nn.log_softmax(one) + log for one, log in zip(logits, log_w, strict=True)]
        return jax.nn.logsumexp(jnp.stack(each), axis=0)


def _mixture(asked: "MembersConfig") -> Mixture:
    return Mixture(asked.weights or (1.0,) * (1 + len(asked.folders)))


def _contrast(asked: "MembersConfig") -> Contrast:
    if len(asked.folders) != 1:
        raise UserError(
            f"members.combine=contrast takes one amateur, and members.folders names "
            f"{len(asked.folders)}; give one folder"
        )
    return Contrast(asked.alpha, asked.amateur_temperature)


COMBINATIONS: dict[str, Callable[["MembersConfig"], Any]] = {
    "mixture": _mixture,
    "contrast": _contrast,
}


@dataclasses.dataclass(frozen=True)
class MembersConfig:
    """Further models that choose every token together with the first."""

    folders: tuple[str, ...] = setting((), "folders of further models of the same vocabulary")
    combine: str = setting(
        "mixture",
        "mixture: probabilities averaged; contrast: the first model's over those of one amateur "
        "(Li et al. 2022)",
        choices=COMBINATIONS,
    )
    weights: tuple[float, ...] = setting(
        (), "mixture: one for each model, the first model's first; empty: equal", above=0.0
    )
    alpha: float = setting(
        0.1,
        "contrast: tokens are possible that have this share of the likeliest's probability",
        above=0.0,
        maximum=1.0,
    )
    amateur_temperature: float = setting(1.0, "contrast: divides the amateur's logits", above=0.0)


def with_members(model: Model, asked: MembersConfig) -> Model:
    """The model, or one model of it and the members that a config names.

    Raises:
      UserError: as `joined` and `load`, and for contrast with more than one amateur.
    """
    if not asked.folders:
        return model
    combine = COMBINATIONS[asked.combine](asked)
    return joined([model, *map(load, asked.folders)], combine)


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

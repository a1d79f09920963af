"""Dropout in a decoder: its settings, and the places where numbers are dropped."""

import dataclasses

import jax

from gptjax import ops
from gptjax.fields import setting

# Numbers that separate the masks of one seed, and from those in `ops.masked_attention`.
EMBEDDING, MIXER, FEED_FORWARD = (1 << 31) - 1, 1, 2


@dataclasses.dataclass(frozen=True)
class DropoutConfig:
    """Dropout in training (Srivastava et al., 2014), at the places of GPT-2."""

    embedding: float = setting(
        0.0,
        "share of the first block's input that is zero in training (nanoGPT on small texts: 0.2)",
        minimum=0.0,
        below=1.0,
    )
    attention: float = setting(
        0.0, "share of the weights of attention that is zero in training", minimum=0.0, below=1.0
    )
    residual: float = setting(
        0.0,
        "share of what a sublayer adds to the residual stream that is zero in training",
        minimum=0.0,
        below=1.0,
    )

    @property
    def is_on(self) -> bool:
        """Whether anything is dropped."""
        return any(dataclasses.astuple(self))


def dropped(x: jax.Array, seeds_B: jax.Array | None, rate: float, place: int) -> jax.Array:
    """`ops.dropout` where there is a rate, and training gives seeds."""
    if not rate or seeds_B is None:
        return x
    return ops.dropout(x, seeds_B, rate=rate, place=place)

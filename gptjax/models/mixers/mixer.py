"""A mixer as one value: the module that mixes tokens, its size, its costs and its checks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from gptjax.models.mixers.cache import Decoding, Kept


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenInfo:
    """Facts about the tokens that a layer gets besides the residual stream.

    Attributes:
      segment_ids_BT: document numbers; a token attends only within its own document. None: one
        document.
      positions_BT: the place of each token in its sequence, for caches, packed and padded batches.
        None: 0…T−1, in the order of the layout (`ops.in_order`).
      decoding: where layers have caches, how full they are. None: there are none.
      length: tokens of the text, for rotary scalings that depend on it. None: those of the input.
      seeds_B: uint32, of the dropout of attention's weights in training. None: none is dropped.
    """

    segment_ids_BT: jax.Array | None = None
    positions_BT: jax.Array | None = None
    decoding: Decoding | None = None
    length: int | None = dataclasses.field(default=None, metadata={"static": True})
    seeds_B: jax.Array | None = None


def _no_check(config: Any) -> None:
    """A mixer that fits every config."""


@dataclasses.dataclass(frozen=True)
class Mixer:
    """One element of `ModelConfig.layer_pattern`; every function takes the model's config first.

    Attributes:
      module: linen module with the fields `config` and `kind`, called with (x_BTD, TokenInfo).
      params: its parameters.
      flops: matmul FLOPs of one token's forward pass.
      cache_bytes: (config, context) → bytes that a decoder keeps of so many tokens to go on.
      held: (config, segmented) → numbers that training holds of one token besides those of every
        layer, estimated from above; `segmented`: attention stays within documents.
      check: raises UserError where other settings do not fit.
      cache: (config, tokens) → the arrays by which it goes on after any number of them up to
        `tokens`, by name. None: it cannot go on, and decoding is refused.
      rewinds: whether a cache goes on from an earlier token once it is told to: what later ones
        wrote is at their own slots and is not seen.
      name: of its parameters in a block. Mixers with the same parameters share it, and their
        layers are stacked.
      windowed: whether it needs `model.window`.
      attends: whether it has queries and keys, and so an attention kernel.
      shares_kernels: whether that kernel is one of `kernels.KERNELS`, not its own.
      only_sequential: whether it needs model.block=sequential and model.norm_place=pre.
      latent: the mixer in its place where model.mixer.latent asks for latent keys and values.
    """

    module: Any
    params: Callable[[Any], int]
    flops: Callable[[Any], float]
    cache_bytes: Callable[[Any, int], int]
    held: Callable[[Any, bool], float]
    check: Callable[[Any], None] = _no_check
    cache: Callable[[Any, int], dict[str, Kept]] | None = None
    rewinds: bool = True
    name: str = "attention"
    windowed: bool = False
    attends: bool = True
    shares_kernels: bool = False
    only_sequential: bool = False
    latent: "Mixer | None" = None


MIXERS: dict[str, Mixer] = {}
"""The choices of `ModelConfig.layer_pattern`."""

ENCODERS: dict[str, Mixer] = {}
"""Mixers of encoders, which see later tokens: no elements of a decoder's layer pattern."""


def register(kind: str, mixer: Mixer) -> None:
    """Make `kind` an element that a layer pattern may have."""
    assert kind not in MIXERS and kind not in ENCODERS, f"there is a mixer {kind} already"
    MIXERS[kind] = mixer


def mixer_named(kind: str) -> Mixer:
    """The mixer that is registered under that name."""
    return MIXERS[kind] if kind in MIXERS else ENCODERS[kind]


def mixer_of(config: Any, kind: str) -> Mixer:
    """The mixer of `kind` in a model with this config."""
    mixer = mixer_named(kind)
    return mixer.latent if config.mixer.latent.kv_rank and mixer.latent else mixer

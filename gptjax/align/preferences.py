"""Preference learning without a reward model: DPO and its kin, against kept reference scores."""

import dataclasses
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gptjax.align.encoding import Encoded, Item
from gptjax.align.feeds import ExampleFeed, batch_of
from gptjax.align.logprobs import objective, score, sequence_logprobs
from gptjax.align.packing import Rows, one_by_one
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import write_atomic
from gptjax.ops import preference_losses as losses
from gptjax.train import Batch, Objective, RunSpec
from gptjax.train.loop import params_digest

if TYPE_CHECKING:
    from gptjax.align.methods import Start

WIDTH = 16
"""Rows of pairs are as wide as the longest answer, upwards to a multiple of it."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of answers.

    Attributes:
      chosen, rejected: the preferred answers and the others, the answer alone scored.
      reference_B2: log π_ref of both, summed over tokens.
    """

    chosen: Batch
    rejected: Batch
    reference_B2: Array


@dataclasses.dataclass(frozen=True)
class PairLoss:
    """One choice of `finetune.dpo.loss`.

    Attributes:
      loss: (Δ, settings) → loss of each pair.
      by_token: whether log-ratios are means over an answer's tokens, not sums.
      smooths: whether it reads `smoothing`.
    """

    loss: Callable[[Array, "DpoConfig"], Array]
    by_token: bool = False
    smooths: bool = False


LOSSES: dict[str, PairLoss] = {
    "sigmoid": PairLoss(lambda d, s: losses.dpo_sigmoid(d, s.beta, s.smoothing), smooths=True),
    "robust": PairLoss(lambda d, s: losses.dpo_robust(d, s.beta, s.smoothing), smooths=True),
    "hinge": PairLoss(lambda d, s: losses.dpo_hinge(d, s.beta)),
    "ipo": PairLoss(lambda d, s: losses.ipo(d, s.beta), by_token=True),
}


@dataclasses.dataclass(frozen=True)
class DpoConfig:
    """Direct preference optimisation."""

    loss: str = setting(
        "sigmoid", "dpo: the loss of a pair; robust: without bias under flips", choices=LOSSES
    )
    beta: float = setting(0.1, "dpo: weight of the distance from the reference", above=0.0)
    smoothing: float = setting(
        0.0, "dpo, sigmoid and robust: share of wrong preferences", minimum=0.0, below=0.5
    )


def preference(spec: RunSpec, settings: DpoConfig) -> Objective:
    """L(Δ), Δ = [log π/π_ref](chosen) − [log π/π_ref](rejected); β multiplies Δ once, in L.

    Reported: the loss, the share of pairs with Δ > 0, and the implicit rewards β·log π/π_ref.
    """
    kind = LOSSES[settings.loss]

    def terms(params: Any, batch: Pairs, seeds_B: Array | None) -> tuple:
        both = jax.tree.map(lambda *x: jnp.concatenate(x), batch.chosen, batch.rejected)
        seeds = None if seeds_B is None else jnp.concatenate([seeds_B, seeds_B])
        found = score(spec, params, both, seeds)
        tokens_B2 = _in_pairs(jnp.sum(both.weights_BT, axis=-1))
        ratio_B2 = _in_pairs(jnp.sum(found.logprobs_BT, axis=-1)) - batch.reference_B2
        counted_B2 = ratio_B2 / jnp.maximum(tokens_B2, 1.0) if kind.by_token else ratio_B2
        loss_B = kind.loss(counted_B2[:, 0] - counted_B2[:, 1], settings)
        right_B = (ratio_B2[:, 0] > ratio_B2[:, 1]).astype(jnp.float32)
        sums = {
            "align/accuracy": jnp.sum(right_B),
            "align/reward_chosen": settings.beta * jnp.sum(ratio_B2[:, 0]),
            "align/reward_rejected": settings.beta * jnp.sum(ratio_B2[:, 1]),
        }
        return jnp.sum(loss_B), sums, found.routed

    names = ("align/accuracy", "align/reward_chosen", "align/reward_rejected")
    return objective(spec, terms, names, count_pairs)


def count_pairs(batch: Any) -> Array:
    """How many pairs a batch has."""
    return jnp.float32(batch.chosen.inputs_BT.shape[0])


def _in_pairs(x_B: Array) -> Array:
    """[chosen, then rejected] as [B, 2]."""
    return x_B.reshape(2, -1).T


def pair_rows(texts: Sequence[tuple[Encoded, ...]], most: int) -> tuple[Rows, Rows]:
    """The rows of the preferred answers and of the others, of one width."""
    longest = max(len(text.ids) for pair in texts for text in pair) - 1
    T = min(-(-longest // WIDTH) * WIDTH, most)
    chosen, rejected = (one_by_one(side, T) for side in zip(*texts, strict=True))
    return chosen, rejected


def pair_feed(start: "Start", items: Sequence[Item]) -> ExampleFeed:
    """Pairs with what the model that is started from says of them, computed once and kept."""
    chosen, rejected = pair_rows([item.texts for item in items], start.room)
    reference = np.stack([_reference(start, rows) for rows in (chosen, rejected)], axis=-1)
    return ExampleFeed((chosen, rejected, reference), _pairs_of)


def _pairs_of(rows: tuple[Rows, Rows, Array]) -> Pairs:
    return Pairs(batch_of(rows[0]), batch_of(rows[1]), jnp.asarray(rows[2]))


def _reference(start: "Start", rows: Rows) -> np.ndarray:
    """Σ log π_ref of each row, from the workdir where an earlier start put it."""
    hasher = hashlib.sha256(params_digest(start.params).encode())
    for leaf in jax.tree.leaves(rows):
        hasher.update(np.ascontiguousarray(leaf).tobytes())
    path = start.folder / "reference" / f"{hasher.hexdigest()[:32]}.npy"
    if path.exists():
        return _kept(path, rows.inputs_NT.shape[0])
    found = sequence_logprobs(start.spec, start.params, ExampleFeed(rows, batch_of))
    content = io.BytesIO()
    np.save(content, found)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content.getvalue())
    return found


def _kept(path: Path, count: int) -> np.ndarray:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged; delete it, and it is computed again") from error
    if found.shape != (count,):
        raise UserError(f"{path} holds other examples; delete it, and it is computed again")
    return found

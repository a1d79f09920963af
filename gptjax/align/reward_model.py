"""Reward model: a decoder with a scalar head, trained on which of two answers is preferred."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gptjax import convert, models
from gptjax.align.encoding import Encoded, Item
from gptjax.align.examples import Example
from gptjax.align.feeds import ExampleFeed, batch_of
from gptjax.align.logprobs import BATCH, objective
from gptjax.align.packing import one_by_one
from gptjax.align.preferences import count_pairs, pair_rows
from gptjax.convert import own_folder, tensor_files
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import user_path
from gptjax.ops import preference_losses as losses
from gptjax.train import Batch, Objective, RunSpec

if TYPE_CHECKING:
    from gptjax.align.methods import Start

HEAD = "reward_head"
"""Where the head's vector is, beside the decoder's parameters."""
BINS = 10


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScoredPairs:
    """Pairs of texts, each with its last token scored, and by how much the first is better."""

    chosen: Batch
    rejected: Batch
    margin_B: Array


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """Reward model."""

    margin: bool = setting(
        False, "reward: the field `margin` of a line says by how much its answer is better"
    )
    center: float = setting(
        0.0, "reward: weight of (r(chosen) + r(rejected))², which centres rewards", minimum=0.0
    )


def rewards(spec: RunSpec, params: Any, batch: Batch, seeds_B: Array | None = None) -> tuple:
    """(r_B = w·x at each text's scored token, float32; the routers' statistics)."""
    batch = batch.in_order()
    (x_BTD, _), routed = models.forward(
        spec.model if seeds_B is not None else spec.model.at_rest,
        params,
        batch.inputs_BT,
        seeds_B=seeds_B,
        features=True,
    )
    r_BT = jnp.einsum("BTD,D->BT", x_BTD.astype(jnp.float32), params[HEAD].astype(jnp.float32))
    return jnp.sum(r_BT * batch.weights_BT, axis=-1), routed


def ranking(spec: RunSpec, settings: RewardConfig) -> Objective:
    """−log σ(r(chosen) − r(rejected) − margin) + c·(r(chosen) + r(rejected))², a mean of pairs.

    Reported: the share of pairs ranked right, the mean difference, and the Brier score (1 − p)² of
    p = σ(difference).
    """

    def terms(params: Any, batch: ScoredPairs, seeds_B: Array | None) -> tuple:
        both = jax.tree.map(lambda *x: jnp.concatenate(x), batch.chosen, batch.rejected)
        seeds = None if seeds_B is None else jnp.concatenate([seeds_B, seeds_B])
        r_B, routed = rewards(spec, params, both, seeds)
        better_B, worse_B = r_B.reshape(2, -1)
        loss_B = losses.ranking(better_B, worse_B, batch.margin_B)
        loss_B = loss_B + settings.center * jnp.square(better_B + worse_B)
        sums = {
            "align/accuracy": jnp.sum((better_B > worse_B).astype(jnp.float32)),
            "align/margin": jnp.sum(better_B - worse_B),
            "align/brier": jnp.sum(jnp.square(jax.nn.sigmoid(worse_B - better_B))),
        }
        return jnp.sum(loss_B), sums, routed

    return objective(spec, terms, ("align/accuracy", "align/margin", "align/brier"), count_pairs)


def with_head(params: Any, width: int, key: Array) -> Any:
    """The parameters with a head drawn from N(0, 1/(D + 1)) (Stiennon et al. 2020, appendix)."""
    return {**params, HEAD: np.asarray(jax.random.normal(key, (width,)) / np.sqrt(width + 1))}


def last_scored(text: Encoded) -> Encoded:
    """The text with its last token as an input, and nothing but that place scored."""
    ids = np.append(text.ids, text.ids[-1])
    return Encoded(ids, np.arange(len(ids)) == len(ids) - 1)


def scored_pair_feed(start: "Start", items: Sequence[Item]) -> ExampleFeed:
    """Pairs of whole texts, each scored at its last token."""
    pairs = [tuple(map(last_scored, item.texts)) for item in items]
    chosen, rejected = pair_rows(pairs, start.room)
    wanted = start.settings.reward.margin
    margins = [_margin(item.example) if wanted else 0.0 for item in items]
    return ExampleFeed(
        (chosen, rejected, np.array(margins, np.float32)),
        lambda rows: ScoredPairs(batch_of(rows[0]), batch_of(rows[1]), jnp.asarray(rows[2])),
    )


def _margin(example: Example) -> float:
    value = example.said.get("margin")
    if not isinstance(value, int | float) or not np.isfinite(value):
        raise UserError(
            f"{example.place} has margin={value!r}, and finetune.reward.margin=True needs a number "
            "there; add it, or set finetune.reward.margin=false"
        )
    return float(value)


@dataclasses.dataclass(frozen=True)
class RewardModel:
    """A reward model of a folder: texts to numbers."""

    spec: RunSpec
    params: Any

    def __call__(self, texts: Sequence[Encoded]) -> np.ndarray:
        """r of each text, float32."""
        T = max(len(text.ids) for text in texts)
        rows = one_by_one([last_scored(text) for text in texts], -(-T // 16) * 16)
        feed = ExampleFeed(rows, batch_of)
        return of_rows(self.spec, self.params, feed)


def of_rows(spec: RunSpec, params: Any, feed: ExampleFeed) -> np.ndarray:
    """r of each example of a feed, float32."""
    parts = [_of_batch(spec, feed.make, params, rows) for rows in feed.parts(BATCH)]
    return np.concatenate([np.asarray(part) for part in parts])


@functools.partial(jax.jit, static_argnames=("spec", "make"))
def _of_batch(spec: RunSpec, make: Callable[[Any], Batch], params: Any, rows: Any) -> Array:
    return rewards(spec, params, make(rows))[0]  # type: ignore[no-any-return]


def load(folder: str | Path) -> tuple[convert.Model, Any]:
    """The model of a folder, and its parameters with the head.

    Raises:
      UserError: where the folder's model has no head.
    """
    model, place = convert.load(folder), user_path(folder)
    inside = place / own_folder.MODEL
    stored = tensor_files.open_folder(inside if own_folder.has_params(inside) else place)
    if HEAD not in stored:
        raise UserError(
            f"{folder} has no {HEAD}, so it scores no texts; train one with finetune.method=reward"
        )
    return model, {**model.params, HEAD: np.asarray(stored[HEAD].read(), np.float32)}


def calibration(differences_N: np.ndarray, bins: int = BINS) -> dict[str, Any]:
    """How sure the model is of the answer that it ranks first, beside how often it is right.

    With p = σ(|Δ|) in [.5, 1] in bins of equal width: the expected calibration error
    Σ_k n_k/N·|mean p − share right| (Guo et al. 2017, equation 3), and each bin's numbers.

    >>> calibration(np.array([100.0, 100.0, 100.0, -100.0]))["calibration_error"]
    0.25
    """
    p_N = 1.0 / (1.0 + np.exp(-np.abs(np.asarray(differences_N, np.float64))))
    right_N = np.asarray(differences_N) > 0
    place_N = np.minimum(((p_N - 0.5) * 2 * bins).astype(int), bins - 1)
    rows = [
        {
            "pairs": int(here.sum()),
            "confidence": float(p_N[here].mean()),
            "accuracy": float(right_N[here].mean()),
        }
        for here in (place_N == k for k in range(bins))
        if here.any()
    ]
    error = sum(row["pairs"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / len(p_N)
    return {"calibration_error": float(error), "reliability": rows}

"""Policy optimisation: PPO and GRPO as one clipped objective over answers that the policy gave."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gptjax.align.logprobs import objective, score
from gptjax.align.rewards import REWARDS
from gptjax.fields import setting
from gptjax.ops import policy_losses as ops
from gptjax.train import Batch, Objective, RunSpec

VALUE = "value_head"
"""Where the value function's vector is, beside the decoder's parameters."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rollouts:
    """Answers to learn from.

    Attributes:
      batch: prompts with answers, of which the answers' tokens are scored.
      old_BT, reference_BT: log-probabilities of the policy that gave them, and of the reference.
      advantages_BT: of each token.
      values_BT, returns_BT: V and what it is fitted to; zeros where there is no value function.
    """

    batch: Batch
    old_BT: Array
    reference_BT: Array
    advantages_BT: Array
    values_BT: Array
    returns_BT: Array


@dataclasses.dataclass(frozen=True)
class Aggregate:
    """How the losses of tokens become one number: Σ weights·loss / Σ count.

    Attributes:
      weights: mask_BT → weight of each token's loss.
      count: mask_BT → what their sum is divided by.
      shown: mask_BT → weights of metrics, so that they are means over tokens that are there.
    """

    weights: Callable[[Array], Array]
    count: Callable[[Array], Array]
    shown: Callable[[Array], Array]


def _by_answer(mask_BT: Array) -> Array:
    return mask_BT / jnp.maximum(jnp.sum(mask_BT, axis=1, keepdims=True), 1.0)


def _width(mask_BT: Array) -> Array:
    return jnp.float32(mask_BT.shape[1])


AGGREGATES = {
    "answer": Aggregate(_by_answer, lambda mask: jnp.float32(mask.shape[0]), _by_answer),
    "token": Aggregate(lambda mask: mask, jnp.sum, lambda mask: mask),
    "constant": Aggregate(
        lambda mask: mask,
        lambda mask: jnp.float32(mask.size),
        lambda mask: _by_answer(mask) * _width(mask),
    ),
}
"""answer: the mean of answers' means (GRPO); token: the mean of tokens (PPO, DAPO); constant: over
the length of a row, whatever an answer's is (Dr. GRPO)."""


ESTIMATORS = {"grpo": ("k3", "k2"), "ppo": ("k1",)}
"""Estimators of the KL divergence that lead back to the reference where a method has it, the usual
one first (Tang and Munos 2025). In GRPO's loss the gradient of k1 is 0 in the mean; in PPO's
rewards that of k3 is ∇KL(π‖π_ref) − ∇KL(π_ref‖π) and that of k2 of second order, so that near the
reference neither pulls."""


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """How answers are given, judged and learned from."""

    method: str = setting(
        "grpo",
        "grpo: advantages within a group of answers; ppo: generalized advantages over a value head",
        choices=ESTIMATORS,
    )
    prompts: int = setting(16, "prompts of a round", minimum=1)
    group: int = setting(8, "answers to each prompt", minimum=1)
    epochs: int = setting(1, "passes over the answers of a round", minimum=1)
    max_tokens: int = setting(64, "most tokens of an answer", minimum=1)
    slots: int = setting(
        0,
        "answers made at once by continuous batching, the next when one ends; 0: all of a round in "
        "one batch",
        minimum=0,
        maximum=4096,
    )
    reward: str = setting("answer", "the program that judges an answer", choices=REWARDS)
    reward_folder: str = setting("", "folder of a reward model that judges in its place")
    constitution: str = setting(
        "",
        "text file of principles by which the model as it was at the start judges answers besides",
    )
    critique_weight: float = setting(
        1.0, "λ of r = r_base + λ r_critique, the judgement by the constitution", minimum=0.0
    )
    watch: tuple[str, ...] = setting(
        (),
        "programs whose means over the answers of each round are logged, as align/NAME, and never "
        "learned from",
        choices=REWARDS,
    )
    beta: float = setting(0.04, "weight of the KL divergence from the reference", minimum=0.0)
    kl: str = setting(
        "",
        "estimator of that divergence: k3 or k2 in grpo's loss, k1 in ppo's rewards; empty: the "
        "first of these",
        choices=("", *ops.KL_ESTIMATORS),
    )
    kl_target: float = setting(
        0.0,
        "nats an answer towards which beta is adapted (Ziegler et al. 2019); 0: beta stays",
        minimum=0.0,
    )
    kl_stop: float = setting(
        0.0, "nats an answer at which the run ends; 0: it does not", minimum=0.0
    )
    clip_low: float = setting(0.2, "ratios below 1 by more are clipped", above=0.0, below=1.0)
    clip_high: float = setting(0.2, "ratios above 1 by more are clipped", above=0.0)
    aggregate: str = setting(
        "token", "what a loss is a mean of: tokens, answers, or rows", choices=AGGREGATES
    )
    scaled: bool = setting(True, "grpo: divide by the standard deviation of a group's rewards")
    discount: float = setting(1.0, "ppo: of later rewards", above=0.0, maximum=1.0)
    gae_decay: float = setting(0.95, "ppo: λ of generalized advantages", minimum=0.0, maximum=1.0)
    value_weight: float = setting(0.5, "ppo: weight of the value function's loss", minimum=0.0)
    value_clip: float = setting(0.2, "ppo: most that a value moves in a round", above=0.0)
    eval_prompts: int = setting(64, "held-out prompts that are answered at the end", minimum=1)

    @property
    def estimator(self) -> str:
        """The name of the KL estimator."""
        return self.kl or ESTIMATORS[self.method][0]


METRICS = ("align/entropy", "align/clip_share", "align/kl_old", "align/value_loss")


def policy(spec: RunSpec, settings: PolicyConfig) -> Objective:
    """Clipped policy loss + β·KL (grpo) + c·clipped value loss (ppo).

    Reported, over the answers' tokens alone: entropy, the share of tokens whose ratio is clipped,
    k3 of KL(π_old‖π), and the value loss.
    """
    how, critic = AGGREGATES[settings.aggregate], settings.method == "ppo"
    estimate = ops.KL_ESTIMATORS[settings.estimator]

    def terms(params: Any, rollouts: Rollouts, seeds_B: Array | None) -> tuple:
        mask_BT = rollouts.batch.weights_BT
        found = score(spec, params, rollouts.batch, seeds_B)
        ratio_BT = (found.logprobs_BT - rollouts.old_BT) * mask_BT
        loss_BT, clipped_BT = ops.clipped_policy(
            ratio_BT, rollouts.advantages_BT, low=settings.clip_low, high=settings.clip_high
        )
        if critic:
            fit_BT = ops.clipped_value(
                values(params, found.x_BTD),
                rollouts.values_BT,
                rollouts.returns_BT,
                clip=settings.value_clip,
            )
            loss_BT = loss_BT + settings.value_weight * fit_BT
        else:
            fit_BT = jnp.zeros_like(loss_BT)
            away_BT = (found.logprobs_BT - rollouts.reference_BT) * mask_BT
            loss_BT = loss_BT + settings.beta * estimate(away_BT)
        moved_BT = ops.KL_ESTIMATORS["k3"](-ratio_BT)
        shown = (found.entropy_BT, clipped_BT, moved_BT, fit_BT)
        weights_BT = how.shown(mask_BT)
        sums = {name: jnp.sum(x * weights_BT) for name, x in zip(METRICS, shown, strict=True)}
        return jnp.sum(loss_BT * how.weights(mask_BT)), sums, found.routed

    return objective(spec, terms, METRICS, lambda rollouts: how.count(rollouts.batch.weights_BT))


def values(params: Any, x_BTD: Array) -> Array:
    """V_BT = w·x before each token."""
    w_D = params[VALUE].astype(jnp.float32)
    return jnp.einsum("BTD,D->BT", x_BTD.astype(jnp.float32), w_D)

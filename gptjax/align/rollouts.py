"""Rollouts: answers of the policy to a round's prompts, judged and made into rows to learn from.

Which prompts a round asks and what is drawn are functions of seed and round, so that a resume gives
the same answers.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gptjax import data, infer, models
from gptjax.align import rewards
from gptjax.align.encoding import Encoded
from gptjax.align.feeds import batch_of
from gptjax.align.logprobs import score
from gptjax.align.packing import Rows, one_by_one
from gptjax.align.policy import VALUE, PolicyConfig, Rollouts, values
from gptjax.align.rewards import Asked
from gptjax.ops import policy_losses as ops
from gptjax.train import RunSpec

Params = Any
PIECE, STEPS = 64, 8
"""Of the batcher: prompt tokens that are read in one pass, and tokens between two looks."""
HEADS = (VALUE, "reward_head")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt, its ids, and its line."""

    ids: tuple[int, ...]
    said: Any
    place: str


@dataclasses.dataclass(frozen=True)
class Answers:
    """Answers to prompts, `group` for each in turn.

    Attributes:
      rows: prompts with answers, the answers' tokens scored.
      asked: what a reward sees of each.
      texts: prompts with answers as ids, for a reward model.
    """

    rows: Rows
    asked: tuple[Asked, ...]
    texts: tuple[Encoded, ...]


Judge = Callable[[Answers], np.ndarray]
"""Answers → the reward of each, float32."""


@dataclasses.dataclass(frozen=True)
class Sampler:
    """What answers prompts.

    Attributes:
      model: with the tokenizer and the name of the policy; its parameters are not read.
      max_tokens: most tokens of an answer.
      stop_ids: tokens that end an answer besides the end of a document.
      width: tokens of a row.
      slots: of a continuous batcher; 0: all answers are one batch.
    """

    model: infer.Model
    max_tokens: int
    stop_ids: tuple[int, ...]
    width: int
    slots: int = 0

    def __call__(
        self, params: Params, prompts: Sequence[Prompt], group: int, key: Array
    ) -> Answers:
        """`group` answers to each prompt at temperature 1."""
        policy = dataclasses.replace(self.model, params=by_layer(self.model.config, params))
        asked = [prompt for prompt in prompts for _ in range(group)]
        sampling = infer.Sampling(max_tokens=self.max_tokens, stop_ids=self.stop_ids)
        answers = self._answers(policy, [prompt.ids for prompt in asked], sampling, key)
        pairs = list(zip(asked, answers, strict=True))
        texts = [_text(prompt, answer) for prompt, answer in pairs]
        judged = tuple(
            Asked(prompt.said, answer.text, answer.finish == "stop", prompt.place)
            for prompt, answer in pairs
        )
        return Answers(one_by_one(texts, self.width), judged, tuple(texts))

    def _answers(
        self, policy: infer.Model, prompts: list[Any], sampling: infer.Sampling, key: Array
    ) -> list[infer.Answer]:
        """In one batch, or in slots; an answer's key is that of its number in both."""
        if not self.slots:
            return infer.generate(policy, prompts, sampling, key)
        length = min(self.width, policy.context or self.width)
        limits = infer.Limits(
            slots=self.slots, length=length, waiting=0, piece=PIECE, logprobs=0, steps=STEPS
        )
        return infer.Batcher(policy, limits, key).answers(prompts, sampling)


def _text(prompt: Prompt, answer: infer.Answer) -> Encoded:
    ids = np.array([*prompt.ids, *answer.tokens], np.int32)
    return Encoded(ids, np.arange(len(ids)) >= len(prompt.ids))


@functools.partial(jax.jit, static_argnames="config")
def _by_layer(config: models.ModelConfig, params: Params) -> Params:
    return models.unstacked(config, params)


def by_layer(config: models.ModelConfig, params: Params) -> Params:
    """The decoder's parameters as generation takes them."""
    return _by_layer(config, {name: x for name, x in params.items() if name not in HEADS})


def round_prompts(prompts: Sequence[Prompt], seed: int, number: int, count: int) -> list[Prompt]:
    """The prompts of a round: every one once before any comes again."""
    return [prompts[i] for i in data.windows_numpy(seed, number, count, len(prompts))]


def round_key(seed: int, number: int) -> Array:
    """The key of all that a round draws."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0xA11), number)


def program(reward: Callable[[Asked], float]) -> Judge:
    """A judge that is a function of each answer."""
    return lambda answers: rewards.judged(reward, answers.asked)


@dataclasses.dataclass(frozen=True)
class Learned:
    """A round's rows, and numbers that describe it."""

    rollouts: Rollouts
    metrics: dict[str, float]


def learnable(
    spec: RunSpec,
    settings: PolicyConfig,
    params: Params,
    reference: Params,
    answers: Answers,
    rewards_N: np.ndarray,
    beta: float,
) -> Learned:
    """Answers with the log-probabilities, advantages and returns that the objective reads.

    GRPO: the advantage of an answer within its group, at all of its tokens. PPO: generalized
    advantages, whitened, of rewards that are −β·KL at each token and the answer's at its last.
    """
    old, ref, value = _all_scored(spec, params, reference, answers.rows)
    mask = answers.rows.scored_NT.astype(np.float32)
    make = _ppo if settings.method == "ppo" else _grpo
    advantages, returns = make(settings, old - ref, value, mask, rewards_N, beta)
    by_token = (old, ref, advantages, value * mask, returns)
    numbers: list[Any] = [np.asarray(x, np.float32) for x in by_token]
    rollouts = Rollouts(
        jax.tree.map(np.asarray, batch_of(answers.rows)),
        *numbers,
    )
    return Learned(rollouts, described(answers, rewards_N, old - ref, beta))


def described(
    answers: Answers, rewards_N: np.ndarray, away_NT: np.ndarray, beta: float = 0.0
) -> dict[str, float]:
    """Means over answers; the KL is k1, summed over an answer's tokens."""
    lengths_N = answers.rows.scored_NT.sum(axis=1)
    found = {
        "align/reward": rewards_N.mean(),
        "align/reward_spread": rewards_N.std(),
        "align/kl_answer": away_NT.sum(axis=1).mean(),
        "align/answer_tokens": lengths_N.mean(),
        "align/ended_share": np.mean([one.ended for one in answers.asked]),
        "align/beta": beta,
    }
    return {name: float(x) for name, x in found.items()}


def log_ratios(spec: RunSpec, params: Params, reference: Params, rows: Rows) -> np.ndarray:
    """log π − log π_ref of each token of answers, 0 elsewhere."""
    mine, theirs, _ = _all_scored(spec, params, reference, rows)
    return np.asarray(mine - theirs)


def _all_scored(spec: RunSpec, params: Params, reference: Params, rows: Rows) -> list[np.ndarray]:
    parts = [
        jax.device_get(_scored(spec, params, reference, part))
        for part in _parts(rows, spec.batch_size)
    ]
    return [np.concatenate([part[i] for part in parts]) for i in range(3)]


def _parts(rows: Rows, size: int) -> list[Rows]:
    count = rows.inputs_NT.shape[0]
    return [jax.tree.map(lambda x: x[i : i + size], rows) for i in range(0, count, size)]  # noqa: B023


@functools.partial(jax.jit, static_argnames="spec")
def _scored(spec: RunSpec, params: Params, reference: Params, rows: Rows) -> tuple:
    """(log π, log π_ref, V before each token), zero outside of answers but for V."""
    batch = batch_of(rows)
    mine, theirs = (score(spec, which, batch) for which in (params, reference))
    value_BT = values(params, mine.x_BTD) if VALUE in params else jnp.zeros(batch.weights_BT.shape)
    return mine.logprobs_BT, theirs.logprobs_BT, value_BT


def _grpo(
    settings: PolicyConfig,
    away: np.ndarray,
    value: np.ndarray,
    mask: np.ndarray,
    rewards_N: np.ndarray,
    beta: float,
) -> tuple[np.ndarray, np.ndarray]:
    grouped_GK = jnp.asarray(rewards_N).reshape(-1, settings.group)
    advantage_N = np.asarray(ops.group_advantages(grouped_GK, scaled=settings.scaled)).reshape(-1)
    return advantage_N[:, None] * mask, np.zeros_like(mask)


def _ppo(
    settings: PolicyConfig,
    away: np.ndarray,
    value: np.ndarray,
    mask: np.ndarray,
    rewards_N: np.ndarray,
    beta: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Rewards less β·KL at each token, their generalized advantages, and returns A + V."""
    last = mask * (np.cumsum(mask[:, ::-1], axis=1)[:, ::-1] == 1)
    penalty = np.asarray(ops.KL_ESTIMATORS[settings.estimator](jnp.asarray(away)))
    rewards_NT = (rewards_N[:, None] * last - beta * penalty) * mask
    given = (jnp.asarray(x, jnp.float32) for x in (rewards_NT, value, mask))
    advantages = ops.generalized_advantages(
        *given, discount=settings.discount, decay=settings.gae_decay
    )
    returns = np.asarray(advantages) + value * mask
    return np.asarray(ops.whitened(advantages, jnp.asarray(mask))), returns

"""Loop of policy optimisation: answer, judge, learn, round after round, with exact resumes.

Generation and training take turns on one device. A checkpoint lies between rounds; the state's step
says which round comes next.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import data
from gptjax.align.policy import ESTIMATORS, VALUE, PolicyConfig, policy
from gptjax.align.rollouts import (
    Answers,
    Judge,
    Prompt,
    Sampler,
    learnable,
    round_key,
    round_prompts,
)
from gptjax.errors import UserError
from gptjax.train import Checkpointer, Interrupted, RunSpec, TrainState, make_hyper, make_train_step
from gptjax.train.state import state_of

Params = Any
BETA = "kl_beta"


@dataclasses.dataclass(frozen=True)
class Course:
    """A run of policy optimisation.

    Attributes:
      spec: batch size, number of updates, optimizer and seed.
      settings: of `align`.
      params: host arrays that policy and reference are at the start.
      sampler, judge: what answers, and what rewards.
      prompts: to be answered.
      identity: of everything that decides the result.
      watched: judges by name, whose means are reported and not learned from.
    """

    spec: RunSpec
    settings: PolicyConfig
    params: Params
    sampler: Sampler
    judge: Judge
    prompts: Sequence[Prompt]
    identity: str
    watched: Mapping[str, Judge] = dataclasses.field(default_factory=dict)

    @property
    def answers(self) -> int:
        """Of one round."""
        return self.settings.prompts * self.settings.group

    @property
    def updates(self) -> int:
        """Of one round."""
        return self.settings.epochs * self.answers // self.spec.batch_size

    @property
    def rounds(self) -> int:
        """Of the run."""
        return self.spec.steps // self.updates


@dataclasses.dataclass(frozen=True)
class Hooks:
    """Callbacks: after each round (step, numbers of its updates, numbers of the round), whether to
    stop, and whether to save."""

    metrics: Callable[[int, dict[str, np.ndarray], dict[str, float]], None] = (
        lambda step, each, whole: None
    )
    stop: Callable[[], bool] = lambda: False
    save: Callable[[], bool] = lambda: False


def check(spec: RunSpec, settings: PolicyConfig) -> None:
    """Refuse rounds that are no whole number of updates, groups of one, and a KL without pull.

    Raises:
      UserError: naming the settings.
    """
    answers = settings.prompts * settings.group
    if settings.epochs * answers % spec.batch_size:
        raise UserError(
            f"align.prompts × align.group × align.epochs = {settings.epochs * answers} answers are "
            f"no whole number of batches of train.batch_size={spec.batch_size}; change one of them"
        )
    if spec.steps % (settings.epochs * answers // spec.batch_size):
        each = settings.epochs * answers // spec.batch_size
        raise UserError(
            f"train.steps={spec.steps} is no whole number of rounds of {each} updates; give a "
            f"multiple of {each}"
        )
    if settings.method == "grpo" and settings.group < 2:
        raise UserError(
            f"align.group={settings.group} has no other answers to compare with; give 2 or more, "
            "or align.method=ppo"
        )
    if settings.estimator not in ESTIMATORS[settings.method]:
        raise UserError(
            f"align.kl={settings.kl} does not lead back to the reference in align.method="
            f"{settings.method}; use {' or '.join(ESTIMATORS[settings.method])}"
        )


def start(course: Course) -> TrainState:
    """The state before the first round; with a value head of zeros where there is a critic."""
    params = jax.tree.map(jnp.array, course.params)
    if course.settings.method == "ppo":
        params = {**params, VALUE: jnp.zeros(course.spec.model.width)}
    state = state_of(course.spec, params)
    return dataclasses.replace(
        state, extra={**state.extra, BETA: jnp.float32(course.settings.beta)}
    )


def train(course: Course, folder: Path, hooks: Hooks = Hooks()) -> Params:
    """The policy after all rounds, from the last checkpoint under `folder` if there is one.

    Raises:
      Interrupted: after `hooks.stop` said so; the state is saved.
    """
    kept = Checkpointer(folder / "checkpoints", course.identity, keep_last=1, keep_best=False)
    step = _step_of(course.spec, course.settings)
    reference = jax.tree.map(jnp.asarray, course.params)
    state = start(course)
    state = kept.restore(state) or state
    try:
        while int(state.step) < course.spec.steps:
            if hooks.stop():
                kept.save(state, wait=True)
                raise Interrupted(f"stopped after step {int(state.step)} of {course.spec.steps}")
            state, each, whole = _round(course, step, state, reference)
            hooks.metrics(int(state.step), each, whole)
            if _too_far(course.settings, whole):
                break
            if hooks.save():
                kept.save(state)
    finally:
        kept.close()
    return state.params


@functools.lru_cache(maxsize=8)
def _step_of(spec: RunSpec, settings: PolicyConfig) -> Callable:
    return jax.jit(make_train_step(spec, policy(spec, settings)), donate_argnums=0)


def _too_far(settings: PolicyConfig, whole: dict[str, float]) -> bool:
    return 0.0 < settings.kl_stop <= whole["align/kl_answer"]


def _round(
    course: Course, step: Callable, state: TrainState, reference: Params
) -> tuple[TrainState, dict[str, np.ndarray], dict[str, float]]:
    """Answers to a round's prompts, and the updates on them."""
    spec, settings = course.spec, course.settings
    first, beta = int(state.step), float(state.extra[BETA])
    number = first // course.updates
    asked = round_prompts(course.prompts, spec.seed, number, settings.prompts)
    key = round_key(spec.seed, number)
    answers: Answers = course.sampler(state.params, asked, settings.group, key)
    found = course.judge(answers)
    learned = learnable(spec, settings, state.params, reference, answers, found, beta)
    for name, judge in course.watched.items():
        learned.metrics[f"align/{name}"] = float(judge(answers).mean())
    if _too_far(settings, learned.metrics):
        return dataclasses.replace(state, step=jnp.int32(spec.steps)), {}, learned.metrics
    each = []
    for update in range(first, first + course.updates):
        which = data.windows_numpy(spec.seed, update, spec.batch_size, course.answers)
        batch = jax.tree.map(lambda x: jnp.asarray(x[which]), learned.rollouts)  # noqa: B023
        state, metrics = step(state, batch, make_hyper(spec))
        each.append({"train/loss": metrics.loss, **metrics.extra})
    state = _adapted(settings, state, learned.metrics["align/kl_answer"])
    numbers = {name: np.array([float(one[name]) for one in each]) for name in each[0]}
    return state, numbers, learned.metrics


def _adapted(settings: PolicyConfig, state: TrainState, kl: float) -> TrainState:
    """β·(1 + .1·clip(KL/target − 1, ±.2)) (Ziegler et al. 2019, section 2.2)."""
    if not settings.kl_target:
        return state
    error = np.clip(kl / settings.kl_target - 1.0, -0.2, 0.2)
    beta = state.extra[BETA] * jnp.float32(1.0 + 0.1 * error)
    return dataclasses.replace(state, extra={**state.extra, BETA: beta})

"""Training loop of one run: compiled calls, checkpoints, evaluations, and the result."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gptjax.errors import UserError
from gptjax.files import read_json, write_json
from gptjax.optim import eval_params, skipped_steps
from gptjax.parallel import processes
from gptjax.train import loss_spikes
from gptjax.train.checkpoint import Checkpointer
from gptjax.train.clock import Clock
from gptjax.train.config import RunSpec
from gptjax.train.evaluate import Evaluation
from gptjax.train.interrupt import Interrupted
from gptjax.train.loss_spikes import Rollback, Spiked
from gptjax.train.session import Session
from gptjax.train.state import TrainState, make_hyper, read_curve

FORK_SAVE_SECONDS = 5.0
"""A trunk that was trained for longer than this is saved where it forks."""


class Diverged(Exception):
    """The training loss is not finite; the message names the step."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of a run: steps done, metrics of the last step, pace of the last call."""

    step: int
    steps: int
    loss: float
    grad_norm: float
    learning_rate: float
    seconds_per_step: float


@dataclasses.dataclass(frozen=True)
class RunResult:
    """Result of a run; everything but `seconds` is a function of the spec and the corpus.

    Attributes:
      evaluation: the score on the held-out part at the end.
      history: (step, held-out loss) of every evaluation.
      curve_steps, curve_losses: binned training curve, nats per token.
      params_digest: SHA-256 of the parameters' bytes, hexadecimal.
      skipped_steps: updates left out because their gradient was not finite.
      noise_scale_tokens: B_simple over the last hundred steps or so, where it was asked for.
      updates: steps done by this call; a resumed or forked run does only its rest.
      earlier: steps done by processes that the run was resumed from.
      seconds: wall time by phase: compile, train, evaluate, checkpoint; of earlier processes too,
        up to their last checkpoint.
      rollbacks: returns to an earlier state after a spike of the loss.
    """

    evaluation: Evaluation
    history: tuple[tuple[int, float], ...]
    curve_steps: tuple[int, ...]
    curve_losses: tuple[float, ...]
    params_digest: str
    skipped_steps: int
    updates: int
    seconds: dict[str, float]
    earlier: int = 0
    noise_scale_tokens: float | None = None
    rollbacks: tuple[Rollback, ...] = ()


@dataclasses.dataclass(frozen=True)
class Hooks:
    """Callbacks of a run.

    Attributes:
      progress: called after every compiled call.
      metrics: called with (first step, arrays of the call's steps) for logging.
      evaluation: called with (step, score).
      rollback: called when the run has gone back to an earlier state.
      finished: called with the parameters to keep, those that are evaluated: of the state with the
        lowest held-out loss if `train.keep_best`, else of the last one.
      stop: asked between calls; True makes the run save its state and raise Interrupted.
      before_save: called before each checkpoint; raises Superseded where it must not be saved.
    """

    progress: Callable[[Progress], None] = lambda progress: None
    metrics: Callable[[int, dict[str, np.ndarray]], None] = lambda step, values: None
    evaluation: Callable[[int, Evaluation], None] = lambda step, score: None
    stop: Callable[[], bool] = lambda: False
    rollback: Callable[[Rollback], None] = lambda rollback: None
    finished: Callable[[Any], None] | None = None
    before_save: Callable[[], None] = lambda: None


def run(
    session: Session,
    spec: RunSpec,
    directory: Path,
    hooks: Hooks,
    start: Callable[[], TrainState] | None = None,
) -> RunResult:
    """Train a spec to its end, from its last checkpoint under `directory` if there is one.

    Args:
      start: gives the state to begin with where there is no checkpoint; the initial state of the
        spec by default. The state is used up.

    Raises:
      Interrupted: after `hooks.stop` said so; the state is saved.
      Diverged: when the loss is not finite.
      UserError: when the folder belongs to another run or cannot be written.
    """
    return _Run(session, spec, directory, hooks, spec.identity).to_the_end(start)


@dataclasses.dataclass(frozen=True)
class Fork:
    """A state at which runs leave a trunk, and the cost of reaching it from the one before.

    Attributes:
      updates, earlier, seconds: as of RunResult; compiling is counted by the run that the fork is
        for.
    """

    state: TrainState
    updates: int
    seconds: dict[str, float]
    earlier: int = 0


def grow_trunk(
    session: Session, spec: RunSpec, directory: Path, hooks: Hooks, state: TrainState | None
) -> Fork | None:
    """Train the trunk of `spec` to where it forks; checkpoints under `directory` are the trunk's.

    Args:
      state: of the same trunk at an earlier fork, used up; None to restore it or to begin.

    Returns:
      None when the trunk is beyond this fork already.

    Raises:
      Interrupted, Diverged, UserError: as `run`.
    """
    return _Run(session, spec, directory, hooks, spec.trunk).to_the_fork(state)


class _Run:
    """The mutable surroundings of one run; the state itself stays a frozen pytree."""

    def __init__(
        self, session: Session, spec: RunSpec, directory: Path, hooks: Hooks, identity: str
    ) -> None:
        self.session, self.spec, self.hooks = session, spec, hooks
        self.watch = session.watch
        options = session.options
        self.checkpoints = Checkpointer(
            directory / "checkpoints",
            f"{identity}-{session.fingerprint}",
            keep_last=options.keep_last,
            keep_best=options.keep_best,
            keep_good=spec.rollbacks + 1 if spec.rollbacks else 0,
            before_save=hooks.before_save,
        )
        self.hyper = make_hyper(spec)
        self.clock = Clock(session)
        self.updates = self.earlier = 0
        self.marks = evaluation_steps(spec.steps, options.evaluations)
        self.history_path = directory / "history.json"
        self.history: list[tuple[int, float]] = []
        self.spent_path = directory / "spent.json"

    def to_the_fork(self, state: TrainState | None) -> Fork | None:
        """Train to the end of the steps that runs of the trunk share."""
        end = self.spec.shared_steps
        try:
            state = self._start(None) if state is None else state
            if int(state.step) > end:
                return None
            while (step := int(state.step)) < end:
                self._stop_or_save(state)
                state = self._advance(state, min(end - step, self._call_length()))
            if self.clock.seconds[0]["train"] > FORK_SAVE_SECONDS:
                self._timed("checkpoint", lambda: self.checkpoints.save(state))
        finally:
            self.checkpoints.close()
        self.spent_path.unlink(missing_ok=True)  # from here on it is the cost of the fork's run
        seconds = {**self.clock.seconds[0], "compile": 0.0}
        return Fork(state, self.updates, seconds, self.earlier)

    def to_the_end(self, start: Callable[[], TrainState] | None) -> RunResult:
        """Train, evaluate and describe."""
        compiled_before = self.session.compile_seconds
        state = self._start(start)
        try:
            while (step := int(state.step)) < self.spec.steps:
                self._stop_or_save(state)
                end = next(mark for mark in self.marks if mark > step)
                try:
                    state = self._advance(state, min(self._to_go(step, end), self._call_length()))
                except Spiked as spike:
                    state = self._roll_back(spike)
                    continue
                if self.spec.rollbacks and int(state.step) % self.spec.rollback_steps == 0:
                    self._timed("checkpoint", lambda: self.checkpoints.save_good(state))  # noqa: B023
                if int(state.step) == end and end < self.spec.steps:
                    self._evaluate(state)
            score = self._evaluate(state)
            if self.hooks.finished is not None:
                self.hooks.finished(self._kept(state))
        finally:
            self.checkpoints.close()
        compiling = self.session.compile_seconds - compiled_before + self.clock.recalled[0]
        seconds = {**self.clock.seconds[0], "compile": compiling}
        result = make_result(self.spec, state, score, tuple(self.history), self.updates, seconds)
        return dataclasses.replace(result, earlier=self.earlier)

    def _kept(self, state: TrainState) -> Any:
        """The parameters that outlive the run."""
        if self.session.options.keep_best:
            self._timed("checkpoint", self.checkpoints.wait)
            state = self._timed("checkpoint", lambda: self.checkpoints.restore_best(state)) or state
        return eval_params(state.opt_state, state.params)

    def _start(self, start: Callable[[], TrainState] | None) -> TrainState:
        state = self.session.init(self.spec)
        restored = self._timed("checkpoint", lambda: self.checkpoints.restore(state))
        if restored is None:
            self.spent_path.unlink(missing_ok=True)
            return state if start is None else start()
        self.earlier = self.clock.recall(self.spent_path)
        try:
            self.history = self._past(int(restored.step))
        except (UserError, TypeError, ValueError) as error:
            self.checkpoints.set_all_aside(f"{self.history_path.name}: {error}")
            self.history_path.unlink(missing_ok=True)
            return state if start is None else start()
        return restored

    def _past(self, done: int) -> list[tuple[int, float]]:
        """Evaluations up to a step that an earlier process made."""
        if not self.history_path.exists():
            return []
        past = [(int(step), float(loss)) for step, loss in read_json(self.history_path)]
        return [entry for entry in past if entry[0] <= done]

    def _to_go(self, step: int, end: int) -> int:
        """Steps to the next evaluation, or to the next state to which the run may go back."""
        every = self.spec.rollback_steps
        return min(end - step, every - step % every) if self.spec.rollbacks else end - step

    def _roll_back(self, spike: Spiked) -> TrainState:
        """An earlier state, from which the run goes on around the batches of a spike."""
        done = int(spike.spikes.count)
        if done == self.spec.rollbacks:
            raise Diverged(f"{spike} after {done} rollback{'s' * (done > 1)}")
        rollback = loss_spikes.restart(self.spec, spike)
        fresh = self.session.init(self.spec)
        found = self._timed("checkpoint", lambda: self.checkpoints.go_back(rollback.start, fresh))
        if found is None and rollback.start > 0:
            raise Diverged(f"{spike}, and the state of step {rollback.start} is not there")
        state = loss_spikes.after(fresh if found is None else found, spike, rollback)
        self._timed("checkpoint", lambda: self.checkpoints.save(state, wait=True))
        self.history = [entry for entry in self.history if entry[0] <= rollback.start]
        self.hooks.rollback(rollback)
        return state

    def _call_length(self) -> int:
        """Steps of the next compiled call, the same in every process."""
        with self.watch.phase("agreeing on the number of steps of the next call"):
            return processes.agree(self.clock.call_length())

    def _advance(self, state: TrainState, steps: int) -> TrainState:
        first = int(state.step)
        name = f"steps {first + 1} to {first + steps} of {self.spec.steps}"
        waits_for = lambda: self.session.exchanges(self.spec)  # noqa: E731
        with self.clock.call(steps), self.watch.phase(name, waits_for=waits_for):
            state, metrics = self.session.advance(self.spec, state, self.hyper, steps)
            losses = np.asarray(metrics.loss)[:steps]  # blocks until the call has ended
        self.updates += steps
        skipped = np.asarray(metrics.skipped)[:steps]
        fine = np.isfinite(losses) | (skipped > 0)
        if self.spec.rollbacks:
            spiked = np.asarray(metrics.extra[loss_spikes.METRIC])[:steps] > 0
            if np.any(spiked):
                at = int(np.argmax(spiked))
                raise Spiked(first + at, float(losses[at]), state.extra["spikes"])
        if not np.all(fine):
            bad = first + int(np.argmin(fine))
            raise Diverged(f"the training loss is {losses[bad - first]} at step {bad}")
        values = {
            "train/loss_nats": losses,
            "optim/grad_norm": np.asarray(metrics.grad_norm)[:steps],
            "optim/learning_rate": np.asarray(metrics.learning_rate)[:steps],
        }
        loss, norm, rate = (float(array[-1]) for array in values.values())
        if self.spec.optim.skip_not_finite:
            values["optim/skipped"] = skipped
        values |= {name: np.asarray(each)[:steps] for name, each in metrics.extra.items()}
        self.hooks.metrics(first, values)
        pace = self.clock.seconds_per_step
        self.hooks.progress(Progress(first + steps, self.spec.steps, loss, norm, rate, pace))
        return state

    def _evaluate(self, state: TrainState) -> Evaluation:
        name = f"the evaluation after step {int(state.step)}"
        with self.clock.phase("evaluate"), self.watch.phase(name):
            score = self.session.evaluate(self.spec, eval_params(state.opt_state, state.params))
        if not np.isfinite(score.loss):
            raise Diverged(f"the held-out loss is {score.loss} after step {int(state.step)}")
        step = int(state.step)
        if len(self.marks) > 1:
            self.history = [entry for entry in self.history if entry[0] != step]
            if processes.is_first():
                write_json(self.history_path, [*self.history, (step, score.loss)])
        self.history.append((step, score.loss))
        self.hooks.evaluation(step, score)
        self._timed("checkpoint", lambda: self.checkpoints.save_best(state, score.loss))
        return score

    def _stop_or_save(self, state: TrainState) -> None:
        with self.watch.phase(f"agreeing whether to stop after step {int(state.step)}"):
            stop = processes.any_process(self.hooks.stop())
        if stop:
            self._timed("checkpoint", lambda: self.checkpoints.save(state, wait=True))
            self.clock.keep(self.spent_path, self.earlier + self.updates)
            raise Interrupted(f"stopped after step {int(state.step)} of {self.spec.steps}")
        with self.watch.phase(f"agreeing whether to save after step {int(state.step)}"):
            due = bool(processes.agree(int(self.clock.checkpoint_due())))
        if due:
            self._timed("checkpoint", lambda: self.checkpoints.save(state))
            self.clock.keep(self.spent_path, self.earlier + self.updates)
            self.clock.saved()

    def _timed(self, phase: str, action: Callable[[], Any]) -> Any:
        with self.clock.phase(phase), self.watch.phase(f"a {phase}"):
            return action()


def make_result(
    spec: RunSpec,
    state: TrainState,
    score: Evaluation,
    history: tuple[tuple[int, float], ...],
    updates: int,
    seconds: dict[str, float],
) -> RunResult:
    """The result of a run whose last state and score these are."""
    steps, losses = read_curve(spec, np.asarray(state.curve))
    return RunResult(
        evaluation=score,
        history=history,
        curve_steps=tuple(steps),
        curve_losses=tuple(losses),
        params_digest=params_digest(state.params),
        skipped_steps=int(skipped_steps(state.opt_state)) + _overflows(state),
        updates=updates,
        seconds=seconds,
        noise_scale_tokens=_noise_scale(spec, state),
        rollbacks=loss_spikes.rollbacks(state),
    )


def _overflows(state: TrainState) -> int:
    scale = state.extra.get("loss_scale")
    return 0 if scale is None else int(scale.skips)


def _noise_scale(spec: RunSpec, state: TrainState) -> float | None:
    noise = state.extra.get("noise")
    return None if noise is None else float(noise.sequences) * spec.model.seq_len


def evaluation_steps(steps: int, evaluations: int) -> list[int]:
    """Steps after which the held-out part is scored: evenly spaced, the last at the end."""
    return sorted({max(1, round(steps * (i + 1) / evaluations)) for i in range(evaluations)})


def params_digest(params: Any) -> str:
    """SHA-256 of all parameters in the order of their paths."""
    hasher = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        hasher.update(jax.tree_util.keystr(path).encode())
        hasher.update(np.ascontiguousarray(processes.whole(leaf)).tobytes())
    return hasher.hexdigest()

"""Stacked runs: several runs of one program on a leading axis, mapped with `vmap`."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.errors import UserError
from gptjax.files import read_json, write_json
from gptjax.identity import digest
from gptjax.optim import eval_params
from gptjax.train.checkpoint import Checkpointer
from gptjax.train.clock import Clock
from gptjax.train.config import RunSpec
from gptjax.train.interrupt import Interrupted
from gptjax.train.loop import (
    Diverged,
    Hooks,
    Progress,
    RunResult,
    evaluation_steps,
    make_result,
)
from gptjax.train.session import Session
from gptjax.train.state import Hyper, TrainState, make_hyper


@dataclasses.dataclass(frozen=True)
class StackHooks:
    """Callbacks of a stack; members are named by their place in it.

    Attributes:
      run: `progress` of the longest member and `stop`, as for one run.
      finished: a member came to its end.
      diverged: a member's loss is not finite; the others go on, their numbers untouched.
    """

    run: Hooks
    finished: Callable[[int, RunResult], None]
    diverged: Callable[[int, Diverged], None]


@dataclasses.dataclass(frozen=True)
class Branches:
    """Starting points of the members of a stack.

    Attributes:
      starts: updates that each has behind it.
      states: gives their states, which are used up; not called where a checkpoint has them.
    """

    starts: Sequence[int]
    states: Callable[[], Sequence[TrainState]]


def run_stack(
    session: Session,
    specs: Sequence[RunSpec],
    directory: Path,
    hooks: StackHooks,
    settled: Collection[int] = (),
    branches: "Branches | None" = None,
) -> None:
    """Train specs of one program to their ends, from the stack's last checkpoint if there is one.

    A member's numbers equal those of a run of its own to float tolerance, and do not depend on
    when the stack was interrupted. Members whose end has come leave when half of the stack can
    leave with them, so that at most half of the work is wasted.

    Args:
      specs: agree in `program`.
      settled: members that are done; nothing is called for them.
      branches: where the members leave a trunk; from their initial states by default.

    Raises:
      Interrupted: after `hooks.run.stop` said so; the state is saved.
      UserError: when the folder belongs to another stack or cannot be written.
    """
    branches = branches or Branches(
        [0] * len(specs), lambda: [session.init(spec) for spec in specs]
    )
    _Stack(session, specs, directory, hooks, settled, branches).to_the_end()


def members_after(ends: Sequence[int], steps: int) -> tuple[int, ...]:
    """Members in the stack after so many steps: ended ones leave when they are half of it.

    >>> members_after([10, 20, 20, 30], 10), members_after([10, 20, 20, 30], 20)
    ((0, 1, 2, 3), (3,))
    """
    inside = tuple(range(len(ends)))
    for end in sorted(set(ends)):
        left = tuple(member for member in inside if ends[member] > end)
        if end <= steps and 2 * len(left) <= len(inside):
            inside = left
    return inside


def stacked(trees: Sequence[Any]) -> Any:
    """Pytrees of one structure as one, each leaf [len(trees), …]."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def taken(tree: Any, places: int | Sequence[int]) -> Any:
    """The given places of a stack."""
    chosen = places if isinstance(places, int) else np.asarray(places)
    return jax.tree.map(lambda leaf: leaf[chosen], tree)


class _Stack:
    """The mutable surroundings of a stack; its state is one TrainState with a leading axis.

    Steps here count from where the stack began.
    """

    def __init__(
        self,
        session: Session,
        specs: Sequence[RunSpec],
        directory: Path,
        hooks: StackHooks,
        settled: Collection[int],
        branches: Branches,
    ) -> None:
        self.session, self.specs, self.hooks = session, specs, hooks
        self.settled = set(settled)
        self.branches = branches
        self.ends = [spec.steps - start for spec, start in self._with_starts()]
        evaluations = session.options.evaluations
        self.marks = [
            [mark - start for mark in evaluation_steps(spec.steps, evaluations) if mark > start]
            for spec, start in self._with_starts()
        ]
        identity = digest([spec.identity for spec in specs])
        self.checkpoints = Checkpointer(
            directory / "checkpoints",
            f"{identity}-{session.corpus.fingerprint}",
            keep_last=session.options.keep_last,
            keep_best=False,
            before_save=hooks.run.before_save,
        )
        self.history_path = directory / "history.json"
        self.history: list[tuple[int, int, float]] = []  # member, step, held-out loss
        self.clock = Clock(session, len(specs))
        self.hypers: dict[tuple[int, ...], Hyper] = {}
        self.begun_at = self.earlier = 0
        self.spent_path = directory / "spent.json"

    def to_the_end(self) -> None:
        """Train and evaluate all members and call the hooks."""
        try:
            step, state = self._start()
            while set(self._open(step)) - self.settled:
                self._stop_or_save(step, state)
                step, state = self._advance(step, state)
        finally:
            self.checkpoints.close()

    def _start(self) -> tuple[int, TrainState]:
        while (step := self.checkpoints.latest()) is not None:
            state = self._restored(step)
            if state is not None:
                self.begun_at, self.earlier = step, self.clock.recall(self.spent_path)
                return step, state
        state = stacked(self.branches.states())
        if any(self.branches.starts):  # the trunk is not trained again
            self.checkpoints.save(state, step=0, wait=True)
        return 0, state

    def _restored(self, step: int) -> TrainState | None:
        """The state of a checkpoint and what was evaluated before it; None where it is damaged."""
        members = members_after(self.ends, step)
        like = stacked([self.session.init(self.specs[member]) for member in members])
        with self.clock.phase("checkpoint", members):
            state: Any = self.checkpoints.restore_at(step, like)
        if state is not None and self.history_path.exists():
            try:
                self.history = self._past(step)
            except (UserError, TypeError, ValueError) as error:
                self.checkpoints.set_all_aside(f"{self.history_path.name}: {error}")
                self.history_path.unlink(missing_ok=True)
                return None
        return state

    def _past(self, step: int) -> list[tuple[int, int, float]]:
        return [
            (int(member), int(at), float(loss))
            for member, at, loss in read_json(self.history_path)
            if at <= self.branches.starts[int(member)] + step
        ]

    def _with_starts(self) -> list[tuple[RunSpec, int]]:
        return list(zip(self.specs, self.branches.starts, strict=True))

    def _open(self, step: int) -> list[int]:
        """Members that have steps to do."""
        return [member for member, end in enumerate(self.ends) if end > step]

    def _advance(self, step: int, state: TrainState) -> tuple[int, TrainState]:
        """One compiled call, and what is due after it."""
        members, waiting = members_after(self.ends, step), self._open(step)
        mark = min(mark for i in waiting for mark in self.marks[i] if mark > step)
        steps = min(mark - step, self.clock.call_length())
        state = self._call(step, state, self._hyper_of(members), steps)
        step += steps
        for place, member in enumerate(members):
            if member in waiting and member not in self.settled and step in self.marks[member]:
                self._score(member, step, taken(state, place))
        staying = members_after(self.ends, step)
        if staying and staying != members:
            state = taken(state, [members.index(member) for member in staying])
        return step, state

    def _call(self, step: int, state: TrainState, hyper: Hyper, steps: int) -> TrainState:
        waiting, members = self._open(step), members_after(self.ends, step)
        longest = max(waiting, key=lambda member: self.ends[member])
        with self.clock.call(steps, waiting):
            state, metrics = self.session.advance_stack(self.specs[0], state, hyper, steps)
            losses = np.asarray(metrics.loss)[:, :steps]  # blocks until the call has ended
        fine = np.isfinite(losses) | (np.asarray(metrics.skipped)[:, :steps] > 0)
        for place, member in enumerate(members):
            if member in waiting and member not in self.settled and not fine[place].all():
                bad = int(np.argmin(fine[place]))
                loss = losses[place, bad]
                at = self.branches.starts[member] + step + bad
                self._lose(member, f"the training loss is {loss} at step {at}")
        place = members.index(longest)
        values = (metrics.loss, metrics.grad_norm, metrics.learning_rate)
        loss, norm, rate = (float(np.asarray(value)[place, steps - 1]) for value in values)
        done, end = self.branches.starts[longest] + step + steps, self.specs[longest].steps
        pace = self.clock.seconds_per_step
        self.hooks.run.progress(Progress(done, end, loss, norm, rate, pace))
        return state

    def _score(self, member: int, step: int, state: TrainState) -> None:
        """Evaluate a member at one of its marks; at the last one it is finished."""
        spec = self.specs[member]
        at = self.branches.starts[member] + step
        with self.clock.phase("evaluate", [member]):
            score = self.session.evaluate(spec, eval_params(state.opt_state, state.params))
        if not np.isfinite(score.loss):
            self._lose(member, f"the held-out loss is {score.loss} after step {at}")
            return
        self.history.append((member, at, score.loss))
        if len(self.marks[member]) > 1:
            write_json(self.history_path, self.history)
        if at == spec.steps:
            history = tuple((at, loss) for whose, at, loss in self.history if whose == member)
            updates = step - self.begun_at
            result = make_result(spec, state, score, history, updates, self.clock.seconds[member])
            self.settled.add(member)
            self.hooks.finished(member, dataclasses.replace(result, earlier=self.earlier))

    def _lose(self, member: int, reason: str) -> None:
        self.settled.add(member)
        self.hooks.diverged(member, Diverged(reason))

    def _hyper_of(self, members: tuple[int, ...]) -> Hyper:
        if members not in self.hypers:
            self.hypers[members] = stacked([make_hyper(self.specs[member]) for member in members])
        return self.hypers[members]

    def _stop_or_save(self, step: int, state: TrainState) -> None:
        waiting = self._open(step)
        if self.hooks.run.stop():
            self._save(waiting, step, state, wait=True)
            raise Interrupted(f"stopped after step {step} of {max(self.ends)}")
        if self.clock.checkpoint_due():
            self._save(waiting, step, state)
            self.clock.saved()

    def _save(
        self, waiting: Sequence[int], step: int, state: TrainState, *, wait: bool = False
    ) -> None:
        with self.clock.phase("checkpoint", waiting):
            self.checkpoints.save(state, step=step, wait=wait)
        self.clock.keep(self.spent_path, self.earlier + step - self.begun_at)

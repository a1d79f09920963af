"""Session of fine-tuning: runs from given parameters, scored by their own objective."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.align.feeds import ExampleFeed
from gptjax.parallel import Layout
from gptjax.train import (
    Evaluation,
    Objective,
    RunSpec,
    Session,
    TrainConfig,
    TrainState,
    state_shardings,
)
from gptjax.train.loop import params_digest
from gptjax.train.state import state_of
from gptjax.train.watchdog import Watchdog


@dataclasses.dataclass(frozen=True)
class Task:
    """What parameters are tuned on.

    Attributes:
      params: host arrays that a run starts from.
      train, heldout: the examples of both sides.
      objective_of: what a run minimises.
      settings: further settings that decide the result, for the identity of a run.
    """

    params: Any
    train: ExampleFeed
    heldout: ExampleFeed
    objective_of: Callable[[RunSpec], Objective]
    settings: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of all of it."""
        hasher = hashlib.sha256(params_digest(self.params).encode())
        hasher.update(json.dumps(self.settings, sort_keys=True, default=list).encode())
        for leaf in jax.tree.leaves((self.train.arrays, self.heldout.arrays)):
            hasher.update(np.ascontiguousarray(leaf).tobytes())
        return hasher.hexdigest()[:32]


class TuningSession(Session):
    """The programs of a task's runs."""

    def __init__(
        self,
        task: Task,
        options: TrainConfig,
        layout_of: Callable[[RunSpec], Layout | None] = lambda spec: None,
        watch: Watchdog | None = None,
    ) -> None:
        super().__init__(
            None, options, layout_of, watch, feed=task.train, objective_of=task.objective_of
        )
        self.task, self.fingerprint = task, task.fingerprint

    def init(self, spec: RunSpec) -> TrainState:
        """A copy of the task's parameters, with fresh optimizer state."""
        state = state_of(spec, jax.tree.map(jnp.array, self.task.params))
        layout = self.layout_of(spec)
        if layout is None:
            return state
        return jax.tree.map(_placed, state, state_shardings(layout, state))

    def evaluate(self, spec: RunSpec, params: Any) -> Evaluation:
        """The objective on the held-out examples."""
        parts = self.task.heldout.parts(self.options.eval_batch_size)
        layout = self.layout_of(spec)
        return summarised([self._score(spec, params, part, layout) for part in parts])

    def _score(
        self, spec: RunSpec, params: Any, rows: Any, layout: Layout | None
    ) -> dict[str, float]:
        rested = dataclasses.replace(spec.layout, model=spec.model.at_rest, loss_chunk=0)

        def score(params: Any, rows: Any) -> dict[str, Any]:
            total, count, terms = self.objective_of(rested)(params, self.feed.batch(rested, rows))
            return {"loss": total, **terms.sums, "count": count}

        if layout is not None:
            rows = layout.put(rows)
        options: dict[str, Any] = {} if layout is None else {"out_shardings": layout.replicated}
        key = ("score", jax.tree.leaves(rows)[0].shape, spec.layout)
        program = self._compiled(key, lambda: jax.jit(score, **options).lower(params, rows), layout)
        return {name: float(x) for name, x in program(params, rows).items()}


def summarised(parts: list[dict[str, float]]) -> Evaluation:
    """The mean of sums and counts of batches, with its standard error over the batches."""
    count = np.array([part.pop("count") for part in parts])
    sums = {name: np.array([part[name] for part in parts]) for name in parts[0]}
    means = {name: float(x.sum() / max(count.sum(), 1.0)) for name, x in sums.items()}
    loss, n = means.pop("loss"), len(parts)
    left = sums["loss"] - loss * count
    spread = math.sqrt(n / (n - 1) * float(np.sum(left**2))) if n > 1 else math.nan
    return Evaluation(loss, spread / max(count.sum(), 1.0), math.nan, metrics=means)


def _placed(x: Any, sharding: Any) -> jax.Array:
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

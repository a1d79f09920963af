"""Scores of a cell on tasks, measured when it has been trained."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gptjax.config import Config

if TYPE_CHECKING:
    from gptjax.train import RunSpec, Session

Scores = dict[str, float]


def check(config: Config) -> None:
    """Refuse tasks that are unknown, before anything is trained.

    Raises:
      UserError: for a task that there is not, or a file that cannot be read.
    """
    from gptjax.evals.tasks import find_all  # slow to import, and few sweeps ask

    find_all(config.sweep.tasks)


def scorer(config: Config) -> "Callable[[Session, RunSpec, Any], Scores] | None":
    """(session, run, parameters) → numbers by task and metric, or None where nobody asks for it."""
    names, settings = config.sweep.tasks, config.own["evaluate"]
    if not names:
        return None
    from gptjax import convert, evals, infer
    from gptjax.evals.tasks import with_facts

    known = with_facts(config.data)

    def score(session: "Session", spec: "RunSpec", params: Any) -> Scores:
        found = convert.Model(spec.model, params)
        model = infer.prepare(found, name="the cell", tokenizer=session.corpus.tokenizer)
        results = evals.evaluate(model, settings, names, known=known)
        return {
            f"{result.task}_{short}": float(result.metrics[name].value)
            for result in results
            for name, short in SHORT.items()
            if name in result.metrics and result.metrics[name].count
        }

    return score


SHORT = {
    "acc": "acc",
    "acc_norm": "acc_norm",
    "answer_bits_per_byte": "bpb",
    "nats_per_token": "nats",
    "retrieved": "acc",
    "extracted": "acc",
    "divergence": "nats",
}
"""Metrics that a record keeps, and what their columns end in: job=forecast reads acc and bpb."""

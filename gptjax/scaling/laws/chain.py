"""Chains of two laws: what the first predicts is a column that the second reads.

A score follows the loss and the loss the size and the data (Gadre et al. 2024, section 4; Bhagia et
al. 2024, arXiv:2412.04403): the doubt of both laws is in the interval of the score.
"""

import dataclasses
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.fit import bootstrap, engine, optimum
from gptjax.scaling.fit.bootstrap import Interval
from gptjax.scaling.fit.result import Fit


@dataclasses.dataclass(frozen=True)
class Chain:
    """Two fitted laws.

    Attributes:
      first: the law of the column `link`, for example a loss of size and data.
      second: the law that reads it, for example a score of the loss.
      link: name of that column.
    """

    first: Fit
    second: Fit
    link: str

    def predict(
        self, params: float | None = None, tokens: float | None = None, **columns: float
    ) -> Interval:
        """The second law's mean at one place of the first, with the doubt of both.

        Raises:
          UserError: when the first law reads a column that is not given.
        """
        given = {"params": params, "tokens": tokens, **columns}
        place = {name: float(value) for name, value in given.items() if value is not None}
        if {"params", "tokens"} <= set(place):
            place.setdefault("flops", float(self.first.cost.flops(params, tokens)))
        for name in self.first.form.columns:
            if name not in place:
                raise UserError(f"{self.first.form.name} needs {name} to predict; pass {name}=…")
        value = engine.predict(self.first.form, self.first.values, place)
        return self._through(value, engine.predict(self.first.form, self.first.samples, place))

    def optimum(self, flops: float) -> Interval:
        """The second law's mean at the best split of a budget by the first."""
        best = self.first.optimum(flops)
        many = _best_losses(self.first, flops)
        return self._through(np.asarray(best.loss.value), many)

    def _through(self, value: np.ndarray, draws: np.ndarray) -> Interval:
        """The second law at a value and at draws of the first, each with a resample of its own."""
        second = self.second
        count = min(len(draws), len(second.resamples))
        draws = np.ravel(draws)[:count]
        order = np.arange(len(second.resamples))
        if not self.drawn_together:
            order = np.random.default_rng([second.config.seed, 8]).permutation(order)
        lanes = {name: column[order][:count] for name, column in second.samples.items()}
        middle = engine.predict(second.form, second.values, {self.link: value})
        samples = engine.predict(second.form, lanes, {self.link: draws})
        freedom = min(law.resamples.tail_freedom for law in (self.first, second))
        confidence = second.config.confidence
        return bootstrap.interval(float(np.ravel(middle)[0]), samples, confidence, freedom)

    @property
    def drawn_together(self) -> bool:
        """Whether resample i of both laws drew the same runs, so that their luck is shared.

        Redrawn scatter is not: the same random signs there would tie what is independent.
        """
        both = (self.first, self.second)
        kinds = {(law.resamples.kind, law.resamples.seed, law.resamples.failed) for law in both}
        same = np.array_equal(self.first.runs.cell, self.second.runs.cell)
        return same and len(kinds) == 1 and next(iter(kinds))[::2] == ("runs", 0)


def chain(first: Fit, second: Fit, link: str) -> Chain:
    """A chain of two fitted laws through the column `link`.

    Raises:
      UserError: where the second law reads other columns, or a law has no resamples.
    """
    if second.form.columns != (link,):
        raise UserError(
            f"link={link!r}: {second.form.name} reads {', '.join(second.form.columns)}; a chain "
            "needs a second law of that one column"
        )
    for law in (first, second):
        if not len(law.resamples):
            raise UserError(f"{law.form.name} has no resamples; fit it with resamples=1000")
    return Chain(first, second, link)


def _best_losses(law: Fit, flops: float) -> Any:
    """The loss at the best split of a budget, for every resample."""
    params = optimum.best_params(law.form, law.samples, flops, law.cost)
    place = {"params": params, "tokens": law.cost.tokens(flops, params), "flops": flops}
    return engine.predict(law.form, law.samples, place)

"""The best mixture of a law: a minimum on the simplex, held near a prior, with its interval.

Minimised is Σ_j v_j L_j(r) + leash · KL(r ‖ prior) over r ≥ 0, Σ r = 1, r ≤ caps: the laws of
several targets with their weights, and the Kullback-Leibler leash of Olmix (Chen et al. 2026).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.data_mixtures.fit import MixtureLaw
from gptjax.scaling.fit.bootstrap import Interval

LEAST = 1e-9
"""Shares below are none; a prior has at least this much of everything."""
USELESS = 0.001
"""A source is useless where to leave it out costs less than this part of the loss."""
ROUNDS = 50
RUNS = 4000
"""Single runs that are drawn for their interval."""


@dataclasses.dataclass(frozen=True)
class BestMixture:
    """The best weights and what they are expected to give.

    Attributes:
      weights: of each source, with their intervals.
      loss: of the law at the best mixture, of all targets together; its interval is of the mean.
      run_low, run_high: where the loss of one run with that mixture is believed to lie.
      prior_loss: of the law at the prior.
      worths: of each source, the nats that it costs to leave it out of the best mixture.
    """

    sources: tuple[str, ...]
    weights: tuple[Interval, ...]
    loss: Interval
    run_low: float
    run_high: float
    prior: np.ndarray
    prior_loss: float
    worths: tuple[Interval, ...]

    @property
    def useless(self) -> tuple[str, ...]:
        """Sources that can be left out."""
        named = zip(self.sources, self.worths, strict=True)
        return tuple(name for name, one in named if one.high < USELESS * self.loss.value)

    @property
    def values(self) -> np.ndarray:
        """The best weights."""
        return np.array([weight.value for weight in self.weights])

    def sentence(self) -> str:
        """What to mix, what to expect, and what is useless."""
        order = np.argsort(-self.values)
        shares = [(self.sources[i], self.values[i]) for i in order if self.values[i] >= 0.005]
        mix = ", ".join(f"{name} {share:.1%}" for name, share in shares)
        half = (self.run_high - self.run_low) / 2
        words = (
            f"Mix {mix}; expect {self.loss.value:.4f} nats, give or take {half:.4f}, where the "
            f"prior gives {self.prior_loss:.4f}."
        )
        if self.useless:
            names = ", ".join(self.useless)
            words += f" Useless here (less than {USELESS:.1%} of the loss each): {names}."
        return words


def best_mixture(
    laws: Sequence[MixtureLaw],
    prior: np.ndarray,
    *,
    leash: float = 0.01,
    caps: np.ndarray | None = None,
    shares: Sequence[float] = (),
    params: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> BestMixture:
    """The mixture with the least loss, with intervals from the laws' resamples.

    Args:
      laws: one for each target, on the same sources.
      prior: where the leash holds; sums to 1.
      leash: nats of loss for each nat of KL(r ‖ prior).
      caps: largest weights, where a source is small.
      shares: of each target in the loss; () = equal.
      params: the size, for laws with a size term.

    Raises:
      UserError: where the caps do not allow weights that sum to 1.
    """
    prior = np.maximum(np.asarray(prior, float), LEAST)
    prior = prior / prior.sum()
    parts = np.asarray(shares or [1.0] * len(laws), float)
    parts = parts / parts.sum()
    caps = np.ones(len(prior)) if caps is None else np.minimum(np.asarray(caps, float), 1.0)
    if caps.sum() < 1:
        raise UserError(
            f"the sources may have {caps.sum():.3g} of the mixture together, less than all of it; "
            "allow more repeats or give more of a source"
        )
    at = _Objective(laws, [law.theta for law in laws], parts, prior, leash, params)
    best = _minimum(at, caps, [prior, np.ones(len(prior)) / len(prior)])
    draws = min(len(law.resamples) for law in laws)
    near = 0.95 * best + 0.05 * prior
    without = [_without(best, k) for k in range(len(prior))]
    drawn, losses, costs = [], [], []
    for i in range(draws):
        one = dataclasses.replace(at, thetas=[law.resamples[i] for law in laws])
        drawn.append(_minimum(one, caps, [near]))
        losses.append(one.loss(best))
        costs.append([one.loss(other) - losses[-1] for other in without])
    tail = (1 - confidence) / 2
    run = _runs(laws, parts, losses, seed) if draws else np.array([np.nan])
    weights = tuple(_interval(best[k], [one[k] for one in drawn], tail) for k in range(len(prior)))
    cost = np.array(costs).reshape(draws, len(prior))
    return BestMixture(
        sources=laws[0].sources,
        weights=weights,
        loss=_interval(at.loss(best), losses, tail),
        run_low=float(np.quantile(run, tail)),
        run_high=float(np.quantile(run, 1 - tail)),
        prior=prior,
        prior_loss=at.loss(prior),
        worths=tuple(
            _interval(at.loss(other) - at.loss(best), cost[:, k], tail)
            for k, other in enumerate(without)
        ),
    )


def _runs(
    laws: Sequence[MixtureLaw], parts: np.ndarray, losses: Sequence[float], seed: int
) -> np.ndarray:
    """Losses that single runs may have: the mean's resamples with the scatter of runs."""
    rng = np.random.default_rng(seed)
    runs = rng.choice(losses, RUNS)
    for law, part in zip(laws, parts, strict=True):
        count = len(law.residuals)
        used = np.sqrt(count / max(count - len(law.theta), 1))  # degrees of freedom of the fit
        runs = runs + part * used * rng.choice(law.residuals, RUNS)
    return runs


def _without(weights: np.ndarray, k: int) -> np.ndarray:
    """The same mixture without source k."""
    rest = np.where(np.arange(len(weights)) == k, 0.0, weights)
    return rest / rest.sum() if rest.sum() > LEAST else weights


def _interval(value: float, draws: Sequence[float] | np.ndarray, tail: float) -> Interval:
    if not len(draws):
        return Interval(float(value))
    low, high = np.quantile(draws, (tail, 1 - tail))
    return Interval(float(value), float(low), float(high), float(np.std(draws)))


@dataclasses.dataclass(frozen=True)
class _Objective:
    """The loss of all targets, and what is minimised: that and the leash."""

    laws: Sequence[MixtureLaw]
    thetas: Sequence[np.ndarray]
    parts: np.ndarray
    prior: np.ndarray
    leash: float
    params: float | None

    def loss(self, weights_K: np.ndarray) -> float:
        return float(self._sum(weights_K, "value")[0])

    def value(self, weights_K: np.ndarray) -> float:
        kept = np.maximum(weights_K, LEAST)
        return self.loss(weights_K) + self.leash * float(np.sum(kept * np.log(kept / self.prior)))

    def gradient(self, weights_K: np.ndarray) -> np.ndarray:
        kept = np.maximum(weights_K, LEAST)
        inner = self._sum(kept, "by_weights")[0]
        return inner + self.leash * (np.log(kept / self.prior) + 1)

    def _sum(self, weights_K: np.ndarray, what: str) -> np.ndarray:
        each = zip(self.laws, self.thetas, self.parts, strict=True)
        with np.errstate(all="ignore"):
            return sum(
                part * getattr(law.form, what)(theta, law.inputs(weights_K, self.params))
                for law, theta, part in each
            )


def _minimum(at: _Objective, caps: np.ndarray, starts: Sequence[np.ndarray]) -> np.ndarray:
    found = [_capped(at, caps, start) for start in starts]
    return min(found, key=at.value)


def _capped(at: _Objective, caps: np.ndarray, start: np.ndarray) -> np.ndarray:
    """A minimum under caps: those above theirs are held there, and let go where that is worse."""
    held = np.zeros(len(caps), bool)
    weights = start
    for _ in range(ROUNDS):
        weights = _free(at, np.where(held, caps, 0.0), ~held, np.minimum(start, caps))
        over = ~held & (weights > caps + LEAST)
        if over.any():
            held |= over
            continue
        slope = at.gradient(weights)
        free = ~held & (weights > LEAST)
        level = float(np.min(slope[free])) if free.any() else np.inf
        worse = held & (slope > level + 1e-6)
        if not worse.any():
            break
        held &= ~worse
    return weights


def _free(at: _Objective, fixed: np.ndarray, free: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The minimum over the free weights, whose sum is what the fixed ones leave: r = softmax(z)."""
    from scipy.optimize import minimize  # slow to import

    left = 1.0 - fixed.sum()
    if left <= LEAST or not free.any():
        return fixed / fixed.sum()

    def weights_of(logits: np.ndarray) -> np.ndarray:
        exp = np.exp(logits - logits.max())
        weights = fixed.copy()
        weights[free] = left * exp / exp.sum()
        return weights

    def both(logits: np.ndarray) -> tuple[float, np.ndarray]:
        weights = weights_of(logits)
        slope, mine = at.gradient(weights)[free], weights[free]
        return at.value(weights), mine * (slope - np.dot(mine, slope) / left)

    first = np.log(np.maximum(start[free], 1e-4))
    found = minimize(both, first, jac=True, method="L-BFGS-B", options={"maxiter": 300})
    weights = weights_of(found.x)
    return np.where(weights < 1e-7, 0.0, weights)

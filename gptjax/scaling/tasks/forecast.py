"""Forecasts of scores with intervals, a verdict for each task, and a refusal where none is honest.

Each law is fitted to the runs, to resamples of them, and, in several cuts, to smaller runs alone;
its errors on the runs above a cut say how far it may be off at a distance. The laws are averaged by
those errors. An interval has the scatter from run to run, and the larger of what resamples and laws
differ by and what the rollouts were off by at such a distance.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy  # its parts are imported at their first use

from gptjax.errors import UserError, nearest
from gptjax.scaling.laws.fit_laws import plain
from gptjax.scaling.tasks.laws import LAWS, TaskLaw, loss_law
from gptjax.scaling.tasks.table import Scores

SIZES, RUNS = 2, 6
"""Fewest sizes and runs below a cut of a rollout."""
DECADES = (0.5, 1.0)
"""Cuts in compute below the largest run, beside those between sizes."""
OWN, POOLED = 2.0, 2.0
"""Weights of a task's own growth of errors and of that of all tasks: a cut's errors are alike."""
FLOOR = 0.02
"""Least standard deviation of a score's logit, from run to run and for a decade of distance."""
FLAT = 3.0
"""Deviations that a score must rise above a guess, and from the small runs to the large ones."""
WIDEST = 0.2
"""Width of an interval, as a share of the scores from a guess to one, that says something."""
LOSS_ERROR = 0.05
"""Relative error of a task's loss in rollouts up to which its loss is called predictable."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A forecast of one task at one size.

    Attributes:
      score, low, high: the forecast and its interval.
      task_loss, task_loss_low, task_loss_high: of the right answers' loss; NaN without one.
      laws: the forecast of each law.
      refused: why nothing is said; "" where something is.
    """

    params: float
    tokens: float
    score: float
    low: float
    high: float
    task_loss: float
    task_loss_low: float
    task_loss_high: float
    laws: Mapping[str, float]
    refused: str = ""


NUMBERS = [field.name for field in dataclasses.fields(Target)][:8]


@dataclasses.dataclass(frozen=True)
class TaskForecast:
    """A task.

    Attributes:
      verdict: "predictable", "only its loss", or "not".
      why: the verdict's reason, one sentence.
      shape: "rising", "flat" or "emergent".
      weights: of each law in the forecast.
      rollouts: of each law the root mean square error of the score above the cuts.
      loss_error: the same of the task's loss, relative; NaN without one.
    """

    task: str
    chance: float | None
    verdict: str
    why: str
    shape: str
    weights: Mapping[str, float]
    rollouts: Mapping[str, float]
    loss_error: float
    targets: tuple[Target, ...]


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Forecasts of several tasks."""

    tasks: tuple[TaskForecast, ...]
    runs: int
    cuts: int
    confidence: float


@dataclasses.dataclass(frozen=True)
class _Errors:
    """Rollout errors of one law: logit of the measured score minus that of the predicted one."""

    logit: np.ndarray
    score: np.ndarray
    decades: np.ndarray


def forecast(
    scores: Scores,
    targets: Sequence[tuple[float, float]],
    *,
    laws: Sequence[str] = (),
    confidence: float = 0.95,
    resamples: int = 100,
    seed: int = 0,
) -> Forecast:
    """Scores at (params, tokens) that were not run.

    Args:
      scores: of the runs, from `read_scores`.
      targets: (params, tokens) of each model.
      laws: names of LAWS; all that the table has columns for by default.
      confidence: level of the intervals.
      resamples: of the runs.

    Raises:
      UserError: for an unknown law, no target, or runs that leave no rollout.
    """
    if not targets:
        raise UserError("forecast.params=() names no model; give sizes, and tokens of each")
    for name in laws:
        if name not in LAWS:
            raise UserError(f"forecast.laws={name} is no law of scores; {nearest(name, LAWS)}")
    chosen = [LAWS[name] for name in laws or LAWS]
    known = {task: scores.known(task) for task in scores.tasks}
    cuts = {task: _checked_cuts(rows, task) for task, rows in known.items()}
    weights = {task: _resampled(rows, resamples, seed) for task, rows in known.items()}
    places = np.array(targets, float)
    rolled = {
        task: {
            law.name: _rollout(rows, law, task, cuts[task])
            for law in chosen
            if law.needs(rows, task)
        }
        for task, rows in known.items()
    }
    for task, errors in rolled.items():
        if not errors:
            raise UserError(
                f"forecast.laws={tuple(laws)} need columns that {task} has not; add direct"
            )
    fitted = {
        task: _fit(rows, task, places, rolled[task], weights[task]) for task, rows in known.items()
    }
    pooled = float(np.mean([one.growth for one in fitted.values()]))
    found = tuple(
        _task(
            rows,
            task,
            places,
            rolled[task],
            fitted[task],
            pooled,
            weights[task],
            confidence,
            cuts[task],
        )
        for task, rows in known.items()
    )
    count = min(map(len, cuts.values()))
    return Forecast(found, int(scores.final.sum()), count, confidence)


def _checked_cuts(scores: Scores, task: str) -> list[np.ndarray]:
    """`_cuts`, one at least."""
    cuts = _cuts(scores) if scores.final.any() else []
    if not cuts:
        raise UserError(
            f"the scores of {task} are of {len(np.unique(scores.params[scores.final]))} sizes and "
            f"{int(scores.final.sum())} runs, and a forecast is tried on larger runs first; give "
            f"{SIZES + 1} sizes or more"
        )
    return cuts


def _resampled(scores: Scores, resamples: int, seed: int) -> np.ndarray:
    """How often each run counts: once, then as drawn with replacement."""
    count = int(scores.run.max()) + 1
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.concatenate([np.ones((1, count)), drawn])


def describe(found: Forecast) -> dict[str, Any]:
    """The content of forecast.json: plain types, NaN as None."""
    return plain(dataclasses.asdict(found))


def _cuts(scores: Scores) -> list[np.ndarray]:
    """Masks of the rows that each rollout is fitted to; runs stay whole."""
    last = scores.final
    sizes = np.unique(scores.params[last])
    cuts = [scores.params <= size for size in sizes[SIZES - 1 : -1]]
    for decades in DECADES:
        flops = scores.flops[last]
        below = set(scores.run[last][flops <= flops.max() / 10**decades * (1 + 1e-9)])
        cuts.append(np.isin(scores.run, list(below)))
    return [
        keep
        for keep in cuts
        if np.sum(keep & last) >= RUNS
        and len(np.unique(scores.params[keep & last])) >= SIZES
        and np.any(last & ~keep)
    ]


def _rollout(scores: Scores, law: TaskLaw, task: str, cuts: list[np.ndarray]) -> _Errors:
    logit, score, decades = [], [], []
    for keep in cuts:
        train, above = scores.take(keep), scores.final & ~keep
        predict = law.fit(train, task, np.ones((1, int(train.run.max()) + 1)))
        said = predict(scores.params[above], scores.tokens[above])[0]
        true = scores.score[task][above]
        logit.append(_logit(true) - _logit(said))
        score.append(true - said)
        decades.append(_decades(train, scores.params[above], scores.tokens[above]))
    return _Errors(*(np.concatenate(one) for one in (logit, score, decades)))


def _decades(train: Scores, params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Distance from the runs: decades of size above the largest and of tokens above the longest."""
    last = train.final
    wide = np.log10(params / train.params[last].max())
    long = np.log10(tokens / train.tokens[last].max())
    return np.maximum(wide, 0.0) + np.maximum(long, 0.0)


def _logit(score: np.ndarray) -> np.ndarray:
    score = np.clip(score, 1e-3, 1 - 1e-3)
    return np.log(score / (1 - score))


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """The laws of one task, fitted to all runs.

    Attributes:
      weights: share of each law.
      said_wLm: logit of the score at the targets, of each law and resample.
      fitted_n: the same, weighted, at the runs.
      noise: scatter of the runs' logit about it.
      growth: squared error for each squared decade, of this task's rollouts.
    """

    weights: dict[str, float]
    said_wLm: np.ndarray
    fitted_n: np.ndarray
    noise: float
    growth: float


def _fit(
    scores: Scores,
    task: str,
    targets: np.ndarray,
    mine: Mapping[str, _Errors],
    weights_Lr: np.ndarray,
) -> _Fitted:
    weights, last = _weights(mine), scores.final
    share, said, fitted = np.array(list(weights.values())), [], []
    for name in mine:
        predict = LAWS[name].fit(scores, task, weights_Lr)
        said.append(_logit(predict(*targets.T)))
        fitted.append(_logit(predict(scores.params[last], scores.tokens[last])[0]))
    fitted_n = share @ np.stack(fitted)
    left = _logit(scores.score[task][last]) - fitted_n
    noise = max(float(np.sqrt(np.sum(left**2) / max(len(left) - 4, 1))), FLOOR)
    off = share @ np.stack([errors.logit for errors in mine.values()])
    growth = _growth(off, next(iter(mine.values())).decades, noise)
    return _Fitted(weights, np.stack(said), fitted_n, noise, growth)


def _growth(off: np.ndarray, decades: np.ndarray, noise: float) -> float:
    """What squared errors have beyond the scatter, for each squared decade of distance."""
    far = decades > 0
    beyond = float(np.sum(off[far] ** 2 - noise**2))
    return max(beyond / max(float(np.sum(decades[far] ** 2)), 1e-12), 0.0)


def _interval(
    scores: Scores, targets: np.ndarray, one: _Fitted, growth: float, confidence: float
) -> np.ndarray:
    """Score, low and high end at each target, (3, m).

    An error at a distance is the larger of what resamples and laws say and what rollouts did.
    """
    share, last = np.array(list(one.weights.values())), scores.final
    mean_m = share @ one.said_wLm[:, 0]
    within_m = share @ one.said_wLm[:, 1:].var(axis=1)
    between_m = share @ (one.said_wLm[:, 0] - mean_m) ** 2
    rolled_m = growth * _decades(scores, *targets.T) ** 2
    sd_m = np.sqrt(one.noise**2 + np.maximum(within_m + between_m, rolled_m))
    reach = scipy.special.stdtrit(max(int(last.sum()) - 4, 3), 0.5 + confidence / 2) * sd_m
    return np.stack([1 / (1 + np.exp(-(mean_m + sign * reach))) for sign in (0, -1, 1)])


def _task(
    scores: Scores,
    task: str,
    targets: np.ndarray,
    mine: Mapping[str, _Errors],
    one: _Fitted,
    pooled: float,
    weights_Lr: np.ndarray,
    confidence: float,
    cuts: list[np.ndarray],
) -> TaskForecast:
    growth = max((OWN * one.growth + POOLED * pooled) / (OWN + POOLED), FLOOR**2)
    ends = _interval(scores, targets, one, growth, confidence)
    losses, loss_error = _task_loss(scores, task, targets, weights_Lr, confidence, cuts)
    shape, shaped = _shape(scores, task, one.noise)
    room = 1.0 - (scores.chance[task] or 0.0)
    made = tuple(
        Target(
            **dict(zip(NUMBERS, map(float, row), strict=True)),
            laws={
                name: float(1 / (1 + np.exp(-said_Lm[0, m])))
                for name, said_Lm in zip(one.weights, one.said_wLm, strict=True)
            },
            refused=_refusal(float(ends[2, m] - ends[1, m]), room, shape, shaped, confidence),
        )
        for m, row in enumerate(np.concatenate([targets.T, ends, losses]).T)
    )
    rollouts = {name: float(np.sqrt(np.mean(errors.score**2))) for name, errors in mine.items()}
    verdict, why = _verdict(made, shaped, loss_error)
    return TaskForecast(
        task, scores.chance[task], verdict, why, shape, one.weights, rollouts, loss_error, made
    )


def _weights(mine: Mapping[str, _Errors]) -> dict[str, float]:
    """Shares by the inverse square of the rollouts' errors in the logit."""
    worth = {name: 1.0 / (np.mean(one.logit**2) + FLOOR**2) for name, one in mine.items()}
    total = sum(worth.values())
    return {name: float(one / total) for name, one in worth.items()}


def _task_loss(
    scores: Scores,
    task: str,
    targets: np.ndarray,
    weights_Lr: np.ndarray,
    confidence: float,
    cuts: list[np.ndarray],
) -> tuple[np.ndarray, float]:
    """The loss of right answers at the targets with its ends, (3, m), and its rollouts' error."""
    loss, last = scores.task_loss[task], scores.final
    if not np.all(np.isfinite(loss[last])):
        return np.full((3, len(targets)), np.nan), float("nan")
    law = loss_law(scores, loss, weights_Lr)
    error, decades = [], []
    for keep in cuts:
        train, above = scores.take(keep), last & ~keep
        small = loss_law(train, loss[keep], np.ones((1, int(train.run.max()) + 1)))
        said = small(scores.params[above], scores.tokens[above])[0]
        error.append(np.log(loss[above] / said))
        decades.append(_decades(train, scores.params[above], scores.tokens[above]))
    off, far = np.concatenate(error), np.concatenate(decades)
    left = np.log(loss[last] / law(scores.params[last], scores.tokens[last])[0])
    noise = float(np.sqrt(np.sum(left**2) / max(len(left) - 5, 1)))
    rolled_m = _growth(off, far, noise) * _decades(scores, *targets.T) ** 2
    logs = np.log(law(*targets.T))
    sd = np.sqrt(noise**2 + np.maximum(logs[1:].var(axis=0), rolled_m))
    reach = scipy.special.stdtrit(max(len(left) - 5, 3), 0.5 + confidence / 2) * sd
    ends = np.stack([np.exp(logs[0] + sign * reach) for sign in (0, -1, 1)])
    return ends, float(np.sqrt(np.mean(off**2)))


def _shape(scores: Scores, task: str, noise: float) -> tuple[str, str]:
    """("rising", "flat" or "emergent", a sentence), from the thirds of least and most compute."""
    last = scores.final
    order = np.argsort(scores.flops[last])
    third = max(len(order) // 3, 2)
    values = scores.score[task][last][order]
    slope = noise * np.clip(values * (1 - values), 0.01, None).mean()
    low, high = values[:third].mean(), values[-third:].mean()
    error = slope * np.sqrt(2 / third)
    chance = scores.chance[task]
    if high - low < FLAT * error:
        return (
            "flat",
            f"its score moves from {low:.3f} to {high:.3f} over the runs, no more than chance",
        )
    if chance is None:
        return "rising", ""
    if high - chance < FLAT * error:
        return "flat", f"its score, {high:.3f}, is not above the {chance:.3f} of a guess"
    if low - chance < FLAT * error:
        return (
            "emergent",
            f"the smaller runs guess ({low:.3f} of {chance:.3f}) and the larger do not",
        )
    return "rising", ""


def _refusal(width: float, room: float, shape: str, shaped: str, confidence: float) -> str:
    if shape == "flat":
        return shaped
    if width > WIDEST * room:
        return f"the {confidence:.0%} interval is {width:.2f} wide"
    return ""


def _verdict(targets: tuple[Target, ...], shaped: str, loss_error: float) -> tuple[str, str]:
    refused = [target.refused for target in targets if target.refused]
    if not refused:
        return "predictable", shaped or "every forecast is narrow enough to say something"
    if np.isfinite(loss_error) and loss_error <= LOSS_ERROR:
        return (
            "only its loss",
            f"{refused[0]}; its loss was right within {loss_error:.1%} in rollouts",
        )
    return "not", refused[0]

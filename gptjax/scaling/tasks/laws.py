"""Laws of scores: two steps through a loss, directly from compute, and from principal components.

A law is one value: a function from scores and weights of their rows to a predictor. All lanes of a
bootstrap are fitted together, so that an interval passes through every step of a law.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from gptjax.scaling.tasks.least_squares import solve
from gptjax.scaling.tasks.table import Scores

Predictor = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(params_m, tokens_m) -> values_Lm."""

COMPONENTS, EXPLAINED = 3, 0.97
"""Most principal components of the observational law, and the share of variance that is enough."""


@dataclasses.dataclass(frozen=True)
class TaskLaw:
    """A way from sizes and tokens to a score.

    Attributes:
      needs: whether the scores have what it is fitted to.
      fit: (scores, task, weights_Lr of runs) -> predictor.
    """

    name: str
    equation: str
    paper: str
    needs: Callable[[Scores, str], bool]
    fit: Callable[[Scores, str, np.ndarray], Predictor]


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^−x)."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def loss_law(scores: Scores, loss_n: np.ndarray, weights_Lr: np.ndarray) -> Predictor:
    """L = E + A/N^α + B/D^β on the last rows of runs, of log-losses (Hoffmann et al. 2022, eq. 2).

    Priors, all weak: E near six tenths of the lowest loss, α and β near .35, in log units of .5.
    """
    rows = scores.take(scores.final & np.isfinite(loss_n))
    loss = loss_n[scores.final & np.isfinite(loss_n)]
    of_run = np.unique(scores.run[scores.final & np.isfinite(loss_n)])
    centre = _Centre.of(scores)
    gap = max(float(np.median(loss)) - 0.6 * float(loss.min()), 1e-6)
    mean = np.log([0.6 * loss.min(), gap / 2, 0.35, gap / 2, 0.35])
    sd = np.array([0.5, 1.5, 0.5, 1.5, 0.5])

    def value(theta: np.ndarray, params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        e, a, alpha, b, beta = (theta[:, [j]] for j in range(5))
        n, d = centre(params, tokens)
        return np.log(np.exp(e) + np.exp(a - np.exp(alpha) * n) + np.exp(b - np.exp(beta) * d))

    def at_rows(theta: np.ndarray) -> np.ndarray:
        return value(theta, rows.params, rows.tokens)

    theta = _two_passes(at_rows, np.log(loss), weights_Lr[:, of_run][:, rows.run], mean, sd, 0.01)
    return lambda params, tokens: np.exp(value(theta, params, tokens))


def link(
    scores: Scores, task: str, x_kn: np.ndarray, weights_Lr: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Q = c + (a − c) σ(w·x + w0) on every row (Bhagia et al. 2024, eq. 3, for one x).

    The floor c is free about the score of a guess, and the top a about .92 of the way to one.

    Args:
      x_kn: what the score depends on, of each row.

    Returns:
      A function of x_Lkm to Q_Lm.
    """
    known = np.all(np.isfinite(x_kn), axis=0)
    middle, spread = x_kn[:, known].mean(1), x_kn[:, known].std(1) + 1e-12
    floor, width = _floor(scores, task)
    weights = weights_Lr[:, scores.run]
    y = np.where(known, scores.score[task], np.nan)
    up = np.sign([np.mean((x - x.mean()) * (y[known] - y[known].mean())) for x in x_kn[:, known]])
    mean = np.array([floor, 2.5, -1.0, *(up * np.where(np.arange(len(up)) == 0, 1.0, 0.0))])
    sd = np.array([width, 1.0, 2.0, *np.full(len(up), 1.0)])

    def value(theta: np.ndarray, x_Lkm: np.ndarray) -> np.ndarray:
        z = (x_Lkm - middle[:, None]) / spread[:, None]
        inner = theta[:, [2]] + np.einsum("lk,lkm->lm", theta[:, 3:], z)
        low = theta[:, [0]]
        return low + (1.0 - low) * sigmoid(theta[:, [1]]) * sigmoid(inner)

    def at_rows(theta: np.ndarray) -> np.ndarray:
        shape = (len(theta), *x_kn.shape)
        return value(theta, np.broadcast_to(np.where(known, x_kn, middle[:, None]), shape))

    theta = _two_passes(at_rows, y, weights, mean, sd, 0.01)
    return lambda x_Lkm: value(theta, x_Lkm)


def two_step(scores: Scores, task: str, weights_Lr: np.ndarray) -> Predictor:
    """The loss of the task's right answers, and the score from it."""
    return _through_loss(scores, task, scores.task_loss[task], weights_Lr)


def through_own_loss(scores: Scores, task: str, weights_Lr: np.ndarray) -> Predictor:
    """The model's own loss, and the score from it."""
    return _through_loss(scores, task, scores.loss, weights_Lr)


def _through_loss(
    scores: Scores, task: str, loss_n: np.ndarray, weights_Lr: np.ndarray
) -> Predictor:
    first = loss_law(scores, loss_n, weights_Lr)
    second = link(scores, task, loss_n[None], weights_Lr)
    return lambda params, tokens: second(first(params, tokens)[:, None])


def direct(scores: Scores, task: str, weights_Lr: np.ndarray) -> Predictor:
    """−log Q' = A / C^α, Q' = (Q − c) / (1 − c)."""
    return _direct(scores, task, weights_Lr, lambda n, d: (n + d)[None])


def direct_nd(scores: Scores, task: str, weights_Lr: np.ndarray) -> Predictor:
    """−log Q' = A / N^α + B / D^β, Q' = (Q − c) / (1 − c)."""
    return _direct(scores, task, weights_Lr, lambda n, d: np.stack([n, d]))


def _direct(
    scores: Scores, task: str, weights_Lr: np.ndarray, terms: Callable[..., np.ndarray]
) -> Predictor:
    last, centre = scores.final, _Centre.of(scores)
    x_tn = terms(*centre(scores.params[last], scores.tokens[last]))
    floor, width = _floor(scores, task)
    start = np.log(np.clip(-np.log(0.3), 0.1, 5.0) / len(x_tn))
    mean = np.array([floor, *np.full(len(x_tn), start), *np.full(len(x_tn), np.log(0.2))])
    sd = np.array([width, *np.full(len(x_tn), 1.5), *np.full(len(x_tn), 0.7)])

    def value(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        low, count = theta[:, [0]], len(x)
        size, power = theta[:, 1 : 1 + count, None], np.exp(theta[:, 1 + count :, None])
        cost = np.sum(np.exp(np.clip(size - power * x, -50.0, 50.0)), axis=1)
        return low + (1.0 - low) * np.exp(-cost)

    y, weights = scores.score[task][last], weights_Lr[:, scores.run[last]]
    theta = _two_passes(lambda theta: value(theta, x_tn), y, weights, mean, sd, 0.01)
    return lambda params, tokens: value(theta, terms(*centre(params, tokens)))


def observational(scores: Scores, task: str, weights_Lr: np.ndarray) -> Predictor:
    """Principal components of the losses of all tasks, and the score from them.

    The first component is an ability that follows a law of N and D, as a loss does; further ones
    are lines in ln N and ln D.
    """
    kept = [x for x in scores.task_loss.values() if np.all(np.isfinite(x[scores.final]))]
    logs_jn = np.log(np.stack(kept))
    middle = logs_jn[:, scores.final].mean(1, keepdims=True)
    axes_jk, share_k = _components(logs_jn[:, scores.final] - middle)
    count = min(COMPONENTS, int(np.searchsorted(np.cumsum(share_k), EXPLAINED)) + 1)
    x_kn = axes_jk[:, :count].T @ (logs_jn - middle)
    ability = loss_law(scores, np.exp(x_kn[0] / np.sqrt(len(kept))), weights_Lr)
    others = [_plane(scores, x_n, weights_Lr) for x_n in x_kn[1:]]
    second = link(scores, task, x_kn, weights_Lr)

    def predict(params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        first = np.log(ability(params, tokens)) * np.sqrt(len(kept))
        return second(np.stack([first, *(other(params, tokens) for other in others)], axis=1))

    return predict


def _components(centred_jn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(axes in columns, the first of them with positive sum; shares of the variance)."""
    axes, sizes, _ = np.linalg.svd(centred_jn, full_matrices=False)
    return axes * np.sign(axes.sum(0) + 1e-300), sizes**2 / np.sum(sizes**2)


def _plane(scores: Scores, x_n: np.ndarray, weights_Lr: np.ndarray) -> Predictor:
    last, centre = scores.final, _Centre.of(scores)

    def basis(params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        return np.stack([np.ones(len(params)), *centre(params, tokens)])

    rows = basis(scores.params[last], scores.tokens[last])
    spread = x_n[last].std() + 1e-12
    theta = _two_passes(
        lambda theta: theta @ rows,
        x_n[last],
        weights_Lr[:, scores.run[last]],
        np.zeros(3),
        np.array([1.0, 0.3, 0.3]) * spread,
        spread,
    )
    return lambda params, tokens: theta @ basis(params, tokens)


@dataclasses.dataclass(frozen=True)
class _Centre:
    """ln N and ln D from their means over the runs, so that coordinates hardly depend on others."""

    params: float
    tokens: float

    @classmethod
    def of(cls, scores: Scores) -> "_Centre":
        last = scores.final
        return cls(np.log(scores.params[last]).mean(), np.log(scores.tokens[last]).mean())

    def __call__(self, params: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.log(params) - self.params, np.log(tokens) - self.tokens


def _floor(scores: Scores, task: str) -> tuple[float, float]:
    """Mean and deviation of the prior of a score's floor."""
    chance = scores.chance[task]
    if chance is not None:
        return chance, 0.03
    return float(np.nanmin(scores.score[task])), 0.1


def _two_passes(
    predict: Callable[[np.ndarray], np.ndarray],
    target_n: np.ndarray,
    weights_Ln: np.ndarray,
    mean: np.ndarray,
    sd: np.ndarray,
    noise: float,
) -> np.ndarray:
    """`solve` with a guessed noise and again with the one that was found."""
    theta = solve(predict, target_n, weights_Ln[:1] / noise**2, mean, sd)
    left = predict(theta)[0] - target_n
    used = np.isfinite(left) & (weights_Ln[0] > 0)
    freedom = max(int(used.sum()) - len(mean), 1)
    found = max(float(np.sum(left[used] ** 2)) / freedom, 1e-10)
    return solve(predict, target_n, weights_Ln / found, mean, sd, theta[0])


def _has_task_loss(scores: Scores, task: str) -> bool:
    return bool(np.all(np.isfinite(scores.task_loss[task][scores.final])))


def _has_own_loss(scores: Scores, task: str) -> bool:
    return bool(np.all(np.isfinite(scores.loss[scores.final])))


def _has_tasks(scores: Scores, task: str) -> bool:
    return sum(_has_task_loss(scores, one) for one in scores.tasks) >= COMPONENTS


def _always(scores: Scores, task: str) -> bool:
    return True


LAWS: dict[str, TaskLaw] = {
    law.name: law
    for law in (
        TaskLaw(
            "two_step",
            "L = E + A/N^alpha + B/D^beta; Q = c + (a - c) sigmoid(k L + l)",
            "Bhagia et al. 2024, arXiv:2412.04403",
            _has_task_loss,
            two_step,
        ),
        TaskLaw(
            "own_loss",
            "the same through the model's own loss",
            "Bhagia et al. 2024, arXiv:2412.04403, with another loss in the middle",
            _has_own_loss,
            through_own_loss,
        ),
        TaskLaw(
            "direct",
            "-ln Q' = A/C^alpha, Q' = (Q - c)/(1 - c)",
            "arXiv:2512.08894",
            _always,
            direct,
        ),
        TaskLaw(
            "direct_nd",
            "-ln Q' = A/N^alpha + B/D^beta, Q' = (Q - c)/(1 - c)",
            "arXiv:2512.08894",
            _always,
            direct_nd,
        ),
        TaskLaw(
            "observational",
            "S = principal components of all tasks' ln L; Q = c + (a - c) sigmoid(w S + l)",
            "after Ruan et al. 2024, arXiv:2405.10938",
            _has_tasks,
            observational,
        ),
    )
}
"""Laws of scores by name, in the order of the report."""

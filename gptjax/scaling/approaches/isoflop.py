"""Chinchilla's approach 2: a parabola through the runs of each budget, a line through the minima.

Hoffmann et al. 2022, section 3.2. A valley is used when it has at least five sizes within a factor
of four of its minimum, positive curvature, and runs on both sides of the minimum; any other is
kept with the reason. Intervals redraw the runs' scatter around their parabolas: six points drawn
with replacement seldom make a parabola at all.
"""

import dataclasses

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.config import FitConfig
from gptjax.scaling.fit import bootstrap, engine
from gptjax.scaling.fit.bootstrap import Interval
from gptjax.scaling.fit.lines import PowerLine, power_line
from gptjax.scaling.forms.frontier import FRONTIER
from gptjax.scaling.tables.runs import Runs


@dataclasses.dataclass(frozen=True)
class Valley:
    """The runs of one budget and their parabola loss = c0 + c1 u + c2 u^2, u = ln(params/centre).

    Attributes:
      budget: nominal FLOPs; `flops` is the geometric mean of the runs used.
      index: rows of the table that belong to the budget.
      used: which of them the parabola uses, and `reasons` why not the others.
      reason: why the whole valley is not used; '' when it is.
      coefficients, centre: of the parabola.
      params, tokens, loss: the minimum.
      samples: (R, 3) resampled (params, tokens, loss).
    """

    budget: float
    flops: float
    index: np.ndarray
    used: np.ndarray
    reasons: tuple[str, ...]
    reason: str
    coefficients: np.ndarray
    centre: float
    params: float = np.nan
    tokens: float = np.nan
    loss: float = np.nan
    samples: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 3)))


@dataclasses.dataclass(frozen=True)
class IsoFlop:
    """The minima's power laws and the valleys that they rest on."""

    valleys: tuple[Valley, ...]
    params: PowerLine
    tokens: PowerLine
    loss_law: dict[str, Interval] | None
    loss_samples: dict[str, np.ndarray]
    freedom: int
    count: int
    config: FitConfig

    @property
    def used(self) -> list[Valley]:
        return [valley for valley in self.valleys if not valley.reason]

    def loss_at(self, flops: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """(value, low, high) of the minimum loss at budgets; None with fewer than four valleys."""
        if self.loss_law is None:
            return None
        values = {name: interval.value for name, interval in self.loss_law.items()}
        lanes = {name: sample[:, None] for name, sample in self.loss_samples.items()}
        many = engine.predict(FRONTIER, lanes, {"flops": np.asarray(flops)[None]})
        low, high = bootstrap.band(many, self.config.confidence, self.freedom)
        return engine.predict(FRONTIER, values, {"flops": np.asarray(flops)}), low, high


def fit_isoflop(runs: Runs, config: FitConfig) -> IsoFlop:
    """Fit the valleys of every budget and the lines through their minima.

    Raises:
      UserError: when fewer than two valleys are usable; the sentence gives the first reason.
    """
    valleys = [_valley(runs, budget, config) for budget in runs.budgets]
    used = [valley for valley in valleys if not valley.reason]
    if len(used) < 2:
        why = next((f"; at {v.budget:.3g} FLOPs: {v.reason}" for v in valleys if v.reason), "")
        raise UserError(
            f"IsoFLOP profiles need two usable valleys and {len(used)} of {len(valleys)} are{why}"
        )
    freedom = max(sum(int(v.used.sum()) - 3 for v in used), 1)
    valleys = _resampled(valleys, runs, config)
    used = [valley for valley in valleys if not valley.reason]
    flops = np.array([valley.flops for valley in used])
    lines = [
        power_line(
            flops,
            np.array([(v.params, v.tokens)[i] for v in used]),
            np.stack([v.samples[:, i] for v in used], axis=1),
            config.confidence,
            freedom,
        )
        for i in (0, 1)
    ]
    loss_law, loss_samples = _loss_law(used, flops, config, freedom)
    return IsoFlop(
        tuple(valleys),
        lines[0],
        lines[1],
        loss_law,
        loss_samples,
        freedom,
        config.resamples,
        config,
    )


def _valley(runs: Runs, budget: float, config: FitConfig) -> Valley:
    """The parabola of one budget; points too far from the minimum are dropped one round a time."""
    index = np.flatnonzero(runs.budget == budget)
    size, loss = np.log(runs.params[index]), runs.loss[index]
    used = np.ones(len(index), bool)
    coefficients, centre, reason = np.full(3, np.nan), float(np.mean(size)), ""
    for _ in range(10):
        sizes = len(np.unique(np.round(size[used], 9)))
        if sizes < config.valley_points:
            reason = f"{sizes} sizes near the minimum; {config.valley_points} are needed"
            break
        centre = float(np.mean(size[used]))
        coefficients = np.polyfit(size[used] - centre, loss[used], 2)[::-1]
        reason = _shape(coefficients, size[used] - centre)
        if reason:
            break
        bottom = centre - coefficients[1] / (2 * coefficients[2])
        near = np.abs(size - bottom) <= np.log(config.valley_factor) * (1 + 1e-9)
        if np.array_equal(near & used, used):
            break
        used = used & near
    far = f"farther than a factor {config.valley_factor:g} from the minimum"
    reasons = tuple("" if keep else far for keep in used)
    flops = float(np.exp(np.mean(np.log(runs.flops[index[used]])))) if used.any() else budget
    valley = Valley(
        float(budget), flops, index, used, reasons, reason, coefficients, float(np.exp(centre))
    )
    if reason:
        return valley
    params, tokens, low = _bottom(
        coefficients[None], centre, size[used], _log_tokens(runs, index, used)
    )
    return dataclasses.replace(
        valley, params=float(params[0]), tokens=float(tokens[0]), loss=float(low[0])
    )


def _shape(coefficients: np.ndarray, size: np.ndarray) -> str:
    """Why a parabola is no valley, or ''."""
    if coefficients[2] <= 0:
        return "the loss curves down: there is no minimum"
    bottom = -coefficients[1] / (2 * coefficients[2])
    if bottom <= size.min():
        return "the minimum lies below the smallest size"
    if bottom >= size.max():
        return "the minimum lies above the largest size"
    return ""


def _log_tokens(runs: Runs, index: np.ndarray, used: np.ndarray) -> np.ndarray:
    return np.log(runs.tokens[index[used]])


def _bottom(
    coefficients: np.ndarray, centre: float, size: np.ndarray, log_tokens: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Minimum (params, tokens, loss) of (R, 3) parabolas; NaN where one has none nearby."""
    c0, c1, c2 = coefficients.T
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = np.where(c2 > 0, -c1 / (2 * c2), np.nan)
    shift = np.where(np.abs(shift) < 3 * np.ptp(size), shift, np.nan)
    relation = np.polyfit(size - centre, log_tokens, min(2, len(size) - 1))
    return np.exp(centre + shift), np.exp(np.polyval(relation, shift)), c0 + c1 * shift / 2


def _resampled(valleys: list[Valley], runs: Runs, config: FitConfig) -> list[Valley]:
    """The valleys with resampled minima.

    Scatter is pooled over valleys as a share of the loss, since six points say little about it
    alone; runs that share a trunk flip their own residuals' signs together instead.
    """
    used = [valley for valley in valleys if not valley.reason]
    designs, scatter = [], []
    for valley in used:
        rows = valley.index[valley.used]
        design = np.vander(np.log(runs.params[rows] / valley.centre), 3, increasing=True)
        residual = runs.loss[rows] - design @ valley.coefficients
        lever = bootstrap.leverage(design, np.ones(len(rows)))
        designs.append(design)
        scatter.append(residual / np.sqrt(1 - lever) / runs.loss[rows])
    rng = np.random.default_rng([config.seed, 3])
    signs = rng.choice([-1.0, 1.0], size=(config.resamples, int(runs.group.max()) + 1))
    pool = np.concatenate(scatter)
    result = dict(zip((v.budget for v in used), zip(designs, scatter, strict=True), strict=True))
    redrawn = []
    for valley in valleys:
        if valley.reason:
            redrawn.append(valley)
            continue
        design, own = result[valley.budget]
        rows = valley.index[valley.used]
        draws = signs[:, runs.group[rows]] * (
            own if runs.group_by != "run" else rng.choice(pool, size=(config.resamples, len(rows)))
        )
        losses = design @ valley.coefficients + draws * runs.loss[rows]
        coefficients = losses @ np.linalg.pinv(design).T
        bottom = _bottom(
            coefficients,
            np.log(valley.centre),
            np.log(runs.params[rows]),
            np.log(runs.tokens[rows]),
        )
        redrawn.append(dataclasses.replace(valley, samples=np.stack(bottom, axis=1)))
    return redrawn


def _loss_law(
    used: list[Valley], flops: np.ndarray, config: FitConfig, freedom: int
) -> tuple[dict[str, Interval] | None, dict[str, np.ndarray]]:
    """L = E + K C^-gamma through the minima, where there are at least four."""
    if len(used) < 4:
        return None, {}
    loss = np.array([valley.loss for valley in used])
    samples = np.stack([valley.samples[:, 2] for valley in used], axis=1)
    samples = samples[np.all(np.isfinite(samples), axis=1)]
    fitted = _saturating_power(flops, np.concatenate([loss[None], samples]))
    lanes = {name: column[1:] for name, column in fitted.items()}
    law = {
        name: bootstrap.interval(float(column[0]), lanes[name], config.confidence, freedom)
        for name, column in fitted.items()
    }
    return law, lanes


def _saturating_power(flops: np.ndarray, losses: np.ndarray) -> dict[str, np.ndarray]:
    """Least squares of (R, V) losses on E + K C^-gamma with E, K >= 0, (R,) each.

    Linear in E and K, so gamma alone is searched: on a grid, then twice more around the best.
    """
    x = np.log(flops) - np.mean(np.log(flops))
    lanes = np.arange(len(losses))
    log_gamma, half = np.full(len(losses), np.log(0.1)), np.log(30.0)
    for _ in range(3):
        grid = log_gamma[:, None] + np.linspace(-half, half, 61)
        decay = np.exp(-np.exp(grid)[..., None] * x)  # (R, grid, V)
        centred = decay - decay.mean(-1, keepdims=True)
        slope = np.sum(centred * losses[:, None], -1) / np.sum(centred**2, -1)
        level = losses.mean(1)[:, None] - slope * decay.mean(-1)
        through_zero = np.sum(decay * losses[:, None], -1) / np.sum(decay**2, -1)
        slope = np.where(level < 0, through_zero, np.maximum(slope, 0))
        level = np.maximum(level, 0)
        error = np.sum((losses[:, None] - level[..., None] - slope[..., None] * decay) ** 2, -1)
        best = np.argmin(error, axis=1)
        log_gamma, half = grid[lanes, best], half / 25
    gamma = np.exp(log_gamma)
    scale = np.exp(gamma * np.mean(np.log(flops)))
    return {"E": level[lanes, best], "K": slope[lanes, best] * scale, "gamma": gamma}

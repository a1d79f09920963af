"""IsoFLOP profiles (approach 2): a valley through the runs of each budget, a line through minima.

Hoffmann et al. 2022, section 3.2. A valley is a polynomial of the log loss in the log size near
the lowest run: a parabola, or a cubic where that predicts left-out runs better, since a parabola
leans to the flat side of a lopsided valley. One without an inner minimum is kept with the reason.
Intervals redraw each valley's scatter, shrunk towards that of all; six points drawn with
replacement seldom make a valley at all. The line weighs minima by how well they are known.
"""

import dataclasses

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.approaches import valley
from gptjax.scaling.config import FitConfig
from gptjax.scaling.fit import bootstrap, engine
from gptjax.scaling.fit.bootstrap import Interval
from gptjax.scaling.fit.lines import PowerLine, power_line
from gptjax.scaling.fit.result import Fit
from gptjax.scaling.forms.frontier import FRONTIER
from gptjax.scaling.tables.runs import Runs

SIMULATED = 50  # resamples of a simulated table, which weigh its minima


@dataclasses.dataclass(frozen=True)
class Valley:
    """The runs of one budget and the curve ln loss = c0 + c1 u + c2 u^2 (+ c3 u^3) through them.

    u = ln(params/centre).

    Attributes:
      budget: nominal FLOPs; `flops` is the geometric mean of the runs used.
      index: rows of the table that belong to the budget.
      used: which of them the curve uses, and `reasons` why not the others.
      reason: why the whole valley is not used; '' when it is.
      coefficients, centre: of the curve.
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
    degree: int = 2

    @property
    def used(self) -> list[Valley]:
        return [found for found in self.valleys if not found.reason]

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
    if np.any(runs.loss <= 0):
        raise UserError(
            "IsoFLOP valleys are of the log of a loss, and the target is not above zero"
        )
    valleys = [_valley(runs, budget, config, 2) for budget in runs.budgets]
    shapes = [
        (np.log(runs.params[v.index[v.used]]), np.log(runs.loss[v.index[v.used]]))
        for v in valleys
        if v.used.any()
    ]
    degree = valley.choose_degree(shapes)
    if degree > 2:
        valleys = [_valley(runs, budget, config, degree) for budget in runs.budgets]
    used = [found for found in valleys if not found.reason]
    if len(used) < 2:
        why = next((f"; at {v.budget:.3g} FLOPs: {v.reason}" for v in valleys if v.reason), "")
        raise UserError(
            f"IsoFLOP profiles need two usable valleys and {len(used)} of {len(valleys)} are{why}"
        )
    freedom = max(sum(int(v.used.sum()) - len(v.coefficients) for v in used), 1)
    valleys = _resampled(valleys, runs, config)
    used = [found for found in valleys if not found.reason]
    flops = np.array([found.flops for found in used])
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
        degree,
    )


def method_bias(runs: Runs, law: Fit, config: FitConfig) -> dict[str, float]:
    """What the method makes of noiseless losses of a known law at these sizes and tokens.

    Returns:
      `found`, the exponent a of N* ∝ C^a from the valleys, `true`, that of the law, and `bias`, the
      first less the second; empty where the valleys of the law cannot be found.
    """
    place = {"params": runs.params, "tokens": runs.tokens, "flops": runs.flops}
    clean = dataclasses.replace(runs, loss=engine.predict(law.form, law.values, place))
    try:
        found = fit_isoflop(clean, dataclasses.replace(config, resamples=SIMULATED))
    except UserError:
        return {}
    right = law.params["a"].value
    return {"found": found.params.slope, "true": right, "bias": found.params.slope - right}


def _valley(runs: Runs, budget: float, config: FitConfig, degree: int) -> Valley:
    """The valley of one budget."""
    index = np.flatnonzero(runs.budget == budget)
    size = np.log(runs.params[index])
    curve = valley.find(
        size,
        np.log(runs.loss[index]),
        width=np.log(config.valley_factor),
        fewest=config.valley_points,
        degree=degree,
    )
    used = curve.used
    far = f"farther than a factor {config.valley_factor:g} from the minimum"
    reasons = tuple("" if keep else far for keep in used)
    flops = float(np.exp(np.mean(np.log(runs.flops[index[used]])))) if used.any() else budget
    found = Valley(
        float(budget),
        flops,
        index,
        used,
        reasons,
        curve.reason,
        curve.coefficients,
        float(np.exp(curve.centre)),
    )
    if curve.reason:
        return found
    log_tokens = np.log(runs.tokens[index[used]])
    params, tokens, low = _bottom(curve.coefficients[None], curve.centre, size[used], log_tokens)
    return dataclasses.replace(
        found, params=float(params[0]), tokens=float(tokens[0]), loss=float(low[0])
    )


def _bottom(
    coefficients: np.ndarray, centre: float, size: np.ndarray, log_tokens: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Minimum (params, tokens, loss) of (R, 3 or 4) curves; NaN where one has none nearby."""
    far = 3 * np.ptp(size)
    shift = valley.bottoms(coefficients, -far, far)
    relation = np.polyfit(size - centre, log_tokens, min(2, len(size) - 1))
    powers = np.vander(shift, coefficients.shape[1], increasing=True)
    loss = np.exp(np.sum(coefficients * powers, axis=1))
    return np.exp(centre + shift), np.exp(np.polyval(relation, shift)), loss


def _resampled(valleys: list[Valley], runs: Runs, config: FitConfig) -> list[Valley]:
    """The valleys with resampled minima.

    Scatter is that of each valley, shrunk towards the pooled one since six points say little, and
    its shape is drawn from all; runs that share a trunk flip their own residuals' signs together.
    """
    used = [found for found in valleys if not found.reason]
    designs, scaled = [], []
    squares, freedom = np.zeros(len(used)), np.zeros(len(used))
    for i, found in enumerate(used):
        rows = found.index[found.used]
        u = np.log(runs.params[rows] / found.centre)
        design = np.vander(u, len(found.coefficients), increasing=True)
        residual = np.log(runs.loss[rows]) - design @ found.coefficients
        lever = bootstrap.leverage(design, np.ones(len(rows)))
        designs.append(design)
        scaled.append(residual / np.sqrt(1 - lever))
        squares[i], freedom[i] = np.sum(residual**2), max(len(rows) - design.shape[1], 0)
    scatter = valley.scatters(squares, freedom)
    rng = np.random.default_rng([config.seed, 3])
    size = (config.resamples, int(runs.group.max()) + 1)
    signs = 2 * rng.integers(0, 2, size, np.int8) - 1  # one byte each: a table may be large
    sizes = [max(float(np.sqrt(np.mean(one**2))), 1e-300) for one in scaled]
    pool = np.concatenate([one / size for one, size in zip(scaled, sizes, strict=True)])
    redrawn = iter(
        _redraw(found, design, own, spread, pool, signs, runs, rng)
        for found, design, own, spread in zip(used, designs, scaled, scatter, strict=True)
    )
    return [found if found.reason else next(redrawn) for found in valleys]


def _redraw(
    found: Valley,
    design: np.ndarray,
    own: np.ndarray,
    spread: float,
    pool: np.ndarray,
    signs: np.ndarray,
    runs: Runs,
    rng: np.random.Generator,
) -> Valley:
    """One valley with the minima of its redrawn runs."""
    rows = found.index[found.used]
    draws = own if runs.group_by != "run" else spread * rng.choice(pool, (len(signs), len(rows)))
    logs = design @ found.coefficients + signs[:, runs.group[rows]] * draws
    bottom = _bottom(
        logs @ np.linalg.pinv(design).T,
        np.log(found.centre),
        np.log(runs.params[rows]),
        np.log(runs.tokens[rows]),
    )
    return dataclasses.replace(found, samples=np.stack(bottom, axis=1))


def _loss_law(
    used: list[Valley], flops: np.ndarray, config: FitConfig, freedom: int
) -> tuple[dict[str, Interval] | None, dict[str, np.ndarray]]:
    """L = E + K C^-gamma through the minima, where there are at least four."""
    if len(used) < 4:
        return None, {}
    loss = np.array([found.loss for found in used])
    samples = np.stack([found.samples[:, 2] for found in used], axis=1)
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

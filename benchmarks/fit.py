"""Time our fits beside SciPy's BFGS from the classic grid of 4,500 starts.

    python -m benchmarks.fit [TABLE.csv] [--repeats 3] [--scipy-starts 90]

TABLE.csv has columns N, D, loss (the 234 runs of Besiroglu et al. 2024 are the usual one); without
it a synthetic table of the same size is used. SciPy runs a random sample of the classic grid's
starts, alternating with ours in the same process, and its time is scaled to all 4,500. Both
minimise the sum of Huber(delta 1e-3) over log residuals in float64.
"""

import argparse
import itertools
import statistics
import time

import numpy as np
from scipy import optimize, special

from gptjax import scaling

GRID = {
    "alpha": np.arange(0, 2.5, 0.5),
    "beta": np.arange(0, 2.5, 0.5),
    "e": np.arange(-1, 1.5, 0.5),
    "a": np.arange(0, 30, 5),
    "b": np.arange(0, 30, 5),
}  # Hoffmann et al. 2022, appendix D.3


def table(path: str | None) -> dict[str, np.ndarray]:
    """The runs to fit."""
    if path:
        runs = scaling.prepare(path)
        return {"params": runs.params, "tokens": runs.tokens, "loss": runs.loss}
    rng = np.random.default_rng(0)
    params = np.exp(rng.uniform(np.log(5e7), np.log(1.5e10), 234))
    tokens = np.exp(rng.uniform(np.log(1e9), np.log(3e11), 234))
    loss = 1.78 + 442 * params**-0.343 + 1272 * tokens**-0.342
    return {"params": params, "tokens": tokens, "loss": loss * np.exp(0.004 * rng.normal(size=234))}


def scipy_fit(runs: dict[str, np.ndarray], start: np.ndarray) -> float:
    """One BFGS run of the classic recipe (analytic gradient); the objective reached."""
    log_n, log_d, log_l = (np.log(runs[name]) for name in ("params", "tokens", "loss"))

    def objective(x):
        alpha, beta, e, a, b = x
        parts = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])
        share = special.softmax(parts, axis=0)
        residual = special.logsumexp(parts, axis=0) - log_l
        slope = np.clip(residual, -1e-3, 1e-3)
        gradient = [-share[0] * log_n, -share[1] * log_d, share[2], share[0], share[1]]
        return special.huber(1e-3, residual).sum(), np.array([(slope * g).sum() for g in gradient])

    return optimize.minimize(objective, start, jac=True, method="BFGS").fun


def ours(runs: dict[str, np.ndarray], starts: int, resamples: int) -> tuple[float, scaling.Fit]:
    began = time.perf_counter()
    law = scaling.fit(runs, starts=starts, resamples=resamples)
    return time.perf_counter() - began, law


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", nargs="?")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scipy-starts", type=int, default=90)
    options = parser.parse_args()
    runs = table(options.table)
    grid = np.array(list(itertools.product(*GRID.values())))
    sample = np.random.default_rng(0).choice(len(grid), options.scipy_starts, replace=False)
    cold, law = ours(runs, 500, 4000)
    times: dict[str, list[float]] = {"fit": [], "both": [], "scipy": []}
    reached: list[float] = []
    for repeat in range(options.repeats):
        times["fit"].append(ours(runs, 500, 0)[0])
        times["both"].append(ours(runs, 500, 4000)[0])
        part = sample[repeat :: options.repeats]
        began = time.perf_counter()
        reached += [scipy_fit(runs, grid[i]) for i in part]
        times["scipy"].append((time.perf_counter() - began) / len(part) * len(grid))
    median = {name: statistics.median(values) for name, values in times.items()}
    best = law.certificate.objective
    share = float(np.mean(np.array(reached) <= best * (1 + 1e-6)))
    print(f"runs {len(runs['loss'])}, objective {best:.7g}")
    print(f"500 starts and 4,000 resamples, cold      {cold:8.2f} s")
    print(
        f"500 starts, warm                          {median['fit']:8.2f} s"
        f"   {law.certificate.share_at_best:.1%} of starts at the optimum"
    )
    print(
        f"4,000 resamples, warm                     {median['both'] - median['fit']:8.2f} s"
        f"   {law.resamples.failed} failed"
    )
    print(
        f"SciPy BFGS, {len(grid)} classic starts        {median['scipy']:8.2f} s"
        f"   {share:.1%} of starts at the optimum"
    )
    print(f"SciPy over ours, one fit                  {median['scipy'] / median['fit']:8.1f} times")


if __name__ == "__main__":
    main()

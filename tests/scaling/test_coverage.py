"""Do 95 % intervals hold the truth 92 to 98 times in a hundred?"""

import numpy as np
import pytest
from known_runs import TRUTH, chinchilla_loss, runs_table

from gptjax import scaling

TABLES = 300


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["huber_log", "squares_log"])
def test_intervals_of_a_small_sweep_cover_the_truth(kind):
    a = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    ratio = TRUTH["alpha"] * TRUTH["A"] / (TRUTH["beta"] * TRUTH["B"])
    best = ratio ** (1 / (TRUTH["alpha"] + TRUTH["beta"])) * (1e21 / 6) ** a
    truth = {**TRUTH, "a": a, "b": 1 - a, "params_opt": best}
    truth["loss_opt"] = float(chinchilla_loss(best, 1e21 / 6 / best))
    hits = dict.fromkeys(truth, 0)
    for seed in range(TABLES):
        table = runs_table(noise=0.003, seed=seed)
        law = scaling.fit(table, starts=8, resamples=400, loss_kind=kind)
        top = law.optimum(1e21)
        found = {**law.params, "params_opt": top.params, "loss_opt": top.loss}
        for name, value in truth.items():
            hits[name] += found[name].low <= value <= found[name].high
    shares = {name: count / TABLES for name, count in hits.items()}
    print(kind, shares)
    assert np.min(list(shares.values())) >= 0.92 - 0.02, shares
    assert np.max(list(shares.values())) <= 0.98 + 0.01, shares

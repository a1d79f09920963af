"""The table of forms on what was held out: its order, and its numbers by hand."""

import math

import numpy as np
import pytest
from known_runs import runs_table

from gptjax import scaling
from gptjax.errors import UserError
from gptjax.scaling.fit import compare_forms


def test_forms_are_scored_best_first_within_a_split(monkeypatch):
    runs = scaling.prepare(runs_table(noise=0.002))
    fit, held = compare_forms.hold_out, {}

    def hold_out(runs, form, keep, config):
        if form.name == "kaplan_d":
            raise UserError("it cannot be fitted; give more runs")
        held[form.name, int(keep.sum())] = found = fit(runs, form, keep, config)
        return found

    monkeypatch.setattr(compare_forms, "hold_out", hold_out)
    config = scaling.FitConfig(resamples=0, starts=4)
    rows = compare_forms.scores(runs, ("kaplan_d", "kaplan_n", "chinchilla"), config)
    splits = ("third_decade = largest_budget", "half_decade")
    assert [(row["split"], row["form"]) for row in rows] == [
        (split, form) for split in splits for form in ("chinchilla", "kaplan_n", "kaplan_d")
    ]
    for row in rows:
        if row["form"] == "kaplan_d":
            assert row["reason"] == "it cannot be fitted; give more runs" and len(row) == 3
            continue
        found = held[row["form"], row["n_train"]]
        assert row["n_train"] + row["n_heldout"] == len(runs)
        spread = math.sqrt(np.mean(found.law.noise**2))
        miss = np.log(found.heldout.loss / found.predicted)
        density = np.exp(-0.5 * (miss / spread) ** 2) / (spread * math.sqrt(2 * math.pi))
        assert row["log_likelihood"] == pytest.approx(np.log(density).mean(), rel=1e-6)
        relative = np.abs(found.predicted / found.heldout.loss - 1)
        assert row["max_relative_error"] == pytest.approx(relative.max(), rel=0.2)

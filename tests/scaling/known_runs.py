"""Tables with known laws, and where published runs lie when somebody has them."""

import pathlib

import numpy as np
import pytest

PUBLISHED = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"
TRUTH = {"E": 1.7, "A": 400.0, "B": 1200.0, "alpha": 0.34, "beta": 0.36}


def published(name: str) -> str:
    """Path of a published table; skips the test, saying so, where it is absent."""
    path = PUBLISHED / name
    if not path.is_file():
        pytest.skip(f"published runs are not here: {path} (they belong beside the repository)")
    return str(path)


def chinchilla_loss(params, tokens, truth=TRUTH):
    return (
        truth["E"] + truth["A"] * params ** -truth["alpha"] + truth["B"] * tokens ** -truth["beta"]
    )


def isoflop_grid(budgets=5, sizes=7, low=1e18, high=3e19, truth=TRUTH):
    """Sizes around the optimum of each budget: (budget, params, tokens)."""
    a = truth["beta"] / (truth["alpha"] + truth["beta"])
    ratio = truth["alpha"] * truth["A"] / (truth["beta"] * truth["B"])
    rows = []
    for budget in np.geomspace(low, high, budgets):
        best = ratio ** (1 / (truth["alpha"] + truth["beta"])) * (budget / 6) ** a
        for factor in np.geomspace(0.3, 3.3, sizes):
            rows.append((budget, best * factor, budget / 6 / (best * factor)))
    return np.array(rows).T


def runs_table(noise=0.0, seed=0, **grid):
    """Columns of an IsoFLOP sweep with log-normal noise."""
    budget, params, tokens = isoflop_grid(**grid)
    rng = np.random.default_rng(seed)
    loss = chinchilla_loss(params, tokens) * np.exp(noise * rng.standard_normal(len(params)))
    cell = [f"cell-{i}" for i in range(len(params))]
    return {
        "cell": cell,
        "budget": budget,
        "flops": budget,
        "params": params,
        "tokens": tokens,
        "loss": loss,
    }


def curves_table(table, points=40):
    """Training curves that follow the law at every point, for the envelope."""
    rows = []
    for i, cell in enumerate(table["cell"]):
        for share in np.geomspace(0.02, 1.0, points):
            tokens = table["tokens"][i] * share
            loss = chinchilla_loss(table["params"][i], tokens)
            flops = table["flops"][i] * share
            rows.append({"cell": cell, "tokens": tokens, "flops": flops, "loss": loss})
    return rows

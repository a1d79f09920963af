"""A sweep that was never run: tables and laws made from known parameters, in the real schema."""

import numpy as np

E, A, B, ALPHA, BETA = 0.72, 30.0, 55.0, 0.36, 0.33
SLOPE_A, SLOPE_B = BETA / (ALPHA + BETA), ALPHA / (ALPHA + BETA)
BUDGETS = (2e11, 5e11, 1.2e12, 3e12, 7e12, 1.6e13)


def law(params, tokens):
    return E + A / params**ALPHA + B / tokens**BETA


def best_params(flops):
    scale = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    return scale * (flops / 6) ** SLOPE_A


def interval(value, spread=0.04):
    value = float(value)
    return {"value": value, "low": value * (1 - spread), "high": value * (1 + spread)}


def _runs():
    noise = np.random.default_rng(0)
    rows = []
    for i, budget in enumerate(BUDGETS):
        for j, ratio in enumerate(np.geomspace(0.35, 2.9, 7)):
            params = round(float(best_params(budget)) * float(ratio))
            tokens = round(budget / (6 * params))
            loss = float(law(params, tokens) * np.exp(noise.normal(0, 0.003)))
            rows.append(
                {
                    "cell": f"c{i}{j}a7",
                    "params": params,
                    "tokens": tokens,
                    "flops": 6.0 * params * tokens,
                    "budget": budget,
                    "loss": loss,
                    "loss_stderr": 0.004,
                    "used": True,
                }
            )
    return rows


def runs_table(rows=None):
    """`runs.csv` as columns, one failed run last."""
    rows = list(rows or _runs())
    table = {
        "cell": [r["cell"] for r in rows],
        "status": ["done"] * len(rows),
        "reason": [""] * len(rows),
        "budget": [r["budget"] for r in rows],
        "flops": [r["flops"] for r in rows],
        "params_total": [r["params"] + 4096 for r in rows],
        "params_non_embedding": [r["params"] for r in rows],
        "params_non_embedding_with_head": [r["params"] + 2048 for r in rows],
        "tokens": [r["tokens"] for r in rows],
        "loss": [r["loss"] for r in rows],
        "loss_stderr": [0.004] * len(rows),
        "depth": [2 + k % 2 for k in range(len(rows))],
        "width": [16 * (1 + k % 7) for k in range(len(rows))],
        "batch_size": [16] * len(rows),
        "steps": [1200 + 10 * k for k in range(len(rows))],
        "learning_rate": [0.01] * len(rows),
        "seed": [0] * len(rows),
        "seconds": [4.0 + k for k in range(len(rows))],
    }
    last = {
        "cell": "deadbeef",
        "status": "failed",
        "reason": "loss was NaN twice",
        "budget": 2e11,
        "flops": 2e11,
        "params_total": 9000,
        "params_non_embedding": 8000,
        "params_non_embedding_with_head": 8500,
        "tokens": 4_000_000,
        "loss": float("nan"),
        "loss_stderr": float("nan"),
        "depth": 2,
        "width": 48,
        "batch_size": 16,
        "steps": 900,
        "learning_rate": 0.03,
        "seed": 0,
        "seconds": 1.0,
    }
    return {name: np.array([*values, last[name]]) for name, values in table.items()}


def curves_table(rows=None, points=60):
    """`curves.csv` as columns: every run on the same law, plus its warm-up."""
    columns = {"cell": [], "step": [], "tokens": [], "flops": [], "loss": []}
    for row in rows or _runs():
        steps = np.geomspace(4, 1200, points).astype(int)
        tokens = row["tokens"] * steps / 1200
        loss = law(row["params"], tokens) + 3.2 * np.exp(-steps / 25) + 0.12 * (1 - steps / 1200)
        columns["cell"] += [row["cell"]] * points
        columns["step"] += steps.tolist()
        columns["tokens"] += tokens.tolist()
        columns["flops"] += (row["flops"] * steps / 1200).tolist()
        columns["loss"] += loss.tolist()
    return {name: np.array(values) for name, values in columns.items()}


def _optimum(spread, flops=None):
    flops = np.geomspace(1e11, 1.6e14, 40) if flops is None else flops
    params = best_params(flops)
    tokens = flops / 6 / params
    loss = law(params, tokens)
    wide = spread * (1 + 0.5 * np.abs(np.log10(flops / 2e12)))
    found = {"flops": flops.tolist()}
    for name, values, width in (
        ("params", params, wide),
        ("tokens", tokens, wide),
        ("loss", loss, wide / 6),
    ):
        found[name] = values.tolist()
        found[f"{name}_low"] = (values * (1 - width)).tolist()
        found[f"{name}_high"] = (values * (1 + width)).tolist()
    return found


def _valley(rows, budget):
    points = [r for r in rows if r["budget"] == budget]
    centre = float(best_params(budget))
    u = np.log([r["params"] / centre for r in points])
    c2, c1, c0 = (float(c) for c in np.polyfit(u, [r["loss"] for r in points], 2))
    grid = np.linspace(u.min(), u.max(), 50)
    params = centre * float(np.exp(-c1 / (2 * c2)))
    return {
        "budget": budget,
        "used": True,
        "reason": None,
        "points": [{**r, "used": True, "reason": None} for r in points],
        "coefficients": [c0, c1, c2],
        "centre": centre,
        "minimum": {
            "params": interval(params, 0.07),
            "tokens": interval(budget / 6 / params, 0.07),
            "loss": interval(c0 - c1 * c1 / (4 * c2), 0.003),
        },
        "curve": {
            "params": (centre * np.exp(grid)).tolist(),
            "loss": (c0 + c1 * grid + c2 * grid**2).tolist(),
        },
    }


def _surface():
    flops, params = np.geomspace(1e11, 4e14, 30), np.geomspace(3e3, 3e6, 24)
    tokens = flops[None, :] / (6 * params[:, None])
    return {
        "params": params.tolist(),
        "flops": flops.tolist(),
        "tokens": tokens.tolist(),
        "loss": law(params[:, None], tokens).tolist(),
    }


def _residual(row):
    return float(np.log(row["loss"] / law(row["params"], row["tokens"])))


def _parametric(rows):
    return {
        "form": "chinchilla",
        "equation": "L = E + A/N^alpha + B/D^beta",
        "params": {
            "E": interval(E),
            "A": interval(A, 0.2),
            "B": interval(B, 0.2),
            "alpha": interval(ALPHA),
            "beta": interval(BETA),
            "a": interval(SLOPE_A),
            "b": interval(SLOPE_B),
        },
        "objective": 4.2e-4,
        "loss_kind": "huber_log",
        "delta": 1e-3,
        "n_runs": len(rows),
        "certificate": {
            "objective": 4.2e-4,
            "starts": 500,
            "share_at_best": 0.994,
            "gradient_norm": 3.1e-11,
            "bounds_hit": [],
            "condition_number": 2300.0,
            "iterations": 24,
            "converged": True,
        },
        "resamples": {"kind": "bootstrap", "count": 4000, "failed": 3, "group_by": "run"},
        "residuals": [{"cell": r["cell"], "log_residual": _residual(r)} for r in rows],
        "optimum": _optimum(0.05),
        "surface": _surface(),
    }


def _holdout(rows):
    held = [r for r in rows if r["budget"] == BUDGETS[-1]]
    out = []
    for r in held:
        predicted = float(law(r["params"], r["tokens"])) * 1.004
        out.append(
            {
                **r,
                "predicted": predicted,
                "low": predicted * 0.99,
                "high": predicted * 1.01,
                "relative_error": predicted / r["loss"] - 1,
            }
        )
    best = min(out, key=lambda r: r["loss"])
    errors = [abs(r["relative_error"]) for r in out]
    return {
        "budgets": [BUDGETS[-1]],
        "n_train": len(rows) - len(held),
        "n_heldout": len(held),
        "law": "chinchilla_parametric",
        "relative_error": abs(best["relative_error"]),
        "mean_relative_error": float(np.mean(errors)),
        "max_relative_error": max(errors),
        "coverage": 1.0,
        "best": best,
        "rows": out,
        "optimum": {
            "flops": BUDGETS[-1],
            "params": interval(best_params(BUDGETS[-1]), 0.1),
            "tokens": interval(BUDGETS[-1] / 6 / best_params(BUDGETS[-1]), 0.1),
            "loss": interval(1.2, 0.01),
            "valley_params": best["params"],
            "valley_loss": best["loss"],
        },
    }


def _envelope(curves):
    flops = np.geomspace(1e11, BUDGETS[-1], 25)
    best = np.full(len(flops), np.inf)
    for cell in np.unique(curves["cell"]):
        mine = curves["cell"] == cell
        loss = np.interp(
            flops, curves["flops"][mine], curves["loss"][mine], left=np.inf, right=np.inf
        )
        best = np.minimum(best, loss)
    return {
        "params": {"a": interval(0.5, 0.1), "b": interval(0.5, 0.1)},
        "points": [],
        "curve_points": {"flops": flops.tolist(), "loss": best.tolist()},
        "optimum": _optimum(0.1),
        "n_curves": 42,
        "note": None,
    }


def make_laws():
    """(laws, runs table, curves table) of a complete sweep."""
    rows = _runs()
    curves = curves_table(rows)
    flops = 10 * BUDGETS[-1]
    params = float(best_params(flops))
    tokens = flops / 6 / params
    loss = float(law(params, tokens))
    laws = {
        "schema": 1,
        "settings": {"confidence": 0.95},
        "conventions": {
            "params": "non_embedding",
            "flops": "exact",
            "loss": "nats per token",
            "cost": {"kappa": 6.0, "slope": 1.0},
            "table": [
                {
                    "params": name,
                    "flops": "exact",
                    "E": interval(E),
                    "alpha": interval(ALPHA),
                    "beta": interval(BETA),
                    "a": interval(SLOPE_A + shift),
                    "b": interval(SLOPE_B - shift),
                    "params_opt": interval(params),
                    "tokens_opt": interval(tokens),
                    "loss": interval(loss),
                    "holdout_error": 0.004,
                    "note": "",
                }
                for name, shift in (("total", -0.02), ("non_embedding", 0.0))
            ],
        },
        "data": {
            "n_runs": len(rows) + 1,
            "n_used": len(rows),
            "n_groups": len(rows),
            "group_by": "run",
            "budgets": list(BUDGETS),
            "flops_range": [BUDGETS[0], BUDGETS[-1]],
            "seed_noise": 0.003,
        },
        "runs": rows,
        "left_out": [{"cell": "deadbeef", "reason": "failed: loss was NaN twice"}],
        "warnings": [],
        "laws": {
            "chinchilla_parametric": _parametric(rows),
            "isoflop": {
                "params": {"a": interval(SLOPE_A, 0.07), "b": interval(SLOPE_B, 0.07)},
                "valleys": [_valley(rows, budget) for budget in BUDGETS],
                "optimum": _optimum(0.09),
                "n_runs": len(rows),
                "resamples": {"kind": "bootstrap", "count": 4000, "failed": 0, "group_by": "run"},
                "loss_law": {"E": interval(E), "K": interval(40.0), "gamma": interval(0.17)},
            },
            "envelope": _envelope(curves),
        },
        "prediction": [
            {
                "law": "chinchilla_parametric",
                "flops": flops,
                "params": params,
                "params_low": params * 0.9,
                "params_high": params * 1.12,
                "tokens": tokens,
                "tokens_low": tokens * 0.9,
                "tokens_high": tokens * 1.12,
                "loss": loss,
                "loss_low": loss * 0.985,
                "loss_high": loss * 1.015,
                "tokens_per_param": tokens / params,
                "factor": 10.0,
            }
        ],
        "holdout": _holdout(rows),
        "scores": [],
        "drift": [],
        "run_next": None,
    }
    return laws, runs_table(rows), curves

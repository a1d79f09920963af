"""A table and a truth for every law form, shared by the contract and the coverage tests."""

import dataclasses

import numpy as np

from gptjax import scaling
from gptjax.scaling.fit import engine

N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e10, 8), np.geomspace(1e9, 1e12, 8)))
ND = {"params": N, "tokens": D}
LINE = {"params": np.geomspace(1e6, 1e11, 24)}
UNIQUE = {
    "params": np.repeat(np.geomspace(1e7, 1e10, 6), 24),
    "tokens": np.tile(np.repeat(np.geomspace(1e9, 1e11, 6), 4), 6),
    "unique_tokens": np.tile([1e8, 1e9, 1e10, 1e11], 36),
}
EXPERTS = {
    "params_active": np.repeat(np.geomspace(1e7, 1e10, 5), 20),
    "tokens": np.tile(np.repeat(np.geomspace(1e9, 1e12, 5), 4), 5),
    "experts": np.tile([1.0, 4.0, 16.0, 64.0], 25),
}
BITS = {
    "params": np.repeat(np.geomspace(1e6, 1e9, 5), 16),
    "tokens": np.tile(np.repeat(np.geomspace(1e8, 1e11, 4), 4), 5),
    "bits": np.tile([3.0, 4.0, 6.0, 8.0], 20),
}
GRAINS = {
    "params": np.repeat(np.geomspace(1e8, 1e12, 5), 20),
    "tokens": np.tile(np.repeat(np.geomspace(1e9, 1e13, 5), 4), 5),
    "granularity": np.tile([1.0, 4.0, 16.0, 64.0], 25),
}
SPARSE = {
    "params": np.repeat(np.geomspace(1e6, 1e12, 7), 30),
    "tokens": np.tile(np.repeat(np.geomspace(1e8, 1e13, 6), 5), 7),
    "sparsity": np.tile([0.0, 0.5, 0.75, 0.9, 0.98], 42),
}
STREAMS = {
    "params": np.repeat(np.geomspace(1e8, 1e10, 6), 4),
    "streams": np.tile([1.0, 2.0, 4.0, 8.0], 6),
}
WORDS = {
    "params": np.repeat(np.geomspace(1e7, 1e10, 5), 20),
    "params_vocab": np.tile(np.repeat(np.geomspace(1e6, 1e9, 5), 4), 5),
    "tokens": np.tile(np.geomspace(1e9, 1e12, 4), 25),
}
STEPS = {"params": N, "steps": D / 1e6}
SUMS = {
    "lr_sum": np.tile(np.geomspace(1, 100, 10), 2),
    "lr_annealed": np.r_[np.zeros(10), np.linspace(0, 8, 10)],
}
SHARE = np.linspace(0, 1, 4000)
SCHEDULES = (
    0.55 + 0.45 * np.cos(np.pi * SHARE),
    np.where(SHARE < 0.7, 1.0, 0.1 ** ((SHARE - 0.7) / 0.3)),
    *(np.where(SHARE < 0.3, 1.0, level) for level in (0.5, 0.2, 0.05)),
)
STEPS_SEEN = np.round(np.geomspace(40, 4000, 12)).astype(int)
CURVES = [scaling.multi_power_columns(rates, STEPS_SEEN) for rates in SCHEDULES]
CURVES = {name: np.concatenate([curve[name] for curve in CURVES]) for name in CURVES[0]}
WIDE_ND = {
    name: column.ravel()
    for name, column in zip(
        ("params", "tokens"),
        np.meshgrid(np.geomspace(1e6, 1e11, 11), np.geomspace(1e8, 1e13, 11)),
        strict=True,
    )
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the contract.

    Attributes:
      columns, truth: the table and the true values.
      far: where the law is extrapolated to, when it has no optimum.
      kind: the loss kind.
      noise: of a run, in what the loss kind measures.
    """

    columns: dict
    truth: dict
    far: dict = dataclasses.field(default_factory=dict)
    kind: str = "huber_log"
    noise: float = 0.003


# Every form of the library has a row here.
CONTRACT = {
    "chinchilla": Case(ND, {"E": 1.7, "A": 400, "B": 1200, "alpha": 0.34, "beta": 0.36}),
    "power_mean": Case(
        WIDE_ND, {"E": 1.4, "A": 30, "B": 60, "alpha": 0.17, "beta": 0.19, "g": 0.6}
    ),
    "frontier": Case(
        {"flops": np.geomspace(1e15, 1e21, 12)},
        {"E": 1.7, "K": 300, "gamma": 0.13},
        {"flops": 1e23},
    ),
    "kaplan_n": Case(LINE, {"Nc": 8.8e13, "alpha": 0.076}, {"params": 1e13}),
    "kaplan_d": Case(
        {"tokens": np.geomspace(1e8, 1e11, 12)}, {"Dc": 5.4e13, "alpha": 0.095}, {"tokens": 1e13}
    ),
    "kaplan_c": Case(
        {"flops": np.geomspace(1e15, 1e21, 12)}, {"Cc": 2.7e28, "alpha": 0.05}, {"flops": 1e23}
    ),
    "kaplan_nd": Case(ND, {"Nc": 6.4e13, "Dc": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}),
    "kaplan_ns": Case(
        STEPS,
        {"Nc": 6.5e13, "Sc": 2.1e3, "alpha_N": 0.077, "alpha_S": 0.76},
        {"params": 1e11, "steps": 1e7},
    ),
    "muennighoff": Case(
        UNIQUE,
        {"E": 1.87, "A": 521, "B": 1488, "alpha": 0.35, "beta": 0.36, "R_D": 15.4, "R_N": 5.3},
        {"params": 3e10, "tokens": 1e12, "unique_tokens": 1e11},
    ),
    "gadre": Case(ND, {"E": 1.508, "a": 90, "b": 190, "x": 0.2425}),
    "error_of_loss": Case(
        {"task_loss": np.linspace(2.0, 5.0, 24)},
        {"epsilon": 0.86, "k": 2.2, "gamma": 0.72},
        {"task_loss": 1.7},
        kind="squares",
        noise=0.003,
    ),
    "farseer": Case(
        WIDE_ND,
        {
            "a1": -0.02,
            "b1": -1.0,
            "alpha": 0.12,
            "a2": 12.2,
            "b2": 3.8,
            "beta": -0.1,
            "a3": 2.5,
            "b3": 0.5,
            "gamma": -0.15,
        },
    ),
    "precision_post": Case(
        BITS,
        {"C": 0.5, "gamma_D": 0.5, "gamma_N": 0.5, "gamma_P": 0.55},
        {"params": 1e11, "tokens": 1e13, "bits": 4.0},
    ),
    "moe": Case(
        EXPERTS,
        {
            "E": 1.2,
            "A": 35,
            "B": 50,
            "alpha": 0.19,
            "beta": 0.16,
            "gamma": -0.003,
            "delta": -0.1,
            "zeta": 0.002,
            "omega": 0.02,
        },
        {"params_active": 1e11, "tokens": 1e13, "experts": 64.0},
    ),
    "granularity": Case(
        GRAINS,
        {"E": 0.47, "A": 18.1, "B": 30.8, "K": 2.1, "alpha": 0.115, "beta": 0.147, "gamma": 0.58},
        {"params": 1e13, "tokens": 1e14, "granularity": 64.0},
    ),
    "sparsity": Case(
        SPARSE,
        {
            "E": 0.94,
            "A": 16612.5,
            "B": 5455.67,
            "alpha": 0.5962,
            "beta": 0.3954,
            "K": 0.4598,
            "lambda_": -0.1666,
            "M": 17.26,
            "delta": 0.1603,
            "gamma": 0.1595,
        },
        {"params": 1e13, "tokens": 1e14, "sparsity": 0.9},
    ),
    "parallel": Case(
        STREAMS,
        {"E": 0.69, "A": 20.0, "alpha": 0.19, "k": 0.39},
        {"params": 1e11, "streams": 8.0},
    ),
    "vocabulary": Case(
        WORDS,
        {"E": -5.533, "A": 880.8, "V": 2082.0, "B": 22396.0, "alpha": 0.447, "nu": 0.671},
        {"params": 1e11, "params_vocab": 1e10, "tokens": 1e13},
        kind="squares",
        noise=0.01,
    ),
    "broken": Case(
        LINE,
        {"E": 1.0, "A": 30, "c0": 0.1, "c1": 0.3, "N_break": 3e8, "f": 0.4},
        {"params": 1e12},
    ),
    "sigmoid": Case(
        LINE,
        {"low": 0.25, "high": 0.9, "N_half": 1e9, "width": 0.7},
        {"params": 1e12},
        kind="squares",
        noise=0.01,
    ),
    "smooth": Case(
        LINE, {"top": 0.9, "K": 8.0, "alpha": 0.2}, {"params": 1e12}, kind="squares", noise=0.01
    ),
    "overoptimization_best_of_n": Case(
        {"distance": np.linspace(0.2, 4, 20)},
        {"alpha": 0.8, "beta": 0.15},
        {"distance": 6.0},
        kind="squares",
        noise=0.01,
    ),
    "overoptimization_rl": Case(
        {"distance": np.linspace(0.2, 4, 20)},
        {"alpha": 0.8, "beta": 0.4},
        {"distance": 6.0},
        kind="squares",
        noise=0.01,
    ),
    "effective_data_transferred": Case(
        ND, {"k": 500.0, "alpha": 0.2, "beta": 0.4}, {"params": 1e11, "tokens": 1e13}
    ),
    "power_nd": Case(ND, {"K": 3.0, "a": -0.25, "b": 0.11}, {"params": 1e11, "tokens": 1e13}),
    "critical_batch": Case(
        {"batch": np.geomspace(1e4, 1e7, 9)}, {"S_min": 2e3, "B_crit": 3e5}, {"batch": 1e8}
    ),
    "annealing": Case(
        SUMS, {"E": 2.6, "A": 0.7, "alpha": 0.5, "C": 0.03}, {"lr_sum": 300.0, "lr_annealed": 20.0}
    ),
    "multi_power": Case(
        CURVES,
        {"L0": 2.6, "A": 1.5, "alpha": 0.45, "B": 0.4, "C": 0.4, "beta": 0.5, "gamma": 0.6},
        {name: column[-1] for name, column in CURVES.items()},
        noise=0.0003,
    ),
}


def clean_loss(name):
    """The noiseless losses of a case."""
    return engine.predict(scaling.form_named(name), CONTRACT[name].truth, CONTRACT[name].columns)

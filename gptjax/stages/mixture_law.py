"""The words of a law of mixtures, for the jobs that fit one."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Printed

from gptjax.scaling.data_mixtures.fit import MixtureLaw
from gptjax.scaling.data_mixtures.optimum import BestMixture


def content(
    laws: Mapping[str, MixtureLaw],
    best: BestMixture,
    *,
    runs: int,
    leash: float,
    ranks: Mapping[str, float],
) -> dict[str, Any]:
    """The content of mixture.json: plain types only.

    Args:
      laws: by target.
      ranks: of held-out mixtures, by target.
    """
    return {
        "sentence": best.sentence(),
        "runs": runs,
        "weights": {
            name: weight.to_json() | {"prior": float(prior), "worth": worth.to_json()}
            for name, weight, prior, worth in zip(
                best.sources, best.weights, best.prior, best.worths, strict=True
            )
        },
        "loss": best.loss.to_json() | {"run_low": best.run_low, "run_high": best.run_high},
        "prior_loss": best.prior_loss,
        "useless": list(best.useless),
        "leash": leash,
        "laws": {
            target: {
                "form": law.form.name,
                "equation": law.form.equation,
                "paper": law.form.paper,
                "theta": law.theta.tolist(),
                "scatter": float(np.std(law.residuals)),
                "cross_validation": {
                    name: {"error": score.error, "spearman": score.rank}
                    for name, score in law.scores.items()
                },
                "heldout_spearman": ranks.get(target),
            }
            for target, law in laws.items()
        },
    }


def show(
    laws: Mapping[str, MixtureLaw],
    best: BestMixture,
    ranks: Mapping[str, float],
    lines: Sequence[str] = (),
) -> None:
    """Print the best mixture, the laws, and the sentence."""
    console = Console(width=100)
    table = Printed("source", "weight", "interval", "prior", "nats if left out")
    for i in np.argsort(-best.values):
        weight, worth = best.weights[i], best.worths[i]
        interval = f"[{weight.low:.4f}, {weight.high:.4f}]"
        shown = f"{worth.value:.4f} [{worth.low:.4f}, {worth.high:.4f}]"
        table.add_row(
            best.sources[i], f"{weight.value:.4f}", interval, f"{best.prior[i]:.4f}", shown
        )
    console.print(table)
    for target, law in laws.items():
        words = f"{target}: {law.form.equation}; cross-validated rank {law.score.rank:.3f}"
        words += f", error {law.score.error:.4f} nats"
        if target in ranks:
            words += f"; ranks the held-out mixtures with {ranks[target]:.3f}"
        console.print(words, markup=False, highlight=False, soft_wrap=True)
    for line in (best.sentence(), *lines):
        console.print(line, markup=False, highlight=False, soft_wrap=True)

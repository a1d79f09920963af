"""Coverage of a law's intervals far beyond the runs where its form may be wrong, on one core.

    python -m benchmarks.law_coverage [--tables 16] [--alarms 200] [--truths kaplan]

Eight truths (Chinchilla's, Farseer-like, with an N–D interaction, Kaplan's, Droppo and Elibol's and
three more), each with some tables of 35 runs from 1e18 to 1e20 FLOPs and .3 % noise. Printed are,
for each, how many 95 % intervals of the best loss held the truth at 10, 30 and 100 times the
largest budget, by the form chinchilla alone and by the headline's mixture, the median of the
mixture's width over chinchilla's, in how many tables lack of fit was found, and in how many a form
of 5 % of the weight or more was outside of the interval of the heaviest at each distance; then how
often lack of fit is found in tables of Chinchilla's own form, where each is a false alarm.
"""

import argparse
import pathlib
import sys
import time

import numpy as np

from gptjax import scaling
from gptjax.scaling.approaches.mixture import mix
from gptjax.scaling.fit.misfit import lack_of_fit

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "scaling"))

from test_misspecified import FAR, TRUTHS, chinchilla, optimum, table

CONFIG = scaling.FitConfig(resamples=200, starts=8)


def measure(truth, tables: int) -> tuple[np.ndarray, float, int]:
    """(hits of chinchilla, of the mixture, forms apart) at each distance, width ratio, misfits."""
    hits, widths, found = np.zeros((3, len(FAR)), int), [], 0
    for seed in range(tables):
        runs = scaling.prepare(table(truth, seed), CONFIG)
        law = scaling.fit(runs, config=CONFIG)
        mixture = mix(runs, law, CONFIG)
        found += lack_of_fit(law).found
        for i, far in enumerate(FAR):
            right = optimum(truth, 1e20 * far)[1]
            own, entry = law.optimum(1e20 * far).loss, mixture.at(1e20 * far)
            hits[0, i] += own.low <= right <= own.high
            hits[1, i] += entry["loss_low"] <= right <= entry["loss_high"]
            hits[2, i] += any(row["apart"] for row in mixture.each_at(1e20 * far))
            widths.append((entry["loss_high"] - entry["loss_low"]) / (own.high - own.low))
    return hits, float(np.median(widths)), found


def false_alarms(tables: int) -> int:
    """In how many tables of Chinchilla's form lack of fit is found."""
    quick = scaling.FitConfig(resamples=0, starts=4)
    laws = (scaling.fit(table(chinchilla, 1000 + seed), config=quick) for seed in range(tables))
    return sum(lack_of_fit(law).found for law in laws)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tables", type=int, default=16)
    parser.add_argument("--alarms", type=int, default=200)
    names = [truth.__name__ for truth in TRUTHS]
    parser.add_argument("--truths", nargs="*", default=names, choices=names)
    given = parser.parse_args()
    began = time.process_time()
    head = ("truth", "chinchilla alone", "mixture", "width", "lack of fit", "apart")
    print(f"{given.tables} tables of each truth\n| {' | '.join(head)} |")
    print("|---|---|---|---|---|---|", flush=True)
    for truth in (truth for truth in TRUTHS if truth.__name__ in given.truths):
        hits, width, found = measure(truth, given.tables)
        own, mixed, apart = (", ".join(map(str, row)) for row in hits)
        row = (truth.__name__, own, mixed, f"{width:.2f}", found, apart)
        print(f"| {' | '.join(map(str, row))} |", flush=True)
    if given.alarms:
        alarms = false_alarms(given.alarms)
        print(f"false alarms: {alarms} of {given.alarms} tables of Chinchilla's form")
    print(f"{time.process_time() - began:.0f} s of processor time")


if __name__ == "__main__":
    main()

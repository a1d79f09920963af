"""Laws of over-optimisation from the points of a run: fits, laws.json, figure and page."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptjax import scaling
from gptjax.config import Config
from gptjax.files import write_json
from gptjax.scaling.fit import bootstrap
from gptjax.scaling.fit.lines import line_fit
from gptjax.scaling.forms.form import Form
from gptjax.scaling.forms.overoptimization import BEST_OF_N, REINFORCEMENT, peak
from gptjax.scaling.laws import describe
from gptjax.scaling.laws.fit_laws import plain

METHODS: dict[str, Form] = {"best_of_n": BEST_OF_N, "rl": REINFORCEMENT}
"""The law of each way to optimise."""
NEAREST = 0.01
"""Nats below which an estimated KL is mostly noise, and its point is not fitted."""
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Curve:
    """The law of one method and one amount of preferences.

    Attributes:
      peak: distance at which the gold reward is highest.
      gain: the gold reward there.
      farthest: distance of the last point.
      fall: mean over seeds of the highest gold reward less that of the last point.
    """

    method: str
    pairs: int
    fit: scaling.Fit
    peak: scaling.Interval
    gain: scaling.Interval
    farthest: float
    fall: float

    @property
    def bends(self) -> bool:
        """Whether the gold reward is certain to fall within what was measured."""
        return bool(self.peak.high < self.farthest)


def write(config: Config, folder: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """Write points.csv, laws.json, figures and report.html; print the laws."""
    from gptjax.report import overoptimization as page  # matplotlib is slow to import

    scaling.Table.from_records(rows).to_csv(folder / "points.csv")
    curves = curves_of(config, rows)
    content = content_of(config, curves)
    write_json(folder / "laws.json", content)
    page.build(folder, rows, curves, content, config.report.formats, config.report.dpi)
    for line in content["notes"]:
        print(line)
    print(folder / "report.html")
    return content


def curves_of(config: Config, rows: Sequence[Row]) -> list[Curve]:
    """The fit of every method to every amount of preferences, seeds resampled together."""
    amounts = sorted({row["pairs"] for row in rows})
    return [
        curve(
            config, method, pairs, [r for r in rows if (r["method"], r["pairs"]) == (method, pairs)]
        )
        for method in METHODS
        for pairs in amounts
    ]


def curve(config: Config, method: str, pairs: int, rows: Sequence[Row]) -> Curve:
    """One law, by least squares on rewards, which may be negative."""
    kept = [row for row in rows if row["kl"] > NEAREST]
    table: dict[str, list[Any]] = {
        "cell": [f"{method}-{pairs}-{row['seed']}-{i}" for i, row in enumerate(kept)],
        "distance": [float(np.sqrt(row["kl"])) for row in kept],
        "gold": [row["gold"] for row in kept],
        "seed": [float(row["seed"]) for row in kept],
    }
    settings = dataclasses.replace(
        config.fit,
        loss_kind="squares",
        weights="none",
        column_loss="gold",
        column_group="seed",
        check_units=False,
        keep_duplicates=True,
    )
    form = METHODS[method]
    fit = scaling.fit(table, form, config=settings)
    places = np.asarray(peak(form, fit.samples))
    place = float(peak(form, fit.values))
    return Curve(
        method,
        pairs,
        fit,
        fit.interval(place, np.where(np.isnan(places), 1e9, places)),
        fit.interval(
            float(form.loss(fit.values, {"distance": place})),
            np.asarray(form.loss(fit.samples, {"distance": places})),
        ),
        max(table["distance"]),
        float(np.mean([_fall(rows, seed) for seed in {row["seed"] for row in rows}])),
    )


def _fall(rows: Sequence[Row], seed: int) -> float:
    """The highest gold reward of a seed less its last one."""
    gold = [row["gold"] for row in sorted(rows, key=lambda row: row["kl"]) if row["seed"] == seed]
    return max(gold) - float(gold[-1])


def trend(curves: Sequence[Curve], name: str) -> scaling.Interval:
    """The slope of α or β on ln(preferences), with the interval of the resampled laws."""
    x = np.log([curve.pairs for curve in curves])
    few = min(len(curve.fit.samples[name]) for curve in curves)
    samples = np.stack([curve.fit.samples[name][:few] for curve in curves], axis=1)
    value = line_fit(x, np.array([[curve.fit.values[name] for curve in curves]]))[1]
    freedom = min(curve.fit.resamples.tail_freedom for curve in curves)
    confidence = curves[0].fit.config.confidence
    return bootstrap.interval(float(value[0]), line_fit(x, samples)[1], confidence, freedom)


def content_of(config: Config, curves: Sequence[Curve]) -> dict[str, Any]:
    """The content of laws.json: plain types, one entry a law."""
    laws = {
        f"{one.method}_{one.pairs}": {
            **describe.law(one.fit, one.fit.runs, np.ones(1)),
            "pairs": one.pairs,
            "peak_distance": one.peak.to_json(),
            "peak_gain": one.gain.to_json(),
            "farthest_distance": one.farthest,
            "fall": one.fall,
        }
        for one in curves
    }
    trends = {
        method: {
            name: trend([one for one in curves if one.method == method], name).to_json()
            for name in ("alpha", "beta")
        }
        for method in METHODS
    }
    found = scaling.Laws(
        notes=[sentence(one) for one in curves],
        settings=dataclasses.asdict(config.own["reward_overoptimization"]),
        conventions={
            "distance": "sqrt(KL(policy || base)) of an answer, in nats^(1/2)",
            "best_of_n": "KL = ln n - (n - 1)/n, exact where no answers tie and else a bound "
            "(Beirami et al. 2024)",
            "rl": "KL = the mean log-ratio of a round's answers",
            "slope": "of alpha and beta on ln(preferences)",
        },
        data={"slopes": trends},
        laws=laws,
    )
    return dict(plain(found.to_json()))


def sentence(one: Curve) -> str:
    """Where the gold reward of a law is highest, and what was lost beyond."""
    who = f"{one.method} against {one.pairs} preferences"
    if not np.isfinite(one.peak.value) or one.peak.value >= one.farthest:
        return f"{who}: the gold reward rises to the end, d = {one.farthest:.2f}"
    sure = "" if one.bends else ", which the interval does not settle"
    high = f"{one.peak.high:.2f}" if one.peak.high < 1e6 else "∞"
    return (
        f"{who}: the gold reward is highest at d = {one.peak.value:.2f} "
        f"[{one.peak.low:.2f}, {high}] of {one.farthest:.2f}{sure}; it fell by {one.fall:.3f}"
    )

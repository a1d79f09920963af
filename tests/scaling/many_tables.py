"""Many noisy tables of one design, fitted in one vectorised program.

`fit_many` gives what `scaling.fit` gives for each table (test_coverage.py holds one against the
other): the same starts, a thinner search nearby, polish and resamples, as lanes that all tables
share, so that hundreds of tables with their resamples take minutes.
"""

import dataclasses

import numpy as np

from gptjax import scaling
from gptjax.scaling.fit import bootstrap, engine, optimum
from gptjax.scaling.fit.certificate import certify
from gptjax.scaling.fit.fit import around, problem_of
from gptjax.scaling.fit.result import Fit
from gptjax.scaling.fit.starts import starting_points

THIN = 4  # every fourth start of the search nearby
TABLES_AT_ONCE = 50  # bounds the memory of their resamples


def fit_many(table, losses, form="chinchilla", **options):
    """One Fit for each row of `losses`, (M, n); further arguments as in `scaling.fit`."""
    config = scaling.FitConfig(column_loss="target", **options)
    form = scaling.form_named(form)
    one = scaling.prepare({**table, "target": losses[0]}, config, form.columns)
    assert len(one) == losses.shape[1], "a run was left out"
    fits = []
    for first in range(0, len(losses), TABLES_AT_ONCE):
        part = losses[first : first + TABLES_AT_ONCE]
        runs = [dataclasses.replace(one, loss=loss) for loss in part]
        fits += _fit_part(runs, form, config)
    return fits


def _fit_part(runs, form, config):
    problems = [problem_of(each, form, config) for each in runs]
    starts = [starting_points(problem, config.starts, config.seed) for problem in problems]
    solutions = _solve(problems, starts)
    thetas = [solution.theta[_best(solution)] for solution in solutions]
    near = _solve(problems, [around(theta, config)[::THIN] for theta in thetas], widen=1.0)
    thetas = [solution.theta[_best(solution)] for solution in near]
    polished = _solve(problems, [theta[None] for theta in thetas], widen=1.0, tolerance=0.0)
    group, group_by = runs[0].group, runs[0].group_by
    kind = bootstrap.choose_kind(group, len(form.fitted))
    drawn = [
        bootstrap.redraw(
            problem, each.theta[0], group, count=config.resamples, seed=config.seed, kind=kind
        )
        for problem, each in zip(problems, polished, strict=True)
    ]
    again = _solve(
        problems,
        [np.repeat(each.theta, config.resamples, axis=0) for each in polished],
        weights=[weights for weights, _ in drawn],
        targets=[target for _, target in drawn],
        widen=bootstrap.NEARBY,
    )
    cost = optimum.cost_of(runs[0])
    return [
        Fit(
            form=form,
            runs=each,
            problem=problem,
            theta=last.theta[0],
            certificate=certify(problem, solution, last, _best(solution)),
            resamples=bootstrap.collect(lanes, group, kind=kind, group_by=group_by, seed=0),
            cost=cost,
            warnings=(),
            config=config,
        )
        for each, problem, solution, last, lanes in zip(
            runs, problems, solutions, polished, again, strict=True
        )
    ]


def _best(solution):
    return int(np.nanargmin(solution.objective))


def _solve(problems, starts, weights=None, targets=None, **options):
    """One Solution a table, of lanes that run together; the tables share all but their losses."""
    lanes = [len(each) for each in starts]
    if targets is None:
        targets = [np.repeat(p.target[None], n, 0) for p, n in zip(problems, lanes, strict=True)]
    solution = engine.solve(
        problems[0],
        np.concatenate(starts),
        target=np.concatenate(targets),
        weights=None if weights is None else np.concatenate(weights),
        **options,
    )
    ends = np.cumsum(lanes)[:-1]
    fields = [np.split(field, ends) for field in solution]
    return [engine.Solution(*parts) for parts in zip(*fields, strict=True)]

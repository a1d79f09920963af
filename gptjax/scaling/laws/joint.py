"""Laws of several columns at once: scores that follow the loss, and outputs with shared exponents.

Both are blocks of laws.json with a sentence for terminal and report. A score is predicted through
the loss (Gadre et al. 2024, section 4), so that its interval holds the doubt of both laws; outputs
such as losses on several held-out sets share the exponents of one law (`fit/outputs.py`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gptjax.errors import UserError, nearest
from gptjax.scaling.config import FitConfig
from gptjax.scaling.fit.fit import fit
from gptjax.scaling.fit.outputs import fit_outputs
from gptjax.scaling.fit.result import Fit
from gptjax.scaling.forms import form_named
from gptjax.scaling.laws.chain import Chain, chain
from gptjax.scaling.tables.runs import Runs

Row = dict[str, Any]


def chains(
    runs: Runs, law: Fit | None, prediction: Sequence[Mapping[str, Any]], config: FitConfig
) -> list[Row]:
    """The `chains` block: for each of `fit.chained` its law of the loss, read at every prediction.

    Args:
      runs: the usable runs, whose loss the second law reads.
      law: the law of the loss; None where it could not be fitted.
      prediction: the budgets.
    """
    entries = []
    for column in config.chained:
        entry: Row = {"column": column, "form": config.chain_form}
        try:
            found = _chain(runs, law, column, config)
            entries.append(entry | _described(found, column, _budgets(prediction)))
        except UserError as error:
            entries.append(entry | {"sentence": f"No law of {column} through the loss: {error}."})
    return entries


def _chain(runs: Runs, law: Fit | None, column: str, config: FitConfig) -> Chain:
    form = form_named(config.chain_form)
    if law is None:
        raise UserError("the loss has no parametric law here; add parametric to fit.approaches")
    if column not in runs.columns:
        raise UserError(f"the table has no column {column}; {nearest(column, runs.columns)}")
    if len(form.columns) != 1:
        raise UserError(
            f"fit.chain_form={form.name} reads {', '.join(form.columns)}; name a form of one column"
        )
    link, scores = form.columns[0], runs.columns[column]
    known = np.isfinite(scores)
    part = dataclasses.replace(
        runs,
        loss=scores,
        stderr=np.full(len(runs), np.nan),
        columns={**runs.columns, "loss": scores, link: runs.loss},
    ).take(known)
    settings = dataclasses.replace(
        config, loss_kind="squares", weights="none", tied_exponents=False, e_fixed=None
    )
    return chain(law, fit(part, form, config=settings), link)


def _described(found: Chain, column: str, budgets: Sequence[float]) -> Row:
    second, rows = found.second, []
    for flops in budgets:
        value = found.optimum(flops)
        rows.append({"flops": flops, "value": value.value, "low": value.low, "high": value.high})
    parameters = ", ".join(f"{name} = {one}" for name, one in second.params.items())
    sentence = (
        f"{column} through the loss, {second.form.equation}, from {len(second.runs)} runs: "
        f"{parameters}"
    )
    for row in rows[:1]:
        sentence += (
            f"; at {row['flops']:.3g} FLOPs, split as {found.first.form.name} says, it is "
            f"{row['value']:.4g} [{row['low']:.4g}, {row['high']:.4g}]"
        )
    return {
        "equation": second.form.equation,
        "paper": second.form.paper,
        "n_runs": len(second.runs),
        "params": {name: one.to_json() for name, one in second.params.items()},
        "prediction": rows,
        "doubts": list(second.warnings),
        "sentence": sentence + ".",
    }


def outputs(table: Any, prediction: Sequence[Mapping[str, Any]], config: FitConfig) -> Row | None:
    """The `outputs` block: one law of the columns `fit.outputs`; None where none are named."""
    if not config.outputs:
        return None
    entry: Row = {"columns": list(config.outputs), "form": config.outputs_form}
    names = ", ".join(config.outputs)
    settings = dataclasses.replace(config, weights="none", tied_exponents=False, e_fixed=None)
    try:
        law = fit_outputs(
            table, config.outputs, config.outputs_form, shared=config.shared, config=settings
        )
    except UserError as error:
        return entry | {"sentence": f"No law of {names} together: {error}."}
    rows = [_outputs_at(law, row, config) for row in prediction[:1]]
    shared = ", ".join(f"{name} = {law.params[name]}" for name in config.shared)
    sentence = f"{config.outputs_form} of {names} with shared {shared}"
    for row in rows:
        each = (
            f"{name} {one['value']:.4g} [{one['low']:.4g}, {one['high']:.4g}]"
            for name, one in row["outputs"].items()
        )
        sentence += (
            f"; at {row['params']:.3g} parameters and {row['tokens']:.3g} tokens {', '.join(each)}"
        )
    return entry | {
        "shared": list(config.shared),
        "equation": law.form.equation,
        "n_runs": law.runs.groups,
        "params": {name: one.to_json() for name, one in law.params.items()},
        "prediction": rows,
        "doubts": list(law.warnings),
        "sentence": sentence + ".",
    }


def _outputs_at(law: Fit, place: Mapping[str, Any], config: FitConfig) -> Row:
    """Every output's mean at the headline's split of its first budget."""
    params, tokens = float(place["params"]), float(place["tokens"])
    found = {}
    for i, name in enumerate(config.outputs):
        value, low, high = law.predict(params, tokens, output=float(i), noise=False)
        found[name] = {"value": float(value), "low": float(low), "high": float(high)}
    return {"flops": place["flops"], "params": params, "tokens": tokens, "outputs": found}


def _budgets(prediction: Sequence[Mapping[str, Any]]) -> list[float]:
    return list(dict.fromkeys(float(row["flops"]) for row in prediction))

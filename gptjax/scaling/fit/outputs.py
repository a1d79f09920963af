"""One law for several outputs of the same runs: some parameters shared, the others each its own.

Losses on several held-out sets have exponents in common (Gadre et al. 2024; Porian et al. 2024
compare them): shared, they are known better, and the sets differ in their level alone. The outputs
of a run share its luck, so they are resampled together.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from gptjax import fields
from gptjax.errors import UserError, nearest
from gptjax.scaling.config import FitConfig
from gptjax.scaling.fit.fit import fit
from gptjax.scaling.fit.result import Fit
from gptjax.scaling.forms import form_named
from gptjax.scaling.forms.form import Form, Parameter, Values
from gptjax.scaling.tables.table import Table, as_table

OUTPUT, RUN = "output", "run of the output"


def fit_outputs(
    table: Any,
    outputs: Sequence[str],
    form: str | Form = "chinchilla",
    *,
    shared: Sequence[str] = ("alpha", "beta"),
    config: FitConfig | None = None,
    **options: Any,
) -> Fit:
    """Fit one law to several columns of a table, with shared parameters.

    Args:
      table: as in `scaling.fit`.
      outputs: columns, for example losses on two held-out sets.
      form: the law of each.
      shared: its parameters that are the same for all; the others are named E_column and so on.
      config, options: as in `scaling.fit`.

    Returns:
      A Fit; `predict(params, tokens, output=1)` is that of the second column.

    Raises:
      UserError: for an unknown parameter or column, and whatever `scaling.fit` refuses.
    """
    one = form_named(form) if isinstance(form, str) else form
    given = as_table(table).named()
    if len(set(outputs)) < 2:
        raise UserError(f"outputs={list(outputs)} names fewer than two columns; use fit for one")
    for name in shared:
        if name not in one.names:
            raise UserError(
                f"shared={name!r} is no parameter of {one.name}; {nearest(name, one.names)}"
            )
    stacked = {name: np.tile(column, len(outputs)) for name, column in given.columns.items()}
    stacked["target"] = np.concatenate([given.numbers(given.find(name)) for name in outputs])
    stacked[OUTPUT] = np.repeat(np.arange(len(outputs), dtype=float), len(given))
    stacked[RUN] = np.array([f"{i}" for i in range(len(given))] * len(outputs), dtype=object)
    settings = {**dataclasses.asdict(config or FitConfig()), **options}
    if settings["column_group"]:
        raise UserError(
            f"fit.column_group={settings['column_group']!r} is not read here: the outputs of one "
            "row are resampled together; give one row a run"
        )
    settings |= {"column_loss": "target", "column_group": RUN}
    joint = joint_form(one, tuple(outputs), tuple(shared))
    return fit(Table(stacked, given.name), joint, config=fields.make(FitConfig, settings, "fit"))


def joint_form(form: Form, outputs: tuple[str, ...], shared: tuple[str, ...]) -> Form:
    """The form over rows of several outputs, told apart by the column `output` (0, 1, …)."""

    def own(name: str, output: str) -> str:
        return name if name in shared or name not in form.names else f"{name}_{output}"

    def renamed(parameter: Parameter, output: str) -> Parameter:
        scale = tuple((column, own(power, output), sign) for column, power, sign in parameter.scale)
        return dataclasses.replace(parameter, name=own(parameter.name, output), scale=scale)

    def loss(p: Values, x: Values) -> Any:
        total: Any = 0.0
        for i, output in enumerate(outputs):
            mine = form.loss({name: p[own(name, output)] for name in form.names}, x)
            total = total + mine * (x[OUTPUT] == i)
        return total

    every = [(p, output) for output in outputs for p in form.parameters]
    parameters = {own(p.name, output): renamed(p, output) for p, output in every}
    return dataclasses.replace(
        form,
        name=f"{form.name} of {', '.join(outputs)}",
        columns=(*form.columns, OUTPUT),
        parameters=tuple(parameters.values()),
        loss=loss,
        linear=tuple(dict.fromkeys(own(n, o) for o in outputs for n in form.linear)),
        loose=(*form.loose, OUTPUT),
        curves=tuple(
            dict.fromkeys(
                (own(a, o), own(g, o), own(b, o), column)
                for o in outputs
                for a, g, b, column in form.curves
            )
        ),
        two_powers=False,
    )

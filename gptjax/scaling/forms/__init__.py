"""The registry of law forms: one table from names to forms, one file for each family."""

from collections.abc import Iterable

from gptjax.errors import UserError, nearest
from gptjax.scaling.forms import (
    abilities,
    annealing,
    broken,
    chinchilla,
    data_constrained,
    farseer,
    frontier,
    hyperparameters,
    kaplan,
    mixture_of_experts,
    overoptimization,
    overtraining,
    own_files,
    parallel_streams,
    precision,
    transfer,
    vocabulary,
)
from gptjax.scaling.forms.form import Form

FAMILIES = (
    chinchilla,
    frontier,
    kaplan,
    data_constrained,
    overtraining,
    farseer,
    mixture_of_experts,
    broken,
    abilities,
    hyperparameters,
    annealing,
    precision,
    overoptimization,
    transfer,
    parallel_streams,
    vocabulary,
)
FORMS: dict[str, Form] = {form.name: form for family in FAMILIES for form in family.FORMS}


def register(form: Form) -> Form:
    """Add a form to the table, so that configs can name it; returns the form.

    Raises:
      UserError: for a name that another form has.
    """
    if FORMS.get(form.name, form) != form:
        raise UserError(f"form={form.name!r} is another law already; give yours another name")
    FORMS[form.name] = form
    return form


def load(paths: Iterable[str]) -> None:
    """Register the forms of Python files.

    Raises:
      UserError: for a file without a form, or a form whose name another has.
    """
    for path in paths:
        for form in own_files.forms_of(path):
            register(form)


def form_named(name: str) -> Form:
    """The form of that name; raises UserError with the nearest one otherwise.

    >>> form_named("chinchilla").names
    ('E', 'A', 'B', 'alpha', 'beta')
    """
    if name not in FORMS:
        raise UserError(f"form={name!r} is not known; {nearest(name, FORMS)}")
    return FORMS[name]

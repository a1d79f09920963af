"""Every law form by name."""

from gptjax.errors import UserError, nearest
from gptjax.scaling.annealing import SCHEDULE_FORMS
from gptjax.scaling.forms import Form
from gptjax.scaling.papers import PAPER_FORMS

FORMS: dict[str, Form] = {form.name: form for form in (*PAPER_FORMS, *SCHEDULE_FORMS)}


def form_named(name: str) -> Form:
    """The form of that name; raises UserError with the nearest one otherwise.

    >>> form_named("chinchilla").names
    ('E', 'A', 'B', 'alpha', 'beta')
    """
    if name not in FORMS:
        raise UserError(f"form={name!r} is not known; {nearest(name, FORMS)}")
    return FORMS[name]

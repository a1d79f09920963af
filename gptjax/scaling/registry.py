"""Every law form by name."""

from gptjax.errors import UserError, nearest
from gptjax.scaling import forms
from gptjax.scaling.forms import Form

FORMS: dict[str, Form] = {form.name: form for form in (forms.CHINCHILLA, forms.FRONTIER)}


def form_named(name: str) -> Form:
    """The form of that name; raises UserError with the nearest one otherwise.

    >>> form_named("chinchilla").names
    ('E', 'A', 'B', 'alpha', 'beta')
    """
    if name not in FORMS:
        raise UserError(f"form={name!r} is not known; {nearest(name, FORMS)}")
    return FORMS[name]

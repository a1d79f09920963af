"""Configs in tests by flat keywords, also where a setting lies in a section."""

from gptjax.fields import former, replaced


def changed(owner, **values):
    """`dataclasses.replace`; a setting inside a section goes by its key in identities.

    >>> from gptjax.models import ModelConfig
    >>> changed(ModelConfig(), num_experts=8).experts.count
    8
    """
    moved = former(type(owner))
    return replaced(owner, {moved.get(name, name): value for name, value in values.items()})

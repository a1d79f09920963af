"""The table of variants in docs/models.md against the code."""

import dataclasses
import functools
import operator
import sys
from pathlib import Path

import pytest

import gptjax.models
import gptjax.ops
from gptjax.fields import leaves
from gptjax.models import ModelConfig

sys.path.insert(0, str(Path(__file__).parent))
import variants
from variants import ROWS

CHOSEN = (
    "norm",
    "norm_place",
    "block",
    "layer_pattern",
    "mlp_pattern",
    "positions",
    "rope.layout",
    "rope.scaling",
    "mlp",
    "qk_norm",
    "experts.router",
)
"""Settings whose every value has a row."""

REPAIR = "run: python tests/models/variants.py --write"
BY_SETTINGS = [row for row in ROWS if not row.is_function]


def test_the_page_has_every_row_with_its_costs_of_today():
    page = variants.table_of_the_page()
    assert len({row.variant for row in ROWS}) == len(ROWS) == len(page), REPAIR
    for row, line in zip(ROWS, page, strict=True):
        assert line.startswith(variants.start_of(row)), REPAIR


def test_errors_of_the_page_are_small_or_explained():
    errors = variants.errors_of_the_page()
    assert [row.variant for row in ROWS if row.variant not in errors] == [], REPAIR
    for row, line in zip(ROWS, variants.table_of_the_page(), strict=True):
        assert errors[row.variant] <= variants.LIMIT or row.above, row.variant
        assert line.endswith(variants.end_of(row, errors[row.variant])), REPAIR


@pytest.mark.parametrize("row", BY_SETTINGS, ids=lambda row: row.variant)
def test_settings_reach_the_model(row):
    """What a row says is what the model has: the reference's preset takes nothing back."""
    model = variants.model_of(row.settings)
    kinds = {leaf.key: type(leaf.field.default) for leaf in leaves(ModelConfig)}
    for word in row.settings.split():
        name, _, text = word.partition("=")
        value = operator.attrgetter(name)(model)
        if kinds[name] is tuple:
            assert ",".join(x if isinstance(x, str) else f"{x:g}" for x in value) == text
        else:
            assert kinds[name](text == "true" if kinds[name] is bool else text) == value


def test_functions_of_rows_exist():
    for row in ROWS:
        if row.is_function:
            assert callable(operator.attrgetter(row.settings.partition("(")[0])(gptjax))


def test_every_kind_has_a_row():
    models = [variants.model_of(row.settings) for row in BY_SETTINGS]
    fields = {leaf.key: leaf.field for leaf in leaves(ModelConfig)}
    missing = []
    for name in CHOSEN:
        values = [operator.attrgetter(name)(model) for model in models]
        used = set().union(*(x if isinstance(x, tuple) else (x,) for x in values))
        missing += [f"{name}={x}" for x in fields[name].metadata["choices"] if x not in used]
    assert not missing, f"add a row to tests/models/variants.py for {', '.join(missing)}"


def test_a_row_is_measured_once(capsys):
    calls = []

    def error(size):
        calls.append(size)
        return size

    def absent():
        raise ImportError("no transformers", name="transformers")

    row = dataclasses.replace(ROWS[0], error=functools.partial(error, 1e-6))
    other = dataclasses.replace(row, variant="other", error=functools.partial(error, 1e-6))
    third = dataclasses.replace(row, variant="third", error=absent)
    assert variants.measure((row, other, third)) == {row.variant: 1e-6, "other": 1e-6}
    assert calls == [1e-6]
    assert "skipped, not installed: third (transformers)" in capsys.readouterr().out


NUMPY = ("gated_attention", "noisy_routing")
"""Measured here because no other test has their definition; those that ask no library but JAX."""


@pytest.mark.parametrize("name", NUMPY)
def test_definitions_in_numpy(name):
    assert getattr(variants.errors, name)() < 1e-5


@pytest.mark.slow
def test_errors_measured_again():
    """Those of `transformers` only where it is installed."""
    found = variants.measure(ROWS)
    assert len(found) > 15
    assert {
        row.variant: found[row.variant]
        for row in ROWS
        if row.variant in found and found[row.variant] > variants.LIMIT and not row.above
    } == {}

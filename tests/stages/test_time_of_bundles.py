"""Where the time of a sweep went, by bundle, from `timing.csv`."""

import math

import pytest

from gptjax.scaling import Table
from gptjax.stages.fit import spent_by_bundle

CELL = {"worker": "w", "width": 8, "compile": 1.0, "evaluate": 0.5, "checkpoint": 0.5}


def timing(**changed):
    first = {**CELL, "bundle": "a", "seconds": 10.0, "train": 8.0, "ended": 10.0}
    first |= {"flops_per_s": 3e9, "product_flops_per_s": 4e9}
    second = {**first, "bundle": "b", "seconds": 4.0, "train": 2.0, "ended": 15.0, **changed}
    return Table.from_records([first, second])


def test_products_take_their_flops_at_the_best_rate_of_the_worker():
    wide, narrow, idle = spent_by_bundle(timing(flops_per_s=1e9))
    assert wide["products"] == pytest.approx(8.0 * 3 / 4)
    assert narrow["products"] == pytest.approx(2.0 * 1 / 4)
    assert idle["seconds"] == {"idle": pytest.approx(1.0)}


def test_a_rate_that_was_not_measured_is_unknown():
    _, narrow, _ = spent_by_bundle(timing(product_flops_per_s=None))
    assert math.isnan(narrow["products"])
    table = timing()
    old = Table({k: v for k, v in table.columns.items() if k != "product_flops_per_s"})
    assert all(math.isnan(row["products"]) for row in spent_by_bundle(old)[:-1])

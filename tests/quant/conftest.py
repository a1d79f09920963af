"""Rounding as few programs."""

import jax
import pytest

from gptjax import ops


@pytest.fixture
def compiled_rounding(monkeypatch):
    """The functions of `ops` as one program for each shape, where `quantize` calls them eagerly."""
    static = {"in_groups": "group", "affine_grid": ("bits", "whole"), "to_codes": "bits"}
    for name, fields in {**static, "pack_codes": "bits"}.items():
        monkeypatch.setattr(ops, name, jax.jit(getattr(ops, name), static_argnames=fields))

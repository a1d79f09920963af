"""Parity with `transformers`: stored numbers always, the library itself where it is installed."""

import functools
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flat_settings import changed

from gptjax import models

sys.path.insert(0, str(Path(__file__).parent))
import reference

# Logits 0…5 at (sequence, position) (0, 0), (0, 8), (1, 5): transformers 5.23.0, torch 2.13.0.
GOLDEN = {
    "gpt2": [
        [-10.5979, -3.8228, -5.0935, 8.8545, -1.3554, 1.5281],
        [-9.4189, -0.9807, -7.9142, 7.2674, -1.4416, -2.1981],
        [1.4894, 4.402, -4.1666, 11.2187, -0.9451, 6.9801],
    ],
    "llama": [
        [-0.194, 3.682, 1.3339, -1.1885, -2.2109, 0.351],
        [2.4559, -1.6888, -2.4131, -0.7183, -1.508, -1.1363],
        [-1.985, -1.4102, -1.1823, 1.7503, 2.6685, 1.3227],
    ],
}


@functools.cache
def logits(name, **changes):
    config = reference.CONFIGS[name]
    other = changed(config, **changes)
    forward = jax.jit(functools.partial(models.apply, other))
    return np.asarray(forward(reference.parameters(config), reference.tokens()))


def at_stored_places(array):
    return np.stack([array[0, 0, :6], array[0, 8, :6], array[1, 5, :6]])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_logits_equal_the_stored_ones(name):
    np.testing.assert_allclose(at_stored_places(logits(name)), GOLDEN[name], atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_logits_equal_transformers(name):
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    theirs = reference.torch_logits(name)
    error = np.linalg.norm(logits(name) - theirs) / np.linalg.norm(theirs)
    assert error < 1e-5


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("gpt2", {"mlp": "gelu"}),
        ("gpt2", {"norm_eps": 1e-3}),
        ("gpt2", {"positions": "none"}),
        ("gpt2", {"norm": "rmsnorm"}),
        ("gpt2", {"norm_place": "post"}),
        ("llama", {"mlp": "geglu"}),
        ("llama", {"rope_base": 600.0}),
        ("llama", {"norm_eps": 1e-3}),
        ("llama", {"norm": "layernorm"}),
    ],
)
def test_a_wrong_detail_is_seen(name, wrong):
    """The stored numbers would catch each of these mistakes."""
    off = np.abs(at_stored_places(logits(name, **wrong)) - GOLDEN[name]).max()
    assert off > 5e-4

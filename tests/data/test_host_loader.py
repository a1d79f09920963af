"""The Grain host loader gives the batches of the device path, and its state is one integer."""

import numpy as np
import pytest

from gptjax.data.host_loader import host_loader
from gptjax.data.shuffle import batch_numpy
from gptjax.errors import UserError

TOKENS = np.random.default_rng(0).integers(0, 257, 1000).astype(np.uint16)


def same(ours, step):
    expected = batch_numpy(TOKENS, 16, 7, step, 4)
    return all(np.array_equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_same_batches_in_order():
    loader = host_loader(TOKENS, 16, seed=7, start_step=0, batch=4)
    for step in range(40):
        assert loader.step == step
        assert same(next(loader), step)


def test_continues_from_any_step():
    far = 2**35 + 3
    loader = host_loader(TOKENS, 16, seed=7, start_step=far, batch=4)
    assert same(next(loader), far)
    assert loader.step == far + 1
    loader.step = 5
    assert same(next(loader), 5)
    again = host_loader(TOKENS, 16, seed=7, start_step=loader.step, batch=4)
    assert all(np.array_equal(a, b) for a, b in zip(next(again), next(loader), strict=True))


def test_too_few_tokens():
    with pytest.raises(UserError, match=r"seq_len=16 needs 17 tokens, and there are 16"):
        host_loader(TOKENS[:16], 16, seed=0, start_step=0, batch=1)

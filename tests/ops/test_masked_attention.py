"""The general attention against its definition, one query at a time; YaRN's ends by hand."""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import ops

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import transformers_layers


def naive(q, k, v, *, scale, window=0, soft_cap=0.0, slopes=None, sinks=None, ids=None):
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    B, T, N, _ = q.shape
    group = N // k.shape[2]
    out = np.zeros((B, T, N, v.shape[-1]))
    for b, t, n in np.ndindex(B, T, N):
        seen = np.arange(max(0, t - window + 1) if window else 0, t + 1)
        if ids is not None:
            seen = seen[np.asarray(ids)[b, seen] == ids[b, t]]
        scores = scale * k[b, seen, n // group] @ q[b, t, n]
        if soft_cap:
            scores = soft_cap * np.tanh(scores / soft_cap)
        if slopes is not None:
            scores = scores - slopes[n] * (t - seen)
        weights = np.exp(scores)
        total = weights.sum() + (np.exp(sinks[n]) if sinks is not None else 0.0)
        out[b, t, n] = weights @ v[b, seen, n // group] / total
    return out


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 0.7},
        {"window": 1},
        {"window": 5},
        {"window": 140},
        {"soft_cap": 1.5},
        {"slopes": ops.alibi_slopes(4)},
        {"sinks": [0.3, -1.0, 2.0, 0.0]},
        {
            "window": 7,
            "soft_cap": 2.0,
            "slopes": ops.alibi_slopes(4),
            "sinks": [1.0] * 4,
            "ids": True,
        },
    ],
)
def test_equals_the_definition(options):
    rng = np.random.default_rng(0)
    T = 150  # two blocks of queries
    q, k, v = (
        rng.standard_normal((2, T, heads, width)).astype(np.float32)
        for heads, width in ((4, 6), (2, 6), (2, 5))
    )
    ids = np.cumsum(rng.random((2, T)) < 0.1, axis=1) if options.get("ids") else None
    options = {**options, "ids": ids, "scale": options.get("scale", 6**-0.5)}
    names = {"slopes": "slopes_N", "sinks": "sinks_N", "ids": "segment_ids_BT"}
    given = {names.get(name, name): value for name, value in options.items() if value is not None}
    for name in ("slopes_N", "sinks_N", "segment_ids_BT"):
        if name in given:
            given[name] = jnp.array(given[name], "int32" if "ids" in name else "float32")
    got = jax.jit(functools.partial(ops.masked_attention, **given))(q, k, v)
    np.testing.assert_allclose(got, naive(q, k, v, **options), rtol=1e-4, atol=1e-5)


def test_sinks_equal_those_of_gpt_oss():
    """The one function of `transformers` that has them."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 9, n, 6)).astype(np.float32) for n in (4, 2, 2))
    sinks = rng.standard_normal(4).astype(np.float32)
    ours = jax.jit(ops.masked_attention)(q, k, v, sinks_N=sinks)
    theirs = transformers_layers.gpt_oss_attention(q, k, v, sinks)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_alibi_slopes_of_other_numbers():
    # The authors' get_slopes(6): the four of 4 heads, and the first and third of 8.
    assert ops.alibi_slopes(6) == [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]


@pytest.mark.parametrize("heads", [4, 6, 12])
def test_alibi_slopes_equal_blooms(heads):
    torch = pytest.importorskip("torch")
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    bias = bloom.build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)
    np.testing.assert_allclose(ops.alibi_slopes(heads), bias[:, 0, 1].numpy(), rtol=1e-6)


def test_scalings_that_stretch_nothing_are_plain():
    nothing = ops.RopeScaling(
        factor=1.0,
        trained_len=64,
        slow=1.0,
        fast=4.0,
        short_factors=(1.0,) * 4,
        long_factors=(1.0,) * 4,
    )
    plain, _ = ops.ROPE_SCALINGS["none"](8, 1e4, 32, nothing)
    for name, scaling in ops.ROPE_SCALINGS.items():
        turns, factor = scaling(8, 1e4, 32, nothing)
        np.testing.assert_allclose(turns, plain, rtol=1e-12, err_msg=name)
        assert factor == 1.0, name


def test_ntk_keeps_the_fastest_and_divides_the_slowest():
    four = ops.RopeScaling(factor=4.0)
    plain, _ = ops.ROPE_SCALINGS["none"](8, 1e4, 0, four)
    turns, _ = ops.ROPE_SCALINGS["ntk"](8, 1e4, 0, four)
    assert turns[0] == plain[0] == 1.0
    np.testing.assert_allclose(turns[-1], plain[-1] / 4)


def test_interleaved_and_half_layouts_are_permutations():
    rng = np.random.default_rng(0)
    x, positions = rng.standard_normal((1, 5, 1, 8)).astype(np.float32), np.arange(5)
    neighbours = jax.jit(functools.partial(ops.rotary, interleaved=True))(x, positions)
    apart = np.concatenate([x[..., ::2], x[..., 1::2]], axis=-1)
    halves = jax.jit(ops.rotary)(apart, positions)
    np.testing.assert_allclose(neighbours[..., ::2], halves[..., :4], rtol=1e-6)
    np.testing.assert_allclose(neighbours[..., 1::2], halves[..., 4:], rtol=1e-6)

"""Decoding from caches equals the whole forward pass at every position, for every mixer and family.

Rows of a batch hold texts of unequal length, padded on either side; they go on token by token, and
several at a time, past the roll of a window.
"""

import dataclasses
import functools
import sys
from pathlib import Path

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flat_settings import changed

from gptjax import models
from gptjax.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "convert"))
import tiny

T, PROMPT = 24, 8
LENGTHS = (8, 3, 5)  # of the prompts
PLAIN = models.ModelConfig(
    vocab_size=17, depth=2, width=16, num_heads=4, num_kv_heads=2, seq_len=T, init_scale=0.4
)
ROTARY = {"positions": "rotary", "norm": "rmsnorm", "use_bias": False}
LATENT = {**ROTARY, "num_kv_heads": 0, "kv_rank": 6, "rope_dim": 4, "value_dim": 3}
LOCAL = {"layer_pattern": ("local", "global"), "window": 4}
MIXERS = {
    "global": {},
    "grouped rotary": {**ROTARY, "qk_norm": "shared"},
    "local": {**ROTARY, **LOCAL},
    "local with sinks": {**ROTARY, **LOCAL, "attention_sinks": True, "attention_soft_cap": 3.0},
    "alibi": {"positions": "alibi", "attention_gate": True},
    "latent": LATENT,
    "latent local": {**LATENT, **LOCAL, "q_rank": 5},
    "ssm": {"layer_pattern": ("ssm", "global"), "mlp_pattern": ("none", "dense")},
    "strided": {"layer_pattern": ("strided",), "sparse_block": 3},
    "fixed": {"layer_pattern": ("fixed",), "sparse_block": 4, "sparse_summary": 2, **ROTARY},
    "blocksparse": {
        "layer_pattern": ("blocksparse",),
        "sparse_block": 2,
        "sparse_local_blocks": 2,
        "sparse_stride": 3,
    },
    "longformer": {"layer_pattern": ("longformer",), "window": 3, "global_tokens": 4, **ROTARY},
    "linformer": {"layer_pattern": ("linformer",), "sparse_block": 4, "sparse_summary": 2},
    "performer": {"layer_pattern": ("performer",), "random_features": 6},
    "reformer": {
        "layer_pattern": ("reformer",),
        "num_kv_heads": 0,
        "lsh_rounds": 2,
        "lsh_chunk": 3,
        "lsh_buckets": 4,
    },
    "experts": {
        "mlp_pattern": ("experts",),
        "dense_layers": 1,
        "num_experts": 4,
        "mlp": "swiglu",
        **ROTARY,
    },
}


TOGETHER = {
    "grouped heads, rotary": {
        **ROTARY,
        "depth": 9,
        "layer_pattern": (
            *("global", "local", "strided", "fixed", "blocksparse"),
            *("longformer", "linformer", "performer", "ssm"),
        ),
        "mlp_pattern": ("dense", *["none"] * 8),
        "window": 4,
        "sparse_block": 3,
        "sparse_local_blocks": 2,
        "sparse_stride": 3,
        "sparse_summary": 2,
        "global_tokens": 4,
        "random_features": 6,
    },
    "alibi, sinks, cap, gate": {
        **MIXERS["alibi"],
        **LOCAL,
        "mlp_pattern": ("none", "dense"),
        "attention_sinks": True,
        "attention_soft_cap": 3.0,
        "qk_norm": "shared",
    },
    "latent, experts": {
        **MIXERS["latent local"],
        **{key: value for key, value in MIXERS["experts"].items() if key not in ROTARY},
        "layer_pattern": ("global", "local"),
    },
    "learned positions": {
        **MIXERS["reformer"],
        "layer_pattern": ("reformer", "global"),
        "mlp_pattern": ("none", "dense"),
    },
}
"""All of `MIXERS` in the layers of a few models: a program of each for its own is slow."""


@pytest.mark.parametrize("rows", [MIXERS, TOGETHER], ids=["alone", "together"])
def test_every_mixer_is_here(rows):
    named = {kind for row in rows.values() for kind in row.get("layer_pattern", ("global",))}
    assert named == set(models.MIXERS)


def check(config, params, *, width=PROMPT, lengths=LENGTHS, total=T, tolerance=1e-5):
    """Prompts of `lengths` in a batch `width` wide, then one token, three, and one by one."""
    params = jax.device_put(params)
    rng = np.random.default_rng(1)
    tokens_BT = rng.integers(0, config.vocab_size, (len(lengths), total), np.int32)
    count_B = np.array(lengths)
    right_BT = np.arange(width) < count_B[:, None]
    left_BT = right_BT[:, ::-1]
    length = models.rope_length(config, total)

    @functools.partial(jax.jit, static_argnames="fresh")
    def go_on(params, cache, tokens, counts=None, *, fresh=False):
        x, cache = models.decode(config, params, cache, tokens, counts, fresh=fresh, length=length)
        return models.logits(config, params, x), cache

    whole = np.asarray(compiled_model.apply(config, params, tokens_BT))
    scale = np.abs(whole).max()

    def compare(found, row, start):
        wanted = whole[row, start : start + len(found)]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * max(1.0, scale))

    prompts = tokens_BT[:, :width]
    shifted = np.stack([np.roll(p, width - n) for p, n in zip(prompts, count_B, strict=True)])
    empty = jax.jit(lambda: models.init_cache(config, len(lengths), total))
    found, cache = go_on(params, empty(), prompts, right_BT, fresh=True)
    again, other = go_on(params, empty(), shifted, left_BT, fresh=True)
    jax.tree.map(functools.partial(np.testing.assert_array_equal), cache, other)
    for row, n in enumerate(lengths):
        compare(np.asarray(found)[row, :n], row, 0)
        compare(np.asarray(again)[row, width - n :], row, 0)
    starts = np.asarray(cache.tokens_B)
    three = np.take_along_axis(tokens_BT, starts[:, None] + np.arange(3), axis=1)
    found, cache = go_on(params, cache, three)
    for row, start in enumerate(starts):
        compare(np.asarray(found)[row], row, start)

    @functools.partial(jax.jit, static_argnums=2)
    def to_the_end(params, cache, steps):
        def one(cache, _):
            tokens = jnp.take_along_axis(jnp.array(tokens_BT), cache.tokens_B[:, None], axis=1)
            found, cache = go_on(params, cache, tokens)
            return cache, found[:, 0]

        return jax.lax.scan(one, cache, length=steps)

    starts = np.asarray(cache.tokens_B)
    cache, found = to_the_end(params, cache, total - int(max(starts)))
    for row, start in enumerate(starts):
        compare(np.asarray(found)[:, row], row, start)
    return cache


@pytest.mark.parametrize("name", TOGETHER)
def test_cached_equals_full(name):
    config = changed(PLAIN, **TOGETHER[name])
    models.validate(config)
    cache = check(config, tiny.parameters(config))
    assert cache.tokens_B.tolist() == [n + 16 for n in LENGTHS]


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXERS)
def test_cached_equals_full_for_each_mixer(name):
    config = changed(PLAIN, **MIXERS[name])
    models.validate(config)
    check(config, compiled_model.init(config, jax.random.key(0)))  # features that are orthogonal


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.MODELS)
def test_cached_equals_full_for_every_family(name):
    """The tiny models of every family that is converted, every parameter of size one."""
    config = tiny.MODELS[name][1]
    check(config, tiny.parameters(config), width=5, lengths=(5, 3), total=12)


MORE = {"blocksparse", "longformer", "fixed", "linformer"}
"""Mixers whose cache holds more than no later token can do without (docs/generation.md)."""


@pytest.mark.parametrize("name", MIXERS)
def test_bytes_are_those_of_the_formula(name):
    config = changed(PLAIN, **MIXERS[name])
    held, formula = models.held_bytes(config, T), models.cache_bytes(config, T)
    assert held > formula if name in MORE else held == formula
    axes, cache = models.cache_axes(config), models.init_cache(config, 2, T)
    for kept, named in zip(cache.layers, axes.layers, strict=True):
        assert {k: x.ndim for k, x in kept.items()} == {k: len(x) for k, x in named.items()}


def test_a_mixer_without_a_cache_is_refused():
    mixers = models.MIXERS
    mixers["bare"] = dataclasses.replace(mixers["global"], cache=None)
    try:
        with pytest.raises(UserError, match="has bare layers, which have no cache to decode from"):
            models.init_cache(changed(PLAIN, layer_pattern=("bare",)), 1, 8)
    finally:
        del mixers["bare"]

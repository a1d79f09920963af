"""Kinds of attention that leave pairs out: no future, no other document, counted as they work."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flat_settings import changed

from gptjax import models
from gptjax.convert import config_json
from gptjax.cost import flops
from gptjax.errors import UserError

TINY = changed(
    models.ModelConfig(),
    vocab_size=13,
    depth=1,
    width=16,
    num_heads=4,
    seq_len=24,
    positions="rotary",
    sparse_block=5,
    sparse_summary=2,
    sparse_stride=8,
    global_tokens=2,
    random_features=8,
    lsh_rounds=2,
    lsh_chunk=4,
    use_bias=False,
)
# What each kind sees of the tokens 0 … 23 at token 20, where that depends on nothing random.
KINDS = {
    "global": set(range(21)),
    "local": {17, 18, 19, 20},
    "strided": {*range(15, 21), 10, 5, 0},
    "fixed": {20, 18, 19, 13, 14, 8, 9, 3, 4},
    "blocksparse": {*range(15, 21), *range(5, 10)},
    "longformer": {17, 18, 19, 20, 0, 1},
    "linformer": set(range(21)),
    "performer": set(range(21)),
    "reformer": None,
    "ssm": set(range(21)),
}
EACH = pytest.mark.parametrize("kind", KINDS)


def of_kind(kind, **changes):
    window = 4 if kind in ("local", "longformer") else 0
    return changed(TINY, layer_pattern=(kind,), window=window, **changes)


@functools.cache
def compiled(kind):
    """(tokens, segments) -> logits, and by place the gradient of those at token 20."""
    config = of_kind(kind)
    rng = np.random.default_rng(1)
    shapes_of = jax.eval_shape(functools.partial(models.init, config), jax.random.key(0))
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), shapes_of)

    def at_20(shift, tokens, ids):
        logits = models.apply(config, params, tokens, shift_BTD=shift, segment_ids_BT=ids)
        return jnp.sum(jnp.square(logits[:, 20])), logits

    slope = jax.jit(jax.grad(at_20, has_aux=True))

    def run(tokens, ids):
        gradient, logits = slope(np.zeros((2, 24, 16), np.float32), tokens, ids)
        return np.asarray(logits), np.abs(gradient).max(axis=(0, 2))

    return run


TOKENS = np.random.default_rng(2).integers(0, 13, (2, 24)).astype(np.int32)
ONE_DOCUMENT = np.zeros((2, 24), np.int32)


def moved(kind, place, ids=ONE_DOCUMENT):
    """The tokens whose logits change where another token is read at `place`."""
    other = TOKENS.copy()
    other[:, place] = (other[:, place] + 1) % 13
    difference = compiled(kind)(TOKENS, ids)[0] - compiled(kind)(other, ids)[0]
    # Where a bucket lies in the sorted text moves with later tokens, and with it how sums round.
    rounding = 1e-4 if kind == "reformer" else 0.0
    return set(np.flatnonzero(np.abs(difference).max(axis=(0, 2)) > rounding).tolist())


@EACH
def test_no_kind_sees_the_future(kind):
    """A later token changes no bit of an earlier logit, and has no gradient there."""
    for place in (1, 10, 16, 20, 23):
        assert min(moved(kind, place)) == place
    _, slope = compiled(kind)(TOKENS, ONE_DOCUMENT)
    seen = set(np.flatnonzero(slope).tolist())
    assert max(seen) == 20
    if KINDS[kind] is not None:
        assert seen == KINDS[kind]


@EACH
def test_no_kind_sees_another_document(kind):
    ids = np.array([[0] * 8 + [1] * 16] * 2, np.int32)
    for place in (2, 7):
        assert max(moved(kind, place, ids)) <= 7


@EACH
def test_work_is_counted(kind):
    """One layer with D = 16, H = 4 and 4 heads at T = 24: projections, pairs, what is beside."""
    config = changed(of_kind(kind, mlp_pattern=("none",)), positions="none")
    head = 2 * 16 * 13
    got = flops.training_flops_per_token(config) / 3 - head
    square, pair = 2 * 16 * 16, 4 * 16
    wanted = {
        "global": 4 * square + 24 * pair,
        "local": 4 * square + 4 * pair,
        "strided": 4 * square + (5 + 24 / 5) * pair,
        "fixed": 4 * square + (5 + 2 * 24 / 5) * pair,
        "blocksparse": 4 * square + (10 + 14 / 8) * pair,
        "longformer": 4 * square + 3 * square * 2 / 24 + 6 * pair,
        "linformer": 4 * square + (5 + 2 * 24 / 5) * pair + 2 * (2 * 2 * 16),
        "performer": 4 * square + 2 * 8 * 8 * (4 + 5),
        "reformer": 3 * square + 2 * 5 * pair + 2 * 2 * 16 * 6,  # 12 buckets: 6 columns, 2 rounds
    }
    if kind in wanted:
        assert got == pytest.approx(wanted[kind])


def test_bytes_of_the_cache():
    """Two numbers a key and value column, 4 bytes each: 128 a token that is kept."""
    kept = {
        "global": 100,
        "local": 4,
        "strided": 100,
        "fixed": 2 * 20,
        "longformer": 6,
        "linformer": 2 * 20,
    }
    for kind, tokens in kept.items():
        assert models.cache_bytes(of_kind(kind), 100) == 128 * tokens
    assert models.cache_bytes(of_kind("fixed"), 103) == 128 * (2 * 20 + 3)
    # Token 100 begins block 20 and sees 19 and 20; from afar the four heads see the blocks with
    # remainders 7, 5, 3 and 1 by 8: of those before, 2, 2, 2 and 3.
    assert models.cache_bytes(of_kind("blocksparse"), 100) == 32 * 5 * (4 + 9)
    assert models.cache_bytes(of_kind("blocksparse"), 103) == 32 * (5 * (4 + 9) + 4 * 3)
    shared = of_kind("blocksparse", num_kv_heads=1)
    assert models.cache_bytes(shared, 100) == 32 * 5 * (1 + 9)
    assert models.cache_bytes(of_kind("performer"), 100) == 4 * 4 * 8 * 5
    assert models.cache_bytes(of_kind("reformer"), 100) == 100 * (128 + 4 * 4 * 2)
    assert models.cache_bytes(of_kind("ssm"), 100) == 4 * 32 * (3 + 16)
    half = changed(of_kind("local"), compute_dtype="bfloat16", depth=3)
    assert models.cache_bytes(half, 100) == 3 * 64 * 4


DENSE = {
    "strided": {"sparse_block": 24},
    "fixed": {"sparse_block": 24},
    "longformer": {"window": 24},
    "linformer": {"sparse_block": 6, "sparse_summary": 6},
}
"""Where a kind leaves nothing out. Performer's and Reformer's limits: test_sparse_attention.py."""


@functools.cache
def dense_model():
    """(parameters, logits) of a layer that sees everything."""
    config = of_kind("global", num_kv_heads=2)
    shapes_of = jax.eval_shape(functools.partial(models.init, config), jax.random.key(0))
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(x.dtype), shapes_of)
    return params, jax.jit(functools.partial(models.apply, config))(params, TOKENS)


@pytest.mark.parametrize("kind", DENSE)
def test_the_dense_limit(kind):
    """A stride, a block or a window of the whole text, and summaries that keep all."""
    config = changed(of_kind(kind, num_kv_heads=2), **DENSE[kind])
    own = jax.eval_shape(functools.partial(models.init, config), jax.random.key(0))["blocks"]
    params, wanted = dense_model()
    blocks = dict(params["blocks"])
    (name,) = own.keys() & {"attention", f"{kind}_attention"}
    blocks[f"{name}_norm"] = blocks.pop("attention_norm")
    found = {"key_summary": np.eye(6, dtype=np.float32)[None]} | blocks.pop("attention")
    found["value_summary"] = found["key_summary"]
    found |= {f"global_{part}": found[part] for part in ("query", "key", "value")}
    blocks[name] = {leaf: found[leaf] for leaf in own[name]}
    got = jax.jit(functools.partial(models.apply, config))({**params, "blocks": blocks}, TOKENS)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_no_family_is_written_with_them():
    for kind in ("strided", "performer", "ssm"):
        with pytest.raises(UserError, match=f"no {kind} layers"):
            config_json.write_attributes(config_json.FAMILIES["llama"], of_kind(kind))


def test_linformer_brings_each_block_to_its_summaries():
    """[tokens of a block, summaries]: the other way round works too, on blocks of two tokens."""
    init = functools.partial(models.init, of_kind("linformer"))
    leaves = jax.tree_util.tree_leaves_with_path(jax.eval_shape(init, jax.random.key(0)))
    shapes = [leaf.shape[-2:] for path, leaf in leaves if "summary" in jax.tree_util.keystr(path)]
    assert shapes == [(5, 2), (5, 2)]

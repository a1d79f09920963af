"""Laws that every variant of the decoder keeps, and a few numbers by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flat_settings import changed

from gptjax import models, ops
from gptjax.errors import UserError
from gptjax.models.mixers import mamba
from gptjax.models.mixers.attention import Attention
from gptjax.models.mixers.latent import LatentAttention

GPT = changed(models.ModelConfig(), vocab_size=13, depth=2, width=16, num_heads=4, seq_len=12)

HYBRID = "mamba, windows, experts: layers of three structures"
VARIANTS = {
    "gpt2": {},
    "post-norm, relu, sinusoidal": {
        "norm_place": "post",
        "mlp": "relu",
        "positions": "sinusoidal",
        "tied_head": False,
    },
    "llama": {
        "norm": "rmsnorm",
        "positions": "rotary",
        "mlp": "swiglu",
        "use_bias": False,
        "tied_head": False,
        "num_kv_heads": 2,
        "mlp_width": 20,
    },
    "multi-query, wide heads, geglu": {
        "num_kv_heads": 1,
        "head_dim": 6,
        "mlp": "geglu",
        "positions": "none",
    },
    "alternating windows, both norms, caps, scales": {
        "norm": "rmsnorm",
        "norm_place": "both",
        "norm_plus_one": True,
        "layer_pattern": ("local", "local", "global"),
        "depth": 4,
        "window": 4,
        "positions": "rotary",
        "mlp": "geglu_tanh",
        "use_bias": False,
        "attention_scale": 0.3,
        "attention_soft_cap": 5.0,
        "logit_soft_cap": 3.0,
        "embedding_scale": 0.0,
        "residual_scale": 0.7,
    },
    "parallel, one norm, norms of heads, interleaved": {
        "block": "parallel_shared_norm",
        "positions": "rotary",
        "rope_layout": "interleaved",
        "qk_norm": "per_head",
        "use_bias": False,
        "mlp": "swiglu",
        "logit_scale": 0.5,
        "num_kv_heads": 2,
    },
    "parallel, two norms, partial rotary, biases of queries": {
        "block": "parallel",
        "positions": "rotary",
        "rope_fraction": 0.5,
        "qk_norm": "shared",
        "bias_places": ("qkv",),
        "mlp": "silu",
    },
    "alibi, sinks, gate, window": {
        "positions": "alibi",
        "attention_sinks": True,
        "attention_gate": True,
        "layer_pattern": ("local",),
        "window": 5,
        "mlp": "reglu",
        "num_heads": 2,
    },
    "experts, shared ones, groups, a dense layer first": {
        "depth": 3,
        "mlp_pattern": ("experts",),
        "dense_layers": 1,
        "num_experts": 4,
        "expert_width": 6,
        "shared_experts": 1,
        "router": "softmax",
        "router_groups": 2,
        "use_bias": False,
        "mlp": "swiglu",
    },
    "latent attention": {
        "norm": "rmsnorm",
        "positions": "rotary",
        "use_bias": False,
        "kv_rank": 7,
        "q_rank": 5,
        "rope_dim": 6,
        "value_dim": 3,
    },
    HYBRID: {
        "depth": 4,
        "norm": "rmsnorm",
        "layer_pattern": ("ssm", "ssm", "local"),
        "window": 4,
        "mlp_pattern": ("dense", "experts", "none"),
        "num_experts": 3,
        "ssm_state": 3,
        "ssm_conv": 3,
        "ssm_rank": 2,
        "use_bias": False,
    },
    "strided, blocks, fixed, random features, clamped gates": {
        "depth": 4,
        "layer_pattern": ("strided", "blocksparse", "fixed", "performer"),
        "mlp": "gegelu",
        "mlp_limit": 0.7,
        "sparse_block": 5,
        "sparse_local_blocks": 1,
        "sparse_summary": 2,
        "random_features": 9,
        "positions": "rotary",
        "num_kv_heads": 2,
    },
    "kinds with parameters of their own": {
        "depth": 3,
        "layer_pattern": ("longformer", "linformer", "reformer"),
        "window": 12,
        "global_tokens": 2,
        "sparse_summary": 3,
        "lsh_rounds": 2,
        "lsh_chunk": 4,
        "positions": "rotary",
        "attention_gate": True,
    },
    "exact gelu, rmsnorm, bfloat16": {
        "mlp": "gelu",
        "norm": "rmsnorm",
        "use_bias": False,
        "compute_dtype": "bfloat16",
    },
}
HEAVY = "kinds with parameters of their own"  # half a minute of compiling, sorts and scans
EACH = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == HEAVY else n for n in VARIANTS]
)


def variant(name, **changes):
    return changed(GPT, **{**VARIANTS[name], **changes})


@functools.cache
def shapes(config):
    return jax.eval_shape(functools.partial(models.init, config), jax.random.key(0))


def randomised(config):
    """Parameters of size one or so everywhere, biases and scales included."""
    rng = np.random.default_rng(7)

    def draw(path, leaf):
        centre = 1.0 if path[-1].key.endswith("scale") and not config.norm_plus_one else 0.0
        return (centre + 0.3 * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes(config))


def initial(config):
    return jax.jit(functools.partial(models.init, config))(jax.random.key(0))


def tokens(config, batch=2, T=12):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.integers(0, config.vocab_size, (batch, T), dtype=np.int32))


@functools.cache
def loss_and_gradients(config):
    def loss(params, tokens_BT):
        logits = models.apply(config, params, tokens_BT)
        return jnp.mean(ops.cross_entropy(logits[:, :-1], tokens_BT[:, 1:]))

    return jax.jit(jax.value_and_grad(loss))


@functools.cache
def forward(config):
    return jax.jit(functools.partial(models.apply, config))


def close(one, two, rtol):
    """Equal relative to each leaf's size."""
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        error = np.linalg.norm(np.ravel(a) - np.ravel(b))
        assert error <= rtol * np.linalg.norm(np.ravel(b)) + 1e-7


@EACH
def test_parameters_counts_and_axes_agree(name):
    config = variant(name)
    params = shapes(config)
    axes = models.logical_axes(config)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    leaves = dict(jax.tree_util.tree_leaves_with_path(params))
    names = dict(jax.tree_util.tree_leaves_with_path(axes, is_leaf=lambda x: isinstance(x, tuple)))
    assert leaves.keys() == names.keys()
    for path, leaf in leaves.items():
        assert len(names[path]) == leaf.ndim
        assert (names[path][0] == "layers") == (path[0].key == "blocks")
    counts = models.count_params(config)
    assert counts.total == sum(leaf.size for leaf in leaves.values())
    outside = sum(leaf.size for leaf in jax.tree.leaves(params["embed"]))
    outside += params["head"].size if "head" in params else 0
    assert counts.non_embedding == counts.total - outside
    assert counts.non_embedding_with_head == counts.non_embedding + 16 * 13


SCANNED = (
    "gpt2",
    "alternating windows, both norms, caps, scales",
    "experts, shared ones, groups, a dense layer first",
    HYBRID,
)
"""Stacks of one structure, of a period, with another first layer, and of three structures."""


@pytest.mark.parametrize(
    "name",
    [n if n in ("gpt2", HYBRID) else pytest.param(n, marks=pytest.mark.slow) for n in SCANNED],
)
def test_scanned_and_unrolled_are_one_model(name):
    check_layers(name, forward, {"layers": "scan"})


def test_gradients_of_scanned_and_rematerialised_layers_are_the_same():
    check_layers("llama", loss_and_gradients, {"layers": "scan", "remat": "block"})


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_of_every_variant_are_the_same_however_layers_run(name):
    others = [{"layers": "scan"}, {"layers": "scan", "remat": "block"}, {"remat": "block"}]
    check_layers(name, loss_and_gradients, *others if name == "llama" else others[:1])


def check_layers(name, run, *changes):
    config = variant(name, layers="unroll")
    params, batch = randomised(config), tokens(config)
    expected = run(config)(params, batch)
    # In bfloat16 the two programs round at other places.
    rtol = 1e-5 if config.compute_dtype == "float32" else 0.02
    for change in changes:
        other = changed(config, **change)
        close(run(other)(params, batch), expected, rtol)


@EACH
def test_later_tokens_leave_earlier_logits(name):
    config = variant(name, layers="scan")
    batch = np.repeat(np.asarray(tokens(config, batch=1)), 2, axis=0)
    batch[1, 7] = (batch[1, 7] + 1) % 13
    logits = forward(config)(randomised(config), batch)
    assert logits.dtype == jnp.float32
    assert logits.shape == (2, 12, 13)
    # Reformer's sort moves where sums begin, and so how they round.
    rounding = 1e-4 if "reformer" in config.layer_pattern else 0.0
    np.testing.assert_allclose(logits[0, :7], logits[1, :7], rtol=0.0, atol=rounding)
    moved = np.abs(np.asarray(logits[0] - logits[1]))[7:].max(axis=-1)
    reach = moved[: config.window] if config.window else moved
    assert reach.min() > 1e-3


@pytest.mark.parametrize("name", ["llama", "multi-query, wide heads, geglu"])
def test_grouped_heads_equal_repeated_heads(name):
    config = variant(name)
    params = randomised(config)
    repeats = config.num_heads // config.kv_heads
    attention = {
        part: jnp.repeat(leaf, repeats, axis=-2) if part.startswith(("key", "value")) else leaf
        for part, leaf in params["blocks"]["attention"].items()
    }
    wide = {**params, "blocks": {**params["blocks"], "attention": attention}}
    batch = tokens(config)
    plain = changed(config, num_kv_heads=0)
    close(forward(config)(params, batch), forward(plain)(wide, batch), 1e-5)


@pytest.mark.parametrize("layers", ["scan", "unroll"])
def test_segments_equal_separate_documents(layers):
    """Rotary positions count differences, so that a document may stand anywhere."""
    config = variant("llama", layers=layers)
    params, batch = randomised(config), tokens(config)
    ids = jnp.array([[0] * 5 + [1] * 7] * 2)
    run = jax.jit(lambda p, x, s: models.apply(config, p, x, segment_ids_BT=s))
    packed = run(params, batch, ids)
    # Each alone at the beginning: what comes after it is not seen, and is the same program's.
    apart = [run(params, jnp.roll(batch, -n, axis=1), jnp.zeros_like(ids)) for n in (0, 5)]
    close(packed, np.concatenate([apart[0][:, :5], apart[1][:, :7]], axis=1), 1e-5)


def test_bfloat16_is_close_to_float32():
    config = variant("llama", layers="unroll")
    params, batch = randomised(config), tokens(config)
    narrow = changed(config, compute_dtype="bfloat16")
    wide_loss, wide = loss_and_gradients(config)(params, batch)
    loss, gradients = loss_and_gradients(narrow)(params, batch)
    assert abs(float(loss) - float(wide_loss)) < 0.03
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))
    close(gradients, wide, 0.15)


def test_initial_sizes_are_gpt2s():
    config = changed(GPT, depth=8, width=64, vocab_size=500)
    params = jax.tree.map(np.asarray, initial(config))
    assert float(np.std(params["embed"]["tokens"])) == pytest.approx(0.02, rel=0.05)
    blocks = params["blocks"]
    assert float(np.std(blocks["mlp"]["up"])) == pytest.approx(0.02, rel=0.05)
    residual = 0.02 / 4  # 1/√(2·8)
    assert float(np.std(blocks["mlp"]["down"])) == pytest.approx(residual, rel=0.05)
    assert float(np.std(blocks["attention"]["out"])) == pytest.approx(residual, rel=0.05)
    assert not np.any(blocks["mlp"]["up_bias"])
    assert np.all(blocks["mlp_norm"]["scale"] == 1)
    first, second = blocks["mlp"]["up"][:2]
    assert np.abs(first - second).max() > 0.01  # layers differ


def test_untrained_loss_is_that_of_guessing():
    config = changed(GPT, vocab_size=257)
    ids = np.asarray(tokens(config))
    logits = np.asarray(forward(config)(initial(config), ids), np.float64)[:, :-1]
    right = np.take_along_axis(logits, ids[:, 1:, None], axis=-1)[..., 0]
    value = np.mean(np.log(np.exp(logits).sum(-1)) - right)
    assert float(value) == pytest.approx(np.log(257), abs=0.06)


EXPERTS = {"mlp_pattern": ("experts",), "num_experts": 4, "use_bias": False}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vocab_size": 0}, "model.vocab_size=0"),
        (
            {"num_heads": 3},
            "model.width=16 is not a multiple of model.num_heads=3; try num_heads=2 or 4",
        ),
        ({"num_heads": 4, "num_kv_heads": 3}, "try num_kv_heads=2 or 4"),
        ({"positions": "rotary", "head_dim": 5}, "set model.head_dim=6"),
        ({"positions": "rotary", "rope_fraction": 0.3}, "rotates 1 of 4 columns"),
        ({"positions": "rotary", "rope_scaling": "yarn", "rope_fast": 1.0}, "model.rope.fast=1"),
        ({"positions": "rotary", "rope_scaling": "ntk", "head_dim": 2}, "at least two pairs"),
        ({"positions": "rotary", "rope_scaling": "longrope"}, "0 numbers for 2 pairs"),
        ({"layer_pattern": ()}, "names no layer"),
        ({"mlp_pattern": ()}, "names no feed-forward"),
        ({"num_experts": 2}, "model.experts.count=2 does not fit"),
        ({**EXPERTS, "experts_per_token": 5}, "more than model.experts.count=4"),
        ({**EXPERTS, "router_groups": 3}, "model.experts.router_groups=3 does not divide"),
        ({**EXPERTS, "use_bias": True}, "experts have no biases"),
        ({"layer_pattern": ("ssm",), "norm_place": "post"}, "need model.block=sequential"),
        ({"kv_rank": 4, "positions": "rotary"}, "model.norm=layernorm is not built for latent"),
        (
            {"kv_rank": 4, "positions": "rotary", "norm": "rmsnorm"},
            "latent attention .* has no biases",
        ),
        ({"layer_pattern": ("local",)}, "model.window=0"),
        ({"layer_pattern": ("longformer",)}, "model.window=0 gives the longformer layers"),
        (
            {"layer_pattern": ("performer",), "attention_soft_cap": 3.0},
            "not built for the performer layers .* set model.attention_soft_cap=0.0",
        ),
        ({"layer_pattern": ("reformer",), "qk_norm": "shared"}, "set model.qk_norm=none"),
        ({"layer_pattern": ("reformer",), "num_kv_heads": 2}, "set model.num_kv_heads=0"),
        ({"layer_pattern": ("linformer",), "positions": "alibi"}, "set model.positions=rotary"),
        ({"layer_pattern": ("fixed",), "sparse_summary": 5}, "more than a block of 4 tokens"),
        (
            {"layer_pattern": ("strided",), "kv_rank": 4},
            "model.mixer.latent.kv_rank=4 has no strided layers",
        ),
        ({"mlp_limit": 2.0}, "model.mlp=gelu_tanh has none; set model.mlp_limit=0"),
        ({**EXPERTS, "mlp": "gegelu"}, "model.mlp=gegelu .* is not built for experts"),
        ({"window": 3}, "model.window=3 has no layer"),
        ({"block": "parallel", "norm_place": "post"}, "needs model.norm_place=pre"),
        ({"positions": "sinusoidal", "width": 15, "num_heads": 3}, "set model.width=16"),
    ],
)
def test_contradictions_are_refused(changes, sentence):
    config = changed(GPT, **changes)
    for refused in (models.validate, models.count_params, models.logical_axes):
        with pytest.raises(UserError, match=sentence):
            refused(config)


def test_a_window_ends_where_it_should():
    """One layer, window 3: token 4 moves the logits at 4, 5, 6 and no others."""
    config = changed(GPT, depth=1, layer_pattern=("local",), window=3)
    batch = np.repeat(np.asarray(tokens(config, batch=1)), 2, axis=0)
    batch[1, 4] = (batch[1, 4] + 1) % 13
    logits = forward(config)(randomised(config), batch)
    moved = np.abs(np.asarray(logits[0] - logits[1])).max(axis=-1) > 0
    assert np.flatnonzero(moved).tolist() == [4, 5, 6]


def test_active_parameters_leave_out_idle_experts():
    config = variant("experts, shared ones, groups, a dense layer first")
    every, active = models.count_params(config), models.count_active_params(config)
    assert every.total - active.total == 2 * 2 * (3 * 16 * 6)  # layers, idle experts, matrices
    assert models.count_active_params(GPT) == models.count_params(GPT)


def test_mamba_token_by_token_is_mamba():
    """The recurrence of decoding gives what the scan of training gives."""
    config = variant(
        HYBRID, layer_pattern=("ssm",), window=0, mlp_pattern=("none",), depth=1, num_experts=0
    )
    params = randomised(config)["blocks"]["ssm"]
    weights = {name: jnp.asarray(leaf[0]) for name, leaf in params.items()}
    x = jax.random.normal(jax.random.key(0), (2, 9, 16))
    apply = jax.jit(mamba.Mamba(config).apply)
    step = jax.jit(functools.partial(mamba.step, config))
    whole = apply({"params": weights}, x, models.TokenInfo())
    state = mamba.initial_state(config, 2)
    for t in range(9):
        y, state = step(weights, x[:, t], state)
        np.testing.assert_allclose(y, whole[:, t], rtol=1e-4, atol=1e-5)


def test_latent_attention_with_full_rank_is_attention():
    """Down-projections that keep everything, no turning columns: ordinary heads."""
    config = variant("latent attention", kv_rank=16, q_rank=0, value_dim=4, rope_dim=2)
    plain = variant("latent attention", kv_rank=0, positions="none", attention_scale=6**-0.5)
    rng = np.random.default_rng(0)
    w = {n: rng.standard_normal((16, 4, 4)).astype(np.float32) for n in ("query", "key", "value")}
    out = rng.standard_normal((4, 4, 16)).astype(np.float32)
    pad = np.zeros((16, 4, 2), np.float32)
    unit = np.concatenate([np.eye(16, dtype=np.float32), np.zeros((16, 2), np.float32)], axis=1)
    weights = {
        "query": np.concatenate([w["query"], pad], axis=-1),
        "kv_down": unit,
        "kv_norm_scale": np.ones(16, np.float32),
        "kv_up": np.concatenate([w["key"], w["value"]], axis=-1),
        "out": out,
    }
    x = rng.standard_normal((2, 9, 16)).astype(np.float32)
    x = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True))  # so that the norm changes nothing
    weights, heads, x = jax.tree.map(jnp.asarray, (weights, {**w, "out": out}, x))
    got = jax.jit(LatentAttention(config).apply)({"params": weights}, x, models.TokenInfo())
    wanted = jax.jit(Attention(plain).apply)({"params": heads}, x, models.TokenInfo())
    np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=2e-3)


def test_an_open_gate_is_no_gate():
    config = changed(GPT, attention_gate=True)
    params = randomised(config)
    attention = {**params["blocks"]["attention"]}
    attention["gate"] = np.zeros_like(attention["gate"])
    attention["gate_bias"] = np.full_like(attention["gate_bias"], 100.0)
    opened = {**params, "blocks": {**params["blocks"], "attention": attention}}
    for name in ("gate", "gate_bias"):
        attention = {k: v for k, v in attention.items() if k != name}
    plain = {**params, "blocks": {**params["blocks"], "attention": attention}}
    batch = tokens(config)
    close(forward(config)(opened, batch), forward(GPT)(plain, batch), 1e-6)


def test_too_long_an_input_is_refused():
    with pytest.raises(UserError, match=r"model.seq_len=12"):
        models.apply(GPT, randomised(GPT), jnp.zeros((1, 13), jnp.int32))

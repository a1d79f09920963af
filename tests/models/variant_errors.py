"""How far each variant is from its oracle: ‖ours − theirs‖/‖theirs‖ of all outputs, in float32.

Functions without arguments, for the rows of variants.py. Those that ask `transformers` raise
ImportError where it is not installed (extra `parity`).
"""

import functools
import math
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flat_settings import changed

from gptjax import models, ops
from gptjax.models.experts import Experts
from gptjax.models.mixers.attention import Attention

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / room) for room in ("models", "ops", "convert")]
import phi3small  # noqa: E402
import test_sparse_attention as sparse  # noqa: E402
import tiled_reference as tiled  # noqa: E402
import tiny  # noqa: E402
import transformers_layers as layers  # noqa: E402
import vision_reference as vision  # noqa: E402
import vision_tiny  # noqa: E402

llama, gpt2 = tiny.llama, tiny.gpt2
relative = tiny.error


def of_parts(ours, theirs):
    """Of several outputs together."""
    return relative(*(np.concatenate([np.ravel(x) for x in parts]) for parts in (ours, theirs)))


def parity(model_type, config, theirs=None, params=None):
    """Of the logits of a tiny model with every parameter random.

    Args:
      theirs, params: what is written for `transformers`, where it is not `config` with the same
        parameters.
    """
    own = tiny.parameters(config)
    wanted = tiny.in_transformers(model_type, theirs or config, params or own)
    return relative(tiny.logits(config, own, tiny.tokens()), wanted)


def family(name):
    """Of one of the models of tests/convert/tiny.py."""
    model_type, config = tiny.MODELS[name]
    return parity(model_type, config)


def phi3_small():
    """Of the logits of tests/convert/phi3small.py, against the layers of mlx-lm."""
    config = phi3small.CONFIG
    with tempfile.TemporaryDirectory() as name:
        wanted = phi3small.in_mlx(phi3small.folder_of(config, name), phi3small.tokens())
    return relative(tiny.logits(config, tiny.parameters(config), phi3small.tokens()), wanted)


def like_gemma2(**changes):
    """Gemma 2 with its norms alone: neither caps nor windows of its own."""
    plain = {
        "norm_place": "both",
        "norm_plus_one": True,
        "embedding_scale": 0.0,
        "head_dim": 6,
        "layer_pattern": ("local", "global"),
        "window": 12,
        "mlp": "geglu_tanh",
        "attention_scale": 7**-0.5,
        "tied_head": True,
    }
    return parity("gemma2", llama(**{**plain, **changes}))


def like_cohere(**changes):
    """Command R with its block and layout alone."""
    plain = {
        "norm": "layernorm",
        "rope_layout": "interleaved",
        "block": "parallel_shared_norm",
        "tied_head": True,
    }
    return parity("cohere", llama(**{**plain, **changes}))


def like_gpt_neox(**changes):
    """GPT-NeoX, all columns turning."""
    plain = {
        "width": 24,
        "positions": "rotary",
        "block": "parallel",
        "mlp": "gelu",
        "tied_head": False,
    }
    return parity("gpt_neox", gpt2(**{**plain, **changes}))


def like_granite(**changes):
    """Granite with scales that change nothing but for those given."""
    return parity("granite", llama(**{"attention_scale": 0.5, **changes}))


def like_deepseek(**changes):
    """DeepSeek-V2 whose layers are all dense, turning columns and nothing else of its own."""
    plain = {
        "num_kv_heads": 4,
        "head_dim": 6,
        "kv_rank": 6,
        "rope_dim": 4,
        "value_dim": 5,
        "rope_layout": "interleaved",
        "mlp_pattern": ("experts",),
        "dense_layers": 2,
        "num_experts": 4,
        "expert_width": 8,
        "shared_experts": 1,
        "router": "softmax",
    }
    return parity("deepseek_v2", llama(**{**plain, **changes}))


# Positions


def sinusoidal():
    """GPT-2 of `transformers` with a table of sines by hand, and the embedding scaled up to it."""
    config = gpt2(positions="sinusoidal", tied_head=False)
    params = tiny.parameters(config)
    D, T = config.width, config.seq_len
    table = np.zeros((T, D), np.float32)
    for t, column in np.ndindex(T, D):
        angle = t / 10_000 ** ((column - column % 2) / D)
        table[t, column] = math.cos(angle) if column % 2 else math.sin(angle)
    embed = {"tokens": params["embed"]["tokens"] * np.float32(math.sqrt(D)), "positions": table}
    theirs = gpt2(tied_head=False)
    return parity("gpt2", config, theirs, {**params, "embed": embed})


def no_positions():
    """GPT-2 of `transformers` with a table of zeros."""
    config = gpt2(positions="none")
    params = tiny.parameters(config)
    zeros = np.zeros((config.seq_len, config.width), np.float32)
    embed = {**params["embed"], "positions": zeros}
    return parity("gpt2", config, gpt2(), {**params, "embed": embed})


def ntk():
    """Llama of `transformers` with the base stretched by hand: factor 4, heads of 8 columns."""
    config = llama(head_dim=8, rope_scaling="ntk", rope_factor=4.0)
    return parity("llama", config, llama(head_dim=8, rope_base=500.0 * 4.0 ** (8 / 6)))


# Attention


def blockwise():
    """Output and gradients against JAX's dense attention: ragged, grouped, a window."""
    q, k, v, g = draw(4, (2, 75, 4, 8), (2, 75, 2, 8), (2, 75, 2, 8), (2, 75, 4, 8))
    ours = functools.partial(ops.blockwise_attention, window=21, block=32)
    theirs = functools.partial(
        jax.nn.dot_product_attention, is_causal=True, local_window_size=(20, 0)
    )

    def run(attend):
        return jax.jit(lambda *x: [(found := jax.vjp(attend, *x[:3]))[0], *found[1](x[3])])(
            q, k, v, g
        )

    return of_parts(run(ours), run(theirs))


def splash():
    """Grouped heads and a window, in Pallas' interpreter."""
    q, k, v = map(jnp.asarray, draw(4, *((1, 256, heads, 128) for heads in (2, 1, 1))))
    ours = ops.splash_attention(q, k, v, window=50, interpret=True)
    wanted = jax.nn.dot_product_attention(q, k, v, is_causal=True, local_window_size=(49, 0))
    return relative(ours, wanted)


def banded():
    """A window of the paths that layers take, against JAX's dense attention with its mask."""
    q, k, v = sparse.heads(sparse.N, sparse.K, sparse.K)
    wanted = sparse.dense(q, k, v, sparse.visible(lambda i, j: i - j < 4))
    paths = ops.masked_attention, functools.partial(ops.blockwise_attention, block=8)
    return of_parts([sparse.run(path, q, k, v, window=4) for path in paths], [wanted] * 2)


def sinks():
    """The attention of GPT-OSS in `transformers`."""
    q, k, v = sparse.heads(4, 2, 2)
    (sinks_N,) = draw(0, (4,))
    ours = sparse.run(ops.masked_attention, q, k, v, sinks_N=jnp.asarray(sinks_N))
    return relative(ours, layers.gpt_oss_attention(q, k, v, sinks_N))


def gated_attention():
    """One layer against NumPy in float64, one query at a time."""
    config = gpt2(attention_gate=True, positions="none", num_kv_heads=1)
    stacked = tiny.parameters(config)["blocks"]["attention"]
    w = {name: leaf[0].astype(np.float64) for name, leaf in stacked.items()}
    (x,) = draw(1, (2, 9, config.width))
    ours = jax.jit(Attention(config, parent=None).apply)(
        {"params": _narrow(w)}, x, models.TokenInfo()
    )
    q, k, v, g = (
        np.einsum("btd,dnh->btnh", x, w[name]) + w[f"{name}_bias"]
        for name in ("query", "key", "value", "gate")
    )
    wanted = np.zeros(x.shape)
    for b, t, n in np.ndindex(*q.shape[:3]):
        weights = np.exp(k[b, : t + 1, 0] @ q[b, t, n] / math.sqrt(q.shape[-1]))
        head = weights @ v[b, : t + 1, 0] / weights.sum()
        wanted[b, t] += head / (1 + np.exp(-g[b, t, n])) @ w["out"][n]
    return relative(np.asarray(ours), wanted + w["out_bias"])


# Attention that leaves pairs out


def pattern(*names):
    """Of the patterns of test_sparse_attention.py, against JAX's dense attention with the mask."""
    q, k, v = sparse.heads(sparse.N, sparse.K, sparse.K)
    pairs = [sparse.PATTERNS[name] for name in names]
    ours = [sparse.run(attention, q, k, v) for attention, _ in pairs]
    return of_parts(ours, [sparse.dense(q, k, v, mask) for _, mask in pairs])


def longformer():
    """First rows with projections of their own, all others with a window and the first keys."""
    q, k, v = sparse.heads(4, 2, 2)
    first = sparse.heads(4, 2, 2, seed=2)
    ours = sparse.run(ops.longformer_attention, q, k, v, *(x[:, :3] for x in first), window=4)
    seen = sparse.visible(lambda i, j: i - j < 4 or j < 3)
    rows = sparse.dense(*first, sparse.visible(lambda i, j: True)), sparse.dense(q, k, v, seen)
    return relative(ours, np.concatenate([rows[0][:, :3], rows[1][:, 3:]], axis=1))


def in_transformers(name):
    """Layers of encoders and decoders as published: `longformer`, `reformer`."""
    return relative(sparse.OURS[name](), getattr(sparse.efficient, name)())


def linformer():
    """Row by row: keys and values of the block so far, and E and F of the blocks before it."""
    q, k, v = sparse.heads(4, 4, 4)
    E, F = draw(5, (6, 2), (6, 2))
    ours = sparse.run(ops.linformer_causal_attention, q, k, v, E, F)
    rows = []
    for i in range(q.shape[1]):
        start = i // 6 * 6
        blocks = [slice(at, at + 6) for at in range(0, start, 6)]
        keys, values = (
            np.concatenate(
                [*(np.einsum("bsnh,sr->brnh", x[:, b], w) for b in blocks), x[:, start : i + 1]],
                axis=1,
            )
            for x, w in ((k, E), (v, F))
        )
        rows.append(jax.nn.dot_product_attention(q[:, i : i + 1], keys, values))
    return relative(ours, np.concatenate(rows, axis=1))


def linformer_full_rank():
    """Summaries that keep everything, against JAX's dense attention."""
    q, k, v = sparse.heads(sparse.N, sparse.K, sparse.K)
    unit = np.eye(6, dtype=np.float32)
    ours = sparse.run(ops.linformer_causal_attention, q, k, v, unit, unit)
    return relative(ours, sparse.dense(q, k, v, sparse.visible(lambda i, j: True)))


def linformer_of_encoders():
    """The paper's own layer, with projections that keep everything."""
    q, k, v = sparse.heads(sparse.N, sparse.K, sparse.K)
    unit = np.eye(q.shape[1], dtype=np.float32)
    ours = sparse.run(ops.linformer_attention, q, k, v, unit, unit)
    return relative(ours, jax.nn.dot_product_attention(q, k, v))


def performer():
    """The ratio of sums over features, written with all pairs in NumPy."""
    q, k, v = (x.astype(np.float64) for x in sparse.heads(4, 4, 4))
    H, w = q.shape[-1], ops.orthogonal_features(4, q.shape[-1], 10)
    ours = sparse.run(ops.performer_attention, *(x.astype(np.float32) for x in (q, k, v)), w)
    of_queries, of_keys = (
        np.exp(np.einsum("btnh,nfh->bntf", x, w) - np.moveaxis(x * x, 2, 1).sum(-1)[..., None] / 2)
        for x in (q / H**0.25, k / H**0.25)
    )
    pairs = np.einsum("bnif,bnjf->bnij", of_queries, of_keys) * np.tri(q.shape[1])
    return relative(ours, np.einsum("bnij,bjnh->binh", pairs / pairs.sum(-1, keepdims=True), v))


def performer_of_many_features():
    """8,192 features against JAX's dense attention."""
    q, k, v = (x / 2 for x in sparse.heads(4, 4, 4))
    ours = sparse.run(ops.performer_attention, q, k, v, ops.orthogonal_features(4, sparse.H, 8192))
    return relative(ours, sparse.dense(q, k, v, sparse.visible(lambda i, j: True)))


def reformer():
    """Three rounds of hashing against dense attention over the pairs that any of them shows."""
    q, v = sparse.heads(sparse.N, sparse.N)
    turns, factors = ops.hash_rotations(sparse.N, sparse.H, 3, (2, 4)), (2, 4)
    keys = q / np.linalg.norm(q, axis=-1, keepdims=True) * np.float32(math.sqrt(sparse.H))
    wanted = sparse.dense(q, keys, v, sparse.shown_by(turns, q, factors, 4))
    return relative(sparse.run(ops.lsh_attention, q, v, turns, factors=factors, chunk=4), wanted)


# State spaces


def recurrence():
    """Both scans and the step of decoding against the recurrence in NumPy, float64."""
    x, step, a, b, c = draw(0, (2, 11, 3), (2, 11, 3), (3, 4), (2, 11, 4), (2, 11, 4))
    step, a = np.log1p(np.exp(step)), -np.exp(a)
    inputs = [jnp.asarray(leaf, jnp.float32) for leaf in (x, step, a, b, c)]
    h, state, wanted, stepped = np.zeros((2, 3, 4)), jnp.zeros((2, 3, 4)), [], []
    advance = jax.jit(ops.selective_step)
    for t in range(11):
        decay = np.exp(step[:, t, :, None].astype(np.float64) * a)
        h = decay * h + (step * x)[:, t, :, None] * b[:, t, None]
        wanted.append((h * c[:, t, None]).sum(-1))
        own = [leaf[:, t] if leaf.ndim == 3 else leaf for leaf in inputs]
        y, state = advance(state, *own)
        stepped.append(y)
    scans = [jax.jit(scan)(*inputs) for scan in (ops.selective_scan, ops.selective_scan_in_turn)]
    ours = [*scans, jnp.stack(stepped, axis=1)]
    return of_parts(ours, [np.stack(wanted, axis=1)] * 3)


# Experts

MIXTURE = changed(
    models.ModelConfig(),
    vocab_size=13,
    depth=1,
    width=8,
    num_heads=2,
    seq_len=12,
    use_bias=False,
    mlp="relu",
    mlp_pattern=("experts",),
    num_experts=4,
    experts_per_token=1,
    expert_width=6,
    router="softmax",
    init_scale=0.5,
)


def mixture(config, seeds_B=None):
    """(x, parameters, output, what its router did) of one layer of experts."""
    names = jax.eval_shape(Experts(config).init, jax.random.key(0), jnp.zeros((1, 2, 8)))["params"]
    shapes = {name: box.unbox().shape for name, box in names.items()}
    x, *leaves = draw(6, (3, 12, config.width), *shapes.values())
    w = {name: leaf / 2 for name, leaf in zip(shapes, leaves, strict=True)}
    run = jax.jit(functools.partial(Experts(config).apply, mutable=["intermediates"]))
    y, sown = run({"params": w}, x, seeds_B)
    return x, w, np.asarray(y), sown["intermediates"]["routing"][0]


def switch():
    """Capacity and dropped tokens, against the layer of `transformers`."""
    config = changed(MIXTURE, capacity_factor=1.0)
    x, w, y, routing = mixture(config)
    assert 0 < routing.dropped < 0.5
    return relative(y, layers.switch(x, w, capacity=3))


def all_experts():
    """Every expert chosen, with room: the sum over all of them, weighed, in NumPy."""
    config = changed(MIXTURE, experts_per_token=4, capacity_factor=1.0)
    x, w, y, _ = mixture(config)
    each = np.maximum(np.einsum("btd,edf->btef", x, w["experts_up"]), 0)
    each = np.einsum("btef,efd->bted", each, w["experts_down"])
    return relative(y, (each * _softmax(x @ w["router"])[..., None]).sum(2))


def noisy_routing():
    """Equations 3 to 5 of the paper in NumPy, with the same draws of noise."""
    config = changed(MIXTURE, experts_per_token=2, router="renormalised", router_noise=True)
    seeds_B = jnp.array([1, 2, 3], jnp.uint32)
    x, w, y, _ = mixture(config, seeds_B)
    noise = np.stack([jax.random.normal(jax.random.key(seed), (12, 4)) for seed in seeds_B])
    spread = np.log1p(np.exp(x @ w["router_noise"])) + 0.01
    logits = x @ w["router"] + spread * noise
    kept = np.where(logits >= np.sort(logits)[..., -2:-1], logits, -np.inf)
    each = np.maximum(np.einsum("btd,edf->btef", x, w["experts_up"]), 0)
    each = np.einsum("btef,efd->bted", each, w["experts_down"])
    return relative(y, (each * _softmax(kept)[..., None]).sum(2))


def router_losses():
    """Balance and z losses against those of Switch and Mixtral in `transformers`."""
    logits = jnp.asarray(draw(2, (3, 12, 4))[0])
    best, both = (ops.route(logits.reshape(-1, 4), k, renormalise=True)[1] for k in (1, 2))
    ours = (
        ops.balance_loss(logits, best.reshape(3, 12, 1)),
        ops.router_z_loss(logits),
        # Theirs sums over the two choices, ours is their mean.
        2 * ops.balance_loss(logits.reshape(1, -1, 4), both.reshape(1, -1, 2)),
    )
    return of_parts(ours, layers.router_losses(np.array(logits)))


def importance():
    """The squared coefficient of variation of the experts' summed weights, in NumPy."""
    (logits,) = draw(2, (3, 12, 4))
    weights, experts = ops.route(jnp.asarray(logits).reshape(-1, 4), 2, renormalise=True)
    kept = np.where(logits >= np.sort(logits)[..., -2:-1], logits, -np.inf)
    sums = _softmax(kept.astype(np.float64)).sum((0, 1))
    wanted = sums.var() / sums.mean() ** 2
    ours = ops.importance_loss(weights.reshape(1, -1, 2), experts.reshape(1, -1, 2), 4)
    return relative(np.asarray(ours), wanted)


def expected_load():
    """The load loss against 100,000 draws of each expert's noise."""
    clean, spread, noise = draw(1, (3, 4), (3, 4), (3, 4))
    spread, k = np.exp(spread), 2
    noisy = clean + spread * noise
    ours = ops.load_loss(*(jnp.asarray(x)[None] for x in (clean, noisy, spread)), k)
    rng, load = np.random.default_rng(3), np.zeros(4)
    for t, e in np.ndindex(3, 4):
        others = np.sort(np.delete(noisy[t], e))[-k]
        load[e] += np.mean(clean[t, e] + spread[t, e] * rng.standard_normal(100_000) > others)
    wanted = load.var() / load.mean() ** 2
    return abs(float(ours) - wanted) / wanted


# Beginning, vision


def initial_sizes():
    """Standard deviations of the kinds of matrices of a fresh GPT-2, theirs from `transformers`."""
    config = changed(
        models.ModelConfig(), vocab_size=2000, depth=8, width=256, num_heads=4, seq_len=512
    )
    ours = jax.jit(functools.partial(models.init, config))(jax.random.key(0))
    blocks, attention, mlp = (ours["blocks"], *(ours["blocks"][n] for n in ("attention", "mlp")))
    assert not any(np.any(leaf) for n, leaf in [*attention.items(), *mlp.items()] if "bias" in n)
    assert np.all(blocks["mlp_norm"]["scale"] == 1) and not np.any(blocks["mlp_norm"]["bias"])
    found = {
        "wte": ours["embed"]["tokens"],
        "wpe": ours["embed"]["positions"],
        "attn.c_attn": jnp.stack([attention[n] for n in ("query", "key", "value")]),
        "attn.c_proj": attention["out"],
        "mlp.c_fc": mlp["up"],
        "mlp.c_proj": mlp["down"],
    }
    theirs = layers.initial_sizes(config, tuple(found))
    return max(abs(float(jnp.std(leaf)) / theirs[name] - 1) for name, leaf in found.items())


@functools.cache
def _outputs(module, side):
    return getattr(module, side)()


def seen(module, name):
    """Of an output of vision_reference.py, or of tiled_reference.py."""
    return relative(_outputs(module, "ours")[name], _outputs(module, "theirs")[name])


def gates():
    """One gated block, some of its tokens without an image."""
    return seen(vision, "gated")


def tiles():
    """The largest of Llama 3.2's tower, its text model with and without images, and the whole."""
    return max(seen(tiled, name) for name in _outputs(tiled, "ours"))


def seen_in_a_folder(name):
    """Of all outputs of a model of vision_tiny.py, written as a folder and loaded there."""
    config = vision_tiny.MODELS[name]
    ours = vision_tiny.outputs(config, vision_tiny.parameters(config))
    wanted = vision_tiny.reference(config)
    return of_parts(*([side[key] for key in wanted] for side in (ours, wanted)))


def tower_of_tiles():
    """Features of nine images of one to three tiles."""
    return seen(tiled, "tower")


def draw(seed, *shapes):
    """Arrays of standard normal numbers."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def _softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _narrow(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)

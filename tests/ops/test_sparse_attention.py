"""Sparse and efficient attention against dense attention, the papers' sets, and `transformers`."""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import ops

sys.path.insert(0, str(Path(__file__).parent))
import efficient

T, N, K, H = 23, 4, 2, 6


def heads(*counts, T=T, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((2, T, n, H)).astype(np.float32) for n in counts]


def run(attention, *arrays, segment_ids_BT=None, **options):
    """Compiled: step by step each operation would be compiled alone."""
    if segment_ids_BT is not None:
        options["segment_ids_BT"] = jnp.asarray(segment_ids_BT)
    return jax.jit(functools.partial(attention, **options))(*map(jnp.asarray, arrays))


@jax.jit
def dense(q, k, v, mask):
    """Of JAX: softmax over the visible keys; a mask of all heads and sequences, or of each."""
    return jax.nn.dot_product_attention(q, k, v, mask=jnp.broadcast_to(mask, (2, *mask.shape[-3:])))


def visible(rule):
    """[1, T, T] of the pairs (i, j) of a paper's set, below the diagonal."""
    return np.array([[[j <= i and rule(i, j) for j in range(T)] for i in range(T)]])


def published_blocks(heads, block, local_blocks, stride):
    """[heads, T, T] of Phi-3-small's mask: blocks, spread to tokens, below the diagonal."""
    count = -(-T // block)
    step = max(1, int(stride / heads))
    shown = np.zeros((heads, count, count), bool)
    for h, a, b in np.ndindex(*shown.shape):
        shown[h, a, b] = a >= b and (a - b < local_blocks or (b + h * step + 1) % stride == 0)
    return np.kron(shown, np.ones((1, block, block)))[:, :T, :T] * np.tri(T) > 0


PATTERNS = {
    "strided": (
        functools.partial(ops.strided_attention, stride=5),
        visible(lambda i, j: i - j <= 5 or (i - j) % 5 == 0),
    ),
    "fixed": (
        functools.partial(ops.fixed_attention, block=5, summary=2),
        visible(lambda i, j: i // 5 == j // 5 or j % 5 >= 3),
    ),
    "blocks": (
        functools.partial(ops.blocksparse_attention, block=3, local_blocks=2, stride=3),
        published_blocks(N, 3, 2, 3),
    ),
    "blocks, one head in two": (
        functools.partial(ops.blocksparse_attention, block=2, local_blocks=1, stride=9),
        published_blocks(N, 2, 1, 9),
    ),
    "blocks, all seen": (
        functools.partial(ops.blocksparse_attention, block=3, local_blocks=2, stride=1),
        visible(lambda i, j: True),
    ),
    "many local blocks": (
        functools.partial(ops.blocksparse_attention, block=3, local_blocks=9, stride=2),
        visible(lambda i, j: True),
    ),
    "banded": (
        functools.partial(ops.windowed_attention, window=4),
        visible(lambda i, j: i - j < 4),
    ),
    "window and global": (
        functools.partial(ops.windowed_attention, window=4, global_tokens=3),
        visible(lambda i, j: i - j < 4 or j < 3),
    ),
    "encoder": (
        functools.partial(ops.windowed_attention, window=4, global_tokens=3, causal=False),
        np.array([[[abs(i - j) < 4 or j < 3 for j in range(T)] for i in range(T)]]),
    ),
    "wide window": (
        functools.partial(ops.windowed_attention, window=40, global_tokens=2),
        visible(lambda i, j: True),
    ),
    "long stride": (
        functools.partial(ops.strided_attention, stride=30),
        visible(lambda i, j: True),
    ),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_are_dense_attention_with_the_papers_mask(name):
    attention, mask = PATTERNS[name]
    q, k, v = heads(N, K, K)
    np.testing.assert_allclose(run(attention, q, k, v), dense(q, k, v, mask), atol=2e-6)


@pytest.mark.parametrize("name", ["strided", "blocks"])
def test_gradients_of_patterns(name):
    attention, mask = PATTERNS[name]
    arrays = [*heads(N, K, K), *heads(N, seed=1)]

    def back(attend):
        return run(lambda q, k, v, g: jax.vjp(attend, q, k, v)[1](g), *arrays)

    wanted = back(lambda q, k, v: dense(q, k, v, mask))
    for one, two in zip(back(attention), wanted, strict=True):
        np.testing.assert_allclose(one, two, atol=2e-6)


@pytest.mark.parametrize("name", ["strided", "fixed", "blocks", "window and global"])
def test_patterns_within_documents(name):
    attention, mask = PATTERNS[name]
    q, k, v = heads(N, K, K)
    ids = np.array([[0] * 7 + [1] * 16, [3] * 20 + [4] * 3])
    got = run(attention, q, k, v, segment_ids_BT=ids)
    mask = mask & (ids[:, None, :, None] == ids[:, None, None])
    np.testing.assert_allclose(got, dense(q, k, v, mask), atol=2e-6)


@pytest.mark.parametrize("name", ["wide window", "long stride", "blocks, all seen"])
def test_caps_slopes_and_sinks(name):
    q, k, v = heads(N, K, K)
    options = {
        "soft_cap": 2.0,
        "scale": 0.7,
        "slopes_N": jnp.array(ops.alibi_slopes(N)),
        "sinks_N": jnp.arange(4.0),
    }
    got, wanted = (run(f, q, k, v, **options) for f in (PATTERNS[name][0], ops.masked_attention))
    np.testing.assert_allclose(got, wanted, atol=2e-6)


def test_linformer_by_summaries():
    """Keys and values of a block, then E and F of the blocks before it, row by row."""
    q, k, v = heads(N, N, N)
    rng = np.random.default_rng(5)
    E, F = rng.standard_normal((2, 6, 2)).astype(np.float32)
    got = run(ops.linformer_causal_attention, q, k, v, E, F)
    for i in (3, 17):
        start = i // 6 * 6
        keys, values = [k[:, start : i + 1]], [v[:, start : i + 1]]
        for block in range(0, start, 6):
            keys.append(np.einsum("bsnh,sr->brnh", k[:, block : block + 6], E))
            values.append(np.einsum("bsnh,sr->brnh", v[:, block : block + 6], F))
        keys, values = np.concatenate(keys, 1), np.concatenate(values, 1)
        row = dense(q[:, i : i + 1], keys, values, np.ones((1, 1, keys.shape[1]), bool))
        np.testing.assert_allclose(got[:, i : i + 1], row, atol=3e-6)


def test_linformer_whose_summaries_keep_everything_is_dense():
    q, k, v = heads(N, K, K)
    unit = np.eye(6, dtype=np.float32)
    got = run(ops.linformer_causal_attention, q, k, v, unit, unit)
    np.testing.assert_allclose(got, dense(q, k, v, visible(lambda i, j: True)), atol=2e-6)
    unit = np.eye(T, dtype=np.float32)
    got = run(ops.linformer_attention, q, k, v, unit, unit)
    np.testing.assert_allclose(got, dense(q, k, v, np.ones((1, T, T), bool)), atol=2e-6)


def test_performer_is_the_ratio_of_sums():
    """Chunks of the text change nothing; heads that are grouped share keys and features."""
    q, k, v = heads(N, K, K)
    w = ops.orthogonal_features(K, H, 10)
    x = [np.repeat(y, N // y.shape[2], axis=2) / H**0.25 for y in (q, k)]
    logs = [np.einsum("btnh,nfh->bntf", y, np.repeat(w, N // K, axis=0)) for y in x]
    features = [
        np.exp(a - np.sum(y * y, -1).swapaxes(1, 2)[..., None] / 2)
        for a, y in zip(logs, x, strict=True)
    ]
    pairs = np.einsum("bnif,bnjf->bnij", *features) * np.tri(T)
    pairs /= pairs.sum(-1, keepdims=True)
    wanted = np.einsum("bnij,bjnh->binh", pairs, np.repeat(v, N // K, axis=2))
    for chunk in (5, 64):
        got = run(ops.performer_attention, q, k, v, w, chunk=chunk)
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    ids = np.array([[0] * 7 + [1] * 16, [3] * 20 + [4] * 3])
    packed = run(ops.performer_attention, q, k, v, w, chunk=5, segment_ids_BT=ids)
    for row, part in ((0, slice(7, None)), (1, slice(20, None))):
        one = (x[row : row + 1, part] for x in (q, k, v))
        alone = run(ops.performer_attention, *one, w)
        np.testing.assert_allclose(packed[row : row + 1, part], alone, atol=1e-5)


def test_performers_features_are_orthogonal():
    w = ops.orthogonal_features(3, 8, 12)
    assert w.shape == (3, 12, 8)
    products = np.einsum("kfh,kgh->kfg", w[:, :8], w[:, :8])
    np.testing.assert_allclose(products * (1 - np.eye(8)), 0, atol=1e-5)
    lengths = np.square(ops.orthogonal_features(64, 8, 8)).sum(-1)
    assert lengths.mean() == pytest.approx(8, rel=0.1)  # χ² with 8 degrees of freedom
    assert lengths.var() == pytest.approx(16, rel=0.3)


def test_performers_error_falls_like_one_over_the_root_of_its_features():
    q, k, v = (x / 2 for x in heads(N, N, N))
    exact = dense(q, k, v, visible(lambda i, j: True))
    estimate = jax.jit(ops.performer_attention)

    def error(count):
        differences = [
            estimate(q, k, v, ops.orthogonal_features(N, H, count, seed)) - exact
            for seed in range(12)
        ]
        return float(np.sqrt(np.mean(np.square(differences))))

    few, more, many = error(32), error(32 * 16), error(32 * 256)
    assert 3 < few / more < 5.3
    assert 3 < more / many < 5.3
    assert many < 0.01


def shown_by(turns, q, factors, chunk):
    """[B, N, T, T] of the pairs that any round shows: its bucket's last tokens, not itself."""
    q, found = np.asarray(q), np.zeros((2, N, T, T), bool)
    for b, n, r in np.ndindex(2, N, turns.shape[2]):
        ids, start, unit = np.zeros(T, int), 0, 1
        for factor in factors:
            half = q[b, :, n] @ turns[n, :, r, start : start + factor // 2]
            ids += unit * np.argmax(np.concatenate([half, -half], axis=-1), axis=-1)
            start, unit = start + factor // 2, unit * factor
        for i in range(T):
            mates = [j for j in range(i) if ids[j] == ids[i]]
            found[b, n, i, mates[-chunk:]] = True
    alone = ~found.any(-1)
    return found | (alone[..., None] & np.eye(T, dtype=bool))


@pytest.mark.parametrize(("rounds", "factors"), [(1, (4,)), (3, (2, 4)), (4, (2,))])
def test_reformer_is_dense_attention_over_what_the_rounds_show(rounds, factors):
    q, v = heads(N, N)
    turns = ops.hash_rotations(N, H, rounds, factors)
    mask = shown_by(turns, q, factors, 4)
    keys = q / np.linalg.norm(q, axis=-1, keepdims=True) * np.sqrt(H)
    wanted = dense(q, keys, v, mask)
    got = run(ops.lsh_attention, q, v, turns, factors=factors, chunk=4)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert 0.05 < mask.mean() < 0.4  # neither all keys nor none


def test_reformer_with_one_bucket_is_dense_with_shared_queries():
    q, v = heads(N, N)
    turns = np.zeros((N, H, 2, 1), np.float32)
    mask = visible(lambda i, j: i != j or i == 0)
    keys = q / np.linalg.norm(q, axis=-1, keepdims=True) * np.sqrt(H)
    for published in (True, False):
        got = run(ops.lsh_attention, q, v, turns, factors=(2,), chunk=T, published=published)
        np.testing.assert_allclose(got, dense(q, keys, v, mask), atol=1e-5)


def test_reformer_within_documents():
    q, v = heads(N, N)
    turns = ops.hash_rotations(N, H, 2, (4,))
    ids = np.array([[0] * 7 + [1] * 16] * 2)
    packed = run(ops.lsh_attention, q, v, turns, factors=(4,), chunk=4, segment_ids_BT=ids)
    alone = run(ops.lsh_attention, q[:, 7:], v[:, 7:], turns, factors=(4,), chunk=4)
    np.testing.assert_allclose(packed[:, 7:], alone, atol=1e-5)


def test_reformers_published_chunks_move_with_the_future():
    """Why a decoder has a window in the bucket instead: token 20 changes what token 5 sees."""
    q, v = heads(N, N)
    turns = ops.hash_rotations(N, H, 1, (4,))
    other = q.copy()
    other[:, 18:] = -other[:, 18:]
    for published in (True, False):
        options = {"factors": (4,), "chunk": 4, "published": published}
        one, two = (run(ops.lsh_attention, x, v, turns, **options) for x in (q, other))
        assert (np.abs(one - two)[:, :18].max() > 1e-2) == published


def longformer_encoder():
    x, w, b, _ = efficient.inputs()
    q, k, v, q_g, k_g, v_g = (efficient.projected(x, *pair) for pair in zip(w, b, strict=True))
    o = run(
        ops.longformer_attention,
        q,
        k,
        v,
        q_g[:, : efficient.GLOBAL],
        k_g,
        v_g,
        window=efficient.RADIUS + 1,
        causal=False,
    )
    return np.asarray(o).reshape(efficient.B, efficient.T, -1)


def reformer_decoder():
    x, w, _, turns = efficient.inputs()
    q, v = (efficient.projected(x, w[i], 0) for i in (0, 2))
    o = run(
        ops.lsh_attention,
        q,
        v,
        turns,
        factors=efficient.FACTORS,
        chunk=efficient.CHUNK,
        published=True,
    )
    return np.asarray(o).reshape(efficient.B, efficient.T, -1)


OURS = {"longformer": longformer_encoder, "reformer": reformer_decoder}
# `python tests/ops/efficient.py`: transformers 5.23.0, torch 2.13.0.
GOLDEN = {
    "longformer": [
        [-2.21557, 6.5317, 4.3252, -3.3529, -3.07773],
        [1.83504, 1.919, 4.70034, 3.37961, 0.49615],
        [4.11044, 0.47497, 4.84299, 4.36227, 0.01844],
    ],
    "reformer": [
        [3.41567, -1.32498, 4.33426, 2.83022, 1.32601],
        [2.7213, -0.65693, 2.99262, 1.92301, 0.38802],
        [-1.11992, 1.16744, 0.22958, -0.34274, -0.57177],
    ],
}


@pytest.mark.parametrize("name", OURS)
def test_layers_equal_those_of_transformers(name):
    ours = OURS[name]()
    np.testing.assert_allclose(efficient.at_stored_places(ours), GOLDEN[name], atol=1e-4)
    try:
        theirs = getattr(efficient, name)()
    except ImportError:
        return  # the stored numbers were checked
    assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs)


def test_longformers_causal_rows():
    q, k, v = heads(N, K, K)
    q_g, k_g, v_g = heads(N, K, K, seed=2)
    got = run(ops.longformer_attention, q, k, v, q_g[:, :3], k_g[:, :3], v_g[:, :3], window=4)
    mask = visible(lambda i, j: i - j < 4 or j < 3)
    np.testing.assert_allclose(got[:, 3:], dense(q, k, v, mask)[:, 3:], atol=2e-6)
    first = dense(q_g, k_g, v_g, visible(lambda i, j: True))
    np.testing.assert_allclose(got[:, :3], first[:, :3], atol=2e-6)


def compiled_flops(attention, T):
    shapes = [jax.ShapeDtypeStruct((1, T, 2, 32), jnp.float32)] * 3
    return jax.jit(attention).lower(*shapes).compile().cost_analysis()["flops"]


def test_patterns_compile_to_less_work_than_dense():
    """Of 4 · 1024² · 64 FLOPs, half of which a causal mask leaves."""
    square = 4 * 1024**2 * 64
    shares = {
        "dense": (ops.attention, 0.5, 0.8),
        "strided": (functools.partial(ops.strided_attention, stride=32), 0.08, 0.14),
        "fixed": (functools.partial(ops.fixed_attention, block=32, summary=2), 0.08, 0.14),
        "blocks": (
            functools.partial(ops.blocksparse_attention, block=16, local_blocks=4, stride=16),
            0.1,
            0.17,
        ),
        "banded": (functools.partial(ops.windowed_attention, window=64), 0.12, 0.17),
    }
    for name, (attention, low, high) in shares.items():
        share = compiled_flops(attention, 1024) / square
        assert low < share < high, (name, share)

"""The loss that does not build the logits against the one that does, and optax's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax.ops.chunked_loss import Head, chunked_cross_entropy
from gptjax.ops.losses import penalised_cross_entropy

B, T, D, V = 2, 13, 8, 37


def draw(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((B, T, D), np.float32).astype(dtype)
    w = rng.standard_normal((D, V), np.float32)
    return jax.device_put((x, w, rng.integers(0, V, (B, T), np.int32), rng.random((B, T)) < 0.8))


def plain(x, w, targets, mask, head):
    """By optax's functions and autodiff, from all logits."""
    logits = head.logit_scale * jnp.einsum("btd,dv->btv", x.astype(jnp.float32), w)
    if head.logit_soft_cap:
        logits = head.logit_soft_cap * jnp.tanh(logits / head.logit_soft_cap)
    labels = optax.smooth_labels(jax.nn.one_hot(targets, V), head.label_smoothing)
    losses = optax.softmax_cross_entropy(logits, labels)
    losses += head.z_loss * jnp.square(jax.nn.logsumexp(logits, axis=-1))
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return 0.25 * jnp.sum(losses * mask), nats * mask


HEADS = [
    Head(),
    Head(z_loss=0.1),
    Head(label_smoothing=0.2),
    Head(logit_scale=0.7, logit_soft_cap=2.0, z_loss=0.01, label_smoothing=0.1),
]


@functools.cache
def from_all_logits(head):
    """(value, losses) and gradients of `plain`."""
    x, w, targets, mask = draw()
    loss = jax.value_and_grad(lambda x, w: plain(x, w, targets, mask, head), (0, 1), has_aux=True)
    return jax.jit(loss)(x, w)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("chunk", [5, 26, 64])
def test_equals_the_loss_from_all_logits(head, chunk):
    x, w, targets, mask = draw()

    def chunked(x, w):
        total, nats = chunked_cross_entropy(x, w, targets, mask, chunk=chunk, head=head)
        return 0.25 * total, nats

    both = jax.jit(lambda *a: (jax.value_and_grad(chunked, (0, 1), has_aux=True)(*a), chunked(*a)))
    ours, (value, _) = both(x, w)
    theirs = from_all_logits(head)
    for one, two in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
    assert float(value) == pytest.approx(float(theirs[0][0]), rel=1e-5)


def test_penalties_on_logits_equal_optax():
    @jax.jit
    def both(x, w, targets, mask):
        logits = jnp.einsum("btd,dv->btv", x, w)
        penalties = {"z_loss": 0.1, "label_smoothing": 0.2}
        ours = penalised_cross_entropy(logits, targets, mask, **penalties)
        return ours, plain(x, w, targets, mask, Head(**penalties))

    (trained, nats), (total, expected) = both(*draw())
    assert 0.25 * float(np.sum(trained)) == pytest.approx(float(total), rel=1e-5)
    np.testing.assert_allclose(nats, expected, rtol=1e-5, atol=1e-6)


def test_large_logits_in_bfloat16_stay_exact_where_it_matters():
    """The softmax and its logarithm are float32: logits of a thousand cost no digits."""
    x, w, targets, mask = draw(jnp.bfloat16)
    w = (200 * np.asarray(w)).astype(jnp.bfloat16).astype(np.float32)
    ours = functools.partial(chunked_cross_entropy, chunk=8)
    total, _ = jax.jit(ours)(x, w, targets, mask)
    expected, _ = jax.jit(functools.partial(plain, head=Head()))(x, w, targets, mask)
    assert 0.25 * float(total) == pytest.approx(float(expected), rel=1e-5)


def temporary_bytes(loss, tokens, vocabulary, width=64):
    x = jax.ShapeDtypeStruct((1, tokens, width), jnp.float32)
    w = jax.ShapeDtypeStruct((width, vocabulary), jnp.float32)
    ids = jax.ShapeDtypeStruct((1, tokens), jnp.int32)
    program = jax.jit(jax.grad(loss, (0, 1))).lower(x, w, ids).compile()
    return program.memory_analysis().temp_size_in_bytes


def test_memory_at_a_vocabulary_of_128k_and_a_context_of_4096():
    """Compiled, not run: the plain loss would take gigabytes."""

    def chunked(x, w, ids):
        return chunked_cross_entropy(x, w, ids, jnp.ones(ids.shape), chunk=256)[0]

    def whole(x, w, ids):
        logits = jnp.einsum("btd,dv->btv", x, w)
        return jnp.sum(penalised_cross_entropy(logits, ids)[0])

    plain_bytes, ours = (temporary_bytes(loss, 4096, 131_072) for loss in (whole, chunked))
    assert plain_bytes > 4 * 4096 * 131_072
    assert ours < plain_bytes / 8


def test_stacks_under_vmap():
    x, w, targets, mask = draw()
    loss = functools.partial(chunked_cross_entropy, chunk=7)
    gradient = jax.jit(jax.grad(lambda x: loss(x, w, targets, mask)[0]))
    x = np.asarray(x)
    stacked = jax.jit(jax.vmap(gradient))(np.stack([x, 2 * x]))
    np.testing.assert_allclose(np.asarray(stacked)[1], gradient(2 * x), rtol=1e-5, atol=1e-6)

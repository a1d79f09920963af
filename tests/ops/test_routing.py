"""Losses of routers and slots of experts, by hand and against `transformers`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import ops


def draw(*shape, seed=0):
    return jax.device_put(np.random.default_rng(seed).standard_normal(shape, np.float32))


route = jax.jit(functools.partial(ops.route, renormalise=True), static_argnums=1)
balance_loss = jax.jit(ops.balance_loss)


def test_balance_loss_by_hand():
    """Three tokens of probabilities (.8 .2), (.6 .4), (.1 .9): f = (2/3, 1/3), P = (.5, .5)."""
    logits = np.log(np.array([[[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]]], np.float32))
    assert float(balance_loss(logits, np.array([[[0], [0], [1]]], np.int32))) == pytest.approx(1.0)
    # The same, all sent to the first: f = (1, 0), and E·f·P = 2·0.5; a collapse of both is 2.
    assert float(balance_loss(logits, np.zeros((1, 3, 1), np.int32))) == pytest.approx(1.0)
    sure = np.array([[[50.0, 0.0]] * 3], np.float32)
    assert float(balance_loss(sure, np.zeros((1, 3, 1), np.int32))) == pytest.approx(2.0)


def test_groups_are_averaged():
    """Each sequence uneven, the batch even: the groups decide what is punished."""
    logits = np.array([[[9.0, 0.0]] * 2, [[0.0, 9.0]] * 2], np.float32)
    experts = np.array([[[0], [0]], [[1], [1]]], np.int32)
    p = 1 / (1 + np.exp(-9.0))
    assert float(balance_loss(logits, experts)) == pytest.approx(2 * p, rel=1e-6)
    one = balance_loss(logits.reshape(1, 4, 2), experts.reshape(1, 4, 1))
    assert float(one) == pytest.approx(1.0)


def test_z_loss_and_importance_by_hand():
    logits = np.log(np.array([[[1.0, 2.0, 1.0], [0.5, 0.25, 0.25]]], np.float32))
    assert float(jax.jit(ops.router_z_loss)(logits)) == pytest.approx(np.log(4) ** 2 / 2)
    weights = np.array([[[0.75, 0.25], [1.0, 0.0]]], np.float32)
    experts = np.array([[[0, 1], [1, 0]]], np.int32)
    # Importances .75, 1.25, 0: mean 2/3, variance (.75² + 1.25²)/3 − 4/9.
    wanted = ((0.75**2 + 1.25**2) / 3 - 4 / 9) / (4 / 9)
    found = jax.jit(ops.importance_loss, static_argnums=2)(weights, experts, 3)
    assert float(found) == pytest.approx(wanted, rel=1e-6)


def test_capacity_by_hand():
    """Rounded up, and never more slots than tokens."""
    found = [ops.expert_capacity(factor, 16, 2, 3) for factor in (0.01, 0.5, 1.0, 1.5, 4.0)]
    assert found == [1, 6, 11, 16, 16]


def test_expected_load_is_the_chance_of_a_new_draw():
    """The noise of one expert drawn again a hundred thousand times."""
    clean, noise, spread = (np.asarray(draw(1, 3, 4, seed=seed)) for seed in (0, 2, 1))
    spread, k, E = np.exp(spread), 2, 4
    noisy = clean + spread * noise
    rng, load = np.random.default_rng(3), np.zeros(E)
    for t in range(3):
        for e in range(E):
            others = np.sort(np.delete(np.asarray(noisy[0, t]), e))[-k]
            drawn = clean[0, t, e] + spread[0, t, e] * rng.standard_normal(100_000)
            load[e] += np.mean(np.asarray(drawn) > others)
    wanted = load.var() / load.mean() ** 2
    loss = jax.value_and_grad(lambda *inputs: ops.load_loss(*inputs, k))
    found, slope = jax.jit(loss)(clean, noisy, spread)
    assert float(found) == pytest.approx(wanted, rel=0.02)
    assert np.isfinite(slope).all() and np.abs(slope).max() > 1e-3


def test_the_balance_loss_is_that_of_transformers():
    """One layer; theirs sums over the k choices, ours is their mean."""
    torch = pytest.importorskip("torch")
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    for seed, (tokens, E, k) in enumerate([(24, 8, 2), (10, 4, 1), (12, 6, 3)]):
        logits = draw(tokens, E, seed=seed)
        _, experts = route(logits, k)
        ours = balance_loss(logits[None], experts[None])
        gates = (torch.tensor(np.asarray(logits)),)
        theirs = mixtral.load_balancing_loss_func(gates, num_experts=E, top_k=k)
        assert float(ours) * k == pytest.approx(float(theirs), rel=1e-5)


def test_slots_by_hand():
    """Capacity 2: second choices wait for all first ones, and what finds no slot gets E·C."""
    experts = np.array([[[0, 1], [0, 1], [1, 0], [0, 2]]], np.int32)
    x = np.arange(1.0, 5.0, dtype=np.float32).reshape(1, 4, 1)
    weights = np.array([[[0.5, 0.5], [0.9, 0.1], [0.7, 0.3], [0.6, 0.4]]], np.float32)

    @jax.jit
    def there_and_back(experts, x, weights):
        slots = ops.assign_slots(experts, E=3, C=2)
        held = ops.dispatch(x, slots, 3, 2)
        return slots, held, ops.combine(10 * held, slots, weights)

    slots, held, back = map(np.asarray, there_and_back(experts, x, weights))
    # Expert 0: tokens 0, 1; 3 and 2 dropped. Expert 1: token 2 first, then 0; 1 dropped.
    assert slots.tolist() == [[[0, 3], [1, 6], [2, 6], [6, 4]]]
    assert held[0, :, :, 0].tolist() == [[1, 2], [3, 1], [4, 0]]
    np.testing.assert_allclose(back[0, :, 0], [10.0, 18.0, 21.0, 16.0], rtol=1e-6)


@pytest.mark.parametrize("gated", [True, False])
def test_without_drops_slots_are_the_sorted_mixture(gated):
    B, T, D, F, E, k = 2, 7, 4, 5, 4, 2
    x, up, down = draw(B, T, D), draw(E, D, F, seed=1), draw(E, F, D, seed=2)
    gate = draw(E, D, F, seed=3) if gated else None
    weights, experts = route(draw(B * T, E, seed=4), k)

    def feed_forward(multiply, x, up, down):
        h = multiply(x, up)
        return multiply(jnp.tanh(multiply(x, gate)) * h if gated else jnp.tanh(h), down)

    def sorted_(x, up, down):
        def own(x, sizes):
            return feed_forward(lambda x, w: ops.ragged_product(x, w, sizes), x, up, down)

        return ops.mix_experts(x.reshape(B * T, D), weights, experts, E, own)

    def slotted(x, up, down):
        slots = ops.assign_slots(experts.reshape(B, T, k), E, T)
        y = feed_forward(ops.slot_product, ops.dispatch(x, slots, E, T), up, down)
        return ops.combine(y, slots, weights.reshape(B, T, k)).reshape(B * T, D)

    g = draw(B * T, D, seed=5)

    @jax.jit
    def pairs():
        return [
            jax.value_and_grad(lambda *a, f=f: jnp.sum(f(*a) * g), argnums=(0, 1, 2))(x, up, down)
            for f in (slotted, sorted_)
        ]

    for one, two in zip(*map(jax.tree.leaves, pairs()), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)

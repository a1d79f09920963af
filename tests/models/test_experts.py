"""Mixtures in training: capacity, noise, and what reaches the loss through every path."""

import functools

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flat_settings import changed

from gptjax import models
from gptjax.errors import UserError
from gptjax.models.experts import ROUTING, Experts

MIXTURE = changed(
    models.ModelConfig(),
    vocab_size=13,
    depth=3,
    width=8,
    num_heads=2,
    seq_len=6,
    init_scale=0.5,
    use_bias=False,
    mlp="reglu",
    mlp_pattern=("experts", "dense"),
    num_experts=4,
    experts_per_token=2,
    expert_width=6,
    capacity_factor=1.0,
    balance_loss=0.3,
    router_z_loss=0.01,
    importance_loss=0.2,
    load_loss=0.1,
    router_noise=True,
    layers="unroll",
)
TOKENS = np.random.default_rng(1).integers(0, 13, (3, 6), np.int32)
QUICK = {"compiler_options": {"xla_backend_optimization_level": 0}}
SEEDS = np.array([1, 2, 3], np.uint32)


def initial(config):
    rng = np.random.default_rng(0)

    def stirred(path, leaf):
        noise = "noise" in jax.tree_util.keystr(path)
        return leaf + rng.standard_normal(leaf.shape, np.float32) if noise else leaf

    return jax.tree_util.tree_map_with_path(stirred, compiled_model.fresh(config))


@functools.lru_cache
def stirred_params():
    return initial(MIXTURE)


def loss_of(config):
    def loss(params):
        logits, routing = models.forward(config, params, TOKENS, seeds_B=SEEDS)
        return models.router_penalty(config, routing) + jnp.mean(logits[..., 0]), routing

    return loss


@functools.lru_cache
def trained(config):
    """(penalty and mean logit, routing) and the gradient."""
    return jax.jit(jax.value_and_grad(loss_of(config), has_aux=True), **QUICK)(stirred_params())


def one_mixture(config, x, params, seeds=None):
    def run(params, x):
        return Experts(config).apply({"params": params}, x, seeds, mutable=[ROUTING[0]])

    y, sown = jax.jit(run, **QUICK)(params, x)
    return y, sown[ROUTING[0]][ROUTING[1]][0]


def weights(config):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 6, config.width), np.float32)
    shapes = jax.eval_shape(Experts(config).init, jax.random.key(0), x)["params"]
    draw = lambda leaf: np.float32(0.5) * rng.standard_normal(leaf.shape, np.float32)  # noqa: E731
    return x, jax.tree.map(draw, shapes)


def test_all_experts_with_room_are_a_weighted_dense_sum():
    config = changed(
        MIXTURE, experts_per_token=4, capacity_factor=1.0, router_noise=False, load_loss=0.0
    )
    x, boxed = weights(config)
    p = {name: box.unbox() for name, box in boxed.items()}
    y, routing = one_mixture(config, x, boxed)
    odds = np.exp(x @ p["router"])
    probability = odds / odds.sum(axis=-1, keepdims=True)
    gate, up = (np.einsum("btd,edf->btef", x, p[f"experts_{n}"]) for n in ("gate", "up"))
    each = np.einsum("btef,efd->bted", np.maximum(gate, 0) * up, p["experts_down"])
    np.testing.assert_allclose(y, np.sum(each * probability[..., None], axis=2), atol=1e-5)
    assert float(routing.dropped) == 0.0
    np.testing.assert_allclose(routing.share_E, 0.25)


def test_a_router_that_knows_nothing_fills_the_first_experts():
    """Ties go to experts 0 and 1: six tokens, three slots each, so half of the choices are lost."""
    config = changed(MIXTURE, router_noise=False, load_loss=0.0)
    x, boxed = weights(config)
    blank = {**boxed, "router": jax.tree.map(np.zeros_like, boxed["router"])}
    y, routing = one_mixture(config, x, blank)
    y = np.asarray(y)
    assert float(routing.dropped) == 0.5
    assert routing.share_E.tolist() == [0.5, 0.5, 0, 0]
    assert float(routing.losses["balance_loss"]) == pytest.approx(1.0)
    assert float(routing.losses["router_z_loss"]) == pytest.approx(np.log(4) ** 2)
    assert np.abs(y[:, :3]).min() > 0 and np.abs(y[:, 3:]).max() == 0
    whole = one_mixture(changed(config, capacity_factor=2.0), x, blank)
    assert float(whole[1].dropped) == 0.0 and np.abs(np.asarray(whole[0])[:, 3:]).min() > 0


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"layers": "scan", "remat": "sqrt"}, marks=pytest.mark.slow),
        pytest.param({"layers": "scan", "remat": "block"}, marks=pytest.mark.slow),
        pytest.param({"layers": "scan"}, marks=pytest.mark.slow),
        pytest.param({"remat": "sqrt"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_path_reports_and_trains_the_same(changes):
    (wanted, routing), grads = trained(MIXTURE)
    assert routing.share_E.shape == (2, 4) and 0 < float(routing.dropped.mean()) < 0.5
    assert set(routing.losses) == set(models.loss_names(MIXTURE)) and len(routing.losses) == 4
    router = grads["blocks"]["attention_experts"]["mlp"]
    assert np.abs(router["router"]).max(axis=(1, 2)).min() > 1e-4
    found = trained(changed(MIXTURE, **changes))
    for one, two in zip(*map(jax.tree.leaves, (found, ((wanted, routing), grads))), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_alike_layers_report_and_train_too():
    """As every path does, of which the slow tests have all."""
    config = changed(MIXTURE, mlp_pattern=("experts",), depth=2)
    params = initial(config)
    both = [
        jax.jit(jax.value_and_grad(loss_of(changed(config, **path)), has_aux=True), **QUICK)(params)
        for path in ({}, {"layers": "scan", "remat": "sqrt"})
    ]
    (_, routing), grads = both[0]
    assert routing.share_E.shape == (2, 4) and 0 < float(routing.dropped.mean()) < 0.5
    assert set(routing.losses) == set(models.loss_names(config)) and len(routing.losses) == 4
    router = np.asarray(grads["blocks"]["mlp"]["router"])
    assert np.abs(router).max(axis=(1, 2)).min() > 1e-4
    for one, two in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)


def test_noise_is_of_the_sequence_and_the_layer_and_of_training_only():
    config = changed(MIXTURE, capacity_factor=0.0)
    params = stirred_params()
    forward = jax.jit(
        lambda params, seeds: models.forward(config, params, TOKENS, seeds_B=seeds)[0], **QUICK
    )
    others = np.array([1, 2, 9], np.uint32)
    noisy, other = (np.asarray(forward(params, seeds)) for seeds in (SEEDS, others))
    np.testing.assert_array_equal(noisy[:2], other[:2])
    assert np.abs(noisy[2] - other[2]).max() > 1e-3
    rest, other = (
        np.asarray(jax.jit(functools.partial(models.apply, each), **QUICK)(params, TOKENS))
        for each in (config.at_rest, MIXTURE)
    )
    assert np.abs(noisy - rest).max() > 1e-3
    # Nor is anything dropped there.
    np.testing.assert_array_equal(rest, other)


def test_the_noise_matrix_is_counted():
    params = jax.eval_shape(lambda key: models.init(MIXTURE, key), jax.random.key(0))
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert models.count_params(MIXTURE).total == total
    quiet = changed(MIXTURE, router_noise=False, load_loss=0.0)
    assert total - models.count_params(quiet).total == 2 * 8 * 4


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"mlp_pattern": ("dense",), "num_experts": 0}, "no experts to act on"),
        ({"router_noise": False}, "model.experts.load_loss=0.1 needs noise"),
        ({"experts_per_token": 4}, "model.experts.load_loss=0.1 needs noise"),
    ],
)
def test_contradictions_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        models.validate(changed(MIXTURE, **changes))

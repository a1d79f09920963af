"""Optimizers against implementations that nobody here wrote, and SAM by hand."""

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax.optim import OptimConfig, ascend, eval_params, make_optimizer
from gptjax.optim.path_rules import matrix_axes

PLAIN = {"weight_decay": 0.0, "clip_norm": 0.0}


def follow(optimizer, params, gradients, rate, **extra):
    """Parameters after a row of gradients."""

    @jax.jit
    def step(grads, state, params):
        updates, state = optimizer.update(grads, state, params, **extra)
        return jax.tree.map(lambda p, u: p + rate * u, params, updates), state

    state = jax.jit(optimizer.init)(params)
    for grads in gradients:
        params, state = step(grads, state, params)
    return params, state


def some_gradients(params, count=5):
    rng = np.random.default_rng(1)
    return [
        jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), jnp.float32), params)
        for _ in range(count)
    ]


def blocks(layers=2, width=6, heads=2, hidden=10):
    """Parameters with the names and shapes of a stacked decoder."""
    rng = np.random.default_rng(0)
    shapes = {
        "blocks": {
            "attention": {
                "query": (layers, width, heads, width // heads),
                "out": (layers, heads, width // heads, width),
            },
            "mlp": {"up": (layers, width, hidden), "down": (layers, hidden, width)},
            "mlp_norm": {"scale": (layers, width)},
        },
        "embed": {"tokens": (7, width)},
    }
    return jax.tree.map(
        lambda s: jnp.asarray(rng.standard_normal(s), jnp.float32),
        shapes,
        is_leaf=lambda s: isinstance(s, tuple),
    )


OPTAX = {
    "lion": (
        OptimConfig(name="lion", b1=0.9, b2=0.99, **PLAIN),
        optax.lion(0.01, b1=0.9, b2=0.99, weight_decay=0.0),
    ),
    "adafactor": (OptimConfig(name="adafactor", **PLAIN), optax.adafactor(0.01)),
    "sgd": (OptimConfig(name="sgd", b1=0.8, **PLAIN), optax.sgd(0.01, momentum=0.8)),
    "schedule_free": (
        OptimConfig(name="schedule_free", **{**PLAIN, "weight_decay": 0.1}, no_decay=()),
        optax.contrib.schedule_free_adamw(0.01, b1=0.9, b2=0.95, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", OPTAX)
def test_equals_optax(name):
    config, theirs = OPTAX[name]
    params = blocks()
    gradients = some_gradients(params)
    ours, state = follow(make_optimizer(config), params, gradients, 1.0, learning_rate=0.01)
    expected, expected_state = follow(theirs, params, gradients, 1.0)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    if name == "schedule_free":
        x = optax.contrib.schedule_free_eval_params(expected_state, expected)
        found = eval_params(state, ours)
        for a, b, y in zip(*map(jax.tree.leaves, (found, x, ours)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
            assert np.abs(a - y).max() > 1e-3  # the evaluation is not at the gradients' point


def test_muon_equals_optax_on_every_matrix_alone():
    """Each layer's D × NH, NH × D, D × F and F × D matrix, as optax treats one 2-d matrix."""
    config = OptimConfig(name="muon", b1=0.95, **PLAIN)
    params = blocks()
    gradients = some_gradients(params)
    ours, _ = follow(make_optimizer(config), params, gradients, 1.0, learning_rate=0.01)
    shapes = {
        "attention/query": (6, 6),
        "attention/out": (6, 6),
        "mlp/up": (6, 10),
        "mlp/down": (10, 6),
    }
    theirs = optax.contrib.muon(0.01, beta=0.95, consistent_rms=0.2)
    for name, shape in shapes.items():
        room, leaf = name.split("/")
        for layer in range(2):
            matrix = lambda tree: tree["blocks"][room][leaf][layer].reshape(shape)  # noqa: B023, E731
            expected, _ = follow(theirs, matrix(params), [matrix(g) for g in gradients], 1.0)
            np.testing.assert_allclose(matrix(ours), expected, rtol=2e-4, atol=2e-5, err_msg=name)


def test_muon_leaves_the_rest_to_adam():
    config = OptimConfig(name="muon", **PLAIN)
    params = blocks()
    gradients = some_gradients(params)
    ours, _ = follow(make_optimizer(config), params, gradients, 1.0, learning_rate=0.01)
    adam = optax.nadam(0.01, b1=0.9, b2=0.95)
    expected, _ = follow(adam, params, gradients, 1.0)
    np.testing.assert_allclose(ours["embed"]["tokens"], expected["embed"]["tokens"], rtol=1e-5)
    scale = lambda tree: tree["blocks"]["mlp_norm"]["scale"]  # noqa: E731
    np.testing.assert_allclose(scale(ours), scale(expected), rtol=1e-5)


def test_every_matrix_of_a_decoder_is_muons():
    from gptjax import models

    config = models.ModelConfig(
        depth=2, width=8, num_heads=2, num_kv_heads=1, vocab_size=16, mlp="swiglu"
    )
    params = compiled_model.fresh(config)
    axes = matrix_axes(params)
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            axes, is_leaf=lambda x: x is None or hasattr(x, "reduction_axis")
        )
        if leaf is not None
    }
    names = ("attention/query", "attention/key", "attention/value", "attention/out")
    assert found == {f"blocks/{name}" for name in (*names, "mlp/up", "mlp/gate", "mlp/down")}


def test_adamw_equals_torch():
    torch = pytest.importorskip("torch")
    config = OptimConfig(weight_decay=0.1, no_decay=("bias",), clip_norm=0.0, eps=1e-8)
    rng = np.random.default_rng(0)
    start = {"w": rng.standard_normal((3, 4)), "bias": rng.standard_normal(4)}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), start)
    gradients = some_gradients(params, 20)
    ours, _ = follow(make_optimizer(config), params, gradients, 1.0, learning_rate=0.01)
    w, bias = (torch.tensor(np.asarray(params[name]), requires_grad=True) for name in ("w", "bias"))
    groups = [{"params": [w], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    for grads in gradients:
        w.grad, bias.grad = (torch.tensor(np.asarray(grads[name])) for name in ("w", "bias"))
        theirs.step()
    np.testing.assert_allclose(ours["w"], w.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours["bias"], bias.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [0.1, 10.0])
def test_clipping_equals_torch(size):
    """Below the limit nothing changes; above it all gradients shrink by one factor."""
    torch = pytest.importorskip("torch")
    grads = jax.tree.map(lambda g: size * g / 10, some_gradients(blocks(), 1)[0])
    config = OptimConfig(name="sgd", b1=0.0, clip_norm=1.0, weight_decay=0.0)
    optimizer = make_optimizer(config)
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads, learning_rate=1.0)
    tensors = [torch.zeros(g.shape, requires_grad=True) for g in jax.tree.leaves(grads)]
    for tensor, grad in zip(tensors, jax.tree.leaves(grads), strict=True):
        tensor.grad = torch.tensor(np.asarray(grad))
    torch.nn.utils.clip_grad_norm_(tensors, 1.0)
    for tensor, update in zip(tensors, jax.tree.leaves(updates), strict=True):
        np.testing.assert_allclose(update, -tensor.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_sam_by_hand_on_a_quadratic():
    """f = ½(3x² + 4y²) at (1, 1): the gradient is (3, 4), its norm 5."""
    h, w = jnp.array([3.0, 4.0]), jnp.array([1.0, 1.0])
    grads = {"w": h * w}
    moved = ascend(OptimConfig(sam_rho=0.5), {"w": w}, grads)["w"]
    np.testing.assert_allclose(moved, [1.3, 1.4], rtol=1e-6)  # + 0.5·(3, 4)/5
    np.testing.assert_allclose(h * moved, [3.9, 5.6], rtol=1e-6)  # SAM's gradient


def test_adaptive_sam_by_hand():
    """At w = (2, −1) with g = (3, 8): |w|g = (6, 8), its norm 10; ε = ρ·w²g/10 = ρ·(1.2, 0.8)."""
    config = OptimConfig(sam_rho=0.5, sam_adaptive=True)
    moved = ascend(config, {"w": jnp.array([2.0, -1.0])}, {"w": jnp.array([3.0, 8.0])})["w"]
    np.testing.assert_allclose(moved, [2.6, -0.6], rtol=1e-6)


def test_a_gradient_of_zero_is_climbed_nowhere():
    for adaptive in (False, True):
        config = OptimConfig(sam_rho=0.5, sam_adaptive=adaptive)
        moved = ascend(config, {"w": jnp.ones(3)}, {"w": jnp.zeros(3)})["w"]
        np.testing.assert_array_equal(moved, jnp.ones(3))

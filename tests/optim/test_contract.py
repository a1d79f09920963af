"""One table: every optimizer, alone and wrapped, through the same suite."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.models import ModelConfig
from gptjax.optim import OPTIMIZERS, OptimConfig, ascend, eval_params, make_optimizer
from gptjax.train import RunSpec, init_state, make_hyper, make_train_step
from gptjax.train.checkpoint import Checkpointer
from gptjax.train.feed import next_token_batch
from gptjax.train.objectives import next_token
from gptjax.train.state import TrainState

# Settings, and the learning rates for the quadratic and for the model.
TABLE = {
    "adamw": ({}, 0.1, 1e-2),
    "adam8bit": ({"name": "adam8bit"}, 0.1, 1e-2),
    "adam8bit, stochastic": ({"name": "adam8bit", "state_rounding": "stochastic"}, 0.1, 1e-2),
    "muon": ({"name": "muon"}, 1.0, 1e-2),
    "lion": ({"name": "lion", "b2": 0.99}, 0.03, 2e-3),
    "adafactor": ({"name": "adafactor"}, 0.3, 1e-1),
    "schedule_free": ({"name": "schedule_free", "schedule": "constant"}, 0.1, 2e-2),
    "sgd": ({"name": "sgd"}, 0.03, 0.3),
    "sam over muon": ({"name": "muon", "sam_rho": 0.1, "sam_adaptive": True}, 1.0, 1e-2),
    "everything else": (
        {
            "ema_decay": 0.9,
            "skip_not_finite": 3,
            "multipliers": ("embed=0.5", "mlp=2"),
            "adversarial_epsilon": 0.01,
        },
        0.1,
        1e-2,
    ),
}

MODEL = ModelConfig(
    depth=1,
    width=32,
    num_heads=2,
    seq_len=16,
    vocab_size=32,
    positions="rotary",
    mlp="relu",
    norm="rmsnorm",
    use_bias=False,
    init_scale=0.1,
)
STEPS = 24
TRAINED = ("adam8bit, stochastic", "everything else")
"""Whole runs of the others are slow; what they need to train and to resume is below."""


def config_of(name: str, rate: float, **more) -> OptimConfig:
    settings = {"schedule": "linear", "warmup_fraction": 0.1, "final_fraction": 0.0}
    return OptimConfig(**{**settings, **TABLE[name][0], "learning_rate": rate, **more})


def spec_of(name: str) -> RunSpec:
    optim = config_of(name, TABLE[name][2])
    return RunSpec(model=MODEL, optim=optim, batch_size=8, steps=STEPS)


def tree_of_normals(seed, lead=()):
    """Two matrices of a stacked decoder's feed-forward, large enough for 8 bits, and a vector."""
    rng = np.random.default_rng(seed)
    return {
        "blocks": {"mlp": {"up": rng.standard_normal((*lead, 2, 64, 64), np.float32)}},
        "offset": rng.standard_normal((*lead, 8), np.float32),
    }


SMALL = {"blocks": {"mlp": {"up": jnp.ones((2, 64, 64))}}, "offset": jnp.ones(8)}


@pytest.fixture(scope="module")
def batch():
    """Sequences that count in steps of their own: learnable in a few updates."""
    stride = np.arange(1, 9)[:, None]
    tokens = (stride * np.arange(17) + 3 * stride) % 32
    inputs, targets = jnp.asarray(tokens[:, :-1]), jnp.asarray(tokens[:, 1:])
    return next_token_batch(spec_of("adamw"), inputs, targets, -1)


@pytest.fixture(scope="module")
def programs():
    """The compiled step of each row, made once."""
    made: dict = {}

    def of(name: str):
        if name not in made:
            spec = spec_of(name)
            made[name] = jax.jit(make_train_step(spec, next_token(spec)))
        return made[name]

    return of


def initial(spec):
    return compiled_model.init_state(spec)


def trained(program, spec, state, batch, steps):
    hyper = make_hyper(spec)
    for _ in range(steps):
        state, metrics = program(state, batch, hyper)
    return state, metrics


def test_the_table_has_every_optimizer():
    assert {TABLE[name][0].get("name", "adamw") for name in TABLE} == set(OPTIMIZERS)


@pytest.mark.parametrize("name", TABLE)
def test_converges_on_a_quadratic(name):
    """½·Σ h·(w − 1)², curvatures over two decades, from numbers of size one."""
    config = config_of(name, 1.0, weight_decay=0.0, clip_norm=0.0)
    optimizer, peak, steps = make_optimizer(config), TABLE[name][1], 300
    params = tree_of_normals(0)
    rng = np.random.default_rng(1)
    h = jax.tree.map(lambda w: 10 ** rng.uniform(-1.0, 1.0, w.shape).astype(np.float32), params)

    def value(params):
        terms = jax.tree.map(lambda w, h: 0.5 * jnp.sum(h * (w - 1) ** 2), params, h)
        return sum(jax.tree.leaves(terms))

    def step(carry, i):
        params, state = carry
        grads = jax.grad(value)(params)
        if config.sam_rho:
            grads = jax.grad(value)(ascend(config, params, grads))
        rate = peak * (1 - i / steps)
        updates, state = optimizer.update(grads, state, params, learning_rate=rate)
        return (jax.tree.map(jnp.add, params, updates), state), None

    @jax.jit
    def descend(params):
        start = (params, optimizer.init(params))
        (params, state), _ = jax.lax.scan(step, start, jnp.arange(steps, dtype=jnp.float32))
        return value(eval_params(state, params))

    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(h), strict=True)
    before = sum(0.5 * np.sum(h * (w - 1) ** 2) for w, h in pairs)
    assert float(descend(params)) < 0.01 * before


@pytest.mark.parametrize(
    "name", [n if n in TRAINED else pytest.param(n, marks=pytest.mark.slow) for n in TABLE]
)
def test_trains_a_model_and_resumes_bit_for_bit(name, programs, batch, tmp_path):
    spec, program = spec_of(name), programs(name)
    start = initial(spec)
    first = program(start, batch, make_hyper(spec))[1]
    whole, last = trained(program, spec, start, batch, STEPS)
    assert float(last.loss) < 0.6 * float(first.loss)

    half, _ = trained(program, spec, start, batch, STEPS // 2)
    checkpoints = Checkpointer(tmp_path, "run", keep_last=1, keep_best=False)
    checkpoints.save(half, wait=True)
    restored = checkpoints.restore(start)
    checkpoints.close()
    resumed, _ = trained(program, spec, restored, batch, STEPS - STEPS // 2)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_state_comes_back_from_a_checkpoint_bit_for_bit(tmp_path):
    """Of all optimizers in one, every leaf filled with numbers of its own type."""
    rng = np.random.default_rng(0)

    def filled(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(5)
        numbers = rng.integers(1, 100, leaf.shape)
        return jnp.asarray(
            numbers / 128 if jnp.issubdtype(leaf.dtype, jnp.floating) else numbers, leaf.dtype
        )

    shapes = {n: jax.eval_shape(make_optimizer(config_of(n, 1.0)).init, SMALL) for n in TABLE}
    state = jax.tree.map(filled, shapes)
    empty = TrainState({}, jax.tree.map(jnp.zeros_like, state), jnp.int32(3), jnp.zeros(2))
    checkpoints = Checkpointer(tmp_path, "run", keep_last=1, keep_best=False)
    checkpoints.save(dataclasses.replace(empty, opt_state=state), wait=True)
    restored = checkpoints.restore(empty).opt_state
    checkpoints.close()
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", TABLE)
def test_keeps_shapes_and_dtypes(name, batch):
    """Also what is 0-d must be an array, or Orbax refuses it."""
    spec = spec_of(name)
    first = make_optimizer(spec.optim).init(SMALL)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(first))
    before = jax.eval_shape(lambda: init_state(spec, jax.random.key(0)))
    step = make_train_step(spec, next_token(spec))
    after, _ = jax.eval_shape(step, before, batch, make_hyper(spec))
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(after.params)} == {jnp.dtype("float32")}


STACKED = ("adam8bit, stochastic", "muon", "adafactor", "schedule_free", "everything else")
"""Of the others every operation is one of single numbers, or of these."""


@pytest.mark.parametrize(
    "name", [n if n in STACKED else pytest.param(n, marks=pytest.mark.slow) for n in TABLE]
)
def test_stacked_equals_separate(name):
    """Three updates of two members with other parameters and learning rates, under vmap."""
    optimizer = make_optimizer(config_of(name, 1.0))
    stacked = tree_of_normals(0, lead=(2,))
    rates = np.array([1e-2, 2e-2], np.float32)
    noise = jax.device_put(tree_of_normals(1, lead=(3,)))

    def descend(params, rate):
        def step(carry, noise):
            params, state = carry
            grads = jax.tree.map(jnp.multiply, params, noise)
            updates, state = optimizer.update(grads, state, params, learning_rate=rate)
            return (jax.tree.map(jnp.add, params, updates), state), None

        start = (params, optimizer.init(params))
        (params, state), _ = jax.lax.scan(step, start, noise)
        return eval_params(state, params)

    together = jax.jit(jax.vmap(descend))(stacked, rates)
    alone = jax.jit(descend)
    for i in range(2):
        expected = alone(jax.tree.map(lambda x, i=i: x[i], stacked), rates[i])
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(expected), strict=True):
            # A sign or a rounded moment may flip where two sums differ in their last bit.
            assert np.mean(np.abs(np.asarray(a)[i] - b) > 1e-5) < 1e-3


@pytest.mark.parametrize("name", TABLE)
def test_the_learning_rate_scales_the_update(name):
    """It is an argument, so any schedule goes."""
    config = config_of(name, 1.0)
    optimizer = make_optimizer(config)
    params = tree_of_normals(0)
    grads = jax.tree.map(lambda x: np.float32(0.1) * x, tree_of_normals(1))

    @jax.jit
    def update(params, grads, rate):
        return optimizer.update(grads, optimizer.init(params), params, learning_rate=rate)[0]

    one, two = (jax.device_get(update(params, grads, np.float32(r))) for r in (1e-3, 2e-3))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert np.abs(a).max() > 0
        np.testing.assert_allclose(2 * a, b, rtol=1e-3, atol=1e-6)


SHARDED = """
import compiled_model
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import jax.numpy as jnp
from gptjax.optim import make_optimizer
from test_contract import TABLE, config_of

mesh = Mesh(np.asarray(jax.devices()).reshape(8), ("fsdp",))
params = {"blocks": {"mlp": {"up": jnp.ones((2, 64, 128)), "down": jnp.ones((2, 128, 64))}},
          "embed": {"tokens": jnp.ones((64, 64))}}
specs = {"blocks": {"mlp": {"up": P(None, "fsdp"), "down": P(None, "fsdp")}},
         "embed": {"tokens": P("fsdp")}}
shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
key = jax.random.key(0)
grads = jax.tree.map(lambda x: jax.random.normal(key, x.shape), params)
for name in TABLE:
    optimizer = make_optimizer(config_of(name, 1.0))
    rate = jnp.float32(0.01)
    plain, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params, learning_rate=rate)
    placed, placed_grads = jax.device_put((params, grads), (shardings, shardings))

    def place(leaf):
        like = [s for p, s in zip(jax.tree.leaves(params), jax.tree.leaves(shardings))
                if p.shape == leaf.shape]
        return like[0] if like else NamedSharding(mesh, P())

    shapes = jax.eval_shape(optimizer.init, params)
    out = jax.tree.map(place, shapes)
    state = jax.jit(optimizer.init, out_shardings=out)(placed)
    update = jax.jit(optimizer.update, out_shardings=(shardings, out))
    updates, state = update(placed_grads, state, placed, learning_rate=rate)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(updates)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5, err_msg=name)
    on_one = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    print(name, whole, on_one)
    # All but counts, factors and the maxima of 8-bit blocks lie in eight parts.
    assert on_one < 0.2 * whole or whole < 2000, (name, whole, on_one)
"""


@pytest.mark.parametrize("name", TABLE)
def test_states_have_the_shapes_of_parameters(name):
    """So they are sharded as these; all but counts, factors and the maxima of 8-bit blocks."""
    params = {"up": jnp.ones((2, 64, 128)), "down": jnp.ones((2, 128, 64))}
    shapes = {leaf.shape for leaf in params.values()}
    state = jax.eval_shape(make_optimizer(config_of(name, 1.0)).init, {"blocks": {"mlp": params}})
    held = [
        (leaf.shape in shapes, leaf.size * leaf.dtype.itemsize) for leaf in jax.tree.leaves(state)
    ]
    whole = sum(size for _, size in held)
    assert sum(size for placed, size in held if not placed) < 0.08 * whole or whole < 4000


@pytest.mark.slow
def test_states_are_sharded_as_their_parameters():
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], capture_output=True, text=True, cwd=folder, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == len(TABLE)

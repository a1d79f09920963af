"""Tests that need eight devices; test_mesh.py runs this file in a process of its own."""

import collections
import dataclasses
import functools
import json
import math
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

jax.config.update("jax_num_cpu_devices", 8)

from gptjax import data, main, ops  # noqa: E402
from gptjax.cost.compiled import abstract_state, compile_step  # noqa: E402
from gptjax.models import ModelConfig, apply  # noqa: E402
from gptjax.models.dropout import DropoutConfig  # noqa: E402
from gptjax.models.experts import ExpertsConfig  # noqa: E402
from gptjax.models.mixers import kernels  # noqa: E402
from gptjax.ops import backend, ring_attention  # noqa: E402
from gptjax.optim import OptimConfig, make_optimizer  # noqa: E402
from gptjax.parallel import (  # noqa: E402
    Layout,
    MeshConfig,
    collectives,
    make_mesh,
    resolve,
)
from gptjax.train import (  # noqa: E402
    Hooks,
    Interrupted,
    RunSpec,
    Session,
    TrainConfig,
    layout_over,
    make_hyper,
    make_layout,
    run,
)
from gptjax.train.layout import state_shardings  # noqa: E402

REPO = Path(__file__).parents[2]
STEPS = 3
ONE = MeshConfig(data=1)
EVALUATED = 12
"""Sequences of a batch of evaluation, which do not divide those held out."""

QUICK = {
    "cut, ring": MeshConfig(data=1, fsdp=2, tensor=2, seq=2, sequence_parallel=True),
    "pipe 2x2x2": MeshConfig(data=2, pipe=2, tensor=2),
    "all to all": MeshConfig(data=1, seq=2, context="all_to_all"),
}
MORE = {
    "2x2x2": MeshConfig(data=2, fsdp=2, tensor=2, sequence_parallel=True),
    "ring": MeshConfig(data=1, seq=4),
    "tensor": MeshConfig(data=1, tensor=2),
    "zero 3 beside data": MeshConfig(data=2, fsdp=4),
    "data": MeshConfig(data=8),
    "zero 0": MeshConfig(data=1, fsdp=8, zero=0),
    "zero 1": MeshConfig(data=1, fsdp=8, zero=1),
    "zero 2": MeshConfig(data=1, fsdp=8, zero=2),
    "zero 3": MeshConfig(data=1, fsdp=8, zero=3),
    "zero 1, data": MeshConfig(data=2, fsdp=4, zero=1),
    "zero 2, data": MeshConfig(data=2, fsdp=4, zero=2),
    "data, tensor": MeshConfig(data=4, tensor=2),
    "fsdp, tensor": MeshConfig(data=1, fsdp=4, tensor=2),
    "sequence": MeshConfig(data=1, tensor=2, sequence_parallel=True),
    "fsdp, sequence": MeshConfig(data=1, fsdp=4, tensor=2, sequence_parallel=True),
    "2x2x2, zero 1": MeshConfig(data=2, fsdp=2, tensor=2, zero=1),
    "gpipe": MeshConfig(data=1, pipe=4, schedule="gpipe"),
    "1f1b": MeshConfig(data=1, pipe=4, schedule="1f1b"),
    "interleaved": MeshConfig(data=1, pipe=2, schedule="interleaved"),
    "data, pipe": MeshConfig(data=2, pipe=4),
    "data, interleaved": MeshConfig(data=4, pipe=2, schedule="interleaved"),
    "fsdp, pipe": MeshConfig(data=1, fsdp=2, pipe=2),
    "tensor, pipe": MeshConfig(data=1, tensor=2, pipe=2),
    "sequence, pipe": MeshConfig(data=1, tensor=2, pipe=2, sequence_parallel=True),
    "ring of 8": MeshConfig(data=1, seq=8),
    "data, ring": MeshConfig(data=2, seq=4),
    "fsdp, ring": MeshConfig(data=1, fsdp=2, seq=4),
    "tensor, ring": MeshConfig(data=1, tensor=2, seq=2),
    "sequence, ring": MeshConfig(data=1, tensor=2, seq=4, sequence_parallel=True),
    "fsdp, tensor, ring": MeshConfig(data=1, fsdp=2, tensor=2, seq=2),
    "data, all to all": MeshConfig(data=4, seq=2, context="all_to_all"),
    "fsdp, all to all": MeshConfig(data=1, fsdp=2, seq=2, context="all_to_all"),
    "tensor, all to all": MeshConfig(data=1, tensor=2, seq=2, context="all_to_all"),
    "pipe, all to all": MeshConfig(data=1, pipe=2, seq=2, context="all_to_all"),
    "data, tensor, pipe": MeshConfig(data=2, tensor=2, pipe=2, schedule="gpipe"),
    "fsdp, tensor, pipe": MeshConfig(data=1, fsdp=2, tensor=2, pipe=2),
}
EXPERTS = {
    "expert": MeshConfig(data=1, expert=4),
    "fsdp, expert, tensor": MeshConfig(data=1, fsdp=2, expert=2, tensor=2),
}
MORE_EXPERTS = {
    "data, expert": MeshConfig(data=2, expert=2),
    "fsdp, expert": MeshConfig(data=1, fsdp=2, expert=4),
    "fsdp, expert, zero 1": MeshConfig(data=1, fsdp=2, expert=2, zero=1),
    "expert, tensor": MeshConfig(data=1, expert=2, tensor=2),
    "expert, sequence": MeshConfig(data=1, expert=2, tensor=2, sequence_parallel=True),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for i in range(40):
        words = " ".join(f"word{(i * k) % 23} {k % 7}" for k in range(60))
        (folder / f"{i}.txt").write_text(f"document {i}\n{words}\n")
    config = data.DataConfig(
        source="text",
        path=str(folder),
        heldout_fraction=0.2,
        cache_dir=str(tmp_path_factory.mktemp("cache")),
    )
    return data.load(config, seq_len=16)


@pytest.fixture(scope="module")
def spec(corpus):
    model = ModelConfig(
        depth=4,
        width=32,
        num_heads=8,
        num_kv_heads=4,
        seq_len=16,
        init_scale=0.1,
        vocab_size=-(-corpus.vocab_size // 8) * 8,
        layers="scan",
    )
    optim = OptimConfig(learning_rate=1e-2)
    return RunSpec(model=model, optim=optim, batch_size=32, steps=6, seed=3, micro_batches=4)


@pytest.fixture(scope="module")
def mixture(spec):
    """Experts of which some overflow, with every loss of their routers."""
    model = dataclasses.replace(
        spec.model,
        depth=2,
        use_bias=False,
        mlp_pattern=("experts",),
        experts=ExpertsConfig(
            count=4,
            width=24,
            capacity_factor=1.25,
            balance_loss=0.1,
            router_z_loss=0.01,
            importance_loss=0.1,
            router_noise=True,
            load_loss=0.1,
        ),
    )
    return dataclasses.replace(spec, model=model, micro_batches=2)


def make_session(corpus, mesh, feed="host"):
    options = TrainConfig(feed=feed, eval_batch_size=EVALUATED)
    return Session(corpus, options, lambda spec: make_layout(mesh, spec))


@pytest.fixture(scope="module")
def session_on(corpus):
    """One session a mesh, whose compiled programs the tests share.

    One mesh gathers its batches on the devices.
    """

    @functools.cache
    def session_on(name):
        feed = "device" if name == "cut, ring" else "host"
        return make_session(corpus, (QUICK | MORE | EXPERTS | {"one": ONE})[name], feed)

    return session_on


def three_steps(corpus, spec, mesh):
    return steps_of(make_session(corpus, mesh), spec)


def steps_of(session, spec, start=None):
    """After three steps; `start` is one device's initial state, where a mesh makes none itself."""
    layout = session.layout_of(spec)
    state = session.init(spec) if start is None else start
    if start is not None and layout is not None:
        state = jax.device_put(start, state_shardings(layout, start))
    state, metrics = session.advance(spec, state, make_hyper(spec), STEPS)
    return state, np.asarray(metrics.loss)[:STEPS], np.asarray(metrics.grad_norm)[:STEPS]


def traffic_of(session, spec):
    """Collectives of a step that the session has compiled."""
    kind = "advance" if session.on_device else "host"
    text = session._programs.made((kind, spec.program)).as_text()
    return collectives(text, session.layout_of(spec).mesh.shape)


@pytest.fixture(scope="module")
def start_of(session_on):
    """One device's initial state of a spec, on the host: no mesh but one compiles its own."""
    return functools.cache(lambda spec: jax.device_get(session_on("one").init(spec)))


@pytest.fixture(scope="module")
def one_device(session_on, start_of, spec):
    return steps_of(session_on("one"), spec, start_of(spec))


def assert_equal(found, wanted):
    """Losses, norms and the optimizer's moments, which are sums of gradients."""
    np.testing.assert_allclose(found[1], wanted[1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[2], wanted[2], rtol=0, atol=1e-5)
    pairs = zip(
        jax.tree.leaves(found[0].opt_state), jax.tree.leaves(wanted[0].opt_state), strict=True
    )
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "all to all" else ()) for n in QUICK]
)
def test_equals_one_device(session_on, start_of, spec, one_device, name):
    start = None if name == "cut, ring" else start_of(spec)
    assert_equal(steps_of(session_on(name), spec, start), one_device)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_every_mesh_equals_one_device(corpus, spec, one_device, name):
    assert_equal(three_steps(corpus, spec, MORE[name]), one_device)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data", "2x2x2", "fsdp, sequence"])
def test_dropout_equals_one_device(corpus, spec, name):
    """Masks are by sequence, wherever it lies and however its heads are sharded."""
    model = dataclasses.replace(spec.model, dropout=DropoutConfig(0.2, 0.2, 0.2))
    spec = dataclasses.replace(spec, model=model)
    wanted = three_steps(corpus, spec, ONE)
    assert_equal(three_steps(corpus, spec, (QUICK | MORE)[name]), wanted)


WITHIN = {
    "ring, window, cap, documents": (
        MeshConfig(data=2, seq=4),
        4,
        72,
        {"window": 11, "soft_cap": 2.0, "scale": 0.3, "segments": True},
    ),
    "all to all, heads of their own": (
        MeshConfig(data=1, seq=2, tensor=2, context="all_to_all"),
        512,
        24,
        {"window": 7, "segments": True, "slopes_N": 0.1 * np.arange(8), "sinks_N": np.ones(8)},
    ),
}


@pytest.mark.parametrize("name", WITHIN)
def test_attention_across_devices(name, monkeypatch):
    """Output and gradients of the kernel of one device, with what a mixer may ask for.

    Blocks are small, so that a chunk of 9 tokens has ragged ones.
    """
    config, block, T, options = WITHIN[name]
    monkeypatch.setattr(ring_attention, "BLOCK", block)
    random = np.random.default_rng(0)
    q, g = random.normal(size=(2, 2, T, 8, 4)).astype("float32")
    k, v = random.normal(size=(2, 2, T, 4, 4)).astype("float32")
    ids = jnp.asarray(np.cumsum(random.random((2, T)) < 0.1, axis=1, dtype=np.int32))
    others = {
        key: jnp.asarray(x, jnp.float32) if key.endswith("_N") else x
        for key, x in options.items()
        if key != "segments"
    }

    def attend(q, k, v):
        ids_BT, *qkv = (ops.in_order(x, axis=1) for x in (ids, q, k, v))
        return ops.attend_by(ops.masked_attention, *qkv, segment_ids_BT=ids_BT, **others)

    def both(q, k, v, g):
        o, pull = jax.vjp(attend, q, k, v)
        return jnp.sum(o * ops.in_order(g, axis=1)), pull(ops.in_order(g, axis=1))

    wanted = jax.jit(lambda *x: both(*x))(q, k, v, g)
    layout = Layout(make_mesh(resolve(config, 8)), config, None)
    with layout.context():
        found = jax.jit(lambda *x: both(*x))(q, k, v, g)
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def keys_bytes(spec):
    """Of the keys of a micro-batch."""
    sequences = spec.batch_size // spec.micro_batches
    return sequences * spec.model.seq_len * spec.model.kv_heads * spec.model.head_width * 4


def counted(session, spec):
    """(how often each collective runs in a step, all of them)."""
    steps_of(session, spec)
    found = traffic_of(session, spec)
    large = [one for one in found if one.kind == "all-gather" and one.size >= keys_bytes(spec)]
    assert not large, "keys or values are gathered"
    counts = collections.Counter()
    for one in found:
        counts[one.kind] += one.times
    return counts, found


def test_what_goes_around_two_devices(session_on, spec):
    """Collectives over `seq` in a step by hand, beside those of the other axes."""
    passes, session = spec.model.depth * spec.micro_batches, session_on("cut, ring")
    found = [one for one in traffic_of(session, spec) if one.kind == "collective-permute"]
    # Keys with values: 1 send forward, 1 backward; and 2 sends of their gradients, home included.
    sent = [one for one in found if one.axes == ("seq",)]
    assert sum(one.times for one in sent) == 4 * passes
    # Of half the sequences, half the heads and half the tokens.
    assert sum(one.sent for one in sent) == 4 * passes * 2 * keys_bytes(spec) / 8


@pytest.mark.slow
def test_what_goes_around_a_ring(session_on, spec):
    """Collectives of a step by hand, for each layer and micro-batch."""
    passes = spec.model.depth * spec.micro_batches
    counts, found = counted(session_on("ring"), spec)
    # Keys with values: 3 sends forward, 3 backward; and 4 sends of their gradients, home included.
    assert counts["collective-permute"] == 10 * passes
    assert counts["all-to-all"] == 0
    sent = sum(one.sent for one in found if one.kind == "collective-permute")
    assert sent == 10 * passes * 2 * keys_bytes(spec) / 4


@pytest.mark.slow
def test_what_goes_from_all_to_all(session_on, spec):
    passes = spec.model.depth * spec.micro_batches
    counts, _ = counted(session_on("all to all"), spec)
    # Queries, keys, values and the output, forward and backward.
    assert counts["all-to-all"] == 8 * passes
    assert counts["collective-permute"] == 0


def test_sequence_parallel_sends_what_its_paper_counts(spec):
    """Korthikanti et al. (2022), section 4.2.2: in a layer's forward pass two gathers and two
    scatters of the stream, as many in its backward pass, and two gathers again for what was kept
    in parts. The CPU's compiler writes a scatter as an all-reduce and a slice."""
    run = dataclasses.replace(spec, micro_batches=1)
    mesh = MeshConfig(data=1, tensor=2, sequence_parallel=True)
    cost = compile_step(run, layout_over(mesh, run, jax.devices()[:2]))
    stream = run.batch_size * run.model.seq_len * run.model.width * 4
    in_layers = [one for one in cost.traffic if one.times == run.model.depth and one.size > 4096]
    assert all(one.size >= stream for one in in_layers)
    counts = collections.Counter(one.kind for one in in_layers)
    assert counts == {"all-gather": 2 + 2 + 2, "all-reduce": 2 + 2}


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["rotary", "sinusoidal"])
def test_places_and_documents_in_the_order_of_a_ring(corpus, spec, positions):
    """Local and global layers within documents, in micro-batches: three steps of one device."""
    model = dataclasses.replace(
        spec.model, positions=positions, layer_pattern=("local", "global"), window=5
    )
    run = dataclasses.replace(spec, model=model, document_attention=True)
    ring = MeshConfig(data=2, seq=4)
    assert_equal(three_steps(corpus, run, ring), three_steps(corpus, run, ONE))


@pytest.mark.slow
@pytest.mark.parametrize("context", ["ring", "all_to_all"])
def test_long_contexts_are_cut(spec, context):
    """Compiled bytes that a context adds are those of one device over the parts.

    What does not grow are a few blocks of scores, whose size is fixed.
    """

    def temporary(parts, seq_len):
        model = dataclasses.replace(spec.model, seq_len=seq_len, depth=2, remat="block")
        run = dataclasses.replace(spec, model=model, batch_size=1, micro_batches=1)
        mesh = MeshConfig(data=1, seq=parts, context=context)
        return compile_step(run, layout_over(mesh, run, jax.devices()[:parts])).temporary

    grown = {parts: temporary(parts, 16384) - temporary(parts, 4096) for parts in (1, 4)}
    assert grown[4] < 1.1 * grown[1] / 4


@pytest.fixture(scope="module")
def mixture_on_one(session_on, start_of, mixture):
    return steps_of(session_on("one"), mixture, start_of(mixture))


@pytest.mark.parametrize(
    "name",
    ["expert", *(pytest.param(n, marks=pytest.mark.slow) for n in list(EXPERTS)[1:])],
)
def test_experts_on_a_mesh_equal_one_device(session_on, start_of, mixture, mixture_on_one, name):
    assert_equal(steps_of(session_on(name), mixture, start_of(mixture)), mixture_on_one)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_EXPERTS)
def test_experts_on_every_mesh_equal_one_device(corpus, mixture, mixture_on_one, name):
    assert_equal(three_steps(corpus, mixture, MORE_EXPERTS[name]), mixture_on_one)


def test_tokens_travel_by_all_to_all(session_on, start_of, mixture):
    """To the experts and back, forward and backward, in every layer and micro-batch."""
    session = session_on("expert")
    steps_of(session, mixture, start_of(mixture))
    found = [one for one in traffic_of(session, mixture) if one.kind == "all-to-all"]
    assert sum(one.times for one in found) == 4 * 2 * 2
    # On each device 4 of 16 sequences, 4 experts, 1.25·2·16/4 slots, 32 columns, float32.
    assert {(one.axes, one.size) for one in found} == {(("expert",), 4 * 4 * 10 * 32 * 4)}


@pytest.mark.slow
def test_experts_are_cut_and_move_to_another_mesh(corpus, mixture, mixture_on_one, tmp_path):
    calls = []
    hooks = Hooks(stop=lambda: calls.append(1) or len(calls) == 2)
    session = make_session(corpus, EXPERTS["expert"])
    held = session.init(mixture).params["blocks"]["mlp"]["experts_up"]
    assert held.addressable_shards[0].data.shape == (2, 1, 32, 24)
    with pytest.raises(Interrupted):
        run(session, mixture, tmp_path, hooks)
    moved = run(make_session(corpus, MeshConfig(data=2)), mixture, tmp_path, Hooks())
    np.testing.assert_allclose(moved.curve_losses[:3], mixture_on_one[1], atol=2e-5)
    score = session.evaluate(mixture, session.init(mixture).params)
    plain = make_session(corpus, ONE)
    wanted = plain.evaluate(mixture, plain.init(mixture).params)
    assert score.loss == pytest.approx(wanted.loss, abs=2e-5)


@pytest.mark.parametrize("stage", range(4))
def test_zero_cuts_what_it_says(spec, stage):
    """Bytes that one of eight devices holds, against those of one device."""
    mesh = MeshConfig(data=1, fsdp=8, zero=stage)
    state, _ = abstract_state(spec, layout_over(mesh, spec, jax.devices()))
    # Biases that have no axis of the model's width stay whole: a tenth of a tiny model's eighth.
    assert share(state.params) == pytest.approx(1 / 8 if stage == 3 else 1, rel=0.1)
    assert share(state.opt_state) == pytest.approx(1 / 8 if stage >= 1 else 1, rel=0.1)


def share(tree):
    """Of a tree's bytes, those that one device holds."""
    leaves = jax.tree.leaves(tree)
    held = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
    return held / sum(x.size * x.dtype.itemsize for x in leaves)


def test_a_state_lives_where_its_shardings_say(session_on, spec):
    """As they are made, and after updates."""
    session = session_on("cut, ring")
    for state in (session.init(spec), steps_of(session, spec)[0]):
        for tree in (state.params, state.opt_state):
            held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))
            whole = sum(x.nbytes for x in jax.tree.leaves(tree))
            assert held / whole == pytest.approx(1 / 4, rel=0.1)


@pytest.mark.slow
def test_what_1f1b_keeps_does_not_grow_with_the_micro_batches(spec):
    """Compiled bytes: gpipe keeps the stream of every micro-batch, 1f1b of at most one a stage."""

    def temporary(schedule, parts):
        mesh = MeshConfig(data=1, pipe=4, schedule=schedule)
        run = dataclasses.replace(spec, batch_size=4 * parts, micro_batches=parts)
        return compile_step(run, layout_over(mesh, run, jax.devices()[:4])).temporary

    stream = 4 * spec.model.seq_len * spec.model.width * 4
    grown = {name: temporary(name, 16) - temporary(name, 4) for name in ("gpipe", "1f1b")}
    assert grown["gpipe"] >= 12 * stream
    assert abs(grown["1f1b"]) < 4 * stream


def test_a_checkpoint_moves_to_another_mesh(corpus, session_on, spec, tmp_path):
    """From stages to a mesh without; the score of the last, ragged batch is one device's too."""
    calls = []
    hooks = Hooks(stop=lambda: calls.append(1) or len(calls) == 2)
    with pytest.raises(Interrupted):
        run(session_on("pipe 2x2x2"), spec, tmp_path / "moved", hooks)
    moved = run(session_on("cut, ring"), spec, tmp_path / "moved", Hooks())
    straight = run(session_on("one"), spec, tmp_path / "straight", Hooks())
    assert 0 < moved.updates < spec.steps
    np.testing.assert_allclose(moved.curve_losses, straight.curve_losses, atol=2e-5)
    assert corpus.heldout_windows(spec.model.seq_len)[0] % EVALUATED > 0
    assert moved.evaluation.loss == pytest.approx(straight.evaluation.loss, abs=2e-5)


OPTIMIZERS = {
    "adam8bit": {"name": "adam8bit"},
    "muon": {"name": "muon"},
    "lion": {"name": "lion", "learning_rate": 1e-3},
    "adafactor": {"name": "adafactor", "learning_rate": 1e-1},
    "schedule_free": {"name": "schedule_free", "schedule": "constant"},
    "sgd": {"name": "sgd"},
    "sam": {"sam_rho": 0.1},
    "wrapped": {"ema_decay": 0.9, "skip_not_finite": 2, "adversarial_epsilon": 0.1},
}
CUT = MeshConfig(data=1, fsdp=2)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_half_of_an_optimizers_state_is_on_each_of_two_devices(spec, name):
    optim = OptimConfig(**{"learning_rate": 1e-2, **OPTIMIZERS[name]})
    spec = dataclasses.replace(spec, optim=optim)
    state, _ = abstract_state(spec, layout_over(CUT, spec, jax.devices()[:2]))
    assert share([leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]) < 0.55


def test_moments_of_8_bits_are_those_of_one_device(spec):
    """Their blocks, which may cross the devices' borders, after two updates."""
    spec = dataclasses.replace(spec, optim=OptimConfig(name="adam8bit"))
    optimizer = make_optimizer(spec.optim)
    layout = layout_over(CUT, spec, jax.devices()[:2])
    params = abstract_state(spec, layout)[0].params
    params = {"blocks": {"mlp": params["blocks"]["mlp"]}, "embed": params["embed"]}
    random = np.random.default_rng(0)
    grads = jax.tree.map(lambda x: random.normal(size=(2, *x.shape)).astype("float32"), params)

    def two(grads):
        def one(opt_state, grads):
            updates, opt_state = optimizer.update(
                grads, opt_state, grads, learning_rate=0.1, weight_decay=0.0
            )
            return opt_state, updates

        first = optimizer.init(jax.tree.map(lambda x: x[0], grads))
        return jax.lax.scan(one, first, grads)

    wanted = jax.jit(two)(grads)
    where = layout.opt_state(jax.eval_shape(two, grads)[0])
    cut = jax.tree.map(lambda x: NamedSharding(layout.mesh, P(None, *x.sharding.spec)), params)
    with layout.context():
        found = jax.jit(two, out_shardings=(where, cut))(jax.device_put(grads, cut))
    assert share(found[0]) < 0.55
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_is_cut_and_moves(corpus, spec, name, tmp_path):
    """Losses of one device, half of the state on each of two, and the rest on another mesh."""
    optim = OptimConfig(**{"learning_rate": 1e-2, **OPTIMIZERS[name]})
    spec = dataclasses.replace(spec, optim=optim)
    state, losses, norms = three_steps(corpus, spec, CUT)
    _, expected, expected_norms = three_steps(corpus, spec, ONE)
    # A rounded moment or a sign may flip where two sums differ in their last bit.
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(norms, expected_norms, rtol=1e-3, atol=1e-4)
    leaves = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    assert held < 0.55 * sum(leaf.nbytes for leaf in leaves)

    calls = []
    hooks = Hooks(stop=lambda: calls.append(1) or len(calls) == 2)
    with pytest.raises(Interrupted):
        run(make_session(corpus, CUT), spec, tmp_path, hooks)
    moved = run(make_session(corpus, MORE["tensor"]), spec, tmp_path, Hooks())
    np.testing.assert_allclose(moved.curve_losses[:3], expected, rtol=0, atol=1e-4)
    assert moved.updates < spec.steps


@pytest.mark.slow
def test_a_growing_batch_on_a_mesh(corpus, spec):
    tokens = 2 * spec.batch_size * spec.model.seq_len
    spec = dataclasses.replace(spec, batch_doublings=2, batch_warmup_tokens=tokens)
    assert_equal(three_steps(corpus, spec, CUT), three_steps(corpus, spec, ONE))


@pytest.mark.slow
def test_the_train_job_with_a_mesh(tmp_path):
    """Batches are gathered on the devices, and the evaluation's last batch is ragged."""
    meshes = {
        "one": {"data": 1},
        "eight": {"fsdp": 2, "tensor": 2, "zero": 1, "sequence_parallel": "true"},
    }
    results = {}
    for name, sizes in meshes.items():
        flags = [f"--config.mesh.{axis}={size}" for axis, size in sizes.items()]
        assert main.main(["gptjax", *arguments(tmp_path, name), *flags]) == 0
        results[name] = json.loads((tmp_path / name / "result.json").read_text())
    assert results["one"]["loss"] == pytest.approx(results["eight"]["loss"], abs=2e-5)
    assert results["one"]["params_sha256"] != results["eight"]["params_sha256"]


def arguments(folder, name):
    settings = {
        "model.depth": 1,
        "model.width": 32,
        "model.num_heads": 2,
        "model.seq_len": 16,
        "model.vocab_size": 258,
        "train.tokens": 0,
        "train.steps": 3,
        "train.batch_size": 8,
        "train.evaluations": 1,
        "train.keep_best": "false",
        "train.tensorboard": "false",
        "data.source": "zipf-facts",
        "data.zipf_facts.tokens": 4096,
        "data.zipf_facts.heldout_tokens": 2048,
        "data.cache_dir": folder / "cache",
        "optim.learning_rate": 1e-2,
        "compilation_cache": "off",
    }
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    path = os.fspath(REPO / "experiments" / "train_gpt2_small.py")
    return [f"--config={path}", f"--workdir={folder / name}", *flags]


def test_a_kernel_of_a_backend_runs_on_each_devices_own_heads():
    """Splash attention, which the partitioner cannot cut, in a step lowered for TPUs, and the same
    cut around a kernel that this machine has."""
    model = ModelConfig(
        depth=1,
        width=512,
        num_heads=4,
        num_kv_heads=2,
        seq_len=128,
        vocab_size=64,
        positions="rotary",
    )
    spec = RunSpec(model=model, optim=OptimConfig(), batch_size=8, steps=1)
    layout = layout_over(MeshConfig(data=2, fsdp=2, tensor=2), spec, jax.devices())
    state, _ = abstract_state(spec, layout)
    tokens = jax.ShapeDtypeStruct((8, 128), "int32", sharding=layout.batch)
    with layout.context(), backend.programs_for("tpu"):
        losses = jax.jit(lambda params, x: jax.grad(lambda p: apply(model, p, x).sum())(params))
        text = losses.trace(state.params, tokens).lower(lowering_platforms=("tpu",)).as_text()
    assert "tpu_custom_call" in text

    random = np.random.default_rng(0)
    q, k, v = (random.normal(size=(4, 8, n, 16)).astype("float32") for n in (4, 2, 2))
    ids = np.cumsum(random.random((4, 8)) < 0.3, axis=1, dtype=np.int32)
    whole = jax.jit(lambda *x: ops.blockwise_attention(*x[:3], segment_ids_BT=x[3]))(q, k, v, ids)
    with layout.context():
        mine = functools.partial(kernels.on_own_heads, ops.blockwise_attention)
        cut = jax.jit(lambda q, k, v, ids: mine(q, k, v, segment_ids_BT=ids))(q, k, v, ids)
    assert cut.sharding.shard_shape(cut.shape) == (1, 8, 2, 16)
    np.testing.assert_allclose(cut, whole, atol=1e-6)

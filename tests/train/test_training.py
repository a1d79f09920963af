"""Laws of the step and the loop: micro-batches, cutting, resuming, where batches come from."""

import dataclasses
import math
import subprocess
import sys

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import data
from gptjax.errors import UserError
from gptjax.files import read_json
from gptjax.train import (
    Diverged,
    Hooks,
    Interrupted,
    Session,
    TrainConfig,
    grow_trunk,
    make_hyper,
    micro_batches,
    run,
)
from gptjax.train.feed import next_token_batch
from gptjax.train.objectives import token_losses


def one_step(spec, corpus):
    state = compiled_model.init_state(spec, spec.seed)
    inputs, targets = data.batch_numpy(corpus.train, spec.model.seq_len, 0, 0, spec.batch_size)
    batch = next_token_batch(
        spec, jnp.asarray(inputs), jnp.asarray(targets), corpus.end_of_document
    )
    return compiled_model.train_step(spec)(state, batch, make_hyper(spec))


def test_micro_batches_equal_one_batch_also_with_unequal_masks(spec, corpus):
    spec = dataclasses.replace(spec, mask_end_of_document=True)
    whole, metrics = one_step(spec, corpus)
    parts, metrics_parts = one_step(dataclasses.replace(spec, micro_batches=4), corpus)
    assert float(metrics.loss) == pytest.approx(float(metrics_parts.loss), rel=1e-6)
    for a, b in zip(
        jax.tree.leaves(whole.opt_state), jax.tree.leaves(parts.opt_state), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_batches_of_parts_of_one_size_share_a_program_and_have_the_bits_of_their_own(corpus, spec):
    session = Session(corpus, TrainConfig(), shares_programs=True)
    spec = dataclasses.replace(spec, mask_end_of_document=True)
    rooms = [dataclasses.replace(spec, batch_size=k, micro_batches=k) for k in (1, 2, 3, 9)]
    assert [micro_batches.shared_program(one).micro_batches for one in rooms] == [2, 2, 8, 32]
    plain = Session(corpus, TrainConfig())
    for parts in (1, 2):
        warmup = dataclasses.replace(spec.optim, warmup_steps=5 - parts)
        one = dataclasses.replace(spec, optim=warmup, batch_size=2 * parts, micro_batches=parts)
        shared, metrics = session.advance(one, session.init(one), make_hyper(one), 5)
        assert len(session._programs) == 2  # one for the steps, one for the initial state
        alone, own = plain.advance(one, plain.init(one), make_hyper(one), 5)
        for a, b in zip(*map(jax.tree.leaves, (shared, alone)), strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(metrics.loss, own.loss)
        assert np.asarray(own.loss)[4] > 0


def test_loss_of_the_initial_model_is_that_of_a_guess(spec, corpus):
    spec = dataclasses.replace(spec, model=dataclasses.replace(spec.model, init_scale=1e-4))
    _, metrics = one_step(spec, corpus)
    assert float(metrics.loss) == pytest.approx(math.log(corpus.vocab_size), rel=1e-4)


def test_training_learns(session, spec, tmp_path):
    spec = dataclasses.replace(spec, steps=60)
    result = run(session, spec, tmp_path, Hooks())
    assert result.evaluation.loss < 0.6 * math.log(session.corpus.vocab_size)
    assert result.curve_losses[0] > result.curve_losses[-1]
    assert result.evaluation.stderr > 0
    bits = result.evaluation.loss / math.log(2) / session.corpus.bytes_per_token
    assert result.evaluation.bits_per_byte == pytest.approx(bits)


def test_evaluation_equals_a_loop_over_windows(session, spec, tmp_path):
    state = session.init(spec)
    length, corpus = spec.model.seq_len, session.corpus

    @jax.jit
    def loss_of(inputs, targets):
        return token_losses(spec, state.params, next_token_batch(spec, inputs, targets, 0)).sum()

    sums = [
        float(loss_of(*data.gather_numpy(corpus.heldout, length, np.array([window]))))
        for window in range(data.num_windows(len(corpus.heldout), length))
    ]
    assert len(sums) % session.options.eval_batch_size != 0  # a ragged last batch is in the test
    score = session.evaluate(spec, state.params)
    assert score.loss == pytest.approx(sum(sums) / (len(sums) * length), rel=1e-5)


def test_cutting_a_run_into_calls_changes_no_bit(session, spec):
    hyper = make_hyper(spec)
    whole, metrics = session.advance(spec, session.init(spec), hyper, 24)
    cut = session.init(spec)
    for steps in (1, 5, 11, 7):
        cut, _ = session.advance(spec, cut, hyper, steps)
    assert np.isfinite(np.asarray(metrics.loss)[:24]).all()
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(cut), strict=True):
        assert np.array_equal(a, b)


def test_stop_and_resume_gives_the_same_bits(session, spec, tmp_path):
    straight = run(session, spec, tmp_path / "a", Hooks())
    seen = []

    def stop_after_a_while() -> bool:
        seen.append(1)
        return len(seen) in (2, 5)

    stops = 0
    while True:
        try:
            resumed = run(session, spec, tmp_path / "b", Hooks(stop=stop_after_a_while))
            break
        except Interrupted:
            stops += 1
    assert stops >= 1
    assert resumed.params_digest == straight.params_digest
    assert resumed.evaluation == straight.evaluation
    assert resumed.curve_losses == straight.curve_losses


def test_history_survives_a_stop(session, spec, tmp_path):
    programs = session._programs
    session = Session(session.corpus, TrainConfig(evaluations=4, keep_best=True))
    session._programs = programs  # they are the same
    straight = run(session, spec, tmp_path / "a", Hooks())
    calls = []
    with pytest.raises(Interrupted):
        run(session, spec, tmp_path / "b", Hooks(stop=lambda: calls.append(1) or len(calls) == 4))
    (first,) = read_json(tmp_path / "b" / "spent.json")["seconds"]
    resumed = run(session, spec, tmp_path / "b", Hooks())
    assert resumed.earlier > 0 and resumed.earlier + resumed.updates == straight.updates
    assert all(resumed.seconds[phase] >= spent for phase, spent in first.items())
    assert resumed.seconds["train"] > first["train"] > 0
    assert [step for step, _ in straight.history] == [6, 12, 18, 24]
    assert resumed.history == straight.history


def test_another_runs_checkpoint_is_refused(session, spec, tmp_path):
    with pytest.raises(Interrupted):
        run(session, spec, tmp_path, Hooks(stop=lambda: True))
    other = dataclasses.replace(spec, seed=spec.seed + 1)
    with pytest.raises(UserError, match="another run"):
        run(session, other, tmp_path, Hooks())


def test_host_feed_equals_device_feed(session, spec, tmp_path):
    host = Session(session.corpus, TrainConfig(feed="host"))
    a = run(session, spec, tmp_path / "a", Hooks())
    b = run(host, spec, tmp_path / "b", Hooks())
    assert not host.on_device and session.on_device
    np.testing.assert_allclose(a.curve_losses, b.curve_losses, rtol=1e-5)
    assert a.evaluation.loss == pytest.approx(b.evaluation.loss, rel=1e-5)


def test_a_loss_that_is_not_finite_is_an_error_with_its_step(session, spec, tmp_path):
    wild = dataclasses.replace(spec, optim=dataclasses.replace(spec.optim, learning_rate=1e30))
    with pytest.raises(Diverged, match=r"training loss is (nan|inf) at step [1-9]"):
        run(session, wild, tmp_path, Hooks())


def test_documents_do_not_see_each_other(session, spec):
    corpus = session.corpus
    end = corpus.end_of_document
    spec = dataclasses.replace(spec, document_attention=True)
    params = compiled_model.fresh(spec.model)
    tokens = np.array([[end, 1, 2, 3, end, 7, 8, 9]])
    other = np.array([[end, 5, 5, 5, end, 7, 8, 9]])

    def losses(row, **changes):
        chosen = dataclasses.replace(spec, **changes)
        row = jnp.asarray(np.concatenate([row, [[4]]], axis=1))
        batch = next_token_batch(chosen, row[:, :-1], row[:, 1:], end)
        return np.asarray(compiled_model.token_losses(chosen, params, batch))[0]

    np.testing.assert_allclose(losses(tokens)[4:], losses(other)[4:], rtol=1e-5)
    apart = losses(tokens, document_attention=False), losses(other, document_attention=False)
    assert not np.allclose(apart[0][4:], apart[1][4:], rtol=1e-5)


def test_masked_targets_do_not_count(session, spec):
    end = session.corpus.end_of_document
    masked = dataclasses.replace(spec, mask_end_of_document=True)
    row = jnp.array([[end, 1, 2, end, 3]])
    batch = next_token_batch(masked, row[:, :-1], row[:, 1:], end)
    assert batch.weights_BT.tolist() == [[1, 1, 0, 1]]


def lengths(spec, *steps):
    """Runs of one trunk."""
    optim = dataclasses.replace(spec.optim, schedule="wsd", warmup_steps=4, decay_fraction=0.25)
    return [dataclasses.replace(spec, optim=optim, steps=n) for n in steps]


def test_forks_of_a_trunk_are_the_runs_themselves(session, spec, tmp_path):
    state, updates = None, 0
    for one in lengths(spec, 20, 32, 48):
        straight = run(session, one, tmp_path / f"a{one.steps}", Hooks())
        fork = grow_trunk(session, one, tmp_path / "trunk", Hooks(), state)
        state, updates = fork.state, updates + fork.updates
        copy = jax.tree.map(lambda leaf: leaf.copy(), state)
        forked = run(session, one, tmp_path / f"b{one.steps}", Hooks(), lambda copy=copy: copy)
        assert forked.params_digest == straight.params_digest
        assert forked.evaluation == straight.evaluation
        assert (forked.curve_steps, forked.curve_losses) == (
            straight.curve_steps,
            straight.curve_losses,
        )
        assert forked.updates == one.steps - one.shared_steps < straight.updates == one.steps
    assert updates == one.shared_steps  # the trunk was trained once


def test_a_trunk_continues_where_it_was_stopped(session, spec, tmp_path):
    short, long, longest = lengths(spec, 20, 48, 96)
    whole = grow_trunk(session, long, tmp_path / "a", Hooks(), None)
    asked = []
    with pytest.raises(Interrupted):
        stop = Hooks(stop=lambda: asked.append(1) or len(asked) == 2)
        grow_trunk(session, long, tmp_path / "b", stop, None)
    rest = grow_trunk(session, long, tmp_path / "b", Hooks(), None)
    assert 0 < rest.updates < whole.updates == rest.earlier + rest.updates
    for a, b in zip(jax.tree.leaves(whole.state), jax.tree.leaves(rest.state), strict=True):
        assert np.array_equal(a, b)
    # What was saved is beyond a fork that nobody asked for before: that run begins by itself.
    with pytest.raises(Interrupted):
        grow_trunk(session, longest, tmp_path / "c", Hooks(stop=lambda: True), whole.state)
    assert grow_trunk(session, short, tmp_path / "c", Hooks(), None) is None


def test_curves_of_a_trunk_begin_alike(session, spec, tmp_path):
    short, long = (
        run(session, one, tmp_path / str(one.steps), Hooks()) for one in lengths(spec, 20, 48)
    )
    shared = [step for step in short.curve_steps if step <= 12]
    assert shared and set(shared) <= set(long.curve_steps)
    for step in shared:
        mine = short.curve_losses[short.curve_steps.index(step)]
        assert mine == long.curve_losses[long.curve_steps.index(step)]
    assert short.curve_steps[-1] == 20


FULL = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import jax.numpy as jnp
from gptjax.train import checkpoint
from gptjax.train.state import CURVE_ENDS, TrainState
params = {"w": jnp.ones((512, 512)).cumsum()}
state = TrainState(params, (), jnp.int32(3), jnp.zeros(CURVE_ENDS.shape))
saver = checkpoint.Checkpointer(Path(sys.argv[1]), "x", keep_last=1, keep_best=False)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
saver.save(state)
try:
    saver.close()
except checkpoint.UserError as error:
    print("said:", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_background_save_that_cannot_be_written_is_one_sentence(tmp_path):
    command = [sys.executable, "-c", FULL, str(tmp_path / "checkpoints")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "said: cannot save a checkpoint in" in done.stdout, done.stderr
    assert "File too large; free some space" in done.stdout
    assert "ValueError" not in done.stderr  # Orbax would print the error's traceback itself

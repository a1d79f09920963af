"""Runs on a mixture of sources: every way to run one reads the same batches."""

import dataclasses

import numpy as np
import pytest

from gptjax import data
from gptjax.train import Hooks, Interrupted, Session, StackHooks, TrainConfig, run, run_stack

TARGETS = (0.25, 0.75)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Two sources that differ in their words."""
    root = tmp_path_factory.mktemp("mixed")
    for label, base in (("words", 23), ("numbers", 31)):
        (root / label).mkdir()
        for i in range(40):
            text = " ".join(f"{label}{(i * k) % base} {k % 7}" for k in range(40))
            (root / label / f"{i}.txt").write_text(f"{label} {i}\n{text}\n")
    config = data.DataConfig(
        sources=tuple(
            f"{label}: source=text path={root / label}" for label in ("words", "numbers")
        ),
        weights=(0.5, 0.5),
        targets=TARGETS,
        heldout_fraction=0.2,
        cache_dir=str(root / "cache"),
    )
    return data.load(config, seq_len=16)


@pytest.fixture(scope="module")
def session(mixed):
    return Session(mixed, TrainConfig(evaluations=2))


@pytest.fixture(scope="module")
def phased(spec):
    """Two phases: mostly words, then mostly numbers."""
    return dataclasses.replace(
        spec, steps=12, source_weights=(0.75, 0.25, 0.1, 0.9), weight_phases=(0.5,)
    )


@pytest.fixture(scope="module")
def plain(session, phased, tmp_path_factory):
    return run(session, phased, tmp_path_factory.mktemp("plain"), Hooks())


def test_the_loss_is_that_of_the_targets_and_is_told_by_source(plain):
    score = plain.evaluation
    assert set(score.by_source) == {"words", "numbers"}
    expected = TARGETS[0] * score.by_source["words"] + TARGETS[1] * score.by_source["numbers"]
    assert score.loss == pytest.approx(expected, rel=1e-12)
    assert 0 < score.stderr < 1


def test_a_source_is_scored_as_if_it_were_alone(session, mixed, phased):
    params = session.init(phased).params
    both = session.evaluate(phased, params)
    begin, end = mixed.parts[1].heldout
    alone = dataclasses.replace(mixed, heldout=mixed.heldout[begin:end], parts=())
    one = Session(alone, TrainConfig()).evaluate(phased, params)
    assert both.by_source["numbers"] == pytest.approx(one.loss, rel=1e-6)


def test_batches_from_the_host_give_the_same_bits(mixed, phased, plain, tmp_path):
    host = Session(mixed, TrainConfig(feed="host", evaluations=2))
    assert run(host, phased, tmp_path, Hooks()).params_digest == plain.params_digest


@pytest.mark.parametrize("at", [1, 6, 7])
def test_a_run_that_is_stopped_at_any_step_goes_on_with_the_same_bits(
    session, phased, plain, tmp_path, at, monkeypatch
):
    """Before, at and after the end of the first phase."""
    done = []
    monkeypatch.setattr("gptjax.train.clock.Clock.call_length", lambda self: 1)
    hooks = Hooks(stop=lambda: len(done) == at, progress=lambda progress: done.append(progress))
    with pytest.raises(Interrupted):
        run(session, phased, tmp_path, hooks)
    again = run(session, phased, tmp_path, Hooks())
    assert again.params_digest == plain.params_digest and again.updates == 12 - at
    assert again.evaluation == plain.evaluation and again.history == plain.history


def test_mixtures_share_a_program_and_can_be_stacked(session, phased, plain, tmp_path):
    other = dataclasses.replace(phased, source_weights=(0.2, 0.8, 0.5, 0.5))
    assert other.program == phased.program and other.identity != phased.identity
    results = {}
    hooks = StackHooks(Hooks(), results.__setitem__, lambda i, error: None)
    run_stack(session, [phased, other], tmp_path / "stack", hooks)
    assert results[0].evaluation.loss == pytest.approx(plain.evaluation.loss, rel=1e-5)
    one = run(session, other, tmp_path / "one", Hooks())
    assert results[1].evaluation.loss == pytest.approx(one.evaluation.loss, rel=1e-5)
    assert abs(one.evaluation.loss - plain.evaluation.loss) > 1e-4


def test_a_program_that_batches_share_reads_the_same_examples(mixed, phased, plain, tmp_path):
    shared = Session(mixed, TrainConfig(evaluations=2), shares_programs=True)
    parted = dataclasses.replace(phased, micro_batches=2)
    found = run(shared, parted, tmp_path, Hooks())
    assert found.evaluation.loss == pytest.approx(plain.evaluation.loss, rel=1e-5)


def test_weights_that_change_with_the_length_share_no_trunk(phased):
    optim = dataclasses.replace(phased.optim, schedule="wsd", warmup_steps=2)
    steady = dataclasses.replace(phased, optim=optim, source_weights=(0.5, 0.5), weight_phases=())
    assert steady.trunk and not dataclasses.replace(phased, optim=optim).trunk
    np.testing.assert_allclose(steady.reads, [24, 24])

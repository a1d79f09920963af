"""A spike of the loss: back to an earlier state and around its batches, bit for bit when killed."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from shared_programs import shared

from gptjax import config as configs
from gptjax import data, experiment
from gptjax.config import make_run
from gptjax.main import main
from gptjax.train import Hooks, Session, loss_spikes, make_hyper, run

REPO = Path(__file__).parents[2]
EVERY, SKIP, STEPS = 10, 5, 80


def settings(folder):
    return {
        "model.depth": 1,
        "model.width": 16,
        "model.num_heads": 2,
        "model.seq_len": 16,
        "model.vocab_size": 0,
        "train.tokens": 0,
        "train.steps": STEPS,
        "train.batch_size": 4,
        "train.evaluations": 2,
        "train.keep_best": "false",
        "train.tensorboard": "false",
        "data.source": "text",
        "data.path": folder / "text",
        "data.cache_dir": folder / "cache",
        "data.heldout_fraction": 0.2,
        "data.deduplicate": "false",
        "optim.learning_rate": 3e-2,
        "compilation_cache": "off",
        "train.rollback_steps": EVERY,
        "train.rollback_skip": SKIP,
        "train.spike_nats": 0.7,
        "device": "cpu",
    }


@pytest.fixture(autouse=True, scope="module")
def shared_programs():
    with shared():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A text that is easy to learn, with a stretch of noise in it that one batch meets."""
    folder = tmp_path_factory.mktemp("spikes")
    (folder / "text").mkdir()
    rng = random.Random(0)
    for i in range(10):
        words = "abcdefgh" * (200 + i)
        if i == 3:
            noise = "".join(chr(rng.randrange(33, 97)) for _ in range(48))
            words = words[:800] + noise + words[800:]
        (folder / "text" / f"{i}.txt").write_text(words)
    return folder


def arguments(place, workdir, **changes):
    values = {**settings(place), **changes}
    flags = [f"--config.{key}={value}" for key, value in values.items()]
    path = REPO / "experiments" / "train_gpt2_small.py"
    return ["gptjax", f"--config={path}", f"--workdir={workdir}", *flags]


def make_setup(place, **changes):
    path = REPO / "experiments" / "train_gpt2_small.py"
    values = {**settings(place), **changes}
    texts = [(name, str(value)) for name, value in values.items()]
    return configs.make_config(experiment.override(experiment.load(str(path)), texts))


@pytest.fixture(scope="module")
def poisoned(place):
    """(a seed of the data order, the step at which its only early batch of noise comes)."""
    corpus = configs.load_corpus(make_setup(place))
    count = data.num_windows(len(corpus.train), 16)
    rows = data.gather_numpy(corpus.train, 16, np.arange(count))[1]
    usual = np.unique(corpus.train, return_counts=True)[1].argsort()[-8:]
    tokens = np.unique(corpus.train)[usual]
    noisy = np.flatnonzero((~np.isin(rows, tokens)).sum(axis=1) > 8)
    assert 1 <= len(noisy) <= 4
    for seed in range(1000):
        order = [data.windows_numpy(seed, step, 4, count) for step in range(STEPS + 2 * EVERY)]
        hit = [step for step, windows in enumerate(order) if np.isin(windows, noisy).any()]
        if len(hit) == 1 and 55 <= hit[0] < 65:
            return seed, hit[0]
    raise AssertionError("no seed")


def test_a_spike_is_gone_back_from_and_around(place, poisoned, tmp_path, capsys):
    seed, step = poisoned
    assert main(arguments(place, tmp_path, **{"train.seed": seed, "train.rollbacks": 2})) == 0
    (found,) = json.loads((tmp_path / "result.json").read_text())["rollbacks"]
    start = EVERY * (step // EVERY - 1)
    assert (found["step"], found["start"]) == (step, start)
    assert found["skipped"] == step - start + 1 + SKIP
    said = capsys.readouterr().out
    assert f"step {step + 1}: the loss is" in said and f"going on from step {start}" in said
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    lines = [line for line in lines if "train/loss_nats" in line]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))  # each once
    mean = np.mean([line["train/loss_nats"] for line in lines[20:start]])
    assert max(line["train/loss_nats"] for line in lines[start:]) < mean + 0.7 < found["loss"]


def test_a_second_spike_leaves_out_more(place):
    """The batches of both are left out, and both are remembered."""
    setup = make_setup(place, **{"train.rollbacks": 2})
    session = Session(configs.load_corpus(setup), setup.train)
    spec = make_run(setup, session.corpus)
    state = session.init(spec)
    for step, loss in ((25, 3.0), (47, 4.0)):
        spike = loss_spikes.Spiked(step, loss, state.extra["spikes"])
        state = loss_spikes.after(state, spike, loss_spikes.restart(spec, spike))
    first, second = (25 - 10 + 1 + SKIP), (47 - 30 + 1 + SKIP)
    assert loss_spikes.rollbacks(state) == (
        loss_spikes.Rollback(25, 3.0, 10, first),
        loss_spikes.Rollback(47, 4.0, 30, second),
    )
    assert int(loss_spikes.position(state)) == int(state.step) + first + second


@pytest.mark.parametrize(
    "seen, loss, skipped, bad",
    [
        (20, 2.71, 0, 1),  # above the mean of 2 by more than 0.7
        (20, 2.69, 0, 0),
        (19, 9.0, 0, 0),  # the mean is not known yet
        (0, np.nan, 0, 1),
        (20, np.inf, 0, 1),
        (20, np.inf, 1, 0),  # the optimizer has left it out
    ],
)
def test_what_counts_as_a_spike(seen, loss, skipped, bad):
    zero = np.zeros(0)
    known = loss_spikes.Spikes(np.float32(2.0), np.int32(seen), *(np.int32(0),) * 2, *(zero,) * 4)
    spec = SimpleNamespace(spike_nats=0.7)
    new, found = loss_spikes.observe(spec, known, np.float32(loss), np.int32(skipped))
    assert float(found) == bad
    moved = (loss - 2) / (seen + 1) if np.isfinite(loss) else 0.0
    assert float(new.mean) == pytest.approx(2 + moved, rel=1e-6)
    assert int(new.seen) == seen + bool(np.isfinite(loss))


class Killed(Exception):
    """The end of a process, with nothing saved for it."""


def test_the_same_bits_when_killed(place, poisoned, tmp_path):
    """In every fifth compiled call the run ends without a word and is started again."""
    seed, _ = poisoned
    setup = make_setup(place, **{"train.seed": seed, "train.rollbacks": 2})
    corpus = configs.load_corpus(setup)
    session, spec = Session(corpus, setup.train), make_run(setup, corpus)
    straight = run(session, spec, tmp_path / "a", Hooks())
    calls, ends, gone_back = 0, 0, []

    def die(progress):
        nonlocal calls
        calls += 1
        if calls % 5 == 0:
            raise Killed

    while True:
        try:
            killed = run(
                session, spec, tmp_path / "b", Hooks(progress=die, rollback=gone_back.append)
            )
            break
        except Killed:
            ends += 1
    assert ends >= 2 and gone_back
    assert len(straight.rollbacks) == 1 and killed.rollbacks == straight.rollbacks
    assert killed.params_digest == straight.params_digest
    assert killed.evaluation == straight.evaluation
    assert killed.curve_losses == straight.curve_losses
    assert [step for step, _ in killed.history] == [40, 80]


def test_a_run_that_never_rises_keeps_its_bits(place, poisoned):
    """What watches the loss changes nothing until there is a spike."""
    seed, step = poisoned
    found = []
    for rollbacks in (0, 2):
        setup = make_setup(
            place,
            **{"train.seed": seed, "train.rollbacks": rollbacks, "train.steps": step},
        )
        session = Session(configs.load_corpus(setup), setup.train)
        spec = make_run(setup, session.corpus)
        state, _ = session.advance(spec, session.init(spec), make_hyper(spec), step)
        assert loss_spikes.rollbacks(state) == ()
        found.append((state.params, state.opt_state))
    for one, two in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_array_equal(one, two)


def test_after_the_last_rollback_it_is_an_error(place, tmp_path, capsys):
    changes = {"optim.learning_rate": 1e30, "train.rollbacks": 2}
    assert main(arguments(place, tmp_path, **changes)) == 2
    said = capsys.readouterr()
    assert said.out.count("a spike; going on from step 0") == 2
    assert "after 2 rollbacks; lower optim.learning_rate=1e+30" in said.err


def test_many_runs_have_none(place, tmp_path, capsys):
    assert main(arguments(place, tmp_path, **{"job": "plan", "train.rollbacks": 1})) == 2
    assert "train.rollbacks=1 is for one run, and config.job=plan has many" in (
        capsys.readouterr().err
    )


@pytest.mark.slow
def test_the_same_bits_after_sigkill(place, poisoned, tmp_path):
    changes = {"train.seed": poisoned[0], "train.rollbacks": 2, "train.checkpoint_seconds": 0.01}
    results, kills = [], 0
    for name, targets in (("straight", ()), ("killed", (5, 30, 55))):
        folder = tmp_path / name
        command = [sys.executable, "-m", *arguments(place, folder, **changes)]
        command[2] = "gptjax.main"
        for lines in targets:
            process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL)
            metrics = folder / "metrics.jsonl"
            while process.poll() is None:
                if metrics.exists() and metrics.read_text().count("loss_nats") >= lines:
                    process.kill()
                    kills += process.wait() != 0
                time.sleep(0.002)
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        results.append(json.loads((folder / "result.json").read_text()))
    assert kills >= 2 and len(results[0]["rollbacks"]) == 1
    assert results[0] == results[1]

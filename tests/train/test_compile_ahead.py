"""Programs compiled beside a run are those that the next run would compile itself."""

import threading
import time

import pytest

from gptjax.train import Hooks, Session, StackHooks, TrainConfig, run, run_stack
from gptjax.train.program_cache import Programs


def test_a_run_finds_everything_that_it_needs_and_gives_the_same_bits(corpus, spec, tmp_path):
    own, ahead = Session(corpus, TrainConfig()), Session(corpus, TrainConfig())
    thread = threading.Thread(target=ahead.compile_ahead, args=(spec,))
    thread.start()
    thread.join()
    assert ahead.compile_seconds == 0.0  # nobody waited
    made = len(ahead._programs)
    results = [run(one, spec, tmp_path / str(i), Hooks()) for i, one in enumerate((own, ahead))]
    assert len(ahead._programs) == made == len(own._programs) == 3
    assert results[0].seconds["compile"] > 0.2 > 0.05 > results[1].seconds["compile"]
    assert results[0].params_digest == results[1].params_digest
    assert results[0].evaluation == results[1].evaluation


def test_a_thread_that_compiled_ahead_counts_its_own_compiling_again(corpus, spec, monkeypatch):
    session = Session(corpus, TrainConfig())

    def fails(spec, members):
        assert session._ahead.here
        raise ValueError("no memory")

    monkeypatch.setattr(session, "_compile_all", fails)
    with pytest.raises(ValueError, match="no memory"):
        session.compile_ahead(spec)
    session.init(spec)
    assert session.compile_seconds > 0.0


def test_a_stack_finds_its_program_too(corpus, spec, tmp_path):
    session = Session(corpus, TrainConfig())
    session.compile_ahead(spec, members=2)
    made = len(session._programs)
    heard = {}
    hooks = StackHooks(Hooks(), heard.__setitem__, lambda *lost: None)
    run_stack(session, [spec, spec], tmp_path, hooks)
    assert sorted(heard) == [0, 1] and len(session._programs) == made == 3


def test_two_threads_make_a_program_once():
    programs, made = Programs(), []

    def make():
        made.append(threading.get_ident())
        time.sleep(0.1)
        return "program"

    found = []
    threads = [
        threading.Thread(target=lambda: found.append(programs.get("key", make))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["program"] * 5 and len(made) == 1


def test_a_failure_elsewhere_is_tried_again_here():
    programs, begun = Programs(), threading.Event()

    def fails():
        begun.set()
        time.sleep(0.1)
        raise MemoryError("elsewhere")

    def elsewhere():
        with pytest.raises(MemoryError):
            programs.get("key", fails)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    begun.wait()
    assert programs.get("key", lambda: "mine") == "mine"
    thread.join()
    with pytest.raises(MemoryError, match="here"):
        programs.get("other", lambda: (_ for _ in ()).throw(MemoryError("here")))

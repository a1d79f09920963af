"""What the watchdog counts; that it ends a process is in tests/parallel/test_processes.py."""

import time

from gptjax.train.watchdog import Watchdog


def test_it_speaks_of_the_innermost_phase_with_a_limit():
    said = []
    watch = Watchdog(0.3, said.append)
    time.sleep(0.5)  # no phase
    with watch.phase("steps 1 to 9"):
        with watch.phase("compiling", limited=False):
            time.sleep(0.5)
        time.sleep(0.1)
    assert said == []
    with watch.phase("steps 10 to 19", waits_for=lambda: "it may wait for an all-gather"):
        time.sleep(0.6)
    watch.close()
    (sentence,) = said
    assert "process 0 of 1 on" in sentence and "at steps 10 to 19 for 0 s" in sentence
    assert "it may wait for an all-gather; another process is stopped" in sentence


def test_it_is_off_by_default():
    said = []
    watch = Watchdog(on_hang=said.append)
    with watch.phase("steps 1 to 9"):
        time.sleep(0.1)
    assert said == []

"""Copies of a process: which calls they make, what comes back, and what is made again."""

import os
import pickle
import subprocess
import sys

import pytest

from gptjax.scaling import Form, form_named, positive

CALLS = """
import functools, os, struct, sys, time, warnings
import numpy  # with the threads of its BLAS
from gptjax.errors import UserError
from gptjax.processes import Copy, LostCopy, in_processes, may_copy
from gptjax.threads import in_threads

first = os.getpid()
words = "os.fork() was called. os.fork() is incompatible with multithreaded code"
os.register_at_fork(before=lambda: warnings.warn(words, RuntimeWarning))  # as JAX does

def here(number, seconds=0.05):
    time.sleep(seconds)
    return number, os.getpid()

def refused():
    raise UserError("no law")

def lost_beside():
    time.sleep(0.05)
    if os.getpid() != first:
        os._exit(1)
    return "again"

def unsendable():
    time.sleep(0.05)
    return (lambda: 3)

told, tell = os.pipe()  # of every process, so that a copy's own are seen
calls = [functools.partial(here, i) for i in range(9)]
found = in_processes([*calls, refused], lambda: os.write(tell, struct.pack("<Q", os.getpid())))
os.close(tell)
done = [number for number, in struct.iter_unpack("<Q", os.read(told, 4096))]
assert [number for number, _ in found[:9]] == list(range(9)), found
assert len({process for _, process in found[:9]}) == (COPIES), found
assert isinstance(found[9], UserError) and done == [first] * 10, (found, done)
assert in_processes([lost_beside] * 4) == ["again"] * 4
assert [call() for call in in_processes([unsendable] * 4)] == [3] * 4
try:
    in_processes([functools.partial(here, 0), lambda: 1 / 0, functools.partial(here, 0)])
except ZeroDivisionError:
    print("raised")
with Copy(lambda receive: receive() + 1) as copy:
    copy.send(41)
    assert copy.result() == 42
with Copy(lambda receive: 1 / receive()) as copy:
    copy.send(0)
    try:
        copy.result()
    except ZeroDivisionError:
        print("raised in a copy")
with Copy(lambda receive: os._exit(1)) as copy:
    copy.send(1)
    try:
        copy.result()
    except LostCopy:
        print("lost")
with Copy(lambda receive: {"process": os.getpid()} | receive()) as copy:
    pass
assert os.system("true") == 0
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no copy is left")
"""
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


@pytest.mark.skipif(CORES < 2, reason="needs two cores that this process may use, and Linux")
def test_calls_are_shared_among_copies():
    text = CALLS.replace("(COPIES)", str(min(CORES, 9)))
    command = [sys.executable, "-W", "always", "-c", text]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    said = ["raised", "raised in a copy", "lost", "no copy is left"]
    assert run.stdout.splitlines() == said
    assert run.stderr == ""


def test_a_process_with_other_threads_is_not_copied():
    text = """
import threading, time
from gptjax.processes import in_processes, may_copy
waiting = threading.Event()
threading.Thread(target=waiting.wait, daemon=True).start()
assert not may_copy()
import os
assert set(in_processes([os.getpid] * 4)) == {os.getpid()}
"""
    subprocess.run([sys.executable, "-c", text], check=True, timeout=60)


def test_a_process_with_a_started_jax_is_not_copied():
    """Its threads are none of Python's."""
    text = """
import jax
from gptjax.processes import may_copy
jax.numpy.zeros(1).block_until_ready()
assert not may_copy()
"""
    subprocess.run([sys.executable, "-c", text], check=True, timeout=60)


def test_a_form_is_pickled_by_name():
    form = form_named("chinchilla").tie(beta="alpha").fix(E=1.5)
    again = pickle.loads(pickle.dumps(form))
    assert again == form
    assert again.loss is form_named("chinchilla").loss
    other = Form(
        name="chinchilla",
        equation="L = E",
        columns=("params",),
        parameters=(positive("E"),),
        loss=lambda p, x: p["E"],
    )
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(other)  # the registry has another law of that name

"""The fence of a job that trains one run: refused, waited for, left."""

import os
import subprocess
import sys

import pytest

from gptjax.engines import claimed_run
from gptjax.errors import UserError
from gptjax.files import read_json, write_json
from gptjax.sweeps import Claims, claims
from gptjax.train import Hooks, Superseded


def test_a_run_that_another_command_trains_is_refused(tmp_path):
    with claimed_run.claimed(tmp_path, 60.0), pytest.raises(UserError) as told:  # noqa: SIM117
        with claimed_run.claimed(tmp_path, 60.0):
            raise AssertionError("both train")
    assert f"another command trains in --workdir={tmp_path} (process {os.getpid()}" in str(
        told.value
    )
    with claimed_run.claimed(tmp_path, 60.0):
        pass  # it was given back


def other_machine(folder, pid=1, beat=0):
    owner = {"worker": "other", "host": "elsewhere", "boot": "b", "namespace": "n"}
    write_json(
        folder / "claims" / "run" / "1.json", {**owner, "pid": pid, "started": "1", "beat": beat}
    )


def test_one_of_another_machine_is_refused_when_it_counts(tmp_path, monkeypatch):
    other_machine(tmp_path)
    beats = iter(range(1, 99))
    monkeypatch.setattr(
        claimed_run.time, "sleep", lambda s: other_machine(tmp_path, beat=next(beats))
    )
    with (
        pytest.raises(UserError, match="process 1 of elsewhere"),
        claimed_run.claimed(tmp_path, 60.0),
    ):
        raise AssertionError("both train")


def test_one_of_another_machine_is_waited_for_and_taken_over(tmp_path, capfd):
    other_machine(tmp_path)
    with claimed_run.claimed(tmp_path, 0.5):
        assert read_json(tmp_path / "claims" / "run" / "2.json")["pid"] == os.getpid()
    assert "is taken over after 0.5 s without a sign of life" in capfd.readouterr().err


def test_who_was_taken_over_writes_nothing_and_says_so(tmp_path):
    written = []
    hooks = Hooks(metrics=lambda *a: written.append(a), before_save=lambda: written.append("save"))
    with pytest.raises(UserError, match="another command has taken over the run in"):  # noqa: SIM117
        with claimed_run.claimed(tmp_path, 60.0) as fence:
            fence.around(hooks).metrics(1, {})
            other_machine(tmp_path)
            (tmp_path / "claims" / "run" / "1.json").rename(tmp_path / "claims" / "run" / "2.json")
            for hook in (fence.around(hooks).before_save, fence.around(hooks).stop):
                with pytest.raises(Superseded):
                    hook()
            fence.ask()
    assert written == [(1, {})]


def test_a_save_that_fails_because_the_run_was_taken_over_says_that(tmp_path):
    with pytest.raises(UserError, match="another command has taken over the run in"):  # noqa: SIM117
        with claimed_run.claimed(tmp_path, 60.0):
            (tmp_path / "claims" / "run" / "1.json").unlink()
            raise UserError("cannot save a checkpoint")
    with pytest.raises(UserError, match="cannot save"), claimed_run.claimed(tmp_path, 60.0):
        raise UserError("cannot save a checkpoint")


def test_the_other_processes_of_a_run_do_not_claim_it(tmp_path):
    with claimed_run.claimed(tmp_path, 60.0, first=False) as fence:
        fence.ask()
    assert not (tmp_path / "claims").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="states of processes under /proc")
def test_a_stopped_process_does_not_run(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        state, started = claims.process_state(process.pid)
        assert state not in claims.STOPPED and started == claims.process_start(process.pid)
        owner = {"worker": "other", **claims.place_of_processes(), "pid": process.pid}
        write_json(tmp_path / "claims" / "run" / "1.json", {**owner, "started": started, "beat": 0})
        seen = Claims(tmp_path, stale_seconds=60.0)
        assert seen.runs_here("run")
        process.send_signal(19)  # SIGSTOP
        os.waitpid(process.pid, os.WUNTRACED)
        assert not seen.runs_here("run") and not seen.free("run")
    finally:
        process.kill()
        process.wait()
    assert seen.free("run")

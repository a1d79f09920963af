"""Real processes, SIGKILL at random moments: the same bits as a sweep that never stopped."""

import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from gptjax.engines import local, process
from gptjax.main import main
from gptjax.sweeps import records
from gptjax.train import EXIT_RESUMABLE, Checkpointer

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
COMPARED = ("runs.csv", "curves.csv", "laws.json", "records")
SHORT = {
    "sweep.budgets": "(4e8,1.6e9)",
    "sweep.workers": 1,
    "optim.warmup_steps": 5,
    "fit.starts": 4,
    "fit.e_fixed": 1.0,
}
"""A quarter of the steps by one worker, and a fit that is well conditioned."""
CALM = {**SHORT, "train.checkpoint_seconds": 60}
"""Without a checkpoint on the way: for sweeps that nothing interrupts."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small text, and the arguments of a sweep over it."""
    root = tmp_path_factory.mktemp("kill")
    text = root / "text"
    text.mkdir()
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 6))) for _ in range(300)]
    for i in range(60):
        (text / f"{i}.txt").write_text(" ".join(rng.choices(words, k=400)))
    return root


def arguments(place: Path, workdir: Path, **overrides) -> list[str]:
    settings = {
        "data.source": "text",
        "data.path": place / "text",
        "data.cache_dir": place / "cache",
        "data.heldout_fraction": 0.1,
        "model.depth": 1,
        "model.seq_len": 32,
        "sweep.budgets": "(1e9,6e9)",
        "sweep.widths": "(8,16,24)",
        "sweep.head_width": 8,
        "sweep.rule": "fixed",
        "train.batch_size": 8,
        "train.checkpoint_seconds": 0.01,
        "optim.learning_rate": 1e-2,
        "optim.schedule": "wsd",
        "optim.warmup_steps": 20,
        "fit.resamples": 20,
        "report.formats": "('png',)",
        "report.dpi": 50,
        "fit.diagnostics": False,
        "fit.approaches": "('parametric','envelope')",
        **overrides,
    }
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    experiment = EXPERIMENTS / "chinchilla_sweep.py"
    command = [sys.executable, "-m", "gptjax.main", f"--config={experiment}"]
    return [*command, f"--workdir={workdir}", *flags]


@pytest.fixture(scope="module")
def straight(place):
    """A sweep of six cells that was never interrupted, in this process."""
    with workers_here():
        return finish_here(place, place / "straight", **CALM)


def finish_here(place: Path, workdir: Path, page: bool = False, **settings) -> Path:
    """The sweep with its workers, but planned and fitted in this process.

    Drawing the page takes longer than the rest, and is left out where nobody reads it.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not page:
            patch.setattr("gptjax.report.build", lambda *_, **__: "not drawn")
        assert main(["gptjax", *arguments(place, workdir, **settings)[3:]]) == 0
    return workdir


@contextlib.contextmanager
def workers_here():
    """Workers of this process, for tests of what they leave; to start one takes four seconds."""

    def run(workers: local.Workers, stop) -> int:
        return process.work(workers._folder, "here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local.Workers, "run", run)
        yield


def finish(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def processes_of(workdir: Path) -> list[int]:
    """The main process of a sweep and its workers, found by their command lines."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(f"--workdir={workdir}") in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def kill_all(workdir: Path) -> None:
    for pid in processes_of(workdir):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def started(command: list[str], workdir: Path) -> subprocess.Popen:
    """The command's process, once a worker has begun with its work."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    waited = time.monotonic()
    while process.poll() is None and time.monotonic() - waited < 120:
        if any((workdir / "progress").glob("*.json")):
            break
        time.sleep(0.05)
    return process


def run_with_kills(command: list[str], workdir: Path, kills: int, seed: int) -> int:
    """Start, wait for the work to begin, SIGKILL everything at a random moment; again.

    Returns how many kills hit a sweep that was not finished.
    """
    rng = random.Random(seed)
    hits = 0
    for _ in range(kills):
        process = started(command, workdir)
        time.sleep(rng.uniform(0.0, 1.5))
        hits += process.poll() is None
        kill_all(workdir)
        process.communicate()
        for progress in (workdir / "progress").glob("*.json"):
            progress.unlink()
    return hits


def same_bytes(a: Path, b: Path) -> None:
    for name in COMPARED:
        files = sorted((a / name).iterdir()) if (a / name).is_dir() else [a / name]
        assert files
        for file in files:
            other = b / file.relative_to(a)
            assert file.read_bytes() == other.read_bytes(), f"{file.name} differs"


def check(place: Path, kills: int, seed: int, name: str = "", **overrides) -> None:
    straight, broken = place / f"straight{name}{kills}", place / f"broken{name}{kills}"
    finish(arguments(place, straight, **overrides))
    command = arguments(place, broken, **overrides)
    hits = run_with_kills(command, broken, kills, seed)
    assert hits >= 1, "every kill came too late to interrupt anything"
    finish(command)
    same_bytes(straight, broken)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes under /proc")
def test_a_terminated_command_takes_its_workers_along(place, straight):
    """SIGTERM saves and says that it continues; nothing is left running."""
    workdir = place / "terminated"
    command = arguments(place, workdir, **SHORT)
    process = started(command, workdir)
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75
    assert "the same command continues" in errors
    assert "Traceback" not in errors
    assert not processes_of(workdir)
    finish(command)
    same_bytes(straight, workdir)


def test_a_stopped_command_ends_its_workers():
    """SIGTERM goes on to each, also to one that is stopped; the status says: it continues."""
    sleeping = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    sleeping[1].send_signal(signal.SIGSTOP)
    workers = types.SimpleNamespace(_processes=dict(enumerate(sleeping)))
    try:
        assert local.Workers._stop_all(workers) == EXIT_RESUMABLE
        assert [process.poll() for process in sleeping] == [-signal.SIGTERM] * 2
    finally:
        for process in sleeping:
            process.kill()


@contextlib.contextmanager
def terminated_when_saved():
    """SIGTERM for this process at the first checkpoint of a cell."""
    save = Checkpointer.save

    def and_terminate(*arguments, **settings):
        save(*arguments, **settings)
        patch.undo()
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpointer, "save", and_terminate)
        yield


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes under /proc")
def test_terminated_killed_and_started_again_gives_the_same_bytes(place, straight, capsys):
    """SIGTERM saves and says that it continues; SIGKILL says nothing; then it is finished."""
    workdir = place / "broken"
    with workers_here(), terminated_when_saved():
        assert main(["gptjax", *arguments(place, workdir, **SHORT)[3:]]) == 75
    assert "the same command continues" in capsys.readouterr().err
    assert len(list((workdir / "records").glob("*.json"))) < 6
    assert run_with_kills(arguments(place, workdir, **SHORT), workdir, 1, seed=1), "too late"
    with workers_here():
        finish_here(place, workdir, **SHORT)
    same_bytes(straight, workdir)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes under /proc")
def test_twenty_kills_give_the_same_bytes(place):
    check(place, kills=20, seed=2)


@contextlib.contextmanager
def one_width_is_enough():
    """A sweep of one width writes its tables; it is not refused, and nothing is fitted."""

    def tables_alone(config, folder, cells, reuse):
        records.write_tables(folder, cells, records.read_records(folder, cells))

    with pytest.MonkeyPatch.context() as patch:
        for check in ("gptjax.stages.sweep.check_fit", "gptjax.sweeps.plan._check_identifiable"):
            patch.setattr(check, lambda *_: None)
        patch.setattr("gptjax.stages.fit.fit_and_report", tables_alone)
        yield


STACKED = {
    "optim.schedule": "cosine",
    "optim.warmup_steps": 0,
    "sweep.seeds": "(0,1)",
    "sweep.stack": 3,
}


@pytest.mark.slow
@workers_here()
@one_width_is_enough()
def test_stacked_cells_equal_separate_ones(place, capsys):
    """Two seeds and two lengths of one width, four cells of which three are side by side."""
    settings = {**CALM, **STACKED, "sweep.widths": "(8,)"}
    stacked = finish_here(place, place / "stacked", **settings)
    assert "side by side" in capsys.readouterr().out
    apart = finish_here(place, place / "one-by-one", **{**settings, "sweep.stack": 1})
    assert "side by side" not in capsys.readouterr().out
    equal_tables(stacked, apart, cells=4)
    bundles = [row["bundle"] for row in csv.DictReader((stacked / "timing.csv").open())]
    assert sorted(bundles.count(bundle) for bundle in set(bundles)) == [1, 3]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes under /proc")
def test_stacked_cells_survive_ten_kills(place):
    """By signals; what tests/train and tests/sweeps stop within one process is quick."""
    check(place, 10, 4, "stacked", **STACKED)


@pytest.mark.slow
def test_two_processes_share_a_folder(place, straight):
    """Both end with status 0, and every cell was trained once."""
    workdir = place / "shared"
    other = started(arguments(place, workdir, **CALM), workdir)
    with workers_here():
        finish_here(place, workdir, **CALM)
    output, errors = other.communicate(timeout=400)
    assert other.returncode == 0, output + errors
    same_bytes(straight, workdir)
    assert len(list((workdir / "records").iterdir())) == 6
    assert not list((workdir / "claims").glob("*/*.json"))


@workers_here()
def test_a_shared_trunk_changes_no_byte(place, straight, capsys):
    """Three trunks of two lengths each, and the same six cells each trained from its beginning."""
    workdir = finish_here(place, place / "apart", **CALM, **{"sweep.share_trunks": False})
    same_bytes(straight, workdir)
    assert "lengths share trunks" not in capsys.readouterr().out
    trunks = [row["trunk"] for row in csv.DictReader((straight / "runs.csv").open())]
    assert sorted(trunks.count(trunk) for trunk in set(trunks)) == [2, 2, 2]


EIGHT_CELLS = {
    "sweep.workers": 1,
    "sweep.share_trunks": False,
    "sweep.budgets": "(1e9,2e9)",
    "sweep.widths": "(8,12,16,24)",
    "optim.learning_rate": 2e-3,
    "train.checkpoint_seconds": 5,
}


def on_devices(place: Path, workdir: Path, count: int, **settings) -> list[dict[str, str]]:
    """The sweep of eight cells in one process of so many simulated devices; its timing table."""
    flags = {"GPTJAX_SIMULATED_DEVICES": str(count)}
    done = subprocess.run(
        arguments(place, workdir, **EIGHT_CELLS, **settings),
        env={**os.environ, **flags},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return list(csv.DictReader((workdir / "timing.csv").open()))


@pytest.mark.slow
def test_one_process_trains_on_all_its_devices(place):
    """Eight cells on eight simulated devices: all at one time, with the numbers of one device."""
    workdir, alone = place / "devices", place / "one-device"
    finish(arguments(place, alone, **EIGHT_CELLS))
    rows = on_devices(place, workdir, 8)
    assert len(rows) == len({row["worker"] for row in rows}) == 8
    equal_tables(workdir, alone)
    starts = [float(row["ended"]) - float(row["seconds"]) for row in rows]
    assert max(starts) < min(float(row["ended"]) for row in rows), "they were not at one time"


def equal_tables(one: Path, other: Path, cells: int = 8) -> None:
    """The same cells with the same losses, to what training makes of a last digit."""
    tables = [list(csv.DictReader((folder / "runs.csv").open())) for folder in (one, other)]
    assert len(tables[0]) == cells
    for here, there in zip(*tables, strict=True):
        assert here["cell"] == there["cell"] and here["status"] == there["status"] == "done"
        assert float(here["loss"]) == pytest.approx(float(there["loss"]), rel=1e-3)


@pytest.mark.slow
def test_large_cells_get_several_devices_and_small_ones_one(place):
    """On four simulated devices the two widest cells are cut over two each, side by side."""
    workdir, alone = place / "submesh", place / "one-each"
    finish(arguments(place, alone, **EIGHT_CELLS))
    # Between the estimates for width 16 (1.96 MB) and for width 24 (2.39 MB).
    rows = on_devices(place, workdir, 4, **{"sweep.device_gb": 2.2e6 / 2**30})
    widths = {row["cell"]: row["width"] for row in csv.DictReader((workdir / "runs.csv").open())}
    wide = {row["worker"] for row in rows if widths[row["cell"]] == "24"}
    assert {name.rpartition(".")[2] for name in wide} == {"0", "1"}  # two groups of two
    narrow = {row["worker"] for row in rows if widths[row["cell"]] != "24"}
    assert {name.rpartition(".")[2] for name in narrow} == {"0", "1", "2", "3"}
    equal_tables(workdir, alone)


def wait_for_worker(workdir: Path) -> int:
    """The process number of a worker that holds a cell."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for claim in (workdir / "claims").glob("*/*.json"):
            try:
                return json.loads(claim.read_text())["pid"]
            except (OSError, ValueError):
                continue
        time.sleep(0.05)
    raise AssertionError("no worker took a cell")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes under /proc")
def test_a_killed_worker_is_replaced_and_its_cell_done_or_failed(place):
    """By real workers; tests/engines/test_replaced_worker.py has processes that only sleep."""
    workdir = place / "replaced"
    settings = {"sweep.attempts": 1}
    killer = threading.Thread(target=lambda: os.kill(wait_for_worker(workdir), signal.SIGKILL))
    killer.start()
    finish_here(place, workdir, **CALM, **settings)
    killer.join()
    records = [json.loads(path.read_text()) for path in (workdir / "records").iterdir()]
    failed = [record for record in records if record["status"] == "failed"]
    assert len(records) == 6 and len(failed) == 1
    assert "status -9" in failed[0]["reason"]
    left_out = json.loads((workdir / "laws.json").read_text())["left_out"]
    assert [entry["cell"] for entry in left_out] == [failed[0]["cell"]]

"""job=sweep: plan, train every cell in worker processes, collect, fit, report."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptjax import build, sweeps
from gptjax.build import Setup
from gptjax.data import Corpus
from gptjax.errors import UserError
from gptjax.files import write_json
from gptjax.jobs import fit, plan, ray_tasks, tuned, workdir
from gptjax.jobs.display import Display
from gptjax.sweeps import Bundle, Cell, records
from gptjax.train import EXIT_RESUMABLE, stop_on_signal

POLL_SECONDS = 0.25
USER_ERROR_STATUS = 2


def main(setup: Setup, folder: Path) -> int:
    """Run the whole journey; started again, it does what is missing."""
    corpus = build.load_corpus(setup)
    if setup.sweep.tune:
        from gptjax.jobs import tune  # which trains with the workers below

        found = tune.find(setup, folder, corpus)
        if isinstance(found, int):
            return found
        setup = tuned.applied(setup, found)
    cells = plan.make_cells(setup, corpus)
    left = records.open_cells(folder, cells)
    if left:
        reach_engine(setup)
    workdir.open_workdir(setup, folder)
    left = records.open_cells(folder, cells)
    write_json(folder / "corpus.json", corpus_facts(setup, corpus))
    if left:
        plan.print_plan(setup, cells)
        status = train(setup, folder, cells)
        if status != 0:
            return status
    else:
        print(f"all {len(cells)} cells are done in {folder}")
    fit.fit_and_report(setup, folder, cells, reuse=not left)
    return 0


def reach_engine(setup: Setup) -> None:
    """Refuse an engine that is not there, before anything is written."""
    if setup.sweep.engine == "ray":
        ray_tasks.connect(setup)


def train(setup: Setup, folder: Path, cells: Sequence[Cell]) -> int:
    """Train every cell without a record by the engine of the config; returns the exit status."""
    if setup.sweep.engine == "local":
        return train_here(setup, folder, cells)
    return _keep_going(ray_tasks.Tasks(setup, folder, cells))


def train_here(setup: Setup, folder: Path, cells: Sequence[Cell]) -> int:
    """The same by processes of this machine."""
    return _keep_going(Workers(setup, folder, cells))


def _keep_going(engine: Any) -> int:
    with stop_on_signal() as stop:
        status = engine.run(stop)
    if status == EXIT_RESUMABLE:
        print("stopped; the same command continues from here", file=sys.stderr)
    return status


def corpus_facts(setup: Setup, corpus: Corpus) -> dict[str, str]:
    """What the report says of the tokens."""
    facts = {
        "corpus": f"{setup.data.source} {corpus.fingerprint[:12]}",
        "train tokens": f"{len(corpus.train):,}",
        "held-out tokens": f"{len(corpus.heldout):,}",
        "bytes per token": f"{corpus.bytes_per_token:.4g}",
    }
    if corpus.entropy_nats is not None:
        facts["exact entropy, nats per token"] = f"{corpus.entropy_nats:.6f}"
    return facts


class Workers:
    """The worker processes of this machine and what becomes of them."""

    def __init__(self, setup: Setup, folder: Path, cells: Sequence[Cell]) -> None:
        self._setup, self._folder = setup, folder
        self._bundles = plan.make_bundles(setup, cells)
        self._processes: dict[str, subprocess.Popen] = {}
        self._crashes: Counter[str] = Counter()

    def run(self, stop) -> int:
        """Keep the workers going until every cell has a record; returns the exit status."""
        sweeps.forget_dead(self._folder, self._setup.sweep.claim_seconds)
        display = Display(self._setup, self._folder, self._bundles)
        left = self._open_bundles()
        for i in range(plan.worker_count(self._setup, left) if left else 0):
            self._start(i)
        try:
            with display:
                while self._processes:
                    if stop.wait(POLL_SECONDS):
                        return self._stop_all()
                    display.update()
                    self._reap()
        except BaseException:
            self._stop_all()
            raise
        return 0

    def _open_bundles(self) -> list[Bundle]:
        return [
            bundle for bundle in self._bundles if records.open_cells(self._folder, bundle.cells)
        ]

    def _start(self, index: int) -> None:
        name = f"{os.uname().nodename}-{os.getpid()}-{index}"
        command = [
            sys.executable,
            "-m",
            "gptjax.jobs.work",
            f"--workdir={self._folder}",
            f"--name={name}",
            *self._pin(index),
        ]
        log = self._folder / "logs" / f"worker-{index}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            # A session of its own: Ctrl-C reaches this process, which tells the workers once.
            self._processes[name] = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
            )

    def _pin(self, index: int) -> list[str]:
        if not plan.only_cpu(self._setup):
            return []
        return [f"--core={index}"]

    def _reap(self) -> None:
        """Notice workers that ended: done, a user's error, or a crash that is tried again."""
        for name, process in list(self._processes.items()):
            status = process.poll()
            if status is None:
                continue
            del self._processes[name]
            if status == 0:
                fit.preload()  # on the core that this worker left
            if status == USER_ERROR_STATUS:
                raise UserError(self._last_words(name))
            if status != 0:
                self._crashed(name, process.pid, status)

    def _crashed(self, name: str, pid: int, status: int) -> None:
        """Start a replacement, or record the cell as failed when it has crashed too often."""
        claims = sweeps.Claims(self._folder, stale_seconds=self._setup.sweep.claim_seconds)
        name_of_claim = next(iter(claims.held_by(pid)), "")
        for progress in (self._folder / "progress").glob(f"{name}.*json"):
            progress.unlink(missing_ok=True)
        bundle = next((one for one in self._bundles if one.name == name_of_claim), None)
        left = records.open_cells(self._folder, bundle.cells) if bundle else []
        culprit = left[0].id if left else ""
        self._crashes[culprit] += 1
        if self._crashes[culprit] >= self._setup.sweep.attempts:
            reason = f"its worker process ended with status {status}" + (
                " (killed, perhaps for memory)" if status == -9 else ""
            )
            if not left:
                log = self._folder / "logs" / f"worker-{_index(name)}.log"
                raise UserError(f"the worker processes cannot start ({reason}); see {log}")
            records.write_failed(self._folder, left[0], reason)
        if self._open_bundles():
            self._start(_index(name))

    def _last_words(self, name: str) -> str:
        log = self._folder / "logs" / f"worker-{_index(name)}.log"
        lines = [line for line in log.read_text().splitlines() if line.startswith("gptjax: ")]
        return lines[-1].removeprefix("gptjax: ") if lines else f"a worker failed; see {log}"

    def _stop_all(self) -> int:
        """Tell every worker to save and end, and wait for them."""
        for process in self._processes.values():
            process.terminate()
        deadline = time.monotonic() + 60.0
        for process in self._processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return EXIT_RESUMABLE


def _index(name: str) -> int:
    return int(name.rpartition("-")[2])

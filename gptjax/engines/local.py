"""sweep.engine=local: worker processes of this machine, one on each CPU core or one in all."""

import importlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from gptjax.config import Config
from gptjax.engines import cores
from gptjax.engines.display import Display
from gptjax.engines.retries import Retries
from gptjax.engines.worker import forget_dead
from gptjax.errors import UserError
from gptjax.sweeps import Bundle, Claims, records
from gptjax.train import EXIT_RESUMABLE

POLL_SECONDS = 0.25
USER_ERROR_STATUS = 2


def connect(config: Config) -> None:
    """Nothing to reach: the processes are this machine's."""


def sharer(address: str, section: str) -> None:
    """Tasks of other work: that work's own processes do them."""


def on_workers(config: Config) -> Config:
    """The config as the workers have it."""
    return config


class Workers:
    """The worker processes of this machine and what becomes of them."""

    def __init__(self, config: Config, folder: Path, bundles: Sequence[Bundle]) -> None:
        self._config, self._folder, self._bundles = config, folder, bundles
        self._processes: dict[str, subprocess.Popen] = {}
        self._retries = Retries(folder, config.sweep.attempts)
        self._apart = uuid.uuid4().hex[:4]  # from the same number in another container

    def run(self, stop) -> int:
        """Keep the workers going until every cell has a record; returns the exit status."""
        forget_dead(self._folder, self._config.sweep.claim_seconds)
        display = Display(self._config, self._folder, self._bundles)
        left = self._open_bundles()
        for i in range(cores.worker_count(self._config, left) if left else 0):
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
        name = f"{os.uname().nodename}-{os.getpid()}-{self._apart}-{index}"
        command = [
            sys.executable,
            "-m",
            "gptjax.engines.process",
            f"--workdir={self._folder}",
            f"--name={name}",
            *self._pin(index),
            *self._experiment(),
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
        if not cores.only_cpu(self._config):
            return []
        return [f"--core={index}"]

    def _experiment(self) -> list[str]:
        name = self._config.experiment_file
        return [f"--experiment={name}"] if name else []

    def _reap(self) -> None:
        """Notice workers that ended: done, a user's error, or a crash that is tried again."""
        for name, process in list(self._processes.items()):
            status = process.poll()
            if status is None:
                continue
            del self._processes[name]
            if status == 0:
                _preload()  # on the core that this worker left
                if not self._open_bundles():
                    self._stop_all()  # a worker that would not end by itself: stopped, or it hangs
                    return
            if status == USER_ERROR_STATUS:
                raise UserError(self._last_words(name))
            if status != 0:
                self._crashed(name, process.pid, status)

    def _crashed(self, name: str, pid: int, status: int) -> None:
        """Start a replacement, or record the cell as failed when it has crashed too often."""
        claims = Claims(self._folder, stale_seconds=self._config.sweep.claim_seconds)
        name_of_claim = next(iter(claims.held_by(pid)), "")
        for progress in (self._folder / "progress").glob(f"{name}.*json"):
            progress.unlink(missing_ok=True)
        bundle = next((one for one in self._bundles if one.name == name_of_claim), None)
        left = records.open_cells(self._folder, bundle.cells) if bundle else []
        killed = " (killed, perhaps for memory)" if status == -9 else ""
        reason = f"its worker process ended with status {status}{killed}"
        if self._retries.crashed(left[0] if left else None, reason) and not left:
            log = self._folder / "logs" / f"worker-{_index(name)}.log"
            raise UserError(f"the worker processes cannot start ({reason}); see {log}")
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
            process.send_signal(signal.SIGCONT)  # a stopped one hears nothing else
        deadline = time.monotonic() + 60.0
        for process in self._processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        return EXIT_RESUMABLE


def _index(name: str) -> int:
    return int(name.rpartition("-")[2])


def _preload() -> None:
    """Import what figures need and is long to import."""
    for name in ("gptjax.report.html", "matplotlib.backends.backend_pdf"):
        importlib.import_module(name)

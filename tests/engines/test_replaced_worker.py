"""A worker that was killed: another in its place, and its cell failed when it was tried enough."""

import os
import signal
import subprocess

from gptjax import config as configs
from gptjax.engines import local
from gptjax.experiment import override
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.sweeps import Bundle, Cell, Claims, records
from gptjax.train import RunSpec

MODEL = ModelConfig(depth=1, width=8, num_heads=1, seq_len=16, vocab_size=257)


class Sleeping(local.Workers):
    """Workers that claim the first open cell and do nothing for it."""

    def _start(self, index: int) -> None:
        process = subprocess.Popen(["sleep", "600"])
        self._processes[f"here-{index}"] = process
        left = self._open_bundles()[0]
        claims = Claims(self._folder, stale_seconds=60.0)
        owner = claims._owner
        claims._owner = lambda: {**owner(), "pid": process.pid, "started": "1"}
        assert claims.take(left.name)

    def kill(self) -> int:
        """SIGKILL for the only worker, which is noticed; its process number."""
        (process,) = self._processes.values()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        self._reap()
        return process.pid


def test_a_killed_worker_is_replaced_and_its_cell_failed_after_its_attempts(tmp_path):
    runs = [
        RunSpec(model=MODEL, optim=OptimConfig(), batch_size=4, steps=10, seed=seed)
        for seed in (1, 2)
    ]
    cells = [Cell(run=run, corpus="c", budget=1e9) for run in runs]
    values = override(configs.default_config().to_dict(), [("sweep.attempts", "2")])
    config = configs.make_config(values)
    workers = Sleeping(config, tmp_path, [Bundle(cell.id, (cell,)) for cell in cells])
    try:
        workers._start(0)
        first = workers.kill()
        assert records.open_cells(tmp_path, cells) == cells  # tried again
        assert list(workers._processes) == ["here-0"]
        assert workers.kill() != first
        assert records.open_cells(tmp_path, cells) == cells[1:]
        (failed,) = records.read_records(tmp_path, cells[:1])
        assert failed["status"] == "failed" and "status -9" in failed["reason"]
        assert list(workers._processes) == ["here-0"]  # for the other cell
    finally:
        assert workers._stop_all()

"""job=work: join a sweep's folder with this machine's workers."""

from pathlib import Path

from gptjax.config import Config, load_corpus
from gptjax.engines import run, workdir
from gptjax.engines.cells import make_cells
from gptjax.errors import UserError
from gptjax.job import Job
from gptjax.stages import tuned


def main(config: Config, folder: Path) -> int:
    """Start this machine's workers on the cells of `folder`; ends when all have records."""
    config = tuned.resolved(config, _existing(folder))
    workdir.open_workdir(config, folder)
    cells = make_cells(config, load_corpus(config))
    return run.train_here(config, folder, cells)


def _existing(folder: Path) -> Path:
    if not (folder / "config.json").exists():
        raise UserError(f"--workdir={folder} holds no sweep to join; start job=sweep there first")
    return folder


JOB = Job(main, many_runs=True, trains=True)

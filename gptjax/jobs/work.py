"""job=work: join a sweep's folder with this machine's workers."""

from pathlib import Path

from gptjax.config import Config, load_corpus
from gptjax.engines import run, workdir
from gptjax.engines.cells import has_plan, make_cells, make_plan, read_plan, write_plan
from gptjax.errors import UserError
from gptjax.job import Job
from gptjax.stages import tuned


def main(config: Config, folder: Path) -> int:
    """Start this machine's workers on the plan of `folder`; ends when all cells have records."""
    if not (folder / "config.json").exists():
        raise UserError(f"--workdir={folder} holds no sweep to join; start job=sweep there first")
    config = tuned.resolved(config, folder)
    workdir.open_workdir(config, folder)
    if not has_plan(folder):
        write_plan(folder, make_plan(config, make_cells(config, load_corpus(config))))
    return run.join(config, folder, read_plan(folder))


JOB = Job(main, many_runs=True, trains=True)

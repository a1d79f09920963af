"""job=fit: collect the tables of a sweep, fit the laws, write laws.json and the report."""

from pathlib import Path

from gptjax.config import Config, load_corpus
from gptjax.engines import workdir
from gptjax.engines.cells import has_plan, make_cells, read_plan
from gptjax.job import Job
from gptjax.stages import tuned
from gptjax.stages.fit import fit_and_report


def main(config: Config, folder: Path) -> int:
    """Refit what is there with the `fit` section of the config."""
    config = tuned.resolved(config, folder)
    made_by = workdir.saved_config(folder)
    workdir.open_workdir(config, folder)
    if has_plan(folder):
        cells = read_plan(folder).cells
    else:
        cells = tuple(make_cells(made_by, load_corpus(made_by)))
    fit_and_report(config, folder, cells)
    return 0


JOB = Job(main)

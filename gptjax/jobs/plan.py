"""job=plan: print which cells a sweep would train, and stop."""

from pathlib import Path

from gptjax.config import Config, load_corpus
from gptjax.data import Corpus
from gptjax.engines.cells import make_cells
from gptjax.job import Job
from gptjax.report.numbers import duration_text
from gptjax.stages import tuned
from gptjax.stages.plan import print_plan
from gptjax.stages.tune import trials_of
from gptjax.stages.variants import folder_name, variants


def main(config: Config, folder: Path) -> int:
    """Print the plan; nothing is trained and nothing is written but the token cache.

    Where a terminal is too narrow for the table, `plan.csv` is written too. In a folder that was
    tuned, with what the tuning found.
    """
    corpus = load_corpus(config)
    if config.compare.sweeps:
        return _print_variants(config, folder, corpus)
    config = tuned.resolved(config, folder)
    print_plan(config, make_cells(config, corpus), folder)
    if config.sweep.tune:
        runs = len(trials_of(config, corpus))
        print(f"before them {runs} runs tune the learning rate (--config.job=tune), more if needed")
    return 0


def _print_variants(config: Config, folder: Path, corpus: Corpus) -> int:
    """The plan of every sweep of a comparison, and the time of all."""
    total = 0.0
    for label, variant in variants(config).items():
        print(f"sweep of {label}")
        place = folder / folder_name(label)
        variant = tuned.resolved(variant, place)
        total += print_plan(variant, make_cells(variant, corpus), place)
    print(f"all sweeps: predicted {duration_text(total)}")
    return 0


JOB = Job(main, many_runs=True, writes=False)

"""A whole sweep: plan, train every cell in worker processes, collect, fit, report."""

from pathlib import Path

from gptjax.config import Config, load_corpus
from gptjax.data import Corpus
from gptjax.engines import cells as planned
from gptjax.engines import run, workdir
from gptjax.files import write_json
from gptjax.stages import fit, plan, tune, tuned
from gptjax.stages.fit_checks import check_fit, check_forms
from gptjax.sweeps import records


def run_sweep(config: Config, folder: Path) -> int:
    """Run the whole journey; started again, it does what is missing."""
    check_forms(config.fit)
    corpus = load_corpus(config)
    check_fit(config.fit, planned.make_cells(config, corpus))
    if config.sweep.tune:
        found = tune.find(config, folder, corpus)
        if isinstance(found, int):
            return found
        config = tuned.applied(config, found)
    cells = planned.make_cells(config, corpus)
    left = records.open_cells(folder, cells)
    if left:
        run.reach_engine(config)
    workdir.open_workdir(config, folder, cells)
    if config.sweep.retry_failed:
        records.set_failed_aside(folder, cells)
    left = records.open_cells(folder, cells)
    write_json(folder / "corpus.json", corpus_facts(config, corpus))
    if left:
        plan.print_plan(config, cells, folder)
        status = run.train(config, folder, cells)
        if status != 0:
            return status
    else:
        print(f"all {len(cells)} cells are done in {folder}")
    fit.fit_and_report(config, folder, cells, reuse=not left)
    return 0


def corpus_facts(config: Config, corpus: Corpus) -> dict[str, str]:
    """The report's facts about the tokens."""
    labels = [part.label for part in corpus.parts]
    facts = {
        "corpus": f"{' + '.join(labels) or config.data.source} {corpus.fingerprint[:12]}",
        "train tokens": f"{len(corpus.train):,}",
        "held-out tokens": f"{len(corpus.heldout):,}",
        "bytes per token": f"{corpus.bytes_per_token:.4g}",
    }
    if corpus.entropy_nats is not None:
        facts["exact entropy, nats per token"] = f"{corpus.entropy_nats:.6f}"
    return facts

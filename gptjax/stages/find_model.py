"""The model that a job is asked for: a folder's, a sweep's best cell, or a small one trained now.

Cells of a sweep keep no parameters, so the best one is trained again, to the same bits; both kinds
stay in the workdir, and the next call finds them.
"""

import dataclasses
from pathlib import Path
from typing import Any

from gptjax import infer, models
from gptjax.config import Config, enable_compilation_cache, load_corpus, make_run
from gptjax.convert import own_folder
from gptjax.data import Corpus
from gptjax.engines import cells as planned
from gptjax.engines import workdir
from gptjax.errors import UserError
from gptjax.files import user_path
from gptjax.sweeps import Cell, records
from gptjax.train import Diverged, Hooks, RunSpec, Session, make_layout, run

SMALL = "small"
"""Where in the workdir the model lies that is trained when none is named."""


def find(config: Config, place: str, folder: Path) -> infer.Model:
    """The model of `place`, ready to generate.

    Args:
      place: a folder of `convert.load`'s, one of a sweep, or "": the model of the config's own
        sections.
      folder: the workdir, for models that are trained here.

    Raises:
      UserError: where there is no model and none can be trained.
    """
    if not place:
        return infer.load(_small(config, folder / SMALL))
    source = user_path(place)
    if planned.has_plan(source) and (source / "records").is_dir():
        return infer.load(_best_cell(source, folder))
    return infer.load(source)


def _small(config: Config, folder: Path) -> Path:
    """The folder of the model that the config describes, trained if it is not there."""
    corpus = load_corpus(config)
    spec = make_run(config, corpus)
    if not own_folder.has_params(folder / own_folder.MODEL):
        count = models.count_params(spec.model).total
        print(
            f"no model is named: training one of {count:,} parameters on "
            f"{spec.tokens:,} tokens of {config.data.source} first, about a minute on two cores",
            flush=True,
        )
    return trained(config, corpus, spec, folder)


def _best_cell(source: Path, folder: Path) -> Path:
    """The folder of a sweep's cell with the lowest held-out loss, trained if it is not there."""
    made_by = workdir.saved_config(source)
    cells = planned.read_plan(source).cells
    done = [(record["loss"], cell) for cell, record in _done(source, cells)]
    if not done:
        raise UserError(f"{source} holds a sweep none of whose cells is done; run it")
    loss, best = min(done, key=lambda pair: (pair[0], pair[1].id))
    place = folder / f"cell-{best.id}"
    if not own_folder.has_params(place / own_folder.MODEL):
        print(
            f"{source}: the best cell is {best.id} with {loss:.4f} nats per token; cells keep no "
            f"parameters, so it is trained again ({best.run.tokens:,} tokens)",
            flush=True,
        )
    return trained(made_by, load_corpus(made_by), best.run, place)


def _done(source: Path, cells: tuple[Cell, ...]) -> list[tuple[Cell, dict[str, Any]]]:
    found = [
        (cell, records.read_record(source, cell))
        for cell in cells
        if records.has_record(source, cell)
    ]
    return [(cell, record) for cell, record in found if record.get("loss") is not None]


def trained(config: Config, corpus: Corpus, spec: RunSpec, folder: Path) -> Path:
    """A run's folder with its model in it."""
    if own_folder.has_params(folder / own_folder.MODEL):
        return folder
    enable_compilation_cache(config)

    def keep(params: Any) -> None:
        own_folder.describe_run(folder, spec.model, config.data, corpus)
        own_folder.save_params(folder / own_folder.MODEL, params)

    session = Session(corpus, config.train, lambda spec: make_layout(config.mesh, spec))
    try:
        run(session, spec, folder, dataclasses.replace(Hooks(), finished=keep))
    except Diverged as error:
        raise UserError(
            f"{error}; lower optim.learning_rate={spec.optim.learning_rate:g}"
        ) from error
    return folder

"""Cells and bundles of a config: what workers train, and how they take it."""

import dataclasses
from collections.abc import Sequence

from gptjax import sweeps
from gptjax.config import Config, make_model, make_run
from gptjax.data import Corpus
from gptjax.engines.cores import only_cpu
from gptjax.sweeps import Bundle, Cell, Member, Trial

STACK_ON_ACCELERATORS = 16


def make_cells(config: Config, corpus: Corpus) -> list[Cell]:
    """The cells of a config on a corpus."""
    if config.general.job == "compare":
        return [member.cell for member in make_members(config, corpus)]
    if config.general.job == "tune":
        return [trial.cell for trial in make_trials(config, corpus)]
    return sweeps.make_plan(
        config.sweep,
        make_model(config, corpus),
        config.optim,
        config.train,
        corpus.fingerprint,
        mask_end_of_document=corpus.mask_end_of_document,
    )


def make_members(config: Config, corpus: Corpus) -> list[Member]:
    """The runs of a comparison on a corpus."""
    base = make_run(config, corpus)
    return sweeps.make_comparison(config.compare, base, corpus.fingerprint)


def make_trials(config: Config, corpus: Corpus) -> list[Trial]:
    """The runs of a tuning on a corpus."""
    return sweeps.make_trials(
        config.sweep,
        make_model(config, corpus),
        config.optim,
        config.train,
        corpus.fingerprint,
        mask_end_of_document=corpus.mask_end_of_document,
    )


def make_bundles(config: Config, cells: Sequence[Cell]) -> list[Bundle]:
    """The cells as workers take them."""
    stack = config.sweep.stack or (1 if only_cpu(config) else STACK_ON_ACCELERATORS)
    return sweeps.make_bundles(dataclasses.replace(config.sweep, stack=stack), config.train, cells)

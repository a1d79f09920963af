"""Jobs: what `config.job` may name, each a value in a file of its own.

A file says `JOB = Job(main, ...)`, and the table below says where it is; it is imported when its
settings are first asked for, so that a wrong flag is told at once. What is slow to import and only
one job needs is imported inside that job's functions.
"""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

JOBS: dict[str, str] = {
    "sweep": "gptjax.jobs.sweep",
    "plan": "gptjax.jobs.plan",
    "work": "gptjax.jobs.work",
    "fit": "gptjax.jobs.fit",
    "report": "gptjax.jobs.report",
    "train": "gptjax.jobs.train",
    "fit_table": "gptjax.jobs.fit_table",
    "forecast": "gptjax.jobs.forecast",
    "predict": "gptjax.jobs.predict",
    "task_ladder": "gptjax.jobs.task_ladder",
    "precision_law": "gptjax.jobs.precision_law",
    "mixture_law": "gptjax.jobs.mixture_law",
    "mixture_sweep": "gptjax.jobs.mixture_sweep",
    "clean": "gptjax.jobs.clean",
    "compare": "gptjax.jobs.compare",
    "convert": "gptjax.jobs.convert",
    "sample": "gptjax.jobs.sample",
    "rag": "gptjax.jobs.rag",
    "evaluate": "gptjax.jobs.evaluate",
    "memorization": "gptjax.jobs.memorization",
    "context_extension": "gptjax.jobs.context_extension",
    "compress": "gptjax.jobs.compress",
    "decompress": "gptjax.jobs.decompress",
    "quantize": "gptjax.jobs.quantize",
    "finetune": "gptjax.jobs.finetune",
    "align": "gptjax.jobs.align",
    "align_task": "gptjax.jobs.align_task",
    "reward_overoptimization": "gptjax.jobs.reward_overoptimization",
    "finetuning_transfer": "gptjax.jobs.finetuning_transfer",
    "caption": "gptjax.jobs.caption",
    "ensemble": "gptjax.jobs.ensemble",
    "compile": "gptjax.jobs.compile",
    "plan_mesh": "gptjax.jobs.plan_mesh",
    "tune": "gptjax.jobs.tune",
    "compare_sweeps": "gptjax.jobs.compare_sweeps",
    "serve": "gptjax.jobs.serve",
    "test_time_compute": "gptjax.jobs.test_time_compute",
}
"""The module of each job; another package adds its own with `register`."""


def _anything(config: Any) -> None:
    """The check of a job that can do every config."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a job does, and what a config must have for it.

    Attributes:
      main: does it, with the config and the workdir; returns the exit status.
      settings: the dataclass of its own section, `config.<name of the job>`, if it has one.
      check: refuses a config that it cannot do, before anything is read or written.
      one_run: whether the `train` section describes its run.
      many_runs: whether it plans or trains the cells of a sweep or comparison.
      trains: whether it needs the device of the config.
      writes: whether it writes into its workdir.
      chooses_type: whether it replaces model.compute_dtype=auto by what suits the device.
    """

    main: Callable[[Any, Path], int]
    settings: type | None = None
    check: Callable[[Any], None] = _anything
    one_run: bool = False
    many_runs: bool = False
    trains: bool = False
    writes: bool = True
    chooses_type: bool = False


def register(name: str, module: str) -> None:
    """Let `config.job` name a job of another package: `module` has a Job called JOB."""
    JOBS[name] = module


def find(name: str) -> Job:
    """The job of that name."""
    return importlib.import_module(JOBS[name]).JOB


def settings() -> dict[str, type]:
    """The sections that belong to one job each, by the job's name."""
    found = {name: find(name).settings for name in JOBS}
    return {name: cls for name, cls in found.items() if cls is not None}

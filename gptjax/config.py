"""The configuration: sections as checked dataclasses, and the corpus, model and run they name.

The only reader of a ConfigDict.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from gptjax import data, job, models, optim
from gptjax.accelerators import ACCELERATORS
from gptjax.cost.walltime import MachineConfig
from gptjax.data import Corpus, cache, mixture
from gptjax.data.config import DataConfig
from gptjax.errors import UserError, nearest
from gptjax.fields import make, setting
from gptjax.files import user_path
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.parallel import MeshConfig
from gptjax.report.config import ReportConfig
from gptjax.scaling.config import FitConfig
from gptjax.sweeps.compare import CompareConfig
from gptjax.sweeps.config import SweepConfig
from gptjax.train import RunSpec, TrainConfig, batch_warmup, transfer_width
from gptjax.train.pictured import check_pictures


@dataclasses.dataclass(frozen=True)
class General:
    """The keys at the top of a config."""

    job: str = setting("sweep", "the job to run", choices=job.JOBS)
    experiment: str = setting("experiment", "name; the workdir defaults to runs/<experiment>")
    model_folder: str = setting(
        "", "folder of the model that a job tunes: a run's, a converted one, Hugging Face's"
    )
    distributed: bool = setting(
        False,
        "join the processes of all hosts, found by the variables of a TPU pod, SLURM or GKE, or by "
        "GPTJAX_COORDINATOR, GPTJAX_PROCESSES and GPTJAX_PROCESS",
    )
    device: str = setting(
        "auto", "where to compute; auto = the best there is", choices=("auto", "cpu", *ACCELERATORS)
    )
    compilation_cache: str = setting(
        "auto",
        "folder of compiled programs; auto = $JAX_COMPILATION_CACHE_DIR, or beside the token "
        "cache; off = none",
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole config as dataclasses, each checked on its own and against the others."""

    general: General = dataclasses.field(metadata={"identity": ""})
    data: DataConfig
    model: ModelConfig
    optim: OptimConfig
    train: TrainConfig
    mesh: MeshConfig
    sweep: SweepConfig
    compare: CompareConfig
    fit: FitConfig
    report: ReportConfig
    machine: MachineConfig
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict, metadata={"identity": None})
    """The settings of each job that has its own, by the job's name."""
    experiment_file: str = dataclasses.field(default="", metadata={"identity": None})
    """The experiment of the command, FILE or FILE:TEXT: worker processes run it too, because it may
    register sources, mixers and other choices."""


SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "model": ModelConfig,
    "optim": OptimConfig,
    "train": TrainConfig,
    "mesh": MeshConfig,
    "sweep": SweepConfig,
    "compare": CompareConfig,
    "fit": FitConfig,
    "report": ReportConfig,
    "machine": MachineConfig,
}
"""The sections of the rooms; jobs add their own."""

MOVED = {
    "table": "fit_table.table",
    "forms": "fit.forms",
    "laws": "predict.laws",
    "flops": "predict.flops",
    "target": "compile.target",
    "compiled": "plan_mesh.compiled",
}
"""Keys that were at the top of a config, and where they are now."""


MOST_EXAMPLES = 1 << 32
"""Of a run on a mixture: they are numbered in 32 bits."""

LONGEST_NAME = 255
"""Bytes of a file's name, on all common file systems."""


def sections() -> dict[str, type]:
    """Every section of a config: those of the rooms, then those of single jobs."""
    return SECTIONS | job.settings()


def default_config() -> ConfigDict:
    """Every setting with its default; an experiment changes what it is about."""
    config = ConfigDict(dataclasses.asdict(General()))
    for name, cls in sections().items():
        config[name] = ConfigDict(dataclasses.asdict(cls()))
    return config.lock()


def make_config(values: Mapping[str, Any]) -> Config:
    """Check a ConfigDict or plain mapping and turn it into dataclasses.

    Raises:
      UserError: for unknown keys, wrong types, values out of their limits or in conflict.
    """
    values = values.to_dict() if isinstance(values, ConfigDict) else dict(values)
    known, places, general = [f.name for f in dataclasses.fields(General)], sections(), {}
    for name, value in values.items():
        if name in places:
            if not isinstance(value, Mapping):
                raise UserError(f"config.{name}={value!r} is a section; set config.{name}.<key>")
        elif name in known:
            general[name] = value
        else:
            raise UserError(f"config.{name} is not a setting; {hint(name, [*known, *places])}")
    made = {name: make(cls, values.get(name, {}), name) for name, cls in places.items()}
    rooms = {name: made.pop(name) for name in SECTIONS}
    config = Config(general=make(General, general, "config"), **rooms, own=made)
    _check_together(config)
    return config


def hint(name: str, known: Iterable[str]) -> str:
    """The right spelling for an unknown key at the top of a config."""
    return f"it is config.{MOVED[name]} now" if name in MOVED else nearest(name, known)


def to_mapping(config: Config) -> dict[str, Any]:
    """The plain mapping that `make_config` reads back."""
    values = dataclasses.asdict(config)
    values.pop("experiment_file")  # of the command, no setting
    return {**values.pop("general"), **values.pop("own"), **values}


def load_corpus(config: Config) -> Corpus:
    """The token store of `data.*`, cut for `model.seq_len`."""
    return data.load(config.data, seq_len=models.resolve(config.model).seq_len)


def make_model(config: Config, corpus: Corpus) -> ModelConfig:
    """The model config with its preset applied and its vocabulary filled in.

    Raises:
      UserError: when the fields do not fit together or the vocabulary is too small.
    """
    model = models.resolve(config.model)
    size = model.vocab_size or corpus.vocab_size
    if size < corpus.vocab_size:
        raise UserError(
            f"model.vocab_size={size} is smaller than the tokenizer's {corpus.vocab_size} tokens; "
            "set model.vocab_size=0 to take the tokenizer's"
        )
    model = dataclasses.replace(model, vocab_size=size)
    models.validate(model)
    check_pictures(model, corpus)
    return model


def make_run(config: Config, corpus: Corpus) -> RunSpec:
    """The run that the config describes, on a corpus.

    Raises:
      UserError: for a run that reads a source more often than `data.repeats` lets it.
    """
    spec = describe_run(config, make_model(config, corpus), **of_data(config, corpus))
    check_repeats(config, corpus, spec)
    return spec


def of_data(config: Config, corpus: Corpus) -> dict[str, Any]:
    """The fields of a run that say how it reads its corpus."""
    return {
        "mask_end_of_document": corpus.mask_end_of_document,
        "source_weights": config.data.weights,
        "weight_phases": config.data.phases,
    }


def check_repeats(config: Config, corpus: Corpus, *runs: RunSpec) -> None:
    """Refuse runs that read a source of a mixture more often than `data.repeats` lets them."""
    if not corpus.parts:
        return
    length = runs[0].model.seq_len
    labels = [part.label for part in corpus.parts]
    sizes = dict(zip(labels, corpus.train_windows(length), strict=True))
    for run in runs:
        examples = run.steps * run.batch_size
        if examples >= MOST_EXAMPLES:
            raise UserError(
                f"data.sources: a mixture is read for fewer than 2^32 windows, and the run has "
                f"{examples:,}; give longer windows by model.seq_len, or train in two runs"
            )
        mixture.check_repeats(config.data, sizes, list(run.reads), length)


def describe_run(config: Config, model: ModelConfig, **of_data: Any) -> RunSpec:
    """The run that the config describes, of a model whose vocabulary is filled in.

    Args:
      of_data: as `of_data` gives them; by default one source, all of whose tokens are scored.
    """
    train = config.train
    model, optim = transfer_width(model, config.optim)
    per_step = train.batch_size * model.seq_len
    steps = train.steps or max(1, round(train.tokens / per_step))
    spec = RunSpec.of(
        train,
        model=model,
        optim=optim,
        steps=steps,
        **of_data,
    )
    batch_warmup.check(spec)
    return spec


def run_spec(config: Config) -> RunSpec:
    """The run of a config; the corpus is only read where it decides the vocabulary."""
    if models.resolve(config.model).vocab_size == 0:
        return make_run(config, load_corpus(config))
    model = models.resolve(config.model)
    models.validate(model)
    return describe_run(config, model)


def enable_compilation_cache(config: Config) -> None:
    """Keep compiled programs between processes and runs."""
    import jax

    folder = config.general.compilation_cache
    if folder == "off":
        return
    path = _shared_programs(config) if folder == "auto" else user_path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"config.compilation_cache={folder} cannot be written ({error.strerror}); "
            "give another folder or off"
        ) from error
    jax.config.update("jax_compilation_cache_dir", os.fspath(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _shared_programs(config: Config) -> Path:
    """The folder that JAX was given, or one beside the token cache."""
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    return user_path(given) if given else cache.root(config.data.cache_dir) / "xla"


def _check_together(config: Config) -> None:
    train, task = config.train, job.find(config.general.job)
    _check_name(config.general.experiment)
    optim.validate(config.optim)
    mixture.check(config.data)
    _check_widths(config.sweep)
    if task.many_runs:
        _check_many_runs(config)
    if config.model.compute_dtype == "auto" and not task.chooses_type:
        raise UserError(
            f"model.compute_dtype=auto is chosen by the device of config.job=train, and config.job="
            f"{config.general.job} needs one that its numbers are a function of; name a type, for "
            "example model.compute_dtype=bfloat16"
        )
    if train.noise_scale and train.micro_batches == 1:
        raise UserError(
            "train.noise_scale=True compares micro-batches and train.micro_batches=1; set "
            "train.micro_batches=2 or more"
        )
    if config.sweep.rule == "fixed" or task.one_run:
        _check_micro_batches(train.batch_size, train.micro_batches)
    if config.sweep.part_tokens and train.micro_batches > 1 and not task.one_run:
        raise UserError(
            f"sweep.part_tokens={config.sweep.part_tokens} and train.micro_batches="
            f"{train.micro_batches} both cut a batch; set one of them to its default"
        )
    if task.one_run and train.steps == 0 and train.tokens == 0:
        raise UserError(
            "train.steps=0 and train.tokens=0 give the run no length; set one of them, for "
            "example --config.train.tokens=10000000"
        )
    if train.loss_chunk and config.model.softmaxes > 1:
        raise UserError(
            f"train.loss_chunk={train.loss_chunk} reads one matrix of logits, and model.softmaxes="
            f"{config.model.softmaxes} mixes several; set train.loss_chunk=0"
        )
    if config.general.distributed and (task.many_runs or not task.trains):
        raise UserError(
            f"config.distributed=True joins the processes of one run, and config.job="
            f"{config.general.job} is none; set config.job=train or config.distributed=false"
        )
    task.check(config)


def _check_many_runs(config: Config) -> None:
    """Refuse what only a single run can have."""
    name = config.general.job
    if config.model.remat == "auto":
        raise UserError(
            f"model.remat=auto is for one run, and config.job={name} has many; name a policy, for "
            "example model.remat=block"
        )
    if config.train.rollbacks:
        raise UserError(
            f"train.rollbacks={config.train.rollbacks} is for one run, and config.job={name} has "
            "many; set train.rollbacks=0"
        )


def _check_name(experiment: str) -> None:
    size = len(os.fsencode(experiment))
    if size > LONGEST_NAME:
        raise UserError(
            f"config.experiment is a name of {size} bytes, and a folder's has {LONGEST_NAME} at "
            "most; shorten it"
        )
    if experiment in ("", ".", "..") or "/" in experiment or os.sep in experiment:
        raise UserError(
            f"config.experiment={experiment!r} is not the name of a folder in runs/; give a plain "
            "name, and another place with --workdir"
        )


def _check_widths(sweep: SweepConfig) -> None:
    """Heads of even width need it."""
    if sweep.width_step % 2:
        raise UserError(f"sweep.width_step={sweep.width_step} is odd; give an even number")
    for width in sweep.widths:
        if width % 2:
            raise UserError(f"sweep.widths has {width}, which is odd; give even widths")


def _check_micro_batches(batch_size: int, micro_batches: int) -> None:
    if batch_size % micro_batches:
        raise UserError(
            f"train.batch_size={batch_size} is not a multiple of "
            f"train.micro_batches={micro_batches}; change one of them"
        )

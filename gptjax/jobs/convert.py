"""job=convert: weights from a Hugging Face folder into a workdir, or from a workdir into one."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from gptjax import convert
from gptjax.config import Config, load_corpus, make_run
from gptjax.convert import own_folder
from gptjax.convert.huggingface import DTYPES
from gptjax.engines import workdir
from gptjax.engines.devices import start_backend
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import user_path
from gptjax.job import Job


def check(config: Config) -> None:
    """Refuse a conversion from or to nowhere."""
    if not config.own["convert"].folder:
        raise UserError(
            "convert.folder='' names no folder; give --config.convert.folder=DIR with the "
            "config.json and safetensors to read, or where to write them"
        )


def main(config: Config, folder: Path) -> int:
    """Convert in `convert.direction`; prints what was written."""
    start_backend(config)
    return DIRECTIONS[config.own["convert"].direction](config.own["convert"], folder)


def _from_huggingface(settings: Any, folder: Path) -> int:
    model = convert.load(settings.folder)
    convert.save_model(folder, model.config, model.params, model.kept, model.chat)
    print(f"{_count(model.params):,} parameters; {folder / own_folder.CONFIG}")
    return 0


def _to_huggingface(settings: Any, folder: Path) -> int:
    place = user_path(settings.folder)
    model = _load(folder)
    convert.to_huggingface(
        model.config,
        model.params,
        place,
        model_type=settings.model_type,
        dtype=settings.dtype,
        max_shard_bytes=int(settings.shard_gb * 1e9),
    )
    if model.kept:
        own_folder.copy_tokenizer(model.kept, place)
    print(f"{_count(model.params):,} parameters; {place / 'config.json'}")
    return 0


def _load(folder: Path) -> convert.Model:
    """The model in a workdir; a run of an earlier version is described first."""
    if (folder / "checkpoints").exists() and not (folder / own_folder.MODEL).exists():
        config = workdir.saved_config(folder)
        corpus = load_corpus(config)
        own_folder.describe_run(folder, make_run(config, corpus).model, config.data, corpus)
    return convert.load(folder)


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


DIRECTIONS = {"to_huggingface": _to_huggingface, "from_huggingface": _from_huggingface}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Weights between a workdir and a Hugging Face folder, for job=convert."""

    direction: str = setting(
        "to_huggingface",
        "from the workdir of a trained or imported model, or into a new workdir",
        choices=DIRECTIONS,
    )
    folder: str = setting("", "the Hugging Face folder: config.json and safetensors")
    model_type: str = setting(
        "", "family to write, as `transformers` names it; empty: the first that fits the model"
    )
    dtype: str = setting("float32", "type of the written weights", choices=DTYPES)
    shard_gb: float = setting(5.0, "a written file holds at most this much, in GB", above=0.0)


JOB = Job(main, Settings, check)

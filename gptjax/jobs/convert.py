"""job=convert: weights from a Hugging Face folder into a workdir, or from a workdir into one."""

from pathlib import Path
from typing import Any

import jax

from gptjax import convert
from gptjax.config import Config, load_corpus, make_run
from gptjax.convert import own_folder
from gptjax.engines import workdir
from gptjax.engines.devices import start_backend
from gptjax.errors import UserError
from gptjax.job import Job


def check(config: Config) -> None:
    """Refuse a conversion from or to nowhere."""
    if not config.convert.folder:
        raise UserError(
            "convert.folder='' names no folder; give --config.convert.folder=DIR with the "
            "config.json and safetensors to read, or where to write them"
        )


def main(config: Config, folder: Path) -> int:
    """Convert in `convert.direction`; prints what was written."""
    start_backend(config)
    return _DIRECTIONS[config.convert.direction](config, folder)


def _from_huggingface(config: Config, folder: Path) -> int:
    model = convert.load(config.convert.folder)
    convert.save_model(folder, model.config, model.params, model.kept, model.chat)
    print(f"{_count(model.params):,} parameters; {folder / own_folder.CONFIG}")
    return 0


def _to_huggingface(config: Config, folder: Path) -> int:
    place = Path(config.convert.folder).expanduser()
    model = _load(folder)
    convert.to_huggingface(
        model.config,
        model.params,
        place,
        model_type=config.convert.model_type,
        dtype=config.convert.dtype,
        max_shard_bytes=int(config.convert.shard_gb * 1e9),
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


_DIRECTIONS = {"from_huggingface": _from_huggingface, "to_huggingface": _to_huggingface}


JOB = Job(main, check=check)

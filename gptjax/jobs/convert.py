"""job=convert: weights from a Hugging Face folder into a workdir, or from a workdir into one."""

import functools
from pathlib import Path
from typing import Any

import jax

from gptjax import convert
from gptjax.config import Config, load_corpus, make_run
from gptjax.engines import workdir
from gptjax.engines.devices import start_backend
from gptjax.errors import UserError
from gptjax.models import ModelConfig
from gptjax.train import init_state
from gptjax.train.checkpoint import Checkpointer


def main(config: Config, folder: Path) -> int:
    """Convert in `convert.direction`; prints what was written."""
    start_backend(config)
    return _DIRECTIONS[config.convert.direction](config, folder)


def _from_huggingface(config: Config, folder: Path) -> int:
    model, params = convert.from_huggingface(Path(config.convert.folder).expanduser())
    convert.save_model(folder, model, params)
    print(f"{_count(params):,} parameters; {folder / convert.own_folder.CONFIG}")
    return 0


def _to_huggingface(config: Config, folder: Path) -> int:
    place = Path(config.convert.folder).expanduser()
    if (folder / convert.own_folder.CONFIG).exists():
        model, params = convert.load_model(folder)
    else:
        model, params = _trained(folder)
    convert.to_huggingface(
        model,
        params,
        place,
        model_type=config.convert.model_type,
        dtype=config.convert.dtype,
        max_shard_bytes=int(config.convert.shard_gb * 1e9),
    )
    print(f"{_count(params):,} parameters; {place / 'config.json'}")
    return 0


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _trained(folder: Path) -> tuple[ModelConfig, Any]:
    """Model and parameters of a run of job=train: the best held-out ones, else the last."""
    config = workdir.saved_config(folder)
    corpus = load_corpus(config)
    spec = make_run(config, corpus)
    options = config.train
    checkpoints = Checkpointer(
        folder / "checkpoints",
        f"{spec.identity}-{corpus.fingerprint}",
        keep_last=options.keep_last,
        keep_best=options.keep_best,
    )
    like = jax.jit(functools.partial(init_state, spec))(jax.random.key(0))
    state = checkpoints.restore_best(like) or checkpoints.restore(like)
    checkpoints.close()
    if state is None:
        raise UserError(
            f"--workdir={folder} holds no checkpoint; run job=train there, with train.keep_best"
        )
    return spec.model, state.params


_DIRECTIONS = {"from_huggingface": _from_huggingface, "to_huggingface": _to_huggingface}

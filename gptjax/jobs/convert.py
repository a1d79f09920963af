"""job=convert: weights from a Hugging Face folder into a workdir, or from a workdir into one."""

import functools
from pathlib import Path
from typing import Any

import jax

from gptjax import build, convert
from gptjax.build import Setup
from gptjax.errors import UserError
from gptjax.jobs import train, workdir
from gptjax.jobs.devices import start_backend
from gptjax.models import ModelConfig
from gptjax.train import init_state
from gptjax.train.checkpoint import Checkpointer


def main(setup: Setup, folder: Path) -> int:
    """Convert in `convert.direction`; prints what was written."""
    start_backend(setup)
    return _DIRECTIONS[setup.convert.direction](setup, folder)


def _from_huggingface(setup: Setup, folder: Path) -> int:
    config, params = convert.from_huggingface(Path(setup.convert.folder).expanduser())
    convert.save_model(folder, config, params)
    print(f"{_count(params):,} parameters; {folder / convert.saved.CONFIG}")
    return 0


def _to_huggingface(setup: Setup, folder: Path) -> int:
    place = Path(setup.convert.folder).expanduser()
    if (folder / convert.saved.CONFIG).exists():
        config, params = convert.load_model(folder)
    else:
        config, params = _trained(folder)
    convert.to_huggingface(
        config,
        params,
        place,
        model_type=setup.convert.model_type,
        dtype=setup.convert.dtype,
        max_shard_bytes=int(setup.convert.shard_gb * 1e9),
    )
    print(f"{_count(params):,} parameters; {place / 'config.json'}")
    return 0


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _trained(folder: Path) -> tuple[ModelConfig, Any]:
    """Model and parameters of a run of job=train: the best held-out ones, else the last."""
    setup = workdir.saved_setup(folder)
    corpus = build.load_corpus(setup)
    spec = train.make_spec(setup, corpus)
    options = setup.train
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

"""A model on its own: config and parameters in a folder, without a run around them."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from gptjax import models
from gptjax.errors import UserError
from gptjax.fields import make
from gptjax.files import read_json, write_json
from gptjax.models import ModelConfig

CONFIG, PARAMS = "model.json", "params"


def save_model(folder: Path, config: ModelConfig, params: Any) -> None:
    """Write `folder`/model.json and `folder`/params; the config last, when the rest is whole.

    Raises:
      UserError: where the folder holds a model already.
    """
    import orbax.checkpoint as ocp

    if (folder / CONFIG).exists():
        raise UserError(f"{folder} holds a model already; choose another --workdir or delete it")
    with ocp.StandardCheckpointer() as writer:
        writer.save((folder / PARAMS).absolute(), params, force=True)
    write_json(folder / CONFIG, dataclasses.asdict(config))


def load_model(folder: Path) -> tuple[ModelConfig, Any]:
    """What `save_model` wrote.

    Raises:
      UserError: where there is none.
    """
    import orbax.checkpoint as ocp

    config = make(ModelConfig, read_json(folder / CONFIG), "model")
    like = jax.eval_shape(lambda key: models.init(config, key), jax.random.key(0))
    with ocp.StandardCheckpointer() as reader:
        return config, reader.restore((folder / PARAMS).absolute(), like)

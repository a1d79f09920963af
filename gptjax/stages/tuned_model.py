"""Tuned model in its run's folder: the first model's description with new weights."""

from pathlib import Path
from typing import Any

import jax

from gptjax import convert
from gptjax.convert import own_folder
from gptjax.parallel import processes


def keep(folder: Path, model: convert.Model, params: Any) -> None:
    """Write the parameters of a run that has ended, with what describes them."""
    whole = jax.tree.map(processes.whole, params)
    if processes.is_first():
        place = folder / own_folder.MODEL
        own_folder.save_params(place, whole)
        own_folder.describe(place, model.config, model.kept, model.chat)

"""Weights & Biases: the metrics and the config of a run, in the project `gptjax`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptjax.errors import UserError


class WeightsAndBiases:
    """A writer to a run of theirs."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                "train.wandb=True needs Weights & Biases; pip install 'gptjax[wandb]'"
            ) from error
        self._run = wandb.init(project="gptjax", config=dict(settings))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log the metrics of a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """End their run."""
        self._run.finish()


def open_writer(folder: Path, settings: Mapping[str, Any]) -> WeightsAndBiases:
    """The writer of a run."""
    return WeightsAndBiases(settings)

"""Experiment tracking: the metrics of a run as JSON lines, in TensorBoard, in Weights & Biases.

A writer has `write(step, values)` and `close()`; a further one is a file here and an entry below.
"""

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from gptjax.tracking.metrics import MetricsFile

WRITERS = {
    "tensorboard": "gptjax.tracking.tensorboard",
    "wandb": "gptjax.tracking.wandb",
}
"""The module of each writer, imported when a run asks for it."""


class Writer(Protocol):
    """What takes the metrics of a step."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take the metrics of one step."""

    def close(self) -> None:
        """Write what is left."""


def open_writers(names: Iterable[str], folder: Path, settings: Mapping[str, Any]) -> list[Writer]:
    """The writers of these names.

    Args:
      folder: the run's.
      settings: its config, for those that keep it.

    Raises:
      UserError: when a package is not installed.
    """
    return [importlib.import_module(WRITERS[name]).open_writer(folder, settings) for name in names]


__all__ = ["WRITERS", "MetricsFile", "Writer", "open_writers"]

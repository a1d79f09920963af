"""TensorBoard: the metrics of a run as event files under `tensorboard/`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TensorBoard:
    """A writer of event files."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add a scalar for each metric."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def open_writer(folder: Path, settings: Mapping[str, Any]) -> TensorBoard:
    """The writer of a run."""
    return TensorBoard(folder / "tensorboard")

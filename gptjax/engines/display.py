"""The live display of a sweep: FLOPs done, time left, the current runs' loss."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gptjax.config import Config
from gptjax.files import read_json
from gptjax.report.numbers import duration_text
from gptjax.sweeps import Bundle, records, timing

LINE_SECONDS = 60.0

LOOK_SECONDS = 5.0
"""Seconds between two looks at all open cells; those that were seen to run are always looked at."""


@dataclasses.dataclass
class _Sums:
    """Cells, FLOPs and predicted seconds of what is done."""

    cells: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    def add(self, flops: float, seconds: float) -> None:
        """Add a cell's, or a part of one."""
        self.flops += flops
        self.seconds += seconds


class Display:
    """A live panel on a terminal; elsewhere a plain line a minute on standard output."""

    def __init__(self, config: Config, folder: Path, bundles: Sequence[Bundle]) -> None:
        self._folder = folder
        self._open = {cell.id: cell for bundle in bundles for cell in bundle.cells}
        self._count = len(self._open)
        self._added = {
            cell.id: (cell.run.steps - updates, updates)
            for bundle in bundles
            for cell, updates in zip(bundle.cells, bundle.updates, strict=True)
        }
        """Updates that a cell finds done by its trunk, and those that it adds."""
        self._flops = {
            cell.id: flops
            for bundle in bundles
            for cell, flops in zip(bundle.cells, bundle.flops, strict=True)
        }
        self._total = sum(self._flops.values())
        self._predicted = timing.predicted_by_cell(bundles, timing.reference_rate())
        self._started = time.monotonic()
        self._predicted_total = sum(self._predicted.values())
        self._done = _Sums()
        self._ran: set[str] = set()
        self._looked = -LOOK_SECONDS
        self._first: float | None = None
        self._line_at = 0.0
        console = Console()
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> "Display":
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live:
            self._live.__exit__(*error)

    def update(self) -> None:
        """Read the records and the workers' progress, and show them."""
        running = self._running()
        self._look({name for state in running for name in (state["cell"], *state["beside"])})
        shown = dataclasses.replace(self._done)
        for name, share in self._shares(running).items():
            shown.add(self._flops[name] * share, self._predicted[name] * share)
        left = self._seconds_left(shown.seconds)
        if self._live:
            self._live.update(self._panel(shown.flops, left, running))
        elif time.monotonic() - self._line_at >= LINE_SECONDS:
            self._line_at = time.monotonic()
            print(self._line(shown.flops, left, running), flush=True)

    def _look(self, running: set[str]) -> None:
        """Count the cells that are done since the last look; never looks at them again."""
        names, self._ran = self._ran | running, running
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            names = set(self._open)
        for name in names & self._open.keys():
            if records.has_record(self._folder, self._open[name]):
                del self._open[name]
                self._done.add(self._flops[name], self._predicted[name])
                self._done.cells += 1

    def _shares(self, running: Sequence[dict[str, Any]]) -> dict[str, float]:
        """How much of its updates each cell that runs has done."""
        shares: dict[str, float] = {}
        for state in running:
            for name in {state["cell"], *state["beside"]} & self._open.keys():
                found, added = self._added[name]
                shares.setdefault(name, min(max((state["step"] - found) / added, 0.0), 1.0))
        return shares

    def _seconds_left(self, done: float) -> float:
        """Predicted seconds of what is left, corrected by how the prediction has held so far."""
        total = self._predicted_total
        if self._first is None:
            self._first = done
        elapsed = time.monotonic() - self._started
        gained = done - self._first
        if gained > 0.02 * total:
            return elapsed * (total - done) / gained
        return total - done

    def _running(self) -> list[dict[str, Any]]:
        states = []
        for path in sorted((self._folder / "progress").glob("*.json")):
            try:
                state = read_json(path)
            except Exception:  # removed while we looked
                continue
            if state.get("cell") in self._flops and time.time() - state["time"] < 600:
                states.append(state)
        return states

    def _line(self, done: float, left: float, running: Sequence[dict[str, Any]]) -> str:
        losses = ", ".join(
            f"width {state['width']} at {state['budget']:.2g}: {state['loss']:.3f}"
            for state in running
        )
        return (
            f"{self._done.cells}/{self._count} cells, {done:.3g} of {self._total:.3g} FLOPs "
            f"({done / self._total:.0%}), {duration_text(left)} left; loss {losses or '–'}"
        )

    def _panel(self, done: float, left: float, running: Sequence[dict[str, Any]]) -> Group:
        elapsed = time.monotonic() - self._started
        head = Text(
            f"{self._done.cells}/{self._count} cells   {done:.3g} of {self._total:.3g} FLOPs   "
            f"{duration_text(elapsed)} gone, {duration_text(left)} left"
        )
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("budget", "width", "step", "of", "loss", "lr", "ms/step"):
            table.add_column(name, justify="right")
        for state in running:
            table.add_row(
                f"{state['budget']:.3g}",
                str(state["width"]),
                str(state["step"]),
                str(state["steps"]),
                f"{state['loss']:.4f}",
                f"{state['learning_rate']:.2g}",
                f"{1e3 * state['seconds_per_step']:.2f}",
            )
        bar = ProgressBar(total=1.0, completed=done / self._total, width=60)
        return Group(head, Padding(bar, 0), table)  # a bar alone does not end its line

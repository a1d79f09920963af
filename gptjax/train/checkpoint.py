"""Checkpoints of a run through Orbax: asynchronous, renamed into place, keep-last, keep-best.

Beside each lies the checksum of the state that was saved, and what is read must have it. One that
cannot be read, or gives other numbers, is set aside and named, and the one before it is taken.
"""

import contextlib
import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gptjax.errors import UserError
from gptjax.files import read_json, write_json
from gptjax.parallel.processes import is_first
from gptjax.train import checksums
from gptjax.train.state import TrainState

ONE_SAVE = threading.Lock()
"""Orbax numbers the saves of a process, and two that begin at one time get each other's number and
wait for ever."""


class OtherRun(UserError):
    """The folder holds checkpoints of another run."""

    def __init__(self, sentence: str, directory: Path) -> None:
        super().__init__(sentence)
        self.directory = directory


class Checkpointer:
    """Saves and restores a TrainState under `directory`.

    The folder names the run it belongs to; another run's folder is refused. A save that was cut
    off leaves a temporary folder that is never read. `step` inside the state is the position in
    the data, so nothing else is needed to continue bit for bit. Damaged checkpoints go to a folder
    `damaged` beside it.
    """

    def __init__(
        self,
        directory: Path,
        identity: str,
        *,
        keep_last: int,
        keep_best: bool,
        keep_good: int = 0,
        before_save: Callable[[], None] = lambda: None,
    ) -> None:
        self._directory = directory.absolute()
        self._identity = identity
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._keep_good = keep_good
        self._before_save = before_save
        self._managers: dict[str, Any] = {}

    def restore(self, like: TrainState) -> TrainState | None:
        """The latest checkpoint that is whole, with the shapes and shardings of `like`, or None.

        Raises:
          OtherRun: when the folder holds the checkpoint of another run.
        """
        if not self._check_owner():
            return None
        kinds = ("good", "last") if self._keep_good else ("last",)
        while True:
            newest = {kind: self._latest(kind) for kind in kinds}
            found = {kind: step for kind, step in newest.items() if step is not None}
            if not found:
                return None
            kind = max(found, key=lambda kind: (found[kind], kind))
            state = self._read(kind, found[kind], like)
            if state is not None:
                return state

    def latest(self) -> int | None:
        """The step of the latest complete checkpoint; raises as `restore`."""
        return self._latest("last") if self._check_owner() else None

    def restore_at(self, step: int, like: TrainState) -> TrainState | None:
        """The checkpoint of a step that `latest` gave; None where it was damaged."""
        return self._read("last", step, like)

    def restore_best(self, like: TrainState) -> TrainState | None:
        """The checkpoint with the lowest held-out loss, or None."""
        step = self._latest("best") if self._check_owner() else None
        return None if step is None else self._read("best", step, like)

    def set_all_aside(self, reason: str) -> None:
        """Give up everything that was saved, because what belongs to it is damaged."""
        self.close()
        self._set_aside(self._directory, self._directory.name, reason)

    def save(self, state: TrainState, *, wait: bool = False, step: int | None = None) -> None:
        """Start saving `state`; with `wait`, return once it is committed.

        `step` is what `latest` will say, by default that of the state.
        """
        self._save("last", state, None, int(state.step) if step is None else step)
        if wait:
            self.wait()

    def save_best(self, state: TrainState, loss: float) -> None:
        """Offer `state` as the best; kept when `loss` is the lowest so far."""
        if self._keep_best and np.isfinite(loss):
            self._save("best", state, {"loss": float(loss)}, int(state.step))

    def save_good(self, state: TrainState) -> None:
        """Start saving a state to which the run may go back; the last `keep_good` are kept."""
        self._save("good", state, None, int(state.step))

    def go_back(self, step: int, like: TrainState) -> TrainState | None:
        """The good state of a step, and forget all that was saved after it; None if there is none.

        The last checkpoint of that very step is forgotten too: the caller saves its successor.
        """
        self.wait()
        for kind in ("good", "last", *(["best"] if self._keep_best else [])):
            manager = self._manager(kind)
            for saved in manager.all_steps():
                if saved > step or (saved == step and kind == "last"):
                    manager.delete(saved)
        there = step in self._manager("good").all_steps()
        return self._read("good", step, like) if there else None

    def wait(self) -> None:
        """Block until every started save is committed.

        Raises:
          UserError: when a save could not be written.
        """
        with self._storing():
            for manager in self._managers.values():
                manager.wait_until_finished()

    def close(self) -> None:
        """Finish pending saves and release the threads; raises as `wait`."""
        managers, self._managers = self._managers, {}
        with self._storing():
            for manager in managers.values():
                manager.close()

    def remove(self) -> None:
        """Delete everything: the run is finished and recorded."""
        self.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _check_owner(self) -> bool:
        owner = self._directory / "run.json"
        if not owner.exists():
            return False
        try:
            found = read_json(owner)["identity"]
        except (UserError, KeyError, TypeError) as error:
            self.set_all_aside(str(error))
            return False
        if found != self._identity:
            raise OtherRun(
                f"{self._directory} holds a checkpoint of another run ({found}, not "
                f"{self._identity}); choose another --workdir or delete it",
                self._directory,
            )
        return True

    def _latest(self, kind: str) -> int | None:
        try:
            return self._manager(kind).latest_step()
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._drop(kind)
            self._set_aside(self._directory / kind, kind, str(error))
            return None

    def _manager(self, kind: str) -> Any:
        import orbax.checkpoint as ocp  # about a second; not needed by short runs

        if kind not in self._managers:
            # Orbax prints a failed save's traceback by itself; `_storing` says it in a sentence.
            logging.getLogger("absl").setLevel(logging.CRITICAL)
            best = {"best_fn": lambda metrics: metrics["loss"], "best_mode": "min"}
            keep = {"best": 1, "good": self._keep_good}.get(kind, self._keep_last)
            options = ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                enable_async_checkpointing=True,
                **(best if kind == "best" else {}),
            )
            self._managers[kind] = ocp.CheckpointManager(self._directory / kind, options=options)
        return self._managers[kind]

    def _save(
        self, kind: str, state: TrainState, metrics: dict[str, float] | None, step: int
    ) -> None:
        import orbax.checkpoint as ocp

        self._before_save()
        owner = self._directory / "run.json"
        if is_first() and not owner.exists():
            write_json(owner, {"identity": self._identity})
        manager = self._manager(kind)
        if step in manager.all_steps():
            return
        # The next compiled call reuses (donates) these buffers while Orbax is still writing, and
        # on CPU Orbax does not copy them: give it copies.
        copies = jax.tree.map(lambda x: x.copy(), state)
        self._write_checksum(kind, step, copies)
        with self._storing(), ONE_SAVE:
            if kind == "last" and self._keep_good:
                # What a state may go back to is on disk before the state is.
                self._manager("good").wait_until_finished()
            manager.save(step, args=ocp.args.StandardSave(copies), metrics=metrics)

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        """A write that failed, also one in the background, as one sentence."""
        try:
            yield
        except (OSError, ValueError) as error:
            # TensorStore reports the system's errors as a ValueError that ends with their number.
            number = re.search(r"os_error_code='(\d+)'", str(error))
            if not (isinstance(error, OSError) or number):
                raise
            reason = os.strerror(int(number[1])) if number else str(error)
            raise UserError(
                f"cannot save a checkpoint in {self._directory}: {reason}; free some space or "
                "choose another --workdir"
            ) from error

    def _read(self, kind: str, step: int, like: TrainState) -> TrainState | None:
        """A checkpoint, or None where it is damaged; it is set aside then."""
        import orbax.checkpoint as ocp

        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            arguments = ocp.args.StandardRestore(abstract)
            state = self._manager(kind).restore(step, args=arguments)
            wanted = self._checksum(kind, step)
            if wanted and not checksums.agrees(state, wanted):
                raise ValueError("its numbers are not those that were saved")
            return state
        except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:  # Orbax and TensorStore raise almost every kind
            self._drop(kind)
            self._set_aside(self._directory / kind / str(step), f"{kind}-{step}", str(error))
            return None

    def _drop(self, kind: str) -> None:
        manager = self._managers.pop(kind, None)
        if manager is not None:
            manager.close()

    def _set_aside(self, path: Path, name: str, reason: str) -> None:
        reason = " ".join(reason.split())[:200]
        if jax.process_count() > 1:
            raise UserError(f"{path} is damaged ({reason}); move it away to begin before it")
        place = self._directory.parent / "damaged"
        place.mkdir(parents=True, exist_ok=True)
        aside = place / f"{name}-{len(list(place.iterdir()))}"
        path.rename(aside)
        print(
            f"gptjax: {path} is damaged ({reason}); it is kept as {aside}, and the run goes on "
            "from an earlier checkpoint or from its beginning",
            file=sys.stderr,
            flush=True,
        )

    def _write_checksum(self, kind: str, step: int, state: TrainState) -> None:
        """Before the save begins, so that none is without; those of deleted ones go."""
        value = checksums.checksum(state)
        if not is_first():
            return
        folder = self._directory / "sha256"
        for path in folder.glob(f"{kind}-*.json"):
            if int(path.stem.rpartition("-")[2]) not in self._manager(kind).all_steps():
                path.unlink(missing_ok=True)
        write_json(folder / f"{kind}-{step}.json", value)

    def _checksum(self, kind: str, step: int) -> str:
        """Of the state that was saved; '' where a version without checksums saved it."""
        path = self._directory / "sha256" / f"{kind}-{step}.json"
        return str(read_json(path)) if path.exists() else ""

"""Claims: leases on bundles of cells, so that any number of workers share a sweep's folder.

A lease alone does not keep two workers apart: one that was stopped for longer than the lease goes
on where it was. So a claim is a fence too. Each time it is taken it gets a token, a number that
only grows. A worker asks whether its token is still the last before it saves and before it records,
and keeps its checkpoints under it.
"""

import contextlib
import functools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gptjax.files import create_json, write_json
from gptjax.train import Superseded

RELEASED = ".released"

UNREADABLE = {"pid": 0, "beat": None}
"""The owner of a damaged claim: nobody here, void when it has been so for long enough."""


class Claims:
    """Leases under `workdir/claims`: of each name a folder with a file for each token.

    A token is taken by creating its file, which one worker can do; only that worker writes it, so
    no lock is needed, and a worker that is stopped holds up nobody. The owner counts up in it while
    it lives. A claim is void when its process is known to be gone, or when the counter has stood
    still for `stale_seconds` of the clock of the one who looks: clocks and times of files are never
    compared.
    """

    def __init__(
        self, workdir: Path, *, stale_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = workdir / "claims"
        self._stale_seconds = stale_seconds
        self._clock = clock
        self._me = uuid.uuid4().hex
        self._mine: dict[str, int] = {}
        self._seen: dict[str, tuple[Any, float]] = {}
        """Of each claim the counter that was seen, and since when."""

    def take(self, name: str) -> bool:
        """Claim `name`; False when another live worker holds it."""
        token, owner = self._last(name)
        if self._is_mine(name, token, owner):
            return True
        if self._alive(name, token, owner):
            return False
        if not create_json(self._path(name, token + 1), {**self._owner(), "beat": 0}):
            return False  # another was faster
        self._mine[name] = token + 1
        for number in range(token, 0, -1):
            if not self._forget(name, number):
                break
        return True

    def token(self, name: str) -> int:
        """The number of a claim that was taken: larger than that of everybody who had it before."""
        return self._mine[name]

    def check(self, name: str) -> None:
        """Ask whether the claim that was taken is still ours.

        Raises:
          Superseded: when another has taken over.
        """
        if not self._is_mine(name, *self._last(name)):
            raise Superseded(f"another worker has taken over {name}")

    def free(self, name: str) -> bool:
        """Whether nobody alive holds `name`."""
        token, owner = self._last(name)
        return self._is_mine(name, token, owner) or not self._alive(name, token, owner)

    def owner(self, name: str) -> dict[str, Any]:
        """What the last owner wrote into the claim; empty where it was given back."""
        return self._last(name)[1]

    def runs_here(self, name: str) -> bool:
        """Whether a process of this machine holds it, which lives and is not stopped."""
        owner = self.owner(name)
        if not owner or not _here(owner):
            return False
        state, started = process_state(owner["pid"])
        return started == owner.get("started") and state not in STOPPED

    def held_by(self, pid: int) -> list[str]:
        """The claims of a process of this machine, dead or alive."""
        folders = sorted(self._folder.iterdir()) if self._folder.exists() else []
        owners = {folder.name: self._last(folder.name)[1] for folder in folders}
        return [name for name in owners if owners[name].get("pid") == pid and _here(owners[name])]

    def release(self, name: str) -> None:
        """Give the claim back if it is still ours."""
        token = self._mine.pop(name, 0)
        with contextlib.suppress(OSError):  # taken over and forgotten
            path = self._path(name, token)
            os.rename(path, path.with_suffix(RELEASED))

    @contextlib.contextmanager
    def holding(self, name: str) -> Iterator[None]:
        """Keep a claim that was taken alive, and give it back at the end."""
        try:
            with self.heartbeat(name):
                yield
        finally:
            self.release(name)

    @contextlib.contextmanager
    def heartbeat(self, name: str) -> Iterator[None]:
        """Count up from a thread while the context is open."""
        done, beats = threading.Event(), 0
        path, owner = self._path(name, self._mine[name]), self._owner()

        def beat() -> None:
            nonlocal beats
            while not done.wait(self._stale_seconds / 5):
                beats += 1
                with contextlib.suppress(Exception):  # no space: the worker itself says so
                    write_json(path, {**owner, "beat": beats})

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _is_mine(self, name: str, token: int, owner: dict[str, Any]) -> bool:
        return owner.get("worker") == self._me and token == self._mine.get(name)

    def _alive(self, name: str, token: int, owner: dict[str, Any]) -> bool:
        """Whether the last claim holds, judged by what was seen of it before."""
        if not owner or (_here(owner) and owner.get("started") != process_start(owner["pid"])):
            return False
        look = token, owner.get("beat")
        if self._seen.get(name, (None, 0.0))[0] != look:
            self._seen[name] = look, self._clock()
        return self._clock() - self._seen[name][1] < self._stale_seconds

    def _last(self, name: str) -> tuple[int, dict[str, Any]]:
        """The largest token and its owner; no owner where it was given back."""
        try:
            files = {Path(file).stem: Path(file) for file in os.listdir(self._folder / name)}
        except OSError:
            return 0, {}
        tokens = [int(stem) for stem in files if stem.isdecimal()]
        if not tokens:
            return 0, {}
        token = max(tokens)
        path = self._path(name, token)
        if path.with_suffix(RELEASED).exists():
            return token, {}
        try:
            owner = json.loads(path.read_text())
        except (OSError, ValueError):
            owner = None
        if isinstance(owner, dict) and isinstance(owner.get("pid"), int):
            return token, owner
        return token, UNREADABLE if path.exists() else {}

    def _forget(self, name: str, token: int) -> bool:
        """Remove a token's file; False when there is none."""
        found = False
        for path in (self._path(name, token), self._path(name, token).with_suffix(RELEASED)):
            with contextlib.suppress(OSError):
                path.unlink()
                found = True
        return found

    def _owner(self) -> dict[str, Any]:
        return {
            "worker": self._me,
            **place_of_processes(),
            "pid": os.getpid(),
            "started": process_start(os.getpid()),
        }

    def _path(self, name: str, token: int) -> Path:
        return self._folder / name / f"{token}.json"


@functools.cache
def place_of_processes() -> dict[str, str]:
    """Where the number of a process means a process: host, its boot, and its PID namespace.

    Two containers may have one host name, and the same numbers for other processes.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    return {
        "host": socket.gethostname(),
        "boot": boot.read_text().strip() if boot.exists() else "",
        "namespace": os.readlink(namespace) if namespace.is_symlink() else "",
    }


def _here(owner: dict[str, Any]) -> bool:
    """Whether the owner's process number can be looked up from here."""
    return all(owner.get(name) == value for name, value in place_of_processes().items())


def process_start(pid: int) -> str:
    """When a process of this host started, as its system tells; '' when there is none.

    With the process number alone, a number used again would keep a dead worker's claim alive.
    """
    return process_state(pid)[1]


STOPPED = ("T", "t")
"""States of a process that a signal or a debugger has stopped."""


def process_state(pid: int) -> tuple[str, str]:
    """(one letter, when it started) of a process of this host; nothing where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", _alive_without_proc(pid)
    fields = stat.rpartition(")")[2].split()
    return fields[0], "" if fields[0] == "Z" else fields[19]


def _alive_without_proc(pid: int) -> str:
    if Path("/proc/self").exists() or pid <= 0:
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"

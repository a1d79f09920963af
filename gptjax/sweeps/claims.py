"""Claims: a lease on a cell, so that any number of workers share a sweep's folder."""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from gptjax.files import write_json


class Claims:
    """Leases under `workdir/claims`, each a file whose modification time is the heartbeat.

    A claim is void when its process on this host is gone, or when its heartbeat is older than
    `stale_seconds` (its host died or lost the file system). Taking and taking over happen under a
    file lock, so two workers never hold one cell.
    """

    def __init__(self, workdir: Path, *, stale_seconds: float) -> None:
        self._folder = workdir / "claims"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._stale_seconds = stale_seconds
        self._token = uuid.uuid4().hex

    def take(self, name: str) -> bool:
        """Claim `name`; False when another live worker holds it."""
        with self._locked():
            if self._held_by_another(name):
                return False
            write_json(self._path(name), self._owner())
            return True

    def free(self, name: str) -> bool:
        """Whether nobody alive holds `name`."""
        return not self._held_by_another(name)

    def held_by(self, pid: int) -> list[str]:
        """What a process of this host has claimed, dead or alive."""
        host = socket.gethostname()
        names = sorted(path.stem for path in self._folder.glob("*.json"))
        owners = {name: self._read(name) for name in names}
        return [
            name
            for name in names
            if owners[name].get("pid") == pid and owners[name].get("host") == host
        ]

    def release(self, name: str) -> None:
        """Give the claim back if it is still ours."""
        with self._locked():
            if self._read(name).get("token") == self._token:
                self._path(name).unlink(missing_ok=True)

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
        """Keep the claim alive from a thread while the context is open."""
        done = threading.Event()
        interval = self._stale_seconds / 5

        def beat() -> None:
            while not done.wait(interval):
                with contextlib.suppress(OSError):
                    os.utime(self._path(name))

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _held_by_another(self, name: str) -> bool:
        owner = self._read(name)
        if not owner or owner.get("token") == self._token:
            return False
        if owner.get("host") == socket.gethostname():
            return owner.get("started") == process_start(owner.get("pid", 0))
        with contextlib.suppress(OSError):
            return time.time() - self._path(name).stat().st_mtime < self._stale_seconds
        return False

    def _owner(self) -> dict[str, object]:
        return {
            "token": self._token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": process_start(os.getpid()),
        }

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _read(self, name: str) -> dict:
        try:
            return json.loads(self._path(name).read_text())
        except (OSError, ValueError):
            return {}

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self._folder / ".lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def process_start(pid: int) -> str:
    """When a process of this host started, as its system tells; '' when there is none.

    With the process number alone, a number used again would keep a dead worker's claim alive.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return _alive_without_proc(pid)
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


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

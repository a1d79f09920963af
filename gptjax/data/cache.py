"""The token cache: folders that are either whole or absent.

A folder is built under a temporary name and renamed into place. One process builds it, the others
wait for it; where the builder makes no progress they build for themselves, and the first rename
wins. A build that was killed leaves its folder, and the next one goes on with it. `meta.json` holds
the stamp that the folder was asked for by, the size of every other file and checksums of its
blocks, all of which are compared on each load; a folder that differs is built again.
"""

import contextlib
import fcntl
import functools
import hashlib
import itertools
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gptjax.errors import UserError
from gptjax.files import user_path

SCHEMA = 3
BLOCK = 1 << 20
CHECK_THREADS = 4
STALE_SECONDS = 86400.0
WAIT_SECONDS = 60.0
"""How long a process waits for a builder that makes no progress."""
LOOK_SECONDS = 0.1
RESUMABLE = "spool"
"""The folder inside a build that holds what the next build goes on with."""


def root(cache_dir: str) -> Path:
    """The cache folder: `cache_dir`, or $GPTJAX_CACHE, or ~/.cache/gptjax."""
    named = cache_dir or os.environ.get("GPTJAX_CACHE", "") or "~/.cache/gptjax"
    try:
        return user_path(named)
    except UserError as error:
        raise UserError(f"{error}, as data.cache_dir or GPTJAX_CACHE") from error


def folder(
    parent: Path,
    name: str,
    stamp: Mapping[str, Any],
    build: Callable[[Path], Mapping[str, Any]],
) -> tuple[Path, dict[str, Any]]:
    """The folder for `stamp` and its metadata, made by `build(empty_folder)` if it is not there.

    Raises:
      UserError: where the folder cannot be written (no space, no permission, a file in the way).
    """
    stamp = json.loads(json.dumps(stamp))
    digest = hashlib.sha256(json.dumps(stamp, sort_keys=True).encode()).hexdigest()
    place = parent / f"{name}-{digest[:20]}"
    meta = read(place, stamp)
    if meta is None:
        with _explained(parent):
            _build(place, stamp, build)
        meta = read(place, stamp)
    if meta is None:
        raise UserError(
            f"data.cache_dir={str(parent)!r} does not give back what was written to {place.name}; "
            "check the disk, or name another folder"
        )
    return place, meta


def read(place: Path, stamp: Mapping[str, Any]) -> dict[str, Any] | None:
    """The metadata of a whole folder, or None where it is absent, half-written or damaged."""
    try:
        found = json.loads((place / "meta.json").read_bytes())
        if found["schema"] != SCHEMA or found["stamp"] != stamp:
            return None
        for name, facts in found["files"].items():
            if not _intact(place / name, facts):
                return None
        return dict(found["meta"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _intact(path: Path, facts: Mapping[str, Any]) -> bool:
    """Right size, and right checksums of all blocks."""
    checksums = facts["crc32"]
    if path.stat().st_size != facts["bytes"]:
        return False
    return checksums == _checksums(path)


def _checksums(path: Path) -> list[int]:
    """CRC-32 of each block of BLOCK bytes, several blocks at once."""
    blocks = range(-(-path.stat().st_size // BLOCK))
    if len(blocks) < 4 * CHECK_THREADS:
        return _checksums_of(path, blocks)
    each = -(-len(blocks) // CHECK_THREADS)
    runs = [blocks[first : first + each] for first in range(0, len(blocks), each)]
    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        found = pool.map(functools.partial(_checksums_of, path), runs)
        return list(itertools.chain.from_iterable(found))


def _checksums_of(path: Path, blocks: range) -> list[int]:
    """Those of some blocks that follow one another, all read into the same memory."""
    buffer = memoryview(bytearray(BLOCK))
    with path.open("rb") as file:
        file.seek(blocks.start * BLOCK)
        return [zlib.crc32(buffer[: file.readinto(buffer)]) for _ in blocks]


def _build(
    place: Path, stamp: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]]
) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    _sweep(place.parent)
    with _work_folder(place, stamp) as work:
        if work is None:
            return
        meta = build(work)
        files = {path.name: _facts(path) for path in sorted(work.iterdir())}
        found = {"schema": SCHEMA, "stamp": stamp, "meta": meta, "files": files}
        with (work / "meta.json").open("w") as file:
            json.dump(found, file)
            file.flush()
            os.fsync(file.fileno())
        _put(work, place, stamp)


@contextlib.contextmanager
def _work_folder(place: Path, stamp: Mapping[str, Any]) -> Iterator[Path | None]:
    """A folder to build in; None where another process has built meanwhile.

    A build that fails leaves nothing. One that is interrupted leaves what it can go on with.
    """
    work = place.with_name(f".{place.name}.partial.tmp")
    lock = _locked(work, place, stamp)
    if lock is None:
        yield None
        return
    if lock < 0:  # the builder is stuck: build apart from it
        work = place.with_name(f".{place.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
        work.mkdir()
    elif not (work / RESUMABLE).exists():
        _empty(work)
    keep = False
    try:
        yield work
    except Exception:
        raise
    except BaseException:
        keep = lock >= 0 and (work / RESUMABLE).exists()
        raise
    finally:
        if not keep:
            shutil.rmtree(work, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


def _locked(work: Path, place: Path, stamp: Mapping[str, Any]) -> int | None:
    """A locked descriptor of the folder `work`, which is made if it is not there.

    None where the place was built by another process meanwhile, and −1 where the process that
    builds it made no progress for WAIT_SECONDS or there are no locks.
    """
    seen, since = -1, time.monotonic()
    while True:
        with contextlib.suppress(FileExistsError):  # pathlib asks again, and it may be gone by then
            os.mkdir(work)
        with contextlib.suppress(FileNotFoundError):  # it was renamed just now
            lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_ino == os.stat(work).st_ino:
                    if read(place, stamp) is None:
                        return lock
                    shutil.rmtree(work, ignore_errors=True)
            except BlockingIOError:
                pass
            except FileNotFoundError:
                os.close(lock)
                continue
            except OSError:  # a file system without locks
                os.close(lock)
                return -1
            os.close(lock)
        if read(place, stamp) is not None:
            return None
        now = _written(work)
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > WAIT_SECONDS:
            return -1
        time.sleep(LOOK_SECONDS)


def _written(work: Path) -> int:
    """Bytes in a folder that another process builds in: they change while it makes progress."""
    total = 0
    for here, _, names in os.walk(work):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(here, name)).st_size
    return total


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        _remove(path)


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "crc32": _checksums(path)}


def _put(work: Path, place: Path, stamp: Mapping[str, Any]) -> None:
    """Rename `work` to `place`, unless another process has put a whole folder there meanwhile."""
    for _ in range(8):
        try:
            work.rename(place)
            return
        except OSError:
            if not place.exists():
                raise
        if read(place, stamp) is not None:
            return
        damaged = place.with_name(f".{place.name}.{os.urandom(4).hex()}.tmp")
        with contextlib.suppress(FileNotFoundError):
            place.rename(damaged)
            _remove(damaged)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sweep(parent: Path) -> None:
    """Remove what killed builds left behind a day ago or earlier."""
    for path in parent.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                _remove(path)


@contextlib.contextmanager
def _explained(parent: Path) -> Any:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"data.cache_dir={str(parent)!r} cannot be written: {error.strerror or error}; "
            "free some space there, or name another folder (or set GPTJAX_CACHE)"
        ) from error

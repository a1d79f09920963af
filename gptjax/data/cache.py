"""Folders that are either whole or absent: the token cache.

A folder is built under a temporary name and renamed into place, so several processes may build the
same one at once: the first rename wins and the others read its result. `meta.json` holds the stamp
that the folder was asked for by, the size of every other file and checksums of its blocks; a folder
whose stamp, sizes or checksums differ is built again.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gptjax.errors import UserError

SCHEMA = 2
BLOCK = 1 << 20
CHECKED_BLOCKS = 64
STALE_SECONDS = 86400.0


def root(cache_dir: str) -> Path:
    """The cache folder: `cache_dir`, or $GPTJAX_CACHE, or ~/.cache/gptjax."""
    named = cache_dir or os.environ.get("GPTJAX_CACHE", "") or "~/.cache/gptjax"
    path = os.path.expanduser(named)
    if path.startswith("~"):
        raise UserError(
            f"data.cache_dir={cache_dir!r} needs the home folder of {named.partition('/')[0]!r}, "
            "which the system does not know (is HOME set?); give data.cache_dir or GPTJAX_CACHE"
        )
    return Path(path)


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
    """Right size, and right checksums of up to CHECKED_BLOCKS blocks spread over the file."""
    checksums = facts["crc32"]
    if path.stat().st_size != facts["bytes"]:
        return False
    stride = max(1, -(-len(checksums) // CHECKED_BLOCKS))
    chosen = sorted({*range(0, len(checksums), stride), len(checksums) - 1} - {-1})
    with path.open("rb") as file:
        for index in chosen:
            file.seek(index * BLOCK)
            if zlib.crc32(file.read(BLOCK)) != checksums[index]:
                return False
    return True


def _build(
    place: Path, stamp: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]]
) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    _sweep(place.parent)
    work = place.with_name(f".{place.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    work.mkdir()
    try:
        meta = build(work)
        files = {path.name: _facts(path) for path in sorted(work.iterdir())}
        found = {"schema": SCHEMA, "stamp": stamp, "meta": meta, "files": files}
        with (work / "meta.json").open("w") as file:
            json.dump(found, file)
            file.flush()
            os.fsync(file.fileno())
        _put(work, place, stamp)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _facts(path: Path) -> dict[str, Any]:
    checksums = []
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            checksums.append(zlib.crc32(block))
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "crc32": checksums}


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

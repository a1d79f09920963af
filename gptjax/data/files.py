"""Files named by a path, a directory or a glob, and their content: plain, gzip or zstd."""

import glob
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gptjax.errors import UserError, nearest

CHUNK = 1 << 20


def find(path: str, source: str, suffixes: tuple[str, ...]) -> list[Path]:
    """The files that `path` (a file, a directory or a glob) names, sorted.

    In a directory these are the files below it that do not start with a dot and, where `suffixes`
    are given, end in one of them (before .gz or .zst).
    """
    if not path:
        raise UserError(
            f"data.path='' names no file, which data.source={source!r} needs; "
            "give a file, a directory or a glob"
        )
    full = os.path.expanduser(path)
    if os.path.isdir(full):
        found = _below(full, suffixes)
    elif os.path.lexists(full):
        found = [Path(full)]
    elif glob.has_magic(full):
        matches = [Path(match) for match in glob.glob(full, recursive=True)]
        found = [match for match in matches if not match.is_dir()]
        if not found:
            raise UserError(
                f"data.path={path!r} matches no file; check the pattern (** crosses directories) "
                f"and the working directory {os.getcwd()!r}"
            )
    else:
        raise UserError(f"data.path={path!r} does not exist; {_missing_hint(Path(full))}")
    if not found:
        kind = f" that ends in {' or '.join(suffixes)}" if suffixes else ""
        raise UserError(
            f"data.path={path!r} holds no file{kind}; name a directory with such files, or a glob"
        )
    return sorted(found)


def _below(folder: str, suffixes: tuple[str, ...]) -> list[Path]:
    found = []
    for here, folders, names in os.walk(folder, onerror=_refuse_folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            stem = name.removesuffix(".gz").removesuffix(".zst")
            if not name.startswith(".") and (not suffixes or stem.endswith(suffixes)):
                found.append(Path(here, name))
    return found


def _refuse_folder(error: OSError) -> None:
    raise _unreadable(Path(str(error.filename)), error) from error


def _missing_hint(path: Path) -> str:
    """The name beside it that is most like it, or the part of the path that does exist."""
    if path.parent.is_dir():
        try:
            names = sorted(os.listdir(path.parent))
        except OSError:
            names = []
        hint = nearest(path.name, names)
        if hint.startswith("did"):
            return hint
        return (
            f"name a file, a directory or a glob; {str(path.parent.resolve())!r} has no such name"
        )
    return f"there is no directory {str(path.parent)!r}"


def facts(files: list[Path]) -> list[Any]:
    """[name, bytes, time of change in ns] of each file."""
    facts = []
    for file in files:
        try:
            found = file.stat()
        except OSError as error:
            raise _unreadable(file, error) from error
        facts.append([os.path.abspath(file), found.st_size, found.st_mtime_ns])
    return facts


def _unreadable(file: Path, error: OSError) -> UserError:
    return UserError(
        f"data.path: {str(file)!r} cannot be read: {error.strerror or error}; "
        "check the file and its permissions, or leave it out of data.path"
    )


def chunks(file: Path) -> Iterator[bytes]:
    """The content of a file in parts, decompressed where its name ends in .gz or .zst.

    Raises:
      UserError: where the file cannot be read, or the compressed data are damaged or cut short.
    """
    try:
        with file.open("rb") as stream:
            parts = iter(lambda: stream.read(CHUNK), b"")
            if file.suffix == ".gz":
                yield from _decompressed(file, parts, lambda: zlib.decompressobj(31), "gzip")
            elif file.suffix == ".zst":
                import zstandard

                yield from _decompressed(
                    file, parts, zstandard.ZstdDecompressor().decompressobj, "zstd"
                )
            else:
                yield from parts
    except OSError as error:
        raise _unreadable(file, error) from error


def _decompressed(
    file: Path, parts: Iterator[bytes], start: Callable[[], Any], kind: str
) -> Iterator[bytes]:
    """All members of a compressed stream, one after another."""
    member = None
    read = 0
    for part in parts:
        read += len(part)
        while part := (part.lstrip(b"\0") if member is None else part):
            member = start() if member is None else member
            try:
                yield member.decompress(part)
            except Exception as error:  # zlib.error or zstandard.ZstdError
                raise _damaged(file, kind, f"in the {CHUNK >> 20} MB before byte {read}") from error
            part = member.unused_data if member.eof else b""
            member = None if member.eof else member
    if member is not None:
        raise _damaged(file, kind, f"it ends early, after byte {read}")


def _damaged(file: Path, kind: str, where: str) -> UserError:
    return UserError(
        f"data.path: {str(file)!r} is not a whole {kind} file ({where}); "
        "fetch or compress it again, or leave it out of data.path"
    )


def check_utf8(content: bytes, where: str, offset: int) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8 at byte {offset + error.start} "
            f"(0x{content[error.start]:02x}); convert it, for example with iconv, or leave it out"
        ) from error

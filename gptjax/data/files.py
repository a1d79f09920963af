"""Documents from files: text and JSONL, plain, gzip (.gz) or zstd (.zst)."""

import glob
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gptjax.data.documents import Source
from gptjax.errors import UserError, nearest

CHUNK = 1 << 20
JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json")
FEW_FILES = 64
PIECES = 512
PIECE_BYTES = (512, 8192)


def text(path: str, document_bytes: int) -> Source:
    """One document for each file, or for each piece of a file (see `DataConfig.document_bytes`).

    Raises:
      UserError: where `path` names no file; while reading, for a file that cannot be read, is
        damaged or is not UTF-8.
    """
    files = find(path, "text", ())
    facts = _facts(files)
    size = document_bytes or _piece_size([size for _, size, _ in facts])

    def read() -> Iterator[bytes]:
        for file in files:
            content = b"".join(chunks(file))
            _check_utf8(content, f"data.path: {str(file)!r}", 0)
            yield from pieces(content, size) if size else (content,)

    return Source(
        stamp={"files": facts, "document_bytes": size},
        read=read,
        field=f"data.path={path!r}",
    )


def _piece_size(sizes: list[int]) -> int:
    """Bytes of a document where few files must give many documents; 0 where files are many."""
    if len(sizes) >= FEW_FILES:
        return 0
    low, high = PIECE_BYTES
    return min(max(sum(sizes) // PIECES, low), high)


def jsonl(path: str, text_field: str) -> Source:
    """One document for each line: the string in the field `text_field` of its object.

    Raises:
      UserError: where `path` names no file; while reading, for a file that cannot be read, is
        damaged or is not UTF-8, and for a line that is no object with a string in that field.
    """
    files = find(path, "jsonl", JSONL_SUFFIXES)

    def read() -> Iterator[bytes]:
        for file in files:
            offset = 0
            for number, line in enumerate(_lines(file), 1):
                if line.strip():
                    yield _document(line, text_field, f"data.path: {str(file)!r}", number, offset)
                offset += len(line) + 1

    return Source(
        stamp={"files": _facts(files), "text_field": text_field},
        read=read,
        field=f"data.path={path!r}",
    )


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


def _facts(files: list[Path]) -> list[Any]:
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


def _lines(file: Path) -> Iterator[bytes]:
    """The lines of a file without their line feeds."""
    rest: list[bytes] = []
    for chunk in chunks(file):
        first, *others = chunk.split(b"\n")
        rest.append(first)
        for other in others:
            yield b"".join(rest)
            rest = [other]
    last = b"".join(rest)
    if last:
        yield last


def _check_utf8(content: bytes, where: str, offset: int) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8 at byte {offset + error.start} "
            f"(0x{content[error.start]:02x}); convert it, for example with iconv, or leave it out"
        ) from error


def _document(line: bytes, text_field: str, where: str, number: int, offset: int) -> bytes:
    """The text of one JSON line; `offset` is the line's first byte in the file."""
    _check_utf8(line, where, offset)
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} line {number} is not JSON ({error}); mend or drop it") from error
    if not isinstance(record, dict):
        raise UserError(
            f"{where} line {number} is a JSON {type(record).__name__}, not an object; "
            f'write lines such as {{"{text_field}": "…"}}'
        )
    if text_field not in record:
        raise UserError(
            f"{where} line {number} has no field data.text_field={text_field!r}; "
            f"{nearest(text_field, record) if record else 'it is empty'}"
        )
    value = record[text_field]
    if not isinstance(value, str):
        raise UserError(
            f"{where} line {number} has a {type(value).__name__} in data.text_field="
            f"{text_field!r}; name a field that holds a string"
        )
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where} line {number} has half a surrogate pair in data.text_field={text_field!r}; "
            "mend or drop the line"
        ) from error


def pieces(content: bytes, size: int) -> Iterator[bytes]:
    """Cut UTF-8 text into parts of about `size` bytes: at a blank line, else a line's end, else
    between characters.

    >>> list(pieces(b"one\\n\\ntwo\\n\\nthree\\n", 4))
    [b'one\\n\\n', b'two\\n\\n', b'three\\n']
    """
    start = 0
    while len(content) - start > size:
        stop = _cut(content, start, size)
        yield content[start:stop]
        start = stop
    if start < len(content):
        yield content[start:]


def _cut(content: bytes, start: int, size: int) -> int:
    """Where a part that begins at `start` ends: after `size` bytes or up to four times as many."""
    for mark in (b"\n\n", b"\n"):
        found = content.find(mark, max(start, start + size - len(mark)), start + 4 * size)
        if found >= 0:
            return found + len(mark)
    stop = start + size
    while stop < len(content) and content[stop] & 0xC0 == 0x80:
        stop += 1
    return stop

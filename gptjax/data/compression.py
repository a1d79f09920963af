"""Compressed files and archives, known by their names or their first bytes.

What is compressed is decompressed in parts, and a tar archive is read member by member, so that no
file has to fit in memory.
"""

import bz2
import dataclasses
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from gptjax.errors import UserError

CHUNK = 1 << 20
COMPRESSED_CHUNK = 1 << 16  # so that a chunk of zeros does not become gigabytes at once
SKIPPABLE = tuple(bytes([byte]) + b"*M\x18" for byte in range(0x50, 0x60))
"""First bytes of zstd's frames without content, with which pzstd and others begin."""
TAR_MARK, TAR_MARK_AT = b"ustar", 257


def _zstd() -> Any:
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()


@dataclasses.dataclass(frozen=True)
class Compression:
    """A format: the ends of its files' names, their first bytes, and a new decompressor."""

    name: str
    suffixes: tuple[str, ...]
    marks: tuple[bytes, ...]
    start: Callable[[], Any]


COMPRESSIONS = (
    Compression(
        "gzip", (".gz", ".gzip", ".tgz", ".taz"), (b"\x1f\x8b\x08",), lambda: zlib.decompressobj(31)
    ),
    Compression(
        "zstd", (".zst", ".zstd", ".tzst", ".tzstd"), (b"\x28\xb5\x2f\xfd", *SKIPPABLE), _zstd
    ),
    Compression("bzip2", (".bz2", ".bzip2", ".tbz2", ".tbz"), (b"BZh",), bz2.BZ2Decompressor),
    Compression("xz", (".xz", ".txz"), (b"\xfd7zXZ\0",), lzma.LZMADecompressor),
    Compression("lzma", (".lzma", ".tlz"), (b"\x5d\0\0",), lzma.LZMADecompressor),
)


@dataclasses.dataclass(frozen=True)
class Content:
    """The content of a file, or of one member of an archive.

    Attributes:
      name: for errors; a member's follows its archive's.
      chunks: its bytes in parts, to be read before the next content.
      member: whether it lies in an archive.
    """

    name: str
    chunks: Iterator[bytes]
    member: bool = False


def stem(name: str) -> str:
    """A file's name in small letters without the suffixes of compression.

    >>> stem("Pages.JSONL.GZ")
    'pages.jsonl'
    """
    name = name.lower()
    for compression in COMPRESSIONS:
        for suffix in compression.suffixes:
            name = name.removesuffix(suffix)
    return name


def contents(file: Path, suffixes: tuple[str, ...] = ()) -> Iterator[Content]:
    """What a file holds: itself, decompressed, or where it is a tar archive its members.

    Of an archive these are the regular files without a dot in front and, where `suffixes` are
    given, with one of them.

    Raises:
      UserError: where the file cannot be read, or is damaged or cut short.
    """
    parts = chunks(file)
    first = b""
    for part in parts:  # a decompressor may give nothing for long
        first += part
        if len(first) >= tarfile.BLOCKSIZE:
            break
    if first[TAR_MARK_AT : TAR_MARK_AT + len(TAR_MARK)] != TAR_MARK:
        yield Content(str(file), _again(first, parts))
        return
    stream = io.BufferedReader(_Stream(_again(first, parts)))
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if member.isfile() and _wanted(member.name, suffixes):
                    parts = _member(file, archive, member)
                    yield Content(f"{file}:{member.name}", parts, member=True)
    except tarfile.TarError as error:
        raise _damaged(file, "tar", str(error)) from error


def _again(first: bytes, parts: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from parts


def _wanted(name: str, suffixes: tuple[str, ...]) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") and part not in (".", "..") for part in parts)
    return not hidden and (not suffixes or name.lower().endswith(suffixes))


def _member(file: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    stream = archive.extractfile(member)
    assert stream is not None  # it is a regular file
    try:
        yield from iter(lambda: stream.read(CHUNK), b"")
    except tarfile.TarError as error:
        raise _damaged(file, "tar", f"{error} in {member.name!r}") from error


class _Stream(io.RawIOBase):
    """Parts of bytes as a file that is read once."""

    def __init__(self, parts: Iterator[bytes]):
        self._parts, self._rest = parts, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            try:
                self._rest = next(self._parts)
            except StopIteration:
                return 0
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def chunks(file: Path) -> Iterator[bytes]:
    """The content of a file in parts, decompressed where its name or its first bytes say so.

    Raises:
      UserError: where the file cannot be read, or the compressed data are damaged or cut short.
    """
    try:
        with file.open("rb") as stream:
            first = stream.read(COMPRESSED_CHUNK)
            found = _compression(file, first)
            if found is None:
                yield from _again(first, iter(lambda: stream.read(CHUNK), b""))
            else:
                parts = _again(first, iter(lambda: stream.read(COMPRESSED_CHUNK), b""))
                yield from _decompressed(file, parts, found)
    except OSError as error:
        raise unreadable(file, error) from error


def _compression(file: Path, first: bytes) -> Compression | None:
    for compression in COMPRESSIONS:
        if file.suffix.lower() in compression.suffixes or first.startswith(compression.marks):
            return compression
    return None


def _decompressed(file: Path, parts: Iterator[bytes], found: Compression) -> Iterator[bytes]:
    """All members of a compressed stream, one after another."""
    member = None
    read = 0
    for part in parts:
        read += len(part)
        while part := (part.lstrip(b"\0") if member is None else part):
            member = found.start() if member is None else member
            try:
                yield member.decompress(part)
            except Exception as error:  # each library has its own
                if "dictionary" in str(error).lower():
                    raise UserError(
                        f"data.path: {str(file)!r} was compressed with a dictionary, which is not "
                        "in it; decompress it with that (zstd -d -D), or leave it out"
                    ) from error
                raise _damaged(file, found.name, f"before byte {read}") from error
            part = member.unused_data if member.eof else b""
            member = None if member.eof else member
    if member is not None:
        raise _damaged(file, found.name, f"it ends early, after byte {read}")


def _damaged(file: Path, kind: str, where: str) -> UserError:
    return UserError(
        f"data.path: {str(file)!r} is not a whole {kind} file ({where}); "
        "fetch or compress it again, or leave it out of data.path"
    )


def unreadable(file: Path, error: OSError) -> UserError:
    """The error for a file that the system does not give."""
    return UserError(
        f"data.path: {str(file)!r} cannot be read: {error.strerror or error}; "
        "check the file and its permissions, or leave it out of data.path"
    )

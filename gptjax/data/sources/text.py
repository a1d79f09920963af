"""The source `text`: files of plain text, each a document or cut into several."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from gptjax.data import files
from gptjax.data.compression import contents
from gptjax.data.sources.base import Documents, Source
from gptjax.data.text_check import utf8
from gptjax.fields import setting

if TYPE_CHECKING:
    from gptjax.data.config import DataConfig

FEW_FILES = 64
PIECES = 512
PIECE_BYTES = (512, 8192)
ENDS = ((b"\n\n", b"\n\r\n"), (b"\n",), (b"\r\r",), (b"\r",))
"""Where a piece may end, best first: a blank line, a line; the last two are of old Macs."""


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The settings of the source `text`."""

    document_bytes: int = setting(
        0,
        "cut files into documents of about this many bytes at blank lines; 0 = whole files, or, "
        "where there are fewer than 64, pieces of 1/512 of the text (512 to 8192 bytes)",
        minimum=0,
        was="document_bytes",
    )
    markup: bool = setting(False, "read HTML pages as they are written, which are refused else")


def text(path: str, document_bytes: int, *, markup: bool = False) -> Documents:
    """One document for each file, or for each piece of a file (`data.text.document_bytes`).

    A member of an archive is one document unless `document_bytes` is given. Pages are refused
    unless `markup` lets them be read as they are written.

    Raises:
      UserError: where `path` names no file; while reading, for a file that cannot be read, is
        damaged or is not UTF-8.
    """
    found = files.find(path, "text", ())
    facts = files.facts(found)
    size = document_bytes or _piece_size([size for _, size, _ in facts])

    def read() -> Iterator[bytes]:
        for content in itertools.chain.from_iterable(map(contents, found)):
            chunks = utf8(content.chunks, content.name, markup=markup)
            if document_bytes or (size and not content.member):
                yield from pieces(chunks, size)
            else:
                yield b"".join(chunks)

    return Documents(
        stamp={
            "files": facts,
            "document_bytes": size,
            "marks": "dropped",  # caches of before have byte order marks as text
            **({"markup": True} if markup else {}),
        },
        read=read,
        field=f"data.path={path!r}",
    )


def _piece_size(sizes: list[int]) -> int:
    """Bytes of a document where few files must give many documents; 0 where files are many."""
    if len(sizes) >= FEW_FILES:
        return 0
    low, high = PIECE_BYTES
    return min(max(sum(sizes) // PIECES, low), high)


def pieces(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Cut UTF-8 text into pieces of about `size` bytes: at a blank line, else at the end of a line,
    else between characters.

    >>> list(pieces([b"one\\n\\ntwo\\r\\n\\r\\nthree\\n"], 4))
    [b'one\\n\\n', b'two\\r\\n\\r\\n', b'three\\n']
    """
    enough = 4 * size + 4  # the next piece ends before, whatever follows
    held: list[bytes] = []
    total = 0
    for chunk in chunks:
        held.append(chunk)
        total += len(chunk)
        if total >= enough:
            start, rest = 0, b"".join(held)
            while len(rest) - start >= enough:
                stop = _piece_end(rest, start, size)
                yield rest[start:stop]
                start = stop
            held, total = [rest[start:]], len(rest) - start
    start, rest = 0, b"".join(held)
    while len(rest) - start > size:
        stop = _piece_end(rest, start, size)
        yield rest[start:stop]
        start = stop
    if start < len(rest):
        yield rest[start:]


def _piece_end(content: bytes, start: int, size: int) -> int:
    """The end of the piece that begins at `start`: after `size` bytes or up to four times that."""
    for marks in ENDS:
        end, past = 0, start + 4 * size
        for mark in marks:  # each is looked for up to the end that was found
            found = content.find(mark, max(start, start + size - len(mark)), end or past)
            end = found + len(mark) if found >= 0 else end
        if end:
            return end
    stop = start + size
    while stop < len(content) and content[stop] & 0xC0 == 0x80:
        stop += 1
    return stop


def _open(own: TextConfig, config: "DataConfig", seq_len: int) -> Documents:
    return text(config.path, own.document_bytes, markup=own.markup)


SOURCE = Source("text", _open, TextConfig)

"""The check that bytes are text: UTF-8, not another encoding and not another kind of file."""

import codecs
from collections.abc import Iterable, Iterator

from gptjax.errors import UserError

MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
FORMATS = (
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it"),
    (b"%PDF-", "a PDF", "extract its text"),
    (b"PAR1", "a Parquet file", "write its text as JSON lines"),
    (b"ARROW1", "an Arrow file", "write its text as JSON lines"),
    (b"SQLite format 3\0", "an SQLite database", "write its text as JSON lines"),
)
NULS = 0.01
"""Share of NUL bytes from which on bytes are no text; a stray one in a text does no harm."""


def utf8(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The same chunks, each checked before it is given.

    Raises:
      UserError: for the first byte that is not UTF-8, and for content that is not text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    start = 0
    for chunk in chunks:
        refuse_other_formats(chunk, name, start)
        _decode(decoder, chunk, name, start, final=False)
        start += len(chunk)
        yield chunk
    _decode(decoder, b"", name, start, final=True)


def _decode(
    decoder: codecs.IncrementalDecoder, chunk: bytes, name: str, start: int, *, final: bool
) -> None:
    pending = len(decoder.getstate()[0])
    try:
        decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        raise not_utf8(error, f"data.path: {name!r}", start - pending) from error


def not_utf8(error: UnicodeDecodeError, where: str, start: int) -> UserError:
    """The error for bytes that begin at `start` in a file."""
    return UserError(
        f"{where} is not UTF-8 at byte {start + error.start} (0x{error.object[error.start]:02x}); "
        "convert it, for example with iconv, or leave it out"
    )


def refuse_other_formats(chunk: bytes, name: str, start: int) -> None:
    """Refuse a part of a file that begins at `start` by its marks and by its NUL bytes."""
    if start == 0:
        _refuse_marks(chunk, name)
    _refuse_nuls(chunk, name)


def _refuse_marks(first: bytes, name: str) -> None:
    for mark, encoding in MARKS:
        if first.startswith(mark):
            raise UserError(
                f"data.path: {name!r} is text in {encoding}; convert it: iconv -f {encoding} "
                "-t UTF-8, or leave it out"
            )
    for mark, kind, repair in FORMATS:
        if first.startswith(mark):
            raise UserError(f"data.path: {name!r} is {kind}, not text; {repair}, or leave it out")


def _refuse_nuls(chunk: bytes, name: str) -> None:
    nuls = chunk.count(0)
    if nuls <= NULS * len(chunk):
        return
    odd = chunk[1::2].count(0)
    if nuls >= 0.3 * len(chunk) and min(odd, nuls - odd) < 0.05 * nuls:
        raise UserError(
            f"data.path: {name!r} looks like text in UTF-16 without a mark; convert it: "
            f"iconv -f UTF-16{'LE' if odd > nuls - odd else 'BE'} -t UTF-8, or leave it out"
        )
    raise UserError(
        f"data.path: {name!r} is not text, as {nuls / len(chunk):.0%} of its bytes are NUL; "
        "give the text that it holds, or leave it out"
    )

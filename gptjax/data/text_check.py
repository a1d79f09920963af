"""The check that bytes are text: UTF-8, not another encoding and not another kind of file."""

import codecs
import dataclasses
import re
from collections.abc import Iterable, Iterator

from gptjax.errors import UserError

MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of file that is no plain text.

    Attributes:
      kind, repair: in words.
      mark: a regular expression for its first bytes.
      markup: whether it is text that shows another, such as a corpus of source code may hold.
    """

    kind: str
    repair: str
    mark: re.Pattern[bytes]
    markup: bool = False


_UNPACK, _EXTRACT = "unpack it", "extract its text"
_LINES, _NONE = "write its text as JSON lines", "give text"
_BINARY = (
    ("a zip archive", _UNPACK, rb"PK(\x03\x04|\x05\x06|\x07\x08)"),
    ("a 7z archive", _UNPACK, rb"7z\xbc\xaf\x27\x1c"),
    ("a RAR archive", _UNPACK, rb"Rar!\x1a\x07"),
    ("a Unix archive", _UNPACK, rb"!<(arch|thin)>\n"),
    ("a cpio archive", _UNPACK, rb"07070[127][0-9A-Fa-f]{64}"),
    ("compressed by LZ4", _UNPACK, rb"[\x02\x04]\x22\x4d\x18|\x02\x21\x4c\x18"),
    ("compressed by lzip", _UNPACK, rb"LZIP\x01"),
    ("compressed by Snappy", _UNPACK, rb"\xff\x06\0\0sNaPpY"),
    ("compressed by compress", _UNPACK, rb"\x1f[\x9d\xa0]"),
    ("a uuencoded file", _UNPACK, rb"begin [0-7]{3,4} [^\n]+\nM[\x20-\x60]{60}\n"),
    ("a PDF", _EXTRACT, rb"\s*%PDF-"),
    ("a document of Microsoft Office", _EXTRACT, rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
    ("a DjVu document", _EXTRACT, rb"AT&TFORM"),
    ("a PostScript file", _EXTRACT, rb"\s*\x04?%!PS|\xc5\xd0\xd3\xc6"),
    ("an RTF document", _EXTRACT, rb"\s*\{\\rtf"),
    ("a Parquet file", _LINES, rb"PAR[1E][\0-\x08\x0e-\x1f]"),
    ("an Arrow file", _LINES, rb"(ARROW1|FEA1)\0"),
    ("an Avro file", _LINES, rb"Obj\x01"),
    ("an SQLite database", _LINES, rb"SQLite format 3\0"),
    ("an HDF5 file", _LINES, rb"\x89HDF\r\n\x1a\n"),
    ("a NumPy array", _LINES, rb"\x93NUMPY"),
    ("a picture", _NONE, rb"\x89PNG\r\n|\xff\xd8\xff|BM.{4}\0{4}|II\*\0|MM\0\*"),
    ("a picture", _NONE, rb"GIF8[79]a.{0,6}[\0-\x08]"),
    ("a picture", _NONE, rb"P[1-6]\n(#[^\n]*\n)*\d+ \d+\n|RIFF.{4}WEBP|/\* XPM \*/"),
    ("sound or video", _NONE, rb"RIFF.{4}(WAVE|AVI )|OggS\0|fLaC\0|ID3[\x02-\x04]|\0\0..ftyp"),
    ("a program", _NONE, rb"\x7fELF|MZ[\x90\0]|\xca\xfe\xba\xbe|[\xce\xcf]\xfa\xed\xfe|\0asm"),
    ("a file of weights", _NONE, rb".{7}\0\{\"|GGUF[\x01-\x03]\0"),
    (
        "a Git LFS pointer",
        "fetch the file: git lfs pull",
        rb"version https://git-lfs\.github\.com/",
    ),
)
TO_MARKUP = ", or set data.text.markup=true to read the markup as it is"
"""What may be done besides about a page that is to be tokenized."""
_MARKUP = (
    (
        "an HTML page",
        f"extract its text{TO_MARKUP}",
        rb"(?i)\s*+(<\?xml[^>]*>\s*)?(<!--((?!-->).)*+-->\s*+)*+"
        rb"<(!doctype\s+html|html[\s>])",
    ),
)
FORMATS = tuple(
    Format(kind, repair, re.compile(mark, re.DOTALL), markup)
    for rows, markup in ((_BINARY, False), (_MARKUP, True))
    for kind, repair, mark in rows
)
"""By their first bytes; those of which all bytes are UTF-8 would be read without a word."""
SHIFTED = re.compile(rb"\x1b\$(\(?[@B]|[()][ACD])")
"""Escapes to East Asian characters in ISO 2022, whose 7-bit bytes are UTF-8 too."""
NULS = 0.01
"""Share of NUL bytes from which on bytes are no text; a stray one in a text does no harm."""


def utf8(chunks: Iterable[bytes], name: str, *, markup: bool = False) -> Iterator[bytes]:
    """The same chunks, each checked before it is given, without a byte order mark in front.

    Args:
      markup: whether pages are read as they are written.

    Raises:
      UserError: for the first byte that is not UTF-8, and for content that is not text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    start = 0
    for chunk in chunks:
        refuse_other_formats(chunk, name, start, markup=markup)
        _decode(decoder, chunk, name, start, final=False)
        yield chunk if start else chunk.removeprefix(codecs.BOM_UTF8)
        start += len(chunk)
    _decode(decoder, b"", name, start, final=True)


def _decode(
    decoder: codecs.IncrementalDecoder, chunk: bytes, name: str, start: int, *, final: bool
) -> None:
    pending = len(decoder.getstate()[0])
    if not pending and chunk.isascii():
        return
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


def refuse_other_formats(chunk: bytes, name: str, start: int, *, markup: bool = False) -> None:
    """Refuse a part of a file that begins at `start` by its marks and by its NUL bytes."""
    if start == 0:
        _refuse_marks(chunk, name, markup)
    _refuse_nuls(chunk, name)


def _refuse_marks(first: bytes, name: str, markup: bool) -> None:
    for mark, encoding in MARKS:
        if first.startswith(mark):
            raise UserError(
                f"data.path: {name!r} is text in {encoding}; convert it: iconv -f {encoding} "
                "-t UTF-8, or leave it out"
            )
    shown = first.removeprefix(codecs.BOM_UTF8)
    for format in FORMATS:
        if format.mark.match(shown) and not (format.markup and markup):
            raise UserError(
                f"data.path: {name!r} is {format.kind}, not text; {format.repair}, or leave it out"
            )
    if SHIFTED.search(first):
        raise UserError(
            f"data.path: {name!r} looks like text in ISO 2022; convert it: iconv -f ISO-2022-JP "
            "(or -KR, -CN) -t UTF-8, or leave it out"
        )


def _refuse_nuls(chunk: bytes, name: str) -> None:
    nuls = chunk.count(0) if b"\0" in chunk else 0
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

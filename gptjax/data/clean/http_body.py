"""HTTP bodies as crawls keep them: chunked and compressed as sent (RFC 9112, RFC 9110)."""

import zlib
from collections.abc import Callable

from gptjax.errors import UserError


def decoded(body: bytes, transfer: str, content: str) -> bytes:
    """A body as it was before it was sent, or as much of it as a crawl that cut it short has kept.

    A crawl may keep a header of what it has undone: what does not begin as its header says is left
    as it is.

    Args:
      transfer, content: the headers Transfer-Encoding and Content-Encoding; "" where there is none.

    Raises:
      UserError: for an encoding that is not read, and for a body that is damaged.
    """
    for name in _names(transfer):
        if name == "chunked":
            body = _joined(body)
    for name in reversed(_names(content)):
        if name not in CONTENT_ENCODINGS:
            raise UserError(f"has the content encoding {name!r}, which is not read")
        try:
            body = CONTENT_ENCODINGS[name](body)
        except Exception as error:  # each library has an error of its own
            raise UserError(f"has a damaged body ({name}: {error})") from error
    return body


def _names(header: str) -> list[str]:
    return [name for part in header.lower().split(",") if (name := part.strip())]


def _joined(body: bytes) -> bytes:
    """The chunks of a body, up to its end or to where it was cut."""
    parts: list[bytes] = []
    place = 0
    while place < len(body):
        line, _, _ = body[place : place + 1024].partition(b"\r\n")
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError as error:
            if not parts:
                return body  # no chunks: they were joined before
            raise UserError(f"has a damaged body (no size of a chunk at byte {place})") from error
        start = place + len(line) + 2
        parts.append(body[start : start + size])
        place = start + size + 2
        if size == 0:
            break
    return b"".join(parts)


def _gzip(body: bytes) -> bytes:
    if body[:2] != b"\x1f\x8b":
        return body
    return zlib.decompressobj(wbits=31).decompress(body)


def _deflate(body: bytes) -> bytes:
    """zlib's format, or bare, as some servers have it."""
    try:
        return zlib.decompressobj().decompress(body)
    except zlib.error:
        return zlib.decompressobj(wbits=-15).decompress(body)


def _brotli(body: bytes) -> bytes:
    import brotli  # fastwarc brings it

    return bytes(brotli.Decompressor().process(body))


CONTENT_ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
}

"""Pages of crawls: bodies as servers send them, and records that are none or damaged."""

import gzip
import zlib

import pytest

from gptjax.data.clean import readers
from gptjax.errors import UserError

pytest.importorskip("fastwarc")
brotli = pytest.importorskip("brotli")
WORDS = "Il était une fois un roi."
HTML = f"<html><body><main><p>{WORDS}</p></main></body></html>".encode()


def record(body, kind="response", http="HTTP/1.1 200 OK\r\n", **headers):
    """A record of WARC 1.0, of a reply with these headers."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    block = (http + lines + "\r\n").encode() + body if http else body
    own = f"Content-Type: {'application/http; msgtype=response' if http else 'text/html'}\r\n"
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\n{own}Content-Length: {len(block)}\r\n\r\n"
    return head.encode() + block + b"\r\n\r\n"


def page(body=HTML, **headers):
    return record(body, **{"Content_Type": "text/html; charset=utf-8"} | headers)


def read(folder, *records, strict=False):
    """The texts of a file, and what was broken in it."""
    file, broken = folder / "crawl.warc", readers.Broken()
    file.write_bytes(b"".join(records))
    return [one.text.strip() for one in readers.documents(file, broken, strict=strict)], broken


def chunked(body):
    parts = [body[i : i + 11] for i in range(0, len(body), 11)]
    return b"".join(b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    "one",
    [
        page(),
        page(gzip.compress(HTML), Content_Encoding="gzip"),
        page(zlib.compress(HTML), Content_Encoding="deflate"),
        page(zlib.compress(HTML)[2:-4], Content_Encoding="deflate"),
        page(brotli.compress(HTML), Content_Encoding="br"),
        page(chunked(HTML), Transfer_Encoding="chunked"),
        page(chunked(gzip.compress(HTML)), Transfer_Encoding="Chunked", Content_Encoding="x-gzip"),
        page(chunked(HTML)[:-9], Transfer_Encoding="chunked"),
        page(Content_Encoding="gzip", Transfer_Encoding="chunked"),  # undone, and still said
        page(Content_Type="Text/HTML;charset=UTF-8"),
        page(Content_Type="text/html; charset=no-such"),
        page(HTML.decode().encode("latin-1"), Content_Type="text/html; charset=ISO-8859-1"),
        page(WORDS.encode(), Content_Type="text/plain; charset=utf-8"),
        record(HTML, kind="resource", http=""),
    ],
)
def test_a_page_is_read_as_it_was_before_it_was_sent(tmp_path, one):
    assert read(tmp_path, one) == ([WORDS], readers.Broken())


def test_a_page_that_a_crawl_cut_short_keeps_what_is_there(tmp_path):
    whole = HTML.replace(WORDS.encode(), f"{WORDS} {'x' * 9} ".encode() * 50)
    cut = gzip.compress(whole)[:-20]
    ((found,), broken) = read(tmp_path, page(cut, Content_Encoding="gzip"))
    assert found.startswith(WORDS) and broken.count == 0


def test_what_is_no_page_is_passed_over(tmp_path):
    lost = record(HTML, http="HTTP/1.1 404 Not Found\r\n", Content_Type="text/html")
    moved = record(b"", http="HTTP/1.1 301 Moved\r\n", Content_Type="text/html")
    picture, none = (
        page(b"\x89PNG", Content_Type="image/png"),
        record(b"x", http="HTTP/1.1 200\r\n"),
    )
    assert read(tmp_path, lost, moved, picture, none, page()) == ([WORDS], readers.Broken())


@pytest.mark.parametrize(
    ("headers", "body", "words"),
    [
        ({"Content_Encoding": "gzip"}, b"\x1f\x8b\x08" + b"z" * 60, "damaged body"),
        ({"Content_Encoding": "br"}, HTML, "damaged body"),
        ({"Content_Encoding": "zstd"}, HTML, "'zstd', which is not read"),
        ({"Transfer_Encoding": "chunked"}, b"3\r\nabc\r\nzz\r\n", "no size of a chunk"),
    ],
)
def test_a_broken_page_is_counted_and_named_and_the_others_are_read(tmp_path, headers, body, words):
    texts, broken = read(tmp_path, page(), page(body, **headers), page())
    assert texts == [WORDS, WORDS] and broken.count == 1 and words in broken.places[0]
    with pytest.raises(UserError, match=r"record 2 has .*clean\.strict=false"):
        read(tmp_path, page(), page(body, **headers), strict=True)


def test_a_file_that_is_no_crawl_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"crawl\.warc' is damaged at record 2"):
        read(tmp_path, page(), b"no header\r\n\r\n" * 9)

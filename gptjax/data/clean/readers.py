"""Readers of collections as they are published: JSON lines, Parquet, WARC, plain text.

What is compressed is decompressed in parts (gzip, zstd, bzip2, xz, tar). A record's text, id, URL
and source are found under the names that C4, The Pile, Dolma, peS2o, The Stack and others give
them. A record that is broken is counted and named; only `strict` refuses it.
"""

import dataclasses
import glob
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gptjax.data import files
from gptjax.data.clean import http_body
from gptjax.data.clean.documents import Document
from gptjax.data.compression import Content, contents, stem
from gptjax.data.sources.jsonl import lines_of
from gptjax.data.text_check import utf8
from gptjax.errors import UserError
from gptjax.files import user_path

TEXTS = ("text", "content", "raw_content", "body", "document")
IDS = ("id", "warc_record_id", "hexsha", "blob_id", "doc_id")
URLS = ("url", "uri", "source_url", "metadata.url", "meta.url")
SOURCES = ("source", "meta.pile_set_name", "meta.redpajama_set_name", "lang", "language")
NAMED = 5
"""Broken records that are named in the report."""
PARQUET_ROWS = 1024
STRICT = ", or set clean.strict=false to leave it out"
"""What may be done besides about a broken record of the input."""
HTML_TYPES = ("text/html", "application/xhtml+xml")


@dataclasses.dataclass
class Broken:
    """Records that could not be read: how many, and the first of them in words."""

    count: int = 0
    places: list[str] = dataclasses.field(default_factory=list)

    def add(self, place: str, why: str, *, strict: bool) -> None:
        """Count one.

        Raises:
          UserError: where it is to be fatal.
        """
        if strict:
            raise UserError(f"{place} {why}; mend or drop it{STRICT}")
        self.count += 1
        if len(self.places) < NAMED:
            self.places.append(f"{place} {why}")


Reader = Callable[[Content, Broken, bool], Iterator[tuple[int, Mapping[str, Any]]]]
"""(content, broken, strict) → (place, record) of every record."""


def find(path: str) -> list[Path]:
    """The files of `clean.input`, each once."""
    return _renamed(lambda: files.find(path, "clean", ()))


def root_of(path: str) -> str:
    """The folder in which `path` finds files, which their names in ids begin after.

    >>> root_of("/no/crawl/*/a.gz")
    '/no/crawl'
    """
    parts = itertools.takewhile(lambda part: not glob.has_magic(part), user_path(path).parts)
    folder = Path(*parts)
    return str(folder.parent if folder.is_file() else folder)


def documents(
    file: Path, broken: Broken, *, strict: bool, text_field: str = "", root: str = ""
) -> Iterator:
    """The documents of a file, in its order, with their places.

    Args:
      root: `root_of` the setting that names the files; "": their own folders.

    Raises:
      UserError: for a file that cannot be read, is damaged or cut short, and for a broken record
        where `strict`.
    """
    chunks = _renamed_each(contents(file))
    for content in chunks:
        name = _as_text(content.name.removeprefix(f"{root or file.parent}/"))
        for place, record in _renamed_each(_reader(content.name)(content, broken, strict)):
            found = document_of(record, f"{name}#{place}", _as_text(_top(file)), text_field)
            if found is None:
                broken.add(
                    f"{content.name} record {place}",
                    f"has no text under {text_field or ', '.join(TEXTS)}",
                    strict=strict,
                )
            else:
                yield found


def evaluation_files(path: str) -> list[Path]:
    """The files of `clean.contamination.path`, each once."""
    field = "clean.contamination.path"
    return _renamed(lambda: files.find(path, "contamination", ()), field)  # type: ignore[no-any-return]


def text_files(path: str) -> Iterator[str]:
    """The texts of evaluation files: of every record all strings, of every other file its text.

    Raises:
      UserError: for a file that cannot be read, and a broken record, whose text would be missing.
    """
    found = evaluation_files(path)
    try:
        for content in itertools.chain.from_iterable(map(contents, found)):
            for _, record in _reader(content.name)(content, Broken(), True):
                yield from _strings(record)
    except UserError as error:
        words = str(error).replace(STRICT, "").replace("clean.input", "data.path")
        raise UserError(words.replace("data.path", "clean.contamination.path")) from error


def document_of(
    record: Mapping[str, Any], place: str, source: str, text_field: str = ""
) -> Document | None:
    """A record as a document; None where it has no text."""
    names = (text_field,) if text_field else TEXTS
    used, text = next(
        ((n, t) for n in names if (t := _first(record, (n,))) is not None), ("", None)
    )
    if text is None:
        return None
    return Document(
        text=text,
        id=_first(record, IDS, numbers=True) or place,
        source=_first(record, SOURCES) or source,
        url=_first(record, URLS) or "",
        fields={name: value for name, value in record.items() if name != used},
    )


def _first(record: Mapping[str, Any], names: Iterable[str], *, numbers: bool = False) -> str | None:
    """The first of these fields that holds a text, or where they count a whole number."""
    for name in names:
        value: Any = record
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, str):
            return value
        if numbers and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    return None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _as_text(name: str) -> str:
    """A file's name, of which bytes that are not UTF-8 are written as \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _top(file: Path) -> str:
    """The name of the folder that a file lies in: a collection, where records do not say theirs."""
    return file.absolute().parent.name


def _json_lines(content: Content, broken: Broken, strict: bool) -> Iterator[tuple[int, Any]]:
    empty = True
    for number, line in enumerate(lines_of(content), 1):
        if not line.strip():
            continue
        if empty:
            _refuse_one_value(line, content.name)
        empty = False
        try:
            record = json.loads(line.decode("utf-8-sig"))
            if not isinstance(record, dict):
                raise ValueError(f"a JSON {type(record).__name__} and no object")
            json.dumps(record, ensure_ascii=False).encode()  # half a surrogate pair is no text
        except (ValueError, RecursionError) as error:
            why = f"is no JSON object ({str(error)[:80]})"
            broken.add(f"{content.name} line {number}", why, strict=strict)
            continue
        yield number, record


def _refuse_one_value(first: bytes, name: str) -> None:
    """Refuse a file that is one JSON value, over several lines or all records in an array."""
    start = first.decode("utf-8-sig", "replace").strip()
    if start == "{" or start.startswith("["):
        raise UserError(
            f"clean.input: {name!r} is one JSON {'object' if start == '{' else 'array'}, and "
            "records are read line by line; write an object in each line, for example with jq -c "
            f"'{'.' if start == '{' else '.[]'}'"
        )


def _text(content: Content, broken: Broken, strict: bool) -> Iterator[tuple[int, Any]]:
    yield 1, {"text": b"".join(utf8(content.chunks, content.name, markup=True)).decode()}


def _parquet(content: Content, broken: Broken, strict: bool) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(
            f"clean.input: {content.name!r} is Parquet, which needs pyarrow; "
            "pip install 'gptjax[clean]'"
        ) from error
    whole = not content.member and Path(content.name).suffix.lower() == ".parquet"
    where: Any = content.name if whole else io.BytesIO(b"".join(content.chunks))
    try:
        table, place = parquet.ParquetFile(where), 0
        for batch in table.iter_batches(PARQUET_ROWS):
            for record in batch.to_pylist():
                place += 1
                yield place, record
    except (OSError, ValueError) as error:
        raise UserError(
            f"clean.input: {content.name!r} is no whole Parquet file ({str(error)[:80]}); fetch it "
            "again or leave it out"
        ) from error


def _warc(content: Content, broken: Broken, strict: bool) -> Iterator[tuple[int, Any]]:
    """The pages of a crawl: HTML as its main text, and plain text, converted or as it was sent.

    Bodies are decoded as their headers say (chunked, gzip, …). Replies other than success (2xx) are
    no pages, and what is neither HTML nor plain text is passed over.
    """
    try:
        from fastwarc.warc import ArchiveIterator, WarcRecordType
    except ImportError as error:
        raise UserError(
            f"clean.input: {content.name!r} is a WARC file, which needs fastwarc and resiliparse; "
            "pip install 'gptjax[clean]'"
        ) from error
    kinds = WarcRecordType.response | WarcRecordType.conversion | WarcRecordType.resource
    records = ArchiveIterator(_Stream(content.chunks), record_types=kinds)
    place = 0
    while True:
        place += 1
        try:
            record = next(records, None)
        except OSError as error:  # where the next record begins is not known
            raise UserError(
                f"clean.input: {content.name!r} is damaged at record {place} ({error}); fetch it "
                "again or leave it out"
            ) from error
        if record is None:
            return
        try:
            page = _page(record)
        except (OSError, ValueError, UserError) as error:
            broken.add(f"{content.name} record {place}", str(error)[:100], strict=strict)
            continue
        if page is not None:
            yield place, page


def _page(record: Any) -> Mapping[str, Any] | None:
    """A record as text with its address; None where it is no page."""
    kind = record.http_content_type if record.is_http else record.headers.get("Content-Type")
    kind = (kind or "").partition(";")[0].strip().lower()
    status = record.http_headers.status_code if record.is_http else 200
    if kind not in ("text/plain", *HTML_TYPES) or not 200 <= (status or 0) < 300:
        return None
    sent = record.http_headers if record.is_http else {}
    names = ("Transfer-Encoding", "Content-Encoding")
    body = http_body.decoded(record.reader.read(), *(str(sent.get(name) or "") for name in names))
    text = _decoded(body, record.http_charset)
    if kind in HTML_TYPES:
        from resiliparse.extract.html2text import extract_plain_text

        text = extract_plain_text(text, main_content=True, alt_texts=False)
    return {
        "text": text,
        "id": str(record.record_id),
        "url": str(record.headers.get("WARC-Target-URI", "")),
        "date": str(record.headers.get("WARC-Date", "")),
    }


def _decoded(body: bytes, charset: str | None) -> str:
    """A body as text; as browsers do, a name of no encoding counts as none."""
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    try:
        return str(bytes_to_str(body, charset or detect_encoding(body) or "utf-8"))
    except LookupError:
        return str(bytes_to_str(body, detect_encoding(body) or "utf-8"))


class _Stream(io.RawIOBase):
    """Chunks of bytes with what fastwarc calls: `read`, and `seek` to places that come later."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks, self._rest, self._place = chunks, b"", 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._rest or size < 0:
            part = next(self._chunks, None)
            if part is None:
                break
            self._rest += part
        taken = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(taken) :]
        self._place += len(taken)
        return taken

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        ahead = offset - (self._place if whence == 0 else 0)
        while ahead > 0 and (part := self.read(min(ahead, 1 << 20))):
            ahead -= len(part)
        return self._place


READERS: dict[str, Reader] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_lines,
    ".parquet": _parquet,
    ".pq": _parquet,
    ".warc": _warc,
    ".wet": _warc,
}
"""By the end of a file's name, before .gz and the like; other files are one document each."""


def _reader(name: str) -> Reader:
    return READERS.get(Path(stem(Path(name).name)).suffix, _text)


def _renamed(call: Callable[[], Any], field: str = "clean.input") -> Any:
    """What a call gives, with errors that name the field of here."""
    try:
        return call()
    except UserError as error:
        raise UserError(str(error).replace("data.path", field)) from error


def _renamed_each(items: Iterable[Any], field: str = "clean.input") -> Iterator[Any]:
    found = iter(items)
    while True:
        item = _renamed(lambda: next(found, None), field)
        if item is None:
            return
        yield item

"""The source `jsonl`: JSON Lines files, one document in each line's object."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptjax.data import files
from gptjax.data.compression import Content, contents
from gptjax.data.sources.base import Documents, Pictured, Source
from gptjax.data.text_check import not_utf8, refuse_other_formats
from gptjax.errors import UserError, nearest

if TYPE_CHECKING:
    from gptjax.data.config import DataConfig

SUFFIXES = (".jsonl", ".ndjson", ".json")


def jsonl(path: str, text_field: str) -> Documents:
    """One document for each line: the string in the field `text_field` of its object.

    Raises:
      UserError: where `path` names no file; while reading, for a file that cannot be read, is
        damaged or is not UTF-8, and for a line that is no object with a string in that field.
    """
    found = files.find(path, "jsonl", SUFFIXES)

    def read() -> Iterator[bytes]:
        for place, record in _records(found, f'{{"{text_field}": "…"}}'):
            yield _document(record, text_field, place)

    return Documents(
        stamp={"files": files.facts(found), "text_field": text_field},
        read=read,
        field=f"data.path={path!r}",
    )


def records(path: str, example: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line in words, object) of each line of JSON Lines files that holds something.

    Args:
      example: a line such as the files should have, for errors.

    Raises:
      UserError: as `jsonl` and its reading.
    """
    return _records(files.find(path, "jsonl", SUFFIXES), example)


def _records(found: list[Path], example: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for content in itertools.chain.from_iterable(contents(file, SUFFIXES) for file in found):
        offset = 0
        where = f"data.path: {content.name!r}"
        for number, line in enumerate(lines_of(content), 1):
            if line.strip():
                yield f"{where} line {number}", _record(line, where, number, offset, example)
            offset += len(line) + 1


def lines_of(content: Content) -> Iterator[bytes]:
    """The lines of a file without their line feeds."""
    rest: list[bytes] = []
    start = 0
    for chunk in content.chunks:
        refuse_other_formats(chunk, content.name, start)
        start += len(chunk)
        first, *others = chunk.split(b"\n")
        rest.append(first)
        for other in others:
            yield b"".join(rest)
            rest = [other]
    last = b"".join(rest)
    if last:
        yield last


def _record(line: bytes, where: str, number: int, offset: int, example: str) -> dict[str, Any]:
    """The object of one JSON line; `offset` is the line's first byte in the file."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(error, where, offset) from error
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} line {number} is not JSON ({error}); mend or drop it") from error
    if not isinstance(record, dict):
        raise UserError(
            f"{where} line {number} is a JSON {type(record).__name__}, not an object; "
            f"write lines such as {example}"
        )
    return record


def _document(
    record: dict[str, Any], text_field: str, place: str, setting: str = "data.text_field"
) -> bytes:
    """The text of one object."""
    if text_field not in record:
        raise UserError(
            f"{place} has no field {setting}={text_field!r}; "
            f"{nearest(text_field, record) if record else 'it is empty'}"
        )
    value = record[text_field]
    if not isinstance(value, str):
        raise UserError(
            f"{place} has a {type(value).__name__} in {setting}="
            f"{text_field!r}; name a field that holds a string"
        )
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place} has half a surrogate pair in {setting}={text_field!r}; mend or drop the line"
        ) from error


def pictured(path: str, text_field: str, picture_field: str, size: int) -> Pictured:
    """The same with the picture that each line names, by a path from the line's own folder.

    Raises:
      UserError: as `jsonl`, and while reading for a line without a picture that can be read.
    """
    found, example = files.find(path, "jsonl", SUFFIXES), f'{{"{text_field}": "…"}}'

    def read() -> Iterator[tuple[bytes, np.ndarray]]:
        from gptjax.data.pictures import read_picture, resized

        for file in found:
            for place, record in _records([file], example):
                text = _document(record, text_field, place)
                name = _document(record, picture_field, place, "data.picture_field").decode()
                picture = read_picture(file.parent / name, place)
                yield text, resized(picture, size) if size else picture

    shown = [
        file.parent / str(record.get(picture_field, ""))
        for file in found
        for _, record in _records([file], example)
    ]
    facts: dict[str, Any] = {"text_field": text_field, "picture_field": picture_field}
    facts |= {"picture_size": size, "shown_by": "EXIF"}  # caches of before have them as stored
    stamp = {"files": files.facts(found), "pictures": _digest(shown), **facts}
    return Pictured(stamp, read, f"data.path={path!r}")


def _digest(paths: list[Path]) -> str:
    """A hash that changes whenever one of these files does, by size and time of change."""
    hasher = hashlib.sha256()
    for path in paths:
        if path.is_file():  # others are told of while reading, with their line
            found = path.stat()
            hasher.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    return hasher.hexdigest()


def _open(own: None, config: "DataConfig", seq_len: int) -> Documents | Pictured:
    if config.picture_field:
        asked = config.text_field, config.picture_field, config.picture_size
        return pictured(config.path, *asked)
    return jsonl(config.path, config.text_field)


SOURCE = Source("jsonl", _open)

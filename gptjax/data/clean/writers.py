"""Writers of shards: records of cleaned documents as zstd JSON lines or Parquet."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zstandard

from gptjax.errors import UserError

ROWS = 1000
"""Rows of a group in a Parquet shard."""


def _write_json_lines(path: Path, records: Iterator[dict[str, Any]]) -> None:
    with path.open("wb") as file, zstandard.ZstdCompressor(level=3).stream_writer(file) as out:
        for record in records:
            out.write(as_json(record).encode("utf-8", "replace") + b"\n")


def as_json(value: Any) -> str:
    """A line of JSON; numbers that are not finite, which JSON has not, become null.

    >>> as_json({"score": float("nan"), "all": [1, float("inf")]})
    '{"score": null, "all": [1, null]}'
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list) else value


def _write_parquet(path: Path, records: Iterator[dict[str, Any]]) -> None:
    """Columns text, id, source, url, and the rest of a record as JSON."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(
            "clean.format=parquet needs pyarrow; pip install 'gptjax[clean]', or set "
            "clean.format=jsonl.zst"
        ) from error
    names = ("text", "id", "source", "url", "metadata")
    schema = pa.schema([(name, pa.string()) for name in names])
    with parquet.ParquetWriter(path, schema, compression="zstd") as out:
        rows: list[dict[str, Any]] = []
        for record in records:
            extra = record.get("metadata")
            rows.append(record | {"metadata": as_json(extra) if extra else None})
            if len(rows) == ROWS:
                out.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        if rows:
            out.write_table(pa.Table.from_pylist(rows, schema))


WRITERS: dict[str, Callable[[Path, Iterator[dict[str, Any]]], None]] = {
    "jsonl.zst": _write_json_lines,
    "parquet": _write_parquet,
}
"""By `clean.format`."""

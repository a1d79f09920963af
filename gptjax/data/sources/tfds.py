"""The source `tfds`: a split of a TensorFlow Dataset, read without TensorFlow."""

import dataclasses
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gptjax.data.sources.base import Documents, Source
from gptjax.errors import UserError, nearest
from gptjax.fields import setting

if TYPE_CHECKING:
    from gptjax.data.config import DataConfig

BATCH = 256
PREPARE = "tfds build NAME --file_format=array_record"


@dataclasses.dataclass(frozen=True)
class TfdsConfig:
    """The settings of the source `tfds`."""

    name: str = setting("", "the dataset, as name, name/config or name/config:version", was="name")
    split: str = setting("train", "the split to read, or a slice of it: train[:10%]", was="split")


def tfds(name: str, split: str, text_field: str, data_dir: str) -> Documents:
    """The texts of one split of a dataset, in its own order.

    Only formats with random access can be read without TensorFlow: array_record and parquet.
    A dataset that is known but not there is downloaded and prepared by TFDS itself.

    Args:
      name: as `tfds.builder` takes it: name, name/config, name/config:version.
      split: as TFDS writes it, for example "train" or "train[:10%]".
      text_field: the feature that holds the text.
      data_dir: where datasets are kept; "" is TFDS's default ($TFDS_DATA_DIR or
        ~/tensorflow_datasets).

    Raises:
      UserError: for an unknown dataset, split or field, or a format that needs TensorFlow.
    """
    if not name:
        raise UserError(
            "data.tfds.name='' names no dataset, which data.source='tfds' needs; give one"
        )
    builder = _builder(name, data_dir)
    rows = _rows(builder, name, split, data_dir)
    _check_field(builder, name, text_field)

    def read() -> Iterator[bytes]:
        for first in range(0, len(rows), BATCH):
            numbers = list(range(first, min(first + BATCH, len(rows))))
            for number, row in zip(numbers, _fetch(rows, numbers, name), strict=True):
                yield _text(row[text_field], name, number, text_field)

    return Documents(
        stamp={
            "name": builder.info.full_name,
            "split": split,
            "text_field": text_field,
            "files": _files(str(builder.data_path)),
        },
        read=read,
        field=f"data.tfds.name={name!r}",
    )


def _builder(name: str, data_dir: str) -> Any:
    try:
        import tensorflow_datasets
    except ModuleNotFoundError as error:
        raise UserError(
            f"data.source='tfds' needs {error.name}, which is not installed; "
            "run: pip install 'gptjax[tfds]'"
        ) from error
    try:
        return tensorflow_datasets.builder(name, data_dir=data_dir or None, file_format=None)
    except Exception as error:  # TFDS raises ValueError, AssertionError and classes of its own
        where = f"in data.path={data_dir!r}" if data_dir else "in the default data directory"
        raise UserError(
            f"data.tfds.name={name!r} is not a dataset that TFDS knows or that lies {where} "
            f"({_first_line(error)}); give name, name/config or name/config:version"
        ) from error


def _rows(builder: Any, name: str, split: str, data_dir: str) -> Any:
    """The split as a random-access sequence of dicts."""
    try:
        if not builder.is_prepared():
            builder.download_and_prepare(file_format="array_record")
    except Exception as error:
        raise UserError(
            f"data.tfds.name={name!r} is not prepared and cannot be now ({_first_line(error)}); "
            f"prepare it with: {PREPARE.replace('NAME', name)}"
        ) from error
    try:
        return builder.as_data_source(split=split)
    except NotImplementedError as error:
        raise UserError(
            f"data.tfds.name={name!r} is prepared in a format that only TensorFlow reads; "
            f"prepare it again with: {PREPARE.replace('NAME', name)}"
        ) from error
    except Exception as error:
        splits = ", ".join(sorted(builder.info.splits)) or "none"
        raise UserError(
            f"data.tfds.split={split!r} cannot be read from data.tfds.name={name!r}, whose splits "
            f"are: {splits} ({_first_line(error)}); name one, or a slice such as train[:10%]"
        ) from error


def _check_field(builder: Any, name: str, text_field: str) -> None:
    features = list(builder.info.features) if hasattr(builder.info.features, "keys") else []
    if text_field not in features:
        raise UserError(
            f"data.text_field={text_field!r} is not a feature of data.tfds.name={name!r}; "
            f"{nearest(text_field, features)}"
        )


def _fetch(rows: Any, numbers: list[int], name: str) -> list[dict[str, Any]]:
    try:
        return list(rows.__getitems__(numbers))
    except Exception as error:
        raise UserError(
            f"data.tfds.name={name!r} cannot be read at examples {numbers[0]} to {numbers[-1]} "
            f"({_first_line(error)}); prepare it again"
        ) from error


def _text(value: Any, name: str, number: int, text_field: str) -> bytes:
    document = value.encode() if isinstance(value, str) else value
    if not isinstance(document, bytes):
        raise UserError(
            f"data.text_field={text_field!r} of data.tfds.name={name!r} holds a "
            f"{type(value).__name__}, not a text; name a feature of type Text"
        )
    try:
        document.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"data.text_field={text_field!r} of data.tfds.name={name!r} is not UTF-8 in example "
            f"{number} at byte {error.start}; name another feature"
        ) from error
    return document


def _files(folder: str) -> list[Any]:
    """[name, bytes, time of change in ns] of each file of a prepared dataset, where it is local."""
    if not os.path.isdir(folder):
        return []
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    return [[e.name, e.stat().st_size, e.stat().st_mtime_ns] for e in entries if e.is_file()]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")


def _open(own: TfdsConfig, config: "DataConfig", seq_len: int) -> Documents:
    return tfds(own.name, own.split, config.text_field, config.path)


SOURCE = Source("tfds", _open, TfdsConfig)

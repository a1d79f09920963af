"""The safetensors format: a length, a JSON header, and the tensors' bytes.

https://github.com/huggingface/safetensors, "Format". Files are mapped into memory, so that a
tensor costs memory only while it is being copied.
"""

import dataclasses
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gptjax.errors import UserError
from gptjax.files import read_json, write_json

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ONE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where a tensor lies in a file."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    def read(self) -> np.ndarray:
        """The tensor as a read-only view of the file."""
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


def open_folder(folder: Path) -> dict[str, Stored]:
    """Every tensor of the folder's shards by name; nothing but headers is read.

    Raises:
      UserError: where there is no safetensors file, or one is damaged or missing.
    """
    if (folder / INDEX).exists():
        names = sorted(set(read_json(folder / INDEX).get("weight_map", {}).values()))
    elif (folder / ONE).exists():
        names = [ONE]
    else:
        raise UserError(
            f"{folder} has neither {ONE} nor {INDEX}; give a folder that save_pretrained wrote"
        )
    found: dict[str, Stored] = {}
    for name in names:
        found |= _header(folder / name)
    return found


def write_folder(
    folder: Path, tensors: Iterable[tuple[str, np.ndarray]], *, max_shard_bytes: int
) -> None:
    """Write tensors as they come, a new shard whenever one would exceed `max_shard_bytes`.

    Holds one shard in memory. Files appear whole; the index is written last.
    """
    shards: list[dict[str, np.ndarray]] = [{}]
    written: list[Path] = []
    names: list[list[str]] = []
    size = total = 0

    def flush() -> None:
        path = folder / f"model-{len(written) + 1:05d}.part"
        _write_file(path, shards.pop())
        written.append(path)

    for name, array in tensors:
        if shards[-1] and size + array.nbytes > max_shard_bytes:
            flush()
            shards.append({})
            size = 0
        if not shards[-1]:
            names.append([])
        shards[-1][name] = array
        names[-1].append(name)
        size += array.nbytes
        total += array.nbytes
    flush()
    if len(written) == 1:
        written[0].replace(folder / ONE)
        return
    weight_map: dict[str, str] = {}
    for number, (path, keys) in enumerate(zip(written, names, strict=True), 1):
        final = f"model-{number:05d}-of-{len(written):05d}.safetensors"
        path.replace(folder / final)
        weight_map |= dict.fromkeys(keys, final)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _write_file(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, array in tensors.items():
        end = offset + array.nbytes
        entry = {"dtype": NAMES[array.dtype], "shape": array.shape, "data_offsets": (offset, end)}
        header[name] = entry
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _header(path: Path) -> dict[str, Stored]:
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        found = {}
        end = 0
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            start, stop = entry["data_offsets"]
            dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
            if stop - start != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
                raise ValueError(f"{name} has {stop - start} bytes")
            found[name] = Stored(path, dtype, shape, 8 + length + start)
            end = max(end, 8 + length + stop)
        if end > path.stat().st_size:
            raise ValueError("the file is cut short")
    except FileNotFoundError as error:
        raise UserError(f"{path} is named by the index and does not exist; fetch it") from error
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise UserError(
            f"{path} is not a safetensors file that can be read ({error}); fetch it again"
        ) from error
    return found

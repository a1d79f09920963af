"""Tensor files of a model folder: safetensors, in one file or in shards with an index.

The `safetensors` library reads and checks headers (offsets, sizes, overlaps); here stands what it
does not know: which files belong to the folder, and that weights are finite numbers.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path, PurePath

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save_file

from gptjax.errors import UserError
from gptjax.files import read_json, refuse_pointer, write_json

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""Types of weights that are read; others stand in files for tensors that are no weights."""
ONE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
      path: of the file.
      name: the tensor's, in it.
      stored_as: the type as the format names it.
      shape: as stored.
    """

    path: Path
    name: str
    stored_as: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """The type of `read`.

        Raises:
          UserError: for another type than DTYPES.
        """
        if self.stored_as not in DTYPES:
            raise UserError(
                f"tensor {self.name} in {self.path} has the type {self.stored_as}, and "
                f"{', '.join(DTYPES)} are read; {_advice(self.stored_as)}"
            )
        return DTYPES[self.stored_as]

    def read(self) -> np.ndarray:
        """The tensor, read from the file.

        Raises:
          UserError: for another type than DTYPES, and for a number that is not finite.
        """
        dtype = self.dtype  # first: the library has no words for what it cannot read
        return self._finite(np.asarray(self._content(), dtype))

    def read_any(self) -> np.ndarray:
        """The same of a tensor that may hold bytes, as codes of weights are.

        Raises:
          UserError: for a number that is not finite.
        """
        return self._content() if self.stored_as == "U8" else self.read()

    def _content(self) -> np.ndarray:
        # Opened for each: the pages of a mapped file count as memory until it is closed.
        with safetensors.safe_open(self.path, framework="numpy") as file:
            return file.get_tensor(self.name)

    def _finite(self, array: np.ndarray) -> np.ndarray:
        if not np.all(np.isfinite(array)):
            raise UserError(
                f"tensor {self.name} in {self.path} has numbers that are not finite; it is "
                "damaged, or its training diverged: fetch it again, or another one"
            )
        return array


def _advice(dtype: str) -> str:
    if dtype.startswith("F8"):
        return "float8 weights mean something with their scales only; fetch a bfloat16 release"
    return "weights are floats; fetch another release of the model"


def open_folder(folder: Path) -> dict[str, Stored]:
    """Every tensor of the folder's shards by name; nothing but headers is read.

    Raises:
      UserError: where there is no safetensors file, or one is damaged or missing.
    """
    found: dict[str, Stored] = {}
    for name in _names(folder):
        for tensor in tensors_of(folder / name):
            if tensor.name in found:
                raise UserError(
                    f"tensor {tensor.name} is in {found[tensor.name].path} and in {tensor.path}; "
                    "fetch the whole model again"
                )
            found[tensor.name] = tensor
    return found


def _names(folder: Path) -> list[str]:
    """The folder's files; an index names none outside of it."""
    if not (folder / INDEX).exists():
        if (folder / ONE).exists():
            return [ONE]
        raise UserError(
            f"{folder} has neither {ONE} nor {INDEX}; give a folder that save_pretrained wrote"
        )
    index = read_json(folder / INDEX)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names:
        raise UserError(f"{folder / INDEX} has no weight_map of tensors and files; fetch it again")
    for name in names.values():
        if not isinstance(name, str) or PurePath(name).name != name or "\0" in name:
            raise UserError(
                f"{folder / INDEX} names the file {name!r}, which is not in its folder; fetch it "
                "again"
            )
    return sorted(set(names.values()))


def tensors_of(path: Path) -> list[Stored]:
    """The tensors of one file; nothing but its header is read.

    Raises:
      UserError: where it is missing or damaged.
    """
    if not path.exists():
        raise UserError(f"{path} is named by the index and does not exist; fetch it")
    try:
        if not path.is_file():
            raise OSError("it is no file")
        with safetensors.safe_open(path, framework="numpy") as file:
            slices = [(name, file.get_slice(name)) for name in file.keys()]  # noqa: SIM118
            return [
                Stored(path, name, part.get_dtype(), tuple(part.get_shape()))
                for name, part in slices
            ]
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        refuse_pointer(path)
        raise UserError(
            f"{path} is not a safetensors file that can be read ({error}); fetch it again"
        ) from error


def write_folder(
    folder: Path, tensors: Iterable[tuple[str, np.ndarray]], *, max_shard_bytes: int
) -> None:
    """Write tensors as they come, a new shard whenever one would exceed `max_shard_bytes`.

    Holds one shard in memory. Files appear whole; the index is written last.
    """
    shard: dict[str, np.ndarray] = {}
    written: list[tuple[Path, list[str]]] = []
    size = total = 0

    def flush() -> None:
        path = folder / f"model-{len(written) + 1:05d}.part"
        _write_file(path, shard)
        written.append((path, list(shard)))
        shard.clear()

    for name, array in tensors:
        if shard and size + array.nbytes > max_shard_bytes:
            flush()
            size = 0
        shard[name] = array
        size += array.nbytes
        total += array.nbytes
    flush()
    if len(written) == 1:
        written[0][0].replace(folder / ONE)
        return
    weight_map: dict[str, str] = {}
    for number, (path, keys) in enumerate(written, 1):
        final = f"model-{number:05d}-of-{len(written):05d}.safetensors"
        path.replace(folder / final)
        weight_map |= dict.fromkeys(keys, final)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _write_file(path: Path, tensors: dict[str, np.ndarray]) -> None:
    whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    save_file(whole, path, metadata={"format": "pt"})

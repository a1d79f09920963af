"""Files that are whole or absent: write to a temporary name, flush, rename into place."""

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from gptjax.errors import UserError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write `content` so that a reader sees the old file or the new one, never a part.

    Raises:
      UserError: when the folder cannot be written or the disk is full.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = ""
    new_folder = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if new_folder:
            with contextlib.suppress(OSError):
                path.parent.rmdir()
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another "
            "folder"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all. Infinities and NaN become null."""
    write_atomic(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
      UserError: when the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; check the path") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}); delete it and run again"
        ) from error


def finite(value: Any) -> Any:
    """`value` with every infinity and NaN replaced by None, NumPy scalars by Python's."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value

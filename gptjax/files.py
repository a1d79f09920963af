"""Files that are whole or absent: write to a temporary name, flush, rename into place."""

import contextlib
import errno
import itertools
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gptjax.errors import UserError

POINTER = b"version https://git-lfs.github.com/spec/"
"""First bytes of what Git leaves in the place of a large file."""
IRREGULAR: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe, which can be read only once"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "a device"),
)


DEVICES = Path("/dev")


def check_output(setting: str, text: str) -> None:
    """Refuse, before anything is computed, an output file that cannot be written.

    Args:
      setting: what errors call it.

    Raises:
      UserError: naming the reason.
    """
    path = user_path(text)
    if not path.absolute().parent.is_dir():
        raise UserError(f"{setting}={text} is in no folder; make the folder or give another file")
    refuse_device(path)
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{setting}={text!r} cannot be written ({reason}); give another file"
        ) from error


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write `content` so that a reader sees the old file or the new one, never a part.

    Raises:
      UserError: when the folder cannot be written or the disk is full, and for a device, in whose
        place there would be a file.
    """
    refuse_device(path)
    with _written(path, content) as temporary:
        os.replace(temporary, path)


def create_atomic(path: Path, content: str | bytes) -> bool:
    """The same where there is no file yet; False, and nothing written, where there is one.

    Raises:
      UserError: as `write_atomic`.
    """
    with _written(path, content) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return _create_without_links(path, temporary)
    return True


NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What file systems without hard links say."""


def _create_without_links(path: Path, temporary: str) -> bool:
    """One process may create the place-holder that the content then takes the place of."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        os.replace(temporary, path)
        return True
    return False


@contextlib.contextmanager
def _written(path: Path, content: str | bytes) -> Iterator[str]:
    """The name of a temporary file beside `path` with this content, on the disk."""
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
        yield temporary
    except OSError as error:
        if new_folder:
            with contextlib.suppress(OSError):
                Path(temporary or path).unlink(missing_ok=True)
                path.parent.rmdir()
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another "
            "folder"
        ) from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all. Infinities and NaN become null."""
    write_atomic(path, _json_text(value))


def create_json(path: Path, value: Any) -> bool:
    """The same where there is no file yet; False, and nothing written, where there is one."""
    return create_atomic(path, _json_text(value))


PIECES = 10_000
"""Pieces of JSON that are strings of their own at one time: all of them take ten times the file."""


def _json_text(value: Any) -> bytes:
    text = bytearray()
    pieces = json.JSONEncoder(indent=1, allow_nan=False).iterencode(finite(value))
    while some := "".join(itertools.islice(pieces, PIECES)):
        text += some.encode()
    return bytes(text + b"\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
      UserError: when the file is missing or is not JSON.
    """
    try:
        check_plain(path)
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; check the path") from error
    except (OSError, ValueError) as error:
        refuse_pointer(path)
        raise UserError(
            f"{path} cannot be read as JSON ({error}); delete it and run again"
        ) from error


def user_path(text: str | Path) -> Path:
    """A path that a user gave, with ~ and ~NAME as home folders unless there is such a file.

    Raises:
      UserError: for a home folder that the system does not know.
    """
    given = str(text)
    if not given.startswith("~") or os.path.lexists(given):
        return Path(given)
    full = os.path.expanduser(given)
    if full.startswith("~"):
        raise UserError(
            f"{given} needs the home folder of {given.partition('/')[0]!r}, which the system does "
            "not know (is HOME set?); give the whole path"
        )
    return Path(full)


def check_plain(path: Path) -> None:
    """Refuse what would hang a reader, or never end; what is not there is left to it.

    Raises:
      UserError: for a directory, a named pipe, a socket or a device.
    """
    with contextlib.suppress(OSError, ValueError):  # ValueError: a null byte in the name
        refuse_irregular(path.stat().st_mode, str(path))


def refuse_device(path: Path) -> None:
    """Refuse to write over what is no file: a file that is renamed into place would replace it.

    Raises:
      UserError: for a directory, a named pipe, a socket, a device or a link to one.
    """
    check_plain(path)
    if os.path.islink(path) and path.absolute().parent == DEVICES:  # /dev/stdout into a file
        raise UserError(f"{path} is a device; give a plain file")


def refuse_pointer(path: Path) -> None:
    """Refuse a file of a clone without Git LFS, which is a few lines about another.

    Raises:
      UserError: for such a pointer.
    """
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise UserError(
                f"{path} is a Git LFS pointer and not the file itself; fetch that: git lfs pull"
            )


def refuse_irregular(mode: int, where: str) -> None:
    """Refuse pipes, sockets, devices and directories by their mode.

    Raises:
      UserError: naming the kind.
    """
    kind = next((words for is_one, words in IRREGULAR if is_one(mode)), "")
    if kind:
        raise UserError(f"{where} is {kind}; give a plain file")


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

"""The source `python-stdlib`: the standard library's own code, a corpus on every machine."""

import os
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gptjax.data.sources.base import Documents, Source
from gptjax.errors import UserError

if TYPE_CHECKING:
    from gptjax.data.config import DataConfig

# Tests, other people's packages, and `pydoc_data`, which is one generated file of 750 KB.
SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "pydoc_data"}
)
# These differ between two builds of the same version.
SKIPPED_FILES = ("_sysconfigdata", "_sysconfig_vars", "sitecustomize", "usercustomize")


def stdlib(folder: str | None = None) -> Documents:
    """The documents of `python-stdlib`: its `*.py` files that are UTF-8, without tests.

    Raises:
      UserError: where the interpreter comes without source files.
    """
    top = Path(folder if folder is not None else sysconfig.get_path("stdlib"))
    files = list(_files(top))
    if not files:
        raise UserError(
            f"data.source='python-stdlib' finds no source files in {str(top)!r}; "
            "use an interpreter that has them, or set data.source=text and data.path"
        )
    stamp = {"python": platform.python_version(), "folder": str(top), "files": files}
    return Documents(
        stamp=stamp,
        read=lambda: _read(top, [name for name, _, _ in files]),
        field="data.source='python-stdlib'",
    )


def _files(top: Path) -> Iterator[list]:
    """[name, bytes, time of change in ns] of every file that belongs, sorted by name."""
    found = []
    for here, folders, names in os.walk(top):
        folders[:] = [
            name
            for name in folders
            if name not in SKIPPED_FOLDERS and not name.startswith("config-")
        ]
        for name in names:
            if name.endswith(".py") and not name.startswith(SKIPPED_FILES):
                path = Path(here, name)
                try:
                    facts = path.stat()
                except OSError:  # a dangling link
                    continue
                found.append([path.relative_to(top).as_posix(), facts.st_size, facts.st_mtime_ns])
    yield from sorted(found)


def _read(top: Path, names: list[str]) -> Iterator[bytes]:
    for name in names:
        try:
            text = (top / name).read_bytes()
            text.decode()
        except UnicodeDecodeError:
            continue
        except OSError as error:
            raise UserError(
                f"data.source='python-stdlib' cannot read {str(top / name)!r}: "
                f"{error.strerror or error}; use another interpreter, or data.source=text"
            ) from error
        yield text


def _open(own: None, config: "DataConfig", seq_len: int) -> Documents:
    return stdlib()


SOURCE = Source("python-stdlib", _open)

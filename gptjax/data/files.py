"""Files named by a path, a directory or a glob."""

import glob
import os
from pathlib import Path
from typing import Any

from gptjax.data.compression import stem, unreadable
from gptjax.errors import UserError, nearest
from gptjax.files import refuse_irregular, user_path


def find(path: str, source: str, suffixes: tuple[str, ...]) -> list[Path]:
    """The files that `path` (a file, a directory or a glob) names, sorted.

    In a directory these are the files below it, behind links too, that do not start with a dot and,
    where `suffixes` are given, end in one of them (before .gz and the like).
    """
    if not path:
        raise UserError(
            f"data.path='' names no file, which data.source={source!r} needs; "
            "give a file, a directory or a glob"
        )
    full = str(user_path(path))
    if os.path.isdir(full):
        found = _below(full, suffixes)
    elif os.path.lexists(full):
        found = [Path(full)]
    elif glob.has_magic(full):
        matches = [Path(match) for match in glob.glob(full, recursive=True)]
        found = [match for match in matches if not match.is_dir()]
        if not found:
            raise UserError(
                f"data.path={path!r} matches no file; check the pattern (** crosses directories) "
                f"and the working directory {os.getcwd()!r}"
            )
    else:
        raise UserError(f"data.path={path!r} does not exist; {_missing_hint(Path(full))}")
    if not found:
        kind = f" that ends in {' or '.join(suffixes)}" if suffixes else ""
        raise UserError(
            f"data.path={path!r} holds no file{kind}; name a directory with such files, or a glob"
        )
    return sorted(found)


def _below(folder: str, suffixes: tuple[str, ...]) -> list[Path]:
    """The files below a folder; one that several links lead to is read once, so loops end."""
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for here, folders, names in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        place = os.stat(here)
        if (place.st_dev, place.st_ino) in seen:
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith(".") and (not suffixes or stem(name).endswith(suffixes)):
                found.append(Path(here, name))
    return found


def _refuse_folder(error: OSError) -> None:
    raise unreadable(Path(str(error.filename)), error) from error


def _missing_hint(path: Path) -> str:
    """The name beside it that is most like it, or the part of the path that does exist."""
    if path.parent.is_dir():
        try:
            names = sorted(os.listdir(path.parent))
        except OSError:
            names = []
        hint = nearest(path.name, names)
        if hint.startswith("did"):
            return hint
        return (
            f"name a file, a directory or a glob; {str(path.parent.resolve())!r} has no such name"
        )
    return f"there is no directory {str(path.parent)!r}"


def facts(files: list[Path]) -> list[Any]:
    """[name, bytes, time of change in ns] of each file.

    Raises:
      UserError: for one that cannot be read or is none, such as a named pipe.
    """
    facts = []
    for file in files:
        try:
            found = file.stat()
        except OSError as error:
            raise unreadable(file, error) from error
        refuse_irregular(found.st_mode, f"data.path: {str(file)!r}")
        facts.append([os.path.abspath(file), found.st_size, found.st_mtime_ns])
    return facts

"""The table of tokenizer kinds, one file each, and the tokenizer that a config describes."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptjax.data.tokenizers import bpe, byte, end_of_document, sentencepiece, tiktoken
from gptjax.data.tokenizers.base import Tokenizer, TokenizerKind
from gptjax.errors import UserError
from gptjax.files import refuse_irregular, refuse_pointer, user_path

if TYPE_CHECKING:
    from gptjax.data.config import DataConfig

TOKENIZERS: dict[str, TokenizerKind] = {}
"""By name: the choices of `data.tokenizer`."""


def register(kind: TokenizerKind) -> TokenizerKind:
    """Add a tokenizer kind to the table."""
    TOKENIZERS[kind.name] = kind
    return kind


for _kind in (byte.KIND, bpe.KIND, sentencepiece.KIND, tiktoken.KIND):
    register(_kind)


def stamp(config: "DataConfig") -> dict[str, Any]:
    """The identity of the tokenizer apart from the text, checked as far as can be without it.

    Raises:
      UserError: for a tokenizer file that is missing or not one, or a vocabulary that is too small.
    """
    kind = TOKENIZERS[config.tokenizer]
    if config.tokenizer_path:
        _check_loads(kind, config.tokenizer_path)
        content = content_of(config.tokenizer_path)
        tokenizer = read(config, content, config.tokenizer_path)
        found = {
            "kind": kind.name,
            "content": hashlib.sha256(content).hexdigest(),
            "end_of_document": tokenizer.end_of_document,
        }
        return found | kind.read_settings(_own(kind, config), config)
    if config.end_of_document:
        raise UserError(
            f"data.end_of_document={config.end_of_document!r} is for a tokenizer that is loaded; "
            "give data.tokenizer_path, or leave it empty"
        )
    if kind.file and kind.train is None:
        raise UserError(
            f"data.tokenizer={kind.name!r} is read from a file; give data.tokenizer_path, or set "
            "data.tokenizer=bpe to train one"
        )
    return {"kind": kind.name} | kind.train_settings(_own(kind, config), config)


def make(config: "DataConfig", documents: Iterable[bytes], folder: Path) -> Tokenizer:
    """Train on `documents`, or load data.tokenizer_path, and keep the tokenizer in `folder`."""
    kind = TOKENIZERS[config.tokenizer]
    content = b""
    if config.tokenizer_path:
        content = content_of(config.tokenizer_path)
    elif kind.train is not None:
        content = kind.train(_first(documents, config.tokenizer_bytes), _own(kind, config), config)
    if kind.file:
        (folder / kind.file).write_bytes(content)
    tokenizer = read(config, content, config.tokenizer_path)
    name = getattr(tokenizer, "end_name", "")
    if config.tokenizer_path and name != "":
        end_of_document.keep(folder, name, config.end_of_document)
    return tokenizer


def reopen(config: "DataConfig", folder: Path) -> Tokenizer:
    """The tokenizer that `make` kept in `folder`."""
    kind = TOKENIZERS[config.tokenizer]
    path = folder / kind.file
    content = path.read_bytes() if kind.file else b""
    return read(config, content, str(path))


def read(config: "DataConfig", content: bytes, path: str) -> Tokenizer:
    """The tokenizer in the content of a file of the kind `data.tokenizer`; `path` is the file's."""
    kind = TOKENIZERS[config.tokenizer]
    return kind.read(content, path, _own(kind, config), config.end_of_document)


def _own(kind: TokenizerKind, config: "DataConfig") -> Any:
    """The settings of the kind itself."""
    return getattr(config, kind.name) if kind.settings else None


def _check_loads(kind: TokenizerKind, path: str) -> None:
    if not kind.file:
        others = [name for name, other in TOKENIZERS.items() if other.file]
        raise UserError(
            f"data.tokenizer_path={path!r} has no use with data.tokenizer={kind.name!r}; set "
            f"data.tokenizer to {', '.join(others[:-1])} or {others[-1]}"
        )


def content_of(path: str) -> bytes:
    """The content of a tokenizer's file.

    Raises:
      UserError: for a file that cannot be read, is no plain one or a pointer of Git LFS.
    """
    try:
        file = user_path(path)
        refuse_irregular(file.stat().st_mode, f"data.tokenizer_path={path!r}")
        refuse_pointer(file)
        return file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"data.tokenizer_path={path!r} cannot be read: {reason}; "
            "name a file, or leave it empty to train a tokenizer"
        ) from error


def _first(documents: Iterable[bytes], size: int) -> list[bytes]:
    """As many of the documents as come to `size` bytes, at least one."""
    chosen: list[bytes] = []
    total = 0
    for document in documents:
        if total >= size:
            break
        chosen.append(document)
        total += len(document)
    return chosen


__all__ = [
    "TOKENIZERS",
    "Tokenizer",
    "TokenizerKind",
    "content_of",
    "make",
    "read",
    "register",
    "reopen",
    "stamp",
]

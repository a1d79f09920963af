"""Text to ids and back: bytes here, the trained kinds in `bpe` and `sentence_piece`."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gptjax.data import bpe, sentence_piece, tiktoken_ranks
from gptjax.data.config import DataConfig
from gptjax.errors import UserError

FILES = {
    "bpe": "tokenizer.json",
    "sentencepiece": "tokenizer.model",
    "tiktoken": "ranks.tiktoken",
}


class Tokenizer(Protocol):
    """What every tokenizer gives.

    Attributes:
      vocab_size: ids, end of document included.
      end_of_document: the id between documents; no text ever encodes to it.
    """

    vocab_size: int
    end_of_document: int

    def encode(self, documents: Sequence[bytes]) -> Iterable[np.ndarray]:
        """The ids of each document (UTF-8)."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes that the ids stand for; end-of-document ids give nothing."""
        ...


class ByteTokenizer:
    """One id for each byte value, and 256 for the end of a document. Lossless on any bytes.

    >>> ByteTokenizer().decode([71, 80, 84, 256])
    b'GPT'
    """

    vocab_size = 257
    end_of_document = 256

    def encode(self, documents: Sequence[bytes]) -> Iterable[np.ndarray]:
        """The bytes of each document, as uint8 arrays."""
        return (np.frombuffer(document, dtype=np.uint8) for document in documents)

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes, without the end-of-document ids."""
        array = np.asarray(ids, dtype=np.int64)
        return array[array < 256].astype(np.uint8).tobytes()


def stamp(config: DataConfig) -> dict[str, Any]:
    """What determines the tokenizer beside the text, checked as far as can be without it.

    Raises:
      UserError: for a tokenizer file that is missing or not one, or a vocabulary that is too small.
    """
    kind = config.tokenizer
    if config.tokenizer_path:
        if kind == "bytes":
            raise UserError(
                f"data.tokenizer_path={config.tokenizer_path!r} has no use with "
                "data.tokenizer='bytes'; set data.tokenizer to bpe or sentencepiece"
            )
        content = _content(config.tokenizer_path)
        read(kind, content, config.tokenizer_path, config.tiktoken_pattern)
        found = {"kind": kind, "content": hashlib.sha256(content).hexdigest()}
        return {**found, "pattern": config.tiktoken_pattern} if kind == "tiktoken" else found
    if kind == "tiktoken":
        raise UserError(
            "data.tokenizer='tiktoken' is read from a file of ranks; give data.tokenizer_path, or "
            "set data.tokenizer=bpe to train one"
        )
    if kind == "bpe":
        bpe.check_vocab_size(config.vocab_size)
        level = {} if config.bpe_level == "bytes" else {"level": config.bpe_level}
        return {
            "kind": kind,
            "vocab_size": config.vocab_size,
            "bytes": config.tokenizer_bytes,
            **level,
        }
    if kind == "sentencepiece":
        return {
            "kind": kind,
            "vocab_size": config.vocab_size,
            "bytes": config.tokenizer_bytes,
            "model": config.sentencepiece_model,
        }
    return {"kind": kind}


def make(config: DataConfig, documents: Sequence[bytes], folder: Path) -> Tokenizer:
    """Train on `documents`, or load data.tokenizer_path, and keep the tokenizer in `folder`."""
    kind = config.tokenizer
    if kind == "bytes":
        return ByteTokenizer()
    if config.tokenizer_path:
        content = _content(config.tokenizer_path)
    elif kind == "bpe":
        train = bpe.LEVELS[config.bpe_level]
        content = train(_first(documents, config.tokenizer_bytes), config.vocab_size)
    else:
        content = sentence_piece.train(
            _first(documents, config.tokenizer_bytes),
            config.vocab_size,
            config.sentencepiece_model,
        )
    (folder / FILES[kind]).write_bytes(content)
    return read(kind, content, config.tokenizer_path, config.tiktoken_pattern)


def reopen(kind: str, folder: Path, pattern: str = "") -> Tokenizer:
    """The tokenizer that `make` kept in `folder`."""
    if kind == "bytes":
        return ByteTokenizer()
    path = folder / FILES[kind]
    return read(kind, path.read_bytes(), str(path), pattern)


def read(kind: str, content: bytes, path: str, pattern: str = "") -> Tokenizer:
    """The tokenizer in the content of a file of its kind; `pattern` is for files of ranks."""
    if kind == "tiktoken":
        return tiktoken_ranks.read(content, path, pattern)
    if kind == "bpe":
        return bpe.read(content, path)
    return sentence_piece.read(content, path)


def _content(path: str) -> bytes:
    try:
        return Path(os.path.expanduser(path)).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"data.tokenizer_path={path!r} cannot be read: {reason}; "
            "name a file, or leave it empty to train a tokenizer"
        ) from error


def _first(documents: Sequence[bytes], size: int) -> list[bytes]:
    """As many of the documents as come to `size` bytes, at least one."""
    chosen: list[bytes] = []
    total = 0
    for document in documents:
        if total >= size:
            break
        chosen.append(document)
        total += len(document)
    return chosen

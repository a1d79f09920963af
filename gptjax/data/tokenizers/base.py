"""The interface of a tokenizer, and of a tokenizer kind: one choice of `data.tokenizer`."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from gptjax.data.config import DataConfig


class Tokenizer(Protocol):
    """Text to ids and back.

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


def batches(documents: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Runs of documents of about `size` bytes."""
    batch: list[bytes] = []
    found = 0
    for document in documents:
        batch.append(document)
        found += len(document)
        if found >= size:
            yield batch
            batch, found = [], 0
    if batch:
        yield batch


def no_settings(own: Any, config: "DataConfig") -> dict[str, Any]:
    """For a kind that no setting changes."""
    return {}


@dataclasses.dataclass(frozen=True)
class TokenizerKind:
    """One choice of `data.tokenizer`.

    `own` are the kind's own settings, `config` the whole section `config.data`.

    Attributes:
      name: as it is written in a config, and the name of its section in `config.data`.
      read: the tokenizer in (the content of its file, its path, own, `data.end_of_document`).
      file: the file's name in the cache folder; "" for a kind that needs none.
      settings: a dataclass of its own settings; None where it has none.
      read_settings: the settings by which `read` interprets a file, for the identity of a corpus.
      train: the content of a new file from (documents of the train part, own, config); None where a
        kind is only read from `data.tokenizer_path`.
      train_settings: the settings that determine a trained file, checked.
    """

    name: str
    read: Callable[[bytes, str, Any, str], Tokenizer]
    file: str = ""
    settings: type | None = None
    read_settings: Callable[[Any, "DataConfig"], dict[str, Any]] = no_settings
    train: Callable[[Sequence[bytes], Any, "DataConfig"], bytes] | None = None
    train_settings: Callable[[Any, "DataConfig"], dict[str, Any]] = no_settings


_KINDS = (
    (re.compile(rb"\s*\{"), "a tokenizer.json", "bpe"),
    (re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n"), "a file of ranks, as Llama 3's is", "tiktoken"),
    (re.compile(rb"\n.\n"), "a SentencePiece model", "sentencepiece"),
)
"""How files of each kind begin."""


def kind_of(content: bytes, default: str) -> str:
    """The kind that a tokenizer's file looks like by its beginning; else `default`."""
    return next((kind for mark, _, kind in _KINDS if mark.match(content)), default)


def other_kind(content: bytes) -> str:
    """For an error: what a tokenizer's file looks like that is not of the kind that was said."""
    for pattern, words, kind in _KINDS:
        if pattern.match(content):
            return f" but looks like {words}: set data.tokenizer={kind}"
    return ""

"""The interface of a tokenizer, and of a tokenizer kind: one choice of `data.tokenizer`."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
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


def no_settings(config: "DataConfig") -> dict[str, Any]:
    """For a kind that no setting changes."""
    return {}


@dataclasses.dataclass(frozen=True)
class TokenizerKind:
    """One choice of `data.tokenizer`.

    Attributes:
      name: as it is written in a config.
      read: the tokenizer in the content of its file; the second argument names the file in errors.
      file: the file's name in the cache folder; "" for a kind that needs none.
      read_settings: the settings by which `read` interprets a file, for the identity of a corpus.
      train: the content of a new file from documents of the train part; None where a kind is only
        read from `data.tokenizer_path`.
      train_settings: the settings that determine a trained file, checked.
    """

    name: str
    read: Callable[[bytes, str, "DataConfig"], Tokenizer]
    file: str = ""
    read_settings: Callable[["DataConfig"], dict[str, Any]] = no_settings
    train: Callable[[Sequence[bytes], "DataConfig"], bytes] | None = None
    train_settings: Callable[["DataConfig"], dict[str, Any]] = no_settings

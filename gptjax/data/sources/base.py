"""The interface of a source: one choice of `data.source`.

A source either gives documents, which are then split and tokenized like any other text, or
generates tokens by itself because it knows more about them than their text.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptjax.data.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from gptjax.data.config import DataConfig


@dataclasses.dataclass(frozen=True)
class Documents:
    """Documents that can be read, and a cheap description that changes whenever they do.

    Attributes:
      stamp: identifies the content without reading it (names, sizes, times of change).
      read: starts a pass over the documents, each UTF-8 text as bytes.
      field: the setting to name in errors, with its value.
    """

    stamp: Any
    read: Callable[[], Iterator[bytes]]
    field: str


@dataclasses.dataclass(frozen=True)
class Pictured:
    """Documents with one picture each.

    Attributes:
      stamp, field: as of `Documents`.
      read: starts a pass over (text as UTF-8, picture as uint8 [rows, columns, channels]).
    """

    stamp: Any
    read: Callable[[], Iterator[tuple[bytes, np.ndarray]]]
    field: str


@dataclasses.dataclass(frozen=True)
class Generated:
    """Tokens that a source writes by itself.

    Attributes:
      stamp: the settings that determine the tokens.
      write: writes both sides' token files into an empty folder and returns the corpus's metadata.
      tokenizer: what the ids mean.
      field: the setting to name in errors, with its value.
    """

    stamp: Any
    write: Callable[[Path], dict[str, Any]]
    tokenizer: Tokenizer
    field: str


@dataclasses.dataclass(frozen=True)
class Source:
    """One choice of `data.source`.

    Attributes:
      name: as it is written in a config; underscores are accepted for hyphens.
      open: finds the documents that a config describes, checked as far as can be without reading
        them, from the source's own settings, the whole section and the window length `seq_len`.
      settings: a dataclass of its own settings, a section of `config.data` named after the source;
        None where it has none.
    """

    name: str
    open: Callable[[Any, "DataConfig", int], Documents | Pictured | Generated]
    settings: type | None = None

    @property
    def section(self) -> str:
        """The name of its section in `config.data`."""
        return self.name.replace("-", "_")

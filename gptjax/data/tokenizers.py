"""Text to ids and back: bytes here, the trained kinds in their own files."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np


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

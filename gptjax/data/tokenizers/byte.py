"""The tokenizer `bytes`: one id for each byte value."""

from collections.abc import Iterable, Sequence

import numpy as np

from gptjax.data.tokenizers.base import TokenizerKind


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


KIND = TokenizerKind("bytes", read=lambda content, path, own, end: ByteTokenizer())

"""The tokenizer of a mixture, trained on equal amounts of the train part of each source.

Equal, and not by the weights: mixtures can be compared only if they read the same ids.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptjax.data import cache, tokenizers

if TYPE_CHECKING:
    from gptjax.data.config import DataConfig
    from gptjax.data.corpus import Corpus


def trained(config: "DataConfig", each: "Sequence[Corpus]") -> Path:
    """The file of a tokenizer for all sources, made once.

    Args:
      each: the sources as bytes.

    Raises:
      UserError: as `tokenizers.make`.
    """
    share = max(1, config.tokenizer_bytes // len(each))
    name = tokenizers.TOKENIZERS[config.tokenizer].file

    def build(folder: Path) -> dict[str, Any]:
        documents = (document for one in each for document in _documents(one, share))
        tokenizers.make(config, documents, folder)
        return {}

    stamp = {
        "sources": [one.fingerprint for one in each],
        "tokenizer": tokenizers.stamp(config),
        "bytes": share,
    }
    folder, _ = cache.folder(cache.root(config.cache_dir), "mixture-tokenizer", stamp, build)
    return folder / name


def _documents(corpus: "Corpus", size: int) -> Iterator[bytes]:
    """The first documents of the train part, so many bytes of them but for a cut character."""
    ids = np.asarray(corpus.train[: size + 1])
    ends = np.flatnonzero(ids == corpus.end_of_document)
    for first, last in zip(ends, [*ends[1:], len(ids)], strict=True):
        if last > first + 1:
            yield corpus.decode(ids[first + 1 : last]).decode(errors="ignore").encode()

"""From a DataConfig to memory-mapped token ids."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.data import cache, stdlib
from gptjax.data.config import DataConfig
from gptjax.data.documents import Source, split
from gptjax.data.tokenizers import ByteTokenizer, Tokenizer
from gptjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Token ids of both sides, and what is known about them.

    Every document is preceded by the end-of-document id, and each side ends with one more.

    Attributes:
      train, heldout: 1-D memory maps of ids, in the smallest unsigned type that holds them.
      vocab_size: ids, end of document included.
      end_of_document: the id between documents.
      mask_end_of_document: whether targets with that id are left out of the loss.
      fingerprint: hash of the ids of both sides, the tokenizer and what is scored.
      train_bytes, heldout_bytes: bytes of text behind the ids.
      bytes_per_token: held-out bytes for each scored held-out token, so that
        bits per byte = nats per token / ln 2 / bytes_per_token.
      report: what was read, dropped and kept.
      entropy_nats: exact nats for each scored token, where it is known (zipf-facts).
      heldout_logprob_nats: exact −log P of every held-out token given those before it, where
        known: float64, aligned with `heldout`.
      folder: the cache folder that holds it all.
    """

    train: np.ndarray
    heldout: np.ndarray
    vocab_size: int
    end_of_document: int
    mask_end_of_document: bool
    fingerprint: str
    train_bytes: int
    heldout_bytes: int
    bytes_per_token: float
    report: dict[str, Any]
    entropy_nats: float | None
    heldout_logprob_nats: np.ndarray | None
    tokenizer: Tokenizer
    folder: Path

    def encode(self, text: str | bytes) -> np.ndarray:
        """The ids of a text, without end-of-document ids."""
        document = text.encode() if isinstance(text, str) else text
        return next(iter(self.tokenizer.encode([document])))

    def decode(self, ids: Any) -> bytes:
        """The bytes of the text that the ids stand for."""
        return self.tokenizer.decode(ids)

    def scored(self, targets: Any) -> Any:
        """Which targets count in the loss: a boolean array of their shape (NumPy or JAX)."""
        return (targets != self.end_of_document) | (not self.mask_end_of_document)


def load(config: DataConfig, *, seq_len: int) -> Corpus:
    """The corpus that `config` describes, from the cache or built into it.

    Raises:
      UserError: for a source that is missing, unreadable, empty or not UTF-8, a side smaller than
        one window of seq_len + 1 tokens, a tokenizer that is missing or cannot be trained, and a
        cache folder that cannot be written.
    """
    source = stdlib.source()
    tokenizer = ByteTokenizer()
    stamp = {
        "source": source.stamp,
        "tokenizer": "bytes",
        "heldout_fraction": config.heldout_fraction,
        "deduplicate": config.deduplicate,
    }
    folder, meta = cache.folder(
        cache.root(config.cache_dir),
        config.kind,
        stamp,
        lambda work: _build(work, config, source, tokenizer),
    )
    corpus = _open(folder, meta, config, tokenizer)
    _check_windows(corpus, source.field, seq_len)
    return corpus


def _build(work: Path, config: DataConfig, source: Source, tokenizer: Tokenizer) -> dict[str, Any]:
    """Write the tokens of both sides into `work` and return the metadata."""
    parts = split(
        source.read(),
        source.field,
        heldout_fraction=config.heldout_fraction,
        deduplicate=config.deduplicate,
    )
    hasher = hashlib.sha256(json.dumps([tokenizer.vocab_size, tokenizer.end_of_document]).encode())
    for side, documents in (("train", parts.train), ("heldout", parts.heldout)):
        tokens = join(tokenizer.encode(documents), tokenizer.end_of_document, tokenizer.vocab_size)
        np.save(work / f"{side}.npy", tokens)
        hasher.update(f"{side} {len(tokens)}".encode())
        hasher.update(tokens.data)
    return {
        "content": hasher.hexdigest(),
        "train_bytes": sum(map(len, parts.train)),
        "heldout_bytes": sum(map(len, parts.heldout)),
        "report": parts.report,
    }


def join(encoded: Iterable[np.ndarray], end_of_document: int, vocab_size: int) -> np.ndarray:
    """All documents in one array, each preceded by the end-of-document id, and one at the end.

    >>> join([np.array([1, 2]), np.array([3])], 9, 10).tolist()
    [9, 1, 2, 9, 3, 9]
    """
    dtype = smallest_dtype(vocab_size)
    separator = np.array([end_of_document], dtype)
    pieces = [separator]
    for ids in encoded:
        pieces += [ids.astype(dtype), separator]
    return np.concatenate(pieces)


def smallest_dtype(vocab_size: int) -> np.dtype:
    """uint8, uint16 or uint32: the smallest that holds ids below `vocab_size`."""
    return np.dtype(np.min_scalar_type(vocab_size - 1))


def _open(folder: Path, meta: dict[str, Any], config: DataConfig, tokenizer: Tokenizer) -> Corpus:
    train = np.load(folder / "train.npy", mmap_mode="r")
    heldout = np.load(folder / "heldout.npy", mmap_mode="r")
    masked = config.mask_end_of_document
    targets = heldout[1:]
    scored = int(np.count_nonzero(targets != tokenizer.end_of_document)) if masked else len(targets)
    identity = json.dumps([meta["content"], masked])
    return Corpus(
        train=train,
        heldout=heldout,
        vocab_size=tokenizer.vocab_size,
        end_of_document=tokenizer.end_of_document,
        mask_end_of_document=masked,
        fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:32],
        train_bytes=meta["train_bytes"],
        heldout_bytes=meta["heldout_bytes"],
        bytes_per_token=meta["heldout_bytes"] / max(1, scored),
        report=meta["report"],
        entropy_nats=None,
        heldout_logprob_nats=None,
        tokenizer=tokenizer,
        folder=folder,
    )


def _check_windows(corpus: Corpus, field: str, seq_len: int) -> None:
    for word, tokens in (("train", corpus.train), ("held-out", corpus.heldout)):
        if len(tokens) < seq_len + 1:
            raise UserError(
                f"{field} has {len(tokens)} {word} tokens, fewer than one window of "
                f"model.seq_len={seq_len} and one more; give more text or a shorter seq_len"
            )

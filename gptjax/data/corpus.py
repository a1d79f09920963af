"""The corpus: memory-mapped token ids of a DataConfig, from the cache or built into it."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.data import cache, mixture, mixture_tokenizer, pictures, tokenizers
from gptjax.data.build import SIDES, check_lossless, tokenize
from gptjax.data.config import DataConfig
from gptjax.data.sources import SOURCES, Documents, Generated, Pictured
from gptjax.data.token_files import TokenWriter, content, file_blocks, num_windows, open_tokens
from gptjax.data.tokenizers import TOKENIZERS, Tokenizer
from gptjax.data.tokenizers.end_of_document import SIDECARS
from gptjax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Part:
    """One source of a mixture: where its tokens lie in the arrays of the corpus.

    Attributes:
      label: its name in `data.sources`.
      train, heldout: (first, one after the last) token.
      bytes_per_token: as that of a corpus.
      target: its part in the loss of a run; None where that is the mean over all tokens.
    """

    label: str
    train: tuple[int, int]
    heldout: tuple[int, int]
    bytes_per_token: float
    target: float | None = None


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
      parts: the sources of a mixture, one after another in `train` and in `heldout`; no window
        holds tokens of two. () where there is one source.
      train_pictures, heldout_pictures: uint8 [documents, rows, columns, channels], the picture of
        each document; None: there are none.
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
    parts: tuple[Part, ...] = ()
    train_pictures: np.ndarray | None = None
    heldout_pictures: np.ndarray | None = None

    def train_windows(self, seq_len: int) -> tuple[int, ...]:
        """Windows of each source."""
        return self._windows([part.train for part in self.parts], self.train, seq_len)

    def heldout_windows(self, seq_len: int) -> tuple[int, ...]:
        """Held-out windows of each source."""
        return self._windows([part.heldout for part in self.parts], self.heldout, seq_len)

    def _windows(
        self, spans: list[tuple[int, int]], tokens: np.ndarray, seq_len: int
    ) -> tuple[int, ...]:
        each = spans or [(0, len(tokens))]
        return tuple(num_windows(last - first, seq_len) for first, last in each)

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


@dataclasses.dataclass(frozen=True)
class _Recipe:
    """The identity of a corpus, and how it is written into a folder and opened from there."""

    stamp: dict[str, Any]
    build: Callable[[Path], dict[str, Any]]
    reopen: Callable[[Path], Tokenizer]
    field: str


def load(config: DataConfig, *, seq_len: int) -> Corpus:
    """The corpus that `config` describes, from the cache or built into it.

    Raises:
      UserError: for a source that is missing, unreadable, empty or not UTF-8, a side smaller than
        one window of seq_len + 1 tokens, a tokenizer that is missing or cannot be trained, settings
        that make no sense together, and a cache folder that cannot be written.
    """
    if seq_len < 1:
        raise UserError(f"model.seq_len={seq_len} is no window; give 1 or more")
    mixture.check(config)
    if config.sources:
        return _mixed(config, _each(config, seq_len))
    source = SOURCES.get(config.source)
    if source is None:
        raise UserError(
            f"data.source={config.source!r} is not known; {nearest(config.source, SOURCES)}"
        )
    own = getattr(config, source.section) if source.settings else None
    opened = source.open(own, config, seq_len)
    recipe = _generated(config, opened) if isinstance(opened, Generated) else _text(config, opened)
    if config.picture_size and not isinstance(opened, Pictured):
        raise UserError(
            f"data.picture_size={config.picture_size} is for pictures, and {recipe.field} has "
            "none; set data.picture_field, or data.picture_size=0"
        )
    folder, meta = cache.folder(
        cache.root(config.cache_dir), source.name, recipe.stamp, recipe.build
    )
    corpus = _open(folder, meta, recipe.reopen(folder), config.mask_end_of_document)
    check_lossless(config, meta.get("lost"))
    if corpus.train_pictures is None:
        _check_windows(corpus, recipe.field, seq_len)
    return corpus


def _each(config: DataConfig, seq_len: int) -> dict[str, Corpus]:
    """The corpus of each source of a mixture, in the ids of one tokenizer."""
    asked = mixture.sources_of(config)
    if TOKENIZERS[config.tokenizer].train is not None and not config.tokenizer_path:
        plain = [dataclasses.replace(one, tokenizer="bytes") for one in asked.values()]
        path = str(mixture_tokenizer.trained(config, [load(one, seq_len=seq_len) for one in plain]))
        asked = {
            label: dataclasses.replace(one, tokenizer_path=path) for label, one in asked.items()
        }
    return {label: load(one, seq_len=seq_len) for label, one in asked.items()}


def _mixed(config: DataConfig, each: dict[str, Corpus]) -> Corpus:
    """One corpus of several, their tokens one after another.

    Raises:
      UserError: where they do not have one tokenizer.
    """
    first = next(iter(each.values()))
    for label, one in each.items():
        if one.train_pictures is not None:
            raise UserError(
                f"data.sources: {label!r} has pictures, and a mixture is of texts; leave it out"
            )
        if type(one.tokenizer) is not type(first.tokenizer) or one.vocab_size != first.vocab_size:
            raise UserError(
                f"data.sources: {label!r} has a vocabulary of its own ({one.vocab_size} ids, the "
                f"first source {first.vocab_size}), and a mixture has one for all; leave it out, "
                "or write it as text"
            )
    named = [[label, one.fingerprint] for label, one in each.items()]
    folder, meta = cache.folder(
        cache.root(config.cache_dir),
        "mixture",
        {"mixture": named},
        lambda at: _join(at, each, TOKENIZERS[config.tokenizer].file),
    )
    train, heldout = (open_tokens(folder / f"{side}.bin", first.vocab_size) for side in SIDES)
    scored = sum(one.heldout_bytes / one.bytes_per_token for one in each.values())
    identity = json.dumps([meta["content"], named, config.targets])
    held_bytes = sum(one.heldout_bytes for one in each.values())
    return dataclasses.replace(
        first,
        train=train,
        heldout=heldout,
        fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:32],
        train_bytes=sum(one.train_bytes for one in each.values()),
        heldout_bytes=held_bytes,
        bytes_per_token=held_bytes / scored,
        report=_joined_report(each, len(train), len(heldout)),
        entropy_nats=None,
        heldout_logprob_nats=None,
        folder=folder,
        parts=_parts(config, each),
    )


def _parts(config: DataConfig, each: dict[str, Corpus]) -> tuple[Part, ...]:
    found: list[Part] = []
    train = heldout = 0
    targets = config.targets or (None,) * len(each)
    for (label, one), target in zip(each.items(), targets, strict=True):
        after = train + len(one.train), heldout + len(one.heldout)
        spans = (train, after[0]), (heldout, after[1])
        found.append(Part(label, *spans, one.bytes_per_token, target))
        train, heldout = after
    return tuple(found)


def _join(folder: Path, each: dict[str, Corpus], kept: str) -> dict[str, Any]:
    """Write the tokens of all sources, and the file of their tokenizer, into a folder."""
    first, digests = next(iter(each.values())), []
    for side in SIDES:
        with TokenWriter(folder / f"{side}.bin", first.vocab_size) as tokens:
            for one in each.values():
                tokens.append(file_blocks(one.folder / f"{side}.bin", first.vocab_size))
            digests.append(tokens.digest)
    for name in (kept, *SIDECARS):
        if name and (first.folder / name).exists():
            shutil.copyfile(first.folder / name, folder / name)
    return {"content": content(digests, first.vocab_size, first.end_of_document)}


def _joined_report(each: dict[str, Corpus], train: int, heldout: int) -> dict[str, Any]:
    """Documents of all sources together, and the reports of each."""
    reports = {label: one.report for label, one in each.items()}
    counts = {
        name: sum(report.get(name, 0) for report in reports.values())
        for name in next(iter(reports.values()))
        if name.startswith("documents_")
    }
    lossless = all(report.get("tokenizer_lossless", True) for report in reports.values())
    sizes = {"tokens_train": train, "tokens_heldout": heldout}
    return counts | sizes | {"tokenizer_lossless": lossless, "sources": reports}


def _generated(config: DataConfig, tokens: Generated) -> _Recipe:
    if config.normalize:
        raise UserError(
            f"data.normalize=True is for text, and {tokens.field} has none; set "
            "data.normalize=false"
        )
    return _Recipe(
        stamp=tokens.stamp,
        build=tokens.write,
        reopen=lambda folder: tokens.tokenizer,
        field=tokens.field,
    )


def _text(config: DataConfig, documents: Documents | Pictured) -> _Recipe:
    if isinstance(documents, Pictured) and config.normalize:
        raise UserError(
            f"data.normalize=True is for text without pictures, and {documents.field} has them; "
            "set data.normalize=false"
        )

    def build(folder: Path) -> dict[str, Any]:
        if isinstance(documents, Pictured):
            return pictures.build(config, documents, folder)
        return tokenize(config, documents, folder)

    return _Recipe(
        stamp={
            "source": documents.stamp,
            "tokenizer": tokenizers.stamp(config),
            "heldout_fraction": config.heldout_fraction,
            "deduplicate": config.deduplicate,
            **({"normalize": True} if config.normalize else {}),
            **({"side": pictures.SPLIT_BY} if isinstance(documents, Pictured) else {}),
        },
        build=build,
        reopen=lambda folder: tokenizers.reopen(config, folder),
        field=documents.field,
    )


def _open(folder: Path, meta: dict[str, Any], tokenizer: Tokenizer, masked: bool) -> Corpus:
    train, heldout = (open_tokens(folder / f"{side}.bin", tokenizer.vocab_size) for side in SIDES)
    ends = meta["report"]["documents_heldout"]
    scored = len(heldout) - 1 - (ends if masked else 0)
    entropy = nll = None
    if "entropy_nats" in meta:
        entropy = meta["entropy_nats"][masked]
        nll = np.memmap(folder / "heldout_nll.bin", dtype=np.float64, mode="r")
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
        bytes_per_token=meta["heldout_bytes"] / scored,
        report=meta["report"] | {"tokens_train": len(train), "tokens_heldout": len(heldout)},
        entropy_nats=entropy,
        heldout_logprob_nats=nll,
        tokenizer=tokenizer,
        folder=folder,
        train_pictures=pictures.open_pictures(folder, "train", meta),
        heldout_pictures=pictures.open_pictures(folder, "heldout", meta),
    )


def _check_windows(corpus: Corpus, field: str, seq_len: int) -> None:
    for word, tokens in (("train", corpus.train), ("held-out", corpus.heldout)):
        if len(tokens) < seq_len + 1:
            raise UserError(
                f"{field} has {len(tokens)} {word} tokens, fewer than one window of "
                f"model.seq_len={seq_len} and one more; give more text or a shorter seq_len"
            )

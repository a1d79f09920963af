"""The build of a corpus: from a source's documents to token files, in bounded memory.

Documents are read once and sorted by hash (`spool`), the tokenizer is trained on the first of
them, and partitions are tokenized by several processes and appended in order. A build that was
killed goes on after the last partition that was appended.
"""

import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.data import encoder, tokenizers
from gptjax.data.config import DataConfig
from gptjax.data.encoder import Counts
from gptjax.data.normalize import normalize
from gptjax.data.sources import Documents
from gptjax.data.split import check_sides
from gptjax.data.spool import PARTITIONS, Spool
from gptjax.data.token_files import TokenWriter, content
from gptjax.data.tokenizers import Tokenizer
from gptjax.errors import UserError
from gptjax.files import read_json, write_json

SIDES = ("train", "heldout")
TOKENIZER_DONE = "tokenizer.done"
LOSSLESS_SAMPLE = 4
REPORT_SECONDS = 10.0
SAVE_SECONDS = 1.0
"""How often a build notes how far it is."""


def tokenize(config: DataConfig, source: Documents, folder: Path) -> dict[str, Any]:
    """Write the tokens of both sides into `folder`; returns the metadata of the corpus.

    Raises:
      UserError: for documents that cannot be read, a side without any, and a tokenizer that cannot
        be trained or loses text.
    """
    spool = Spool(folder / "spool", config.heldout_fraction)
    progress = Progress(source.field)
    spool.fill(_texts(config, source), progress.read)
    check_sides(spool, source.field, config.heldout_fraction)
    tokenizer, lost = _tokenizer(config, spool, folder)
    write = _from_disk if spool.spilled else _from_memory
    sides = [write(config, spool, side, tokenizer, folder, progress) for side in (0, 1)]
    spool.remove()
    (folder / TOKENIZER_DONE).unlink(missing_ok=True)
    duplicates = sum(counts.duplicates for _, counts in sides)
    digests = [written for written, _ in sides]
    return {
        "content": content(digests, tokenizer.vocab_size, tokenizer.end_of_document),
        "train_bytes": sides[0][1].bytes,
        "heldout_bytes": sides[1][1].bytes,
        "report": {
            "documents_read": spool.read,
            "documents_empty": spool.empty,
            "documents_duplicate": duplicates,
            "documents_dropped": spool.empty + (duplicates if config.deduplicate else 0),
            "documents_train": sides[0][1].documents,
            "documents_heldout": sides[1][1].documents,
            "tokenizer_lossless": lost is None,
        },
        "lost": lost,
    }


def check_lossless(config: DataConfig, lost: tuple[str, str] | None) -> None:
    """Refuse a tokenizer that loses text, unless the user accepts it."""
    if lost and not config.lossy:
        raise UserError(
            f"data.tokenizer_path={config.tokenizer_path!r} loses text: {lost[0]!r} comes back as "
            f"{lost[1]!r}; use another tokenizer, or set data.lossy=true, and bits per byte are "
            "still of the whole text"
        )


class Progress:
    """What is said on standard error of a build that takes long.

    Attributes:
      total: bytes to be tokenized.
    """

    def __init__(self, field: str):
        self.total = 0
        self._field, self._start, self._last = field, time.monotonic(), time.monotonic()

    def read(self, done: int) -> None:
        """Say how much was read."""
        self._say(f"{done / 1e9:.2f} GB read")

    def tokenized(self, done: int) -> None:
        """Say how much was tokenized of `total`."""
        share = done / max(1, self.total)
        left = (time.monotonic() - self._start) * (1 - share) / max(share, 1e-9)
        self._say(f"{share:.0%} of {self.total / 1e9:.2f} GB tokenized, about {left:.0f} s left")

    def restart(self, total: int) -> None:
        """Begin to tokenize so many bytes."""
        self.total, self._start = total, time.monotonic()

    def _say(self, words: str) -> None:
        now = time.monotonic()
        if now - self._last >= REPORT_SECONDS:
            self._last = now
            print(f"gptjax: {self._field}: {words}", file=sys.stderr, flush=True)


def _texts(config: DataConfig, source: Documents) -> Iterable[bytes]:
    texts = source.read()
    return (normalize(text.decode()).encode() for text in texts) if config.normalize else texts


def _documents(spool: Spool, side: int, *, deduplicate: bool = True) -> Iterator[bytes]:
    return encoder.without_copies(spool.records(side), Counts(), deduplicate=deduplicate)


def _tokenizer(
    config: DataConfig, spool: Spool, folder: Path
) -> tuple[Tokenizer, tuple[str, str] | None]:
    """Trained, loaded, or that of a build that was killed; and a text that it loses."""
    done = folder / TOKENIZER_DONE
    if spool.spilled and done.exists():
        return tokenizers.reopen(config, folder), read_json(done)
    documents = _documents(spool, 0, deduplicate=config.deduplicate)
    tokenizer = tokenizers.make(config, documents, folder)
    lost = lost_text(tokenizer, itertools.islice(_documents(spool, 1), LOSSLESS_SAMPLE))
    check_lossless(config, lost)
    if spool.spilled:
        write_json(done, lost)
    return tokenizer, lost


def lost_text(tokenizer: Tokenizer, documents: Iterable[bytes]) -> tuple[str, str] | None:
    """A text among these documents that does not come back from its ids, and what comes instead."""
    sample = list(documents)
    for document, ids in zip(sample, tokenizer.encode(sample), strict=True):
        back = tokenizer.decode(ids)
        if back != document:
            pairs = enumerate(zip(back, document, strict=False))
            start = next((i for i, (a, b) in pairs if a != b), min(len(back), len(document)))
            return _shown(document, start), _shown(back, start)
    return None


def _shown(document: bytes, start: int) -> str:
    return document[max(0, start - 10) : start + 20].decode(errors="ignore")


def _from_memory(
    config: DataConfig,
    spool: Spool,
    side: int,
    tokenizer: Tokenizer,
    folder: Path,
    progress: Progress,
) -> tuple[str, Counts]:
    """Write one side's tokens; their hash and what was written."""
    counts = Counts()
    records = spool.records(side)
    documents = encoder.without_copies(records, counts, deduplicate=config.deduplicate)
    with TokenWriter(folder / f"{SIDES[side]}.bin", tokenizer.vocab_size) as tokens:
        tokens.write(np.array([tokenizer.end_of_document]))
        for ids in encoder.encoded(documents, tokenizer):
            tokens.write(ids)
        return tokens.digest, counts


def _from_disk(
    config: DataConfig,
    spool: Spool,
    side: int,
    tokenizer: Tokenizer,
    folder: Path,
    progress: Progress,
) -> tuple[str, Counts]:
    """The same, partition by partition, going on after those that a killed build appended."""
    state = folder / "spool" / f"{SIDES[side]}.json"
    done, counts = _state(state)
    _remove(folder.glob("spool/part-*"))
    left = [p for p in range(done, PARTITIONS) if spool.path(side, p).exists()]
    tasks = [(spool.path(side, p), folder / "spool" / f"part-{os.getpid()}-{p}") for p in left]
    progress.restart(spool.bytes)
    with TokenWriter(folder / f"{SIDES[side]}.bin", tokenizer.vocab_size, counts.tokens) as tokens:
        if not counts.tokens:
            tokens.write(np.array([tokenizer.end_of_document]))
            counts.tokens = 1
        made = encoder.encode_partitions(tasks, config, folder, tokenizer)
        used: list[Path] = []
        saved = time.monotonic()
        for partition, task, new in zip(left, tasks, made, strict=True):
            tokens.append(new.blocks)
            counts.add(new.counts)
            used += task
            if time.monotonic() - saved >= SAVE_SECONDS or partition == left[-1]:
                tokens.flush()
                write_json(state, {"done": partition + 1} | dataclasses.asdict(counts))
                saved, used = time.monotonic(), _remove(used)
            progress.tokenized(counts.bytes)
        return tokens.digest, counts


def _state(path: Path) -> tuple[int, Counts]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return 0, Counts()
    return found.pop("done"), Counts(**found)


def _remove(paths: Iterable[Path]) -> list[Path]:
    for path in paths:
        path.unlink(missing_ok=True)
    return []

"""Duplicates among all documents: of URLs, of texts, of near texts, and of spans.

Documents are known by their number in the order of reading, and the first of several stays. What is
known of them lies in files and is read in passes over the range of hashes, so that memory does not
grow with the corpus, but for a few bytes a document.

A near-duplicate is dropped only for its own likeness to a document that stays, so that no chain of
likenesses can run through a source and swallow it.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from gptjax.data.clean.minhash import NearConfig, band_hashes, similarity

PASS = 4_000_000
"""Hashes that are sorted at once."""
MOST_HEADS = 64
"""Documents of one bucket that the others are compared with."""

Blocks = Callable[[], Iterator[np.ndarray]]
"""Arrays of the documents of one task after another, read again at each call."""


def later_copies(blocks: Blocks, alive: np.ndarray) -> np.ndarray:
    """Which documents have the hash of an earlier one.

    Args:
      blocks: (n,) uint64 hashes; 0 = none.
      alive: which documents are looked at.
    """
    copies = np.zeros(len(alive), bool)
    for numbers, hashes in _passes(blocks, alive):
        order = np.argsort(hashes, kind="stable")
        same = hashes[order][1:] == hashes[order][:-1]
        copies[numbers[order[1:][same]]] = True
    return copies


def _passes(blocks: Blocks, alive: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(numbers, hashes) of the documents alive, a part of the range of hashes at a time."""
    count = -(-max(int(alive.sum()), 1) // PASS)
    for part in range(count):
        numbers, found, first = [], [], 0
        for hashes in blocks():
            mine = alive[first : first + len(hashes)] & (hashes != 0)
            if count > 1:
                mine &= hashes % np.uint64(count) == part
            rows = np.flatnonzero(mine)
            numbers.append(rows + first)
            found.append(hashes[rows])
            first += len(hashes)
        if numbers:
            yield np.concatenate(numbers), np.concatenate(found)


def near_copies(
    signatures: Sequence[np.ndarray], alive: np.ndarray, config: NearConfig
) -> np.ndarray:
    """Which documents are like an earlier one that stays.

    Args:
      signatures: (n, bands · rows) uint32 of each task; memory maps.
    """
    starts = np.cumsum([0, *map(len, signatures)])

    def sign(numbers: np.ndarray) -> np.ndarray:
        tasks = np.searchsorted(starts, numbers, "right") - 1
        return np.stack([signatures[t][n - starts[t]] for t, n in zip(tasks, numbers, strict=True)])

    pairs = np.zeros((0, 2), np.int64)
    for band in range(config.bands):

        def blocks(band: int = band) -> Iterator[np.ndarray]:
            return (band_hashes(block, band, config.rows) for block in signatures)

        found = [pairs]
        for numbers, hashes in _passes(blocks, alive):
            for bucket in _buckets(numbers, hashes):
                found.append(_alike(bucket, sign(bucket), config.threshold))
        pairs = np.unique(np.concatenate(found), axis=0)
    return _dropped(pairs, len(alive))


def _buckets(numbers: np.ndarray, hashes: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers of documents that share a hash, in order, where they are several."""
    order = np.argsort(hashes, kind="stable")
    edges = np.flatnonzero(np.diff(hashes[order])) + 1
    firsts, lasts = np.r_[0, edges], np.r_[edges, len(order)]
    for i in np.flatnonzero(lasts - firsts > 1):
        yield numbers[order[firsts[i] : lasts[i]]]


def _alike(numbers: np.ndarray, signatures: np.ndarray, threshold: float) -> np.ndarray:
    """Pairs (earlier, later) of a bucket: each document with the first head that is like it.

    One that is like no head becomes a head, so a bucket of m documents gives at most m pairs.
    """
    heads, pairs = [0], []
    for i in range(1, len(numbers)):
        alike = similarity(signatures[i], signatures[heads]) >= threshold
        if alike.any():
            pairs.append((numbers[heads[int(np.argmax(alike))]], numbers[i]))
        elif len(heads) < MOST_HEADS:
            heads.append(i)
    return np.array(pairs, np.int64).reshape(-1, 2)


def _dropped(pairs: np.ndarray, count: int) -> np.ndarray:
    """In order: a document is dropped where an earlier one that stays is like it."""
    dropped = np.zeros(count, bool)
    for first, later in pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]:
        if not dropped[first]:
            dropped[later] = True
    return dropped


def repeated_spans(
    blocks: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]], alive: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """(document, numbers of its spans that came before), in the order of documents.

    Args:
      blocks: (hashes of all spans of a task, how many each document has).
    """
    total = sum(int(counts.sum()) for _, counts in blocks())
    parts = -(-max(total, 1) // PASS)
    found = np.concatenate([_repeated(blocks, alive, part, parts) for part in range(parts)])
    pairs = found[np.lexsort((found[:, 1], found[:, 0]))]
    edges = np.flatnonzero(np.diff(pairs[:, 0])) + 1
    for rows in np.split(pairs, edges):
        if len(rows):
            yield int(rows[0, 0]), rows[:, 1]


def _repeated(
    blocks: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]],
    alive: np.ndarray,
    part: int,
    parts: int,
) -> np.ndarray:
    """(document, span) of every later copy, of one part of the range of hashes."""
    hashes, places, first = [], [], 0
    for spans, counts in blocks():
        documents = np.repeat(np.arange(len(counts)), counts)
        begin = np.cumsum(counts) - counts
        numbers = np.arange(len(spans)) - begin[documents]
        mine = alive[first + documents] & (spans % np.uint64(parts) == part)
        hashes.append(spans[mine])
        places.append(np.stack([first + documents[mine], numbers[mine]], 1))
        first += len(counts)
    if not hashes:
        return np.zeros((0, 2), np.int64)
    all_hashes, all_places = np.concatenate(hashes), np.concatenate(places)
    order = np.argsort(all_hashes, kind="stable")
    same = all_hashes[order][1:] == all_hashes[order][:-1]
    return all_places[order[1:][same]]

"""The split of documents into train and held-out.

A document is bytes of UTF-8 text. Everything here depends on content alone: the side that a
document falls on and its place there follow from a hash of its bytes, so that the same content is
always on the same side, whatever file it comes from and whatever surrounds it.
"""

import dataclasses
import hashlib
from collections.abc import Iterable

from gptjax.errors import UserError

# The number is one for which the held-out part of `python-stdlib` is 20 to 22 files and 259 to
# 294 KB, none of them above 81 KB, on Python 3.11, 3.12 and 3.13 alike: files differ so much in
# length that most numbers give 100 KB or a megabyte.
SALT = b"gptjax 5819\0"


@dataclasses.dataclass(frozen=True)
class Split:
    """The documents of both sides, each in the order of their hashes, and what was dropped."""

    train: list[bytes]
    heldout: list[bytes]
    report: dict[str, int]


def digest(document: bytes) -> bytes:
    """32 bytes that stand for a document's content."""
    return hashlib.sha256(SALT + hashlib.sha256(document).digest()).digest()


def is_heldout(document_digest: bytes, fraction: float) -> bool:
    """Whether content with this digest is held out: its first 8 bytes as a number in [0, 1)."""
    return int.from_bytes(document_digest[:8], "big") < fraction * 2.0**64


def split(
    documents: Iterable[bytes], field: str, *, heldout_fraction: float, deduplicate: bool
) -> Split:
    """Drop empty documents and exact duplicates, divide the rest by content, order by hash.

    Raises:
      UserError: where no document is left, or one side is empty.
    """
    sides: tuple[list[tuple[bytes, int, bytes]], list[tuple[bytes, int, bytes]]] = ([], [])
    seen: set[bytes] = set()
    read = empty = duplicates = 0
    for document in documents:
        read += 1
        if not document:
            empty += 1
            continue
        name = digest(document)
        if name in seen:
            duplicates += 1
            if deduplicate:
                continue
        seen.add(name)
        sides[is_heldout(name, heldout_fraction)].append((name[8:], read, document))
    report = {
        "documents_read": read,
        "documents_empty": empty,
        "documents_duplicate": duplicates,
        "documents_dropped": empty + (duplicates if deduplicate else 0),
        "documents_train": len(sides[0]),
        "documents_heldout": len(sides[1]),
    }
    _check_sides(report, field, heldout_fraction)
    train, heldout = ([document for _, _, document in sorted(side)] for side in sides)
    return Split(train, heldout, report)


def _check_sides(report: dict[str, int], field: str, fraction: float) -> None:
    kept = report["documents_train"] + report["documents_heldout"]
    if kept == 0:
        raise UserError(f"{field} holds no text; name a source with at least one document")
    for side, other in (("train", "smaller"), ("heldout", "larger")):
        if report[f"documents_{side}"] == 0:
            word = "train" if side == "train" else "held-out"
            raise UserError(
                f"data.heldout_fraction={fraction} leaves the {word} part without any of the "
                f"{kept} documents in {field}; give a {other} fraction, or more documents"
            )

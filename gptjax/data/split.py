"""The split of documents into train and held-out.

A document is bytes of UTF-8 text. Everything here depends on content alone: the side that a
document falls on and its place there follow from a hash of its bytes, so that the same content is
always on the same side, whatever file it comes from and whatever surrounds it.
"""

import hashlib
from typing import Protocol

from gptjax.errors import UserError

# The number is one for which the held-out part of `python-stdlib` is 20 to 22 files and 259 to
# 294 KB, none of them above 81 KB, on Python 3.11, 3.12 and 3.13 alike: files differ so much in
# length that most numbers give 100 KB or a megabyte.
SALT = b"gptjax 5819\0"


def digest(document: bytes) -> bytes:
    """32 bytes that stand for a document's content."""
    return hashlib.sha256(SALT + hashlib.sha256(document).digest()).digest()


def is_heldout(document_digest: bytes, fraction: float) -> bool:
    """Whether content with this digest is held out: its first 8 bytes as a number in [0, 1)."""
    return int.from_bytes(document_digest[:8], "big") < fraction * 2.0**64


class Counted(Protocol):
    """Documents of each side, counted: train and held out."""

    kept: list[int]


def check_sides(documents: Counted, field: str, fraction: float) -> None:
    """Refuse a split that leaves one side empty.

    Raises:
      UserError: where no document is left, or one side is empty.
    """
    kept = sum(documents.kept)
    if kept == 0:
        raise UserError(f"{field} holds no text; name a source with at least one document")
    for count, side, other in zip(
        documents.kept, ("train", "held-out"), ("smaller", "larger"), strict=True
    ):
        if count == 0:
            raise UserError(
                f"data.heldout_fraction={fraction} leaves the {side} part without any of the "
                f"{kept} documents in {field}; give a {other} fraction, or more documents"
            )

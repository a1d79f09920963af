"""Captioned pictures: a corpus whose documents have one picture each.

Captions become tokens like any other text. Their pictures lie beside the token files, document by
document, as uint8. The side of a document follows from a hash of its picture, so that all captions
of one picture are on one side; its place there from a hash of picture and caption. All of them are
held in memory while a corpus is built.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.data import encoder, tokenizers
from gptjax.data.build import LOSSLESS_SAMPLE, SIDES, check_lossless, lost_text
from gptjax.data.config import DataConfig
from gptjax.data.sources.base import Pictured
from gptjax.data.split import check_sides, digest, is_heldout
from gptjax.data.token_files import TokenWriter, content
from gptjax.errors import UserError
from gptjax.files import refuse_irregular

Captioned = tuple[bytes, np.ndarray]
SPLIT_BY = "picture"
"""The hash that gives the side, for the identity of a corpus."""
NO_PICTURE = (OSError, ValueError, SyntaxError)
"""Errors of Pillow about a damaged file; the last is of its header or of its EXIF."""
DEEP = ("I", "F")
"""How Pillow's names of pictures with more than 8 bits a value begin."""


class Sides:
    """Captioned pictures of both sides in the order of their hashes: 0 is train, 1 is held out.

    Attributes:
      read: how many were read; `copies`: those with an earlier one's picture and caption.
      kept: documents of each side.
    """

    def __init__(self, documents: Iterable[Captioned], fraction: float, *, deduplicate: bool):
        self.read = self.copies = 0
        self._sides: tuple[list, list] = ([], [])
        seen: set[bytes] = set()
        for caption, picture in documents:
            self.read += 1
            name = digest(caption + b"\0" + picture.tobytes())
            self.copies += name in seen
            if deduplicate and name in seen:
                continue
            seen.add(name)
            held = is_heldout(digest(picture.tobytes()), fraction)
            self._sides[held].append((name, self.read, caption, picture))
        for side in self._sides:
            side.sort(key=lambda one: one[:2])
        self.kept = [len(side) for side in self._sides]

    def captions(self, side: int) -> Iterator[bytes]:
        """The texts of a side."""
        return (caption for _, _, caption, _ in self._sides[side])

    def pictures(self, side: int) -> np.ndarray:
        """uint8 [documents, rows, columns, channels]."""
        return np.stack([picture for *_, picture in self._sides[side]])


def build(config: DataConfig, source: Pictured, folder: Path) -> dict[str, Any]:
    """Write tokens and pictures of both sides into `folder`; returns the corpus's metadata.

    Raises:
      UserError: for pictures that cannot be read, a side without any, and a tokenizer that loses
        text.
    """
    documents = _alike(source)
    sides = Sides(documents, config.heldout_fraction, deduplicate=config.deduplicate)
    check_sides(sides, source.field, config.heldout_fraction)
    tokenizer = tokenizers.make(config, sides.captions(0), folder)
    digests, sizes = [], []
    for number, side in enumerate(SIDES):
        with TokenWriter(folder / f"{side}.bin", tokenizer.vocab_size) as tokens:
            tokens.write(np.array([tokenizer.end_of_document]))
            for ids in encoder.encoded(sides.captions(number), tokenizer):
                tokens.write(ids)
            digests.append(tokens.digest)
        pictures = sides.pictures(number)
        (folder / f"{side}_pictures.bin").write_bytes(pictures.tobytes())
        digests.append(hashlib.sha256(pictures.tobytes()).hexdigest())
        sizes.append(sum(map(len, sides.captions(number))))
    lost = lost_text(tokenizer, itertools.islice(sides.captions(1), LOSSLESS_SAMPLE))
    check_lossless(config, lost)
    return {
        "content": content(digests, tokenizer.vocab_size, tokenizer.end_of_document),
        "train_bytes": sizes[0],
        "heldout_bytes": sizes[1],
        "picture": list(pictures.shape[1:]),
        "lost": lost,
        "report": {
            "documents_read": sides.read,
            "documents_duplicate": sides.copies,
            "documents_dropped": sides.read - sum(sides.kept),
            "documents_train": sides.kept[0],
            "documents_heldout": sides.kept[1],
            "tokenizer_lossless": lost is None,
        },
    }


def open_pictures(folder: Path, side: str, meta: dict[str, Any]) -> np.ndarray | None:
    """The pictures of a side as a read-only memory map; None where the corpus has none."""
    if "picture" not in meta:
        return None
    flat = np.memmap(folder / f"{side}_pictures.bin", dtype=np.uint8, mode="r")
    return flat.reshape(-1, *meta["picture"])


def texts_of(tokens: np.ndarray, end_of_document: int) -> list[np.ndarray]:
    """The ids of each document of a side, without end-of-document ids.

    >>> [ids.tolist() for ids in texts_of(np.array([9, 1, 2, 9, 3, 9]), 9)]
    [[1, 2], [3]]
    """
    ends = np.flatnonzero(np.asarray(tokens) == end_of_document)
    return [np.asarray(tokens[a + 1 : b]) for a, b in itertools.pairwise(ends)]


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture as a square of `size` pixels a side, by bilinear interpolation.

    >>> resized(np.zeros((4, 8, 3), np.uint8), 2).shape
    (2, 2, 3)
    """
    from PIL import Image

    if picture.shape[:2] == (size, size):
        return picture
    each = [Image.fromarray(np.ascontiguousarray(one)) for one in np.moveaxis(picture, -1, 0)]
    small = [np.asarray(one.resize((size, size), Image.Resampling.BILINEAR)) for one in each]
    return np.stack(small, -1)


def read_picture(path: Path, place: str) -> np.ndarray:
    """uint8 [rows, columns, 3] of a file: .npy, or any format that Pillow knows.

    Cameras store a picture as the sensor lay and say in EXIF how it is to be shown: so it is read.

    Raises:
      UserError: for a file that is missing, no picture, or has more than 8 bits a value.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        refuse_irregular(path.stat().st_mode, f"{place}: the picture {path}")
        if path.suffix != ".npy":
            with Image.open(path) as shown:
                _check_depth(shown.mode, path, place)
                return np.asarray(ImageOps.exif_transpose(shown).convert("RGB"), np.uint8)
        found = np.load(path, allow_pickle=False)
    except (*NO_PICTURE, UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "it is no picture"
        raise UserError(f"{place}: the picture {path} cannot be read ({reason})") from error
    if found.dtype != np.uint8 or found.ndim != 3:
        raise UserError(
            f"{place}: {path} holds {found.dtype} {list(found.shape)}; save uint8 [rows, columns, "
            "channels]"
        )
    return np.asarray(found)


def _check_depth(mode: str, path: Path, place: str) -> None:
    """Refuse what the conversion to 8 bits would cut off at 255."""
    if mode.startswith(DEEP):
        raise UserError(
            f"{place}: the picture {path} has more than 8 bits a value (mode {mode}); save it with "
            "values from 0 to 255"
        )


def _alike(source: Pictured) -> Iterator[Captioned]:
    """The documents, all of whose pictures have one shape."""
    first: tuple[int, ...] = ()
    for caption, picture in source.read():
        first = first or picture.shape
        if picture.shape != first:
            raise UserError(
                f"{source.field} has pictures of {list(first)} and of {list(picture.shape)}; set "
                "data.picture_size to bring them to one size"
            )
        yield caption, picture

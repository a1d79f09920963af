"""Feed of captioned pictures: one document with its picture in each row.

A row is the picture's places, the end-of-document id, the text, the same id again and padding. The
places are positions that `model.vision` fills, and no target there is scored.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gptjax import data, models
from gptjax.data import Corpus
from gptjax.data.pictures import texts_of
from gptjax.errors import UserError
from gptjax.models import ModelConfig
from gptjax.train.config import RunSpec
from gptjax.train.feed import Batch

Rows = tuple[Any, Any, Any]
"""Ids after the places [B, L], how many of them there are [B], pictures [B, Y, X, C]."""


def picture_shapes(spec: RunSpec) -> Any:
    """Shape and type of a batch's pictures; None where the model sees none."""
    vision = spec.model.vision
    if not vision.join:
        return None
    shape = (spec.batch_size, vision.image_size, vision.image_size, vision.channels)
    return jax.ShapeDtypeStruct(shape, jnp.uint8)


def rows_of(tokens: np.ndarray, end_of_document: int, pictures: np.ndarray) -> Rows:
    """A row for each document of a side: the id, the text, the id, padded to the longest."""
    texts = texts_of(tokens, end_of_document)
    counts = np.array([len(text) + 2 for text in texts], np.int32)
    ids_NL = np.full((len(texts), int(counts.max())), end_of_document, np.int32)
    for row, text in enumerate(texts):
        ids_NL[row, 1 : len(text) + 1] = text
    return ids_NL, counts, np.asarray(pictures)


def check_pictures(model: ModelConfig, corpus: Corpus) -> None:
    """Refuse pictures and a model that do not fit each other.

    Raises:
      UserError: for pictures that are missing or of another shape, and a text without room.
    """
    vision, pictures = model.vision, corpus.train_pictures
    if pictures is None:
        if vision.join:
            raise UserError(
                f"model.vision.join={vision.join} is for pictures, and the data has none; set "
                "data.picture_field, or data.source=captioned-shapes"
            )
        return
    wanted = (vision.image_size, vision.image_size, vision.channels)
    if vision.join and pictures.shape[1:] != wanted:
        raise UserError(
            f"model.vision.image_size={vision.image_size} and channels={vision.channels} do not "
            f"fit pictures of {list(pictures.shape[1:])}; set both to them, or data.picture_size="
            f"{vision.image_size}"
        )
    sides = (corpus.train, corpus.heldout)
    longest = max(len(text) for side in sides for text in texts_of(side, corpus.end_of_document))
    places = models.picture_places(model)
    if places + longest + 1 > model.seq_len:
        raise UserError(
            f"model.seq_len={model.seq_len} has no room for a text of {longest} tokens after the "
            f"{places} places of its picture; set model.seq_len={places + longest + 1}"
        )


class PictureFeed:
    """Rows of a corpus with pictures."""

    def __init__(self, corpus: Corpus) -> None:
        assert corpus.train_pictures is not None and corpus.heldout_pictures is not None
        self._corpus, end = corpus, corpus.end_of_document
        self._train = rows_of(corpus.train, end, corpus.train_pictures)
        self._heldout = rows_of(corpus.heldout, end, corpus.heldout_pictures)

    @property
    def arrays(self) -> Rows:
        """The rows of the train side."""
        return self._train

    def examples(self, spec: RunSpec) -> int:
        """Documents."""
        return len(self._train[0])

    def read(self, spec: RunSpec, arrays: Any, examples_B: Array) -> Any:
        """The rows of these documents."""
        return jax.tree.map(lambda x: x[examples_B], arrays)

    def stream(self, spec: RunSpec, start: int) -> Iterator[Any]:
        """The same rows from the host, step after step."""
        for step in itertools.count(start):
            which = data.windows_numpy(spec.seed, step, spec.batch_size, self.examples(spec))
            yield jax.tree.map(lambda x: x[which], self._train)  # noqa: B023

    def held_out(self, seq_len: int, batch_size: int) -> Rows:
        """All held-out rows in batches [n, batch, …]; those that fill the last one have count 0."""
        count = len(self._heldout[0])
        batch_size = min(batch_size, count)
        more = -count % batch_size

        def batches(x: np.ndarray) -> np.ndarray:
            whole = np.concatenate([x, np.zeros((more, *x.shape[1:]), x.dtype)])
            return whole.reshape(-1, batch_size, *x.shape[1:])

        ids, counts, pictures = map(batches, self._heldout)
        return ids, counts, pictures

    def held_out_batch(self, spec: RunSpec, rows: Any) -> Batch:
        """The batch of one of them."""
        return self.batch(spec, rows)

    def batch(self, spec: RunSpec, rows: Any) -> Batch:
        """Places, text and padding; targets behind the text and in the places weigh nothing."""
        ids_BL, counts_B, pictures_BYXC = rows
        P, T = models.picture_places(spec.model), spec.model.seq_len
        after = max(0, T + 1 - P - ids_BL.shape[1])
        whole_BL = jnp.pad(ids_BL, ((0, 0), (P, after)))[:, : T + 1]
        place_L = jnp.arange(1, T + 1)
        scored_BT = (place_L > P) & (place_L < P + counts_B[:, None])
        if spec.mask_end_of_document:
            scored_BT &= whole_BL[:, 1:] != self._corpus.end_of_document
        shown = pictures_BYXC if spec.model.vision.join else None
        weights_BT = scored_BT.astype(jnp.float32)
        return Batch(whole_BL[:, :-1], whole_BL[:, 1:], weights_BT, pictures_BYXC=shown)

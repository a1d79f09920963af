"""The tokenizer `sentencepiece`: BPE or unigram models with byte fallback and no normalization.

Kudo and Richardson, "SentencePiece: A simple and language independent subword tokenizer", 2018.
SentencePiece writes a space as U+2581, so a text that itself holds U+2581 would come back with a
space there. Here such a character is encoded as its three bytes instead, which makes the round trip
exact for models that have the byte pieces and add no leading space, as the ones trained here.
"""

import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gptjax.data.tokenizers import end_of_document
from gptjax.data.tokenizers.base import TokenizerKind, other_kind
from gptjax.errors import UserError, nearest
from gptjax.fields import setting

if TYPE_CHECKING:
    from gptjax.data.config import DataConfig

SPACE = "\u2581"
UNKNOWN, END = 0, 1
KEPT_BEYOND = 1 << 16
"""How far beyond the pieces an id may lie that a folder gives as a number."""


class SentencePieceTokenizer:
    """A SentencePiece model, with an end-of-document id that no text encodes to.

    Attributes:
      begins: ids before each text, where the settings beside a published model's file say so, as
        `transformers` 5 reads them; documents that our models train on are encoded without.
      unknown: the id of all that it does not know.
      end_name: that id, under which it is kept.
    """

    def __init__(self, processor: Any, path: str = "", end: str = ""):
        self._processor = processor
        self.unknown = processor.unk_id()
        size = processor.get_piece_size()
        self._pieces = [_piece_bytes(processor, number) for number in range(size)]
        marks = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        self._mark = marks if all(processor.is_byte(mark) for mark in marks) else None
        self._prefixed = processor.encode("a", out_type=str)[:1] != ["a"]
        self.end_of_document = self.end_name = _end(processor, path, end)
        self.vocab_size = max(size, self.end_of_document + 1)
        first = processor.bos_id()
        self.begins = (first,) if first >= 0 and end_of_document.adds_first(path) else ()

    def encode(self, documents: Sequence[bytes]) -> Iterator[np.ndarray]:
        """The ids of each document (UTF-8), as uint32 arrays."""
        for document in documents:
            yield np.array(self._encode(document.decode()), dtype=np.uint32)

    def _encode(self, text: str) -> list[int]:
        if SPACE not in text or self._mark is None or self._prefixed:
            return self._processor.encode(text)
        ids: list[int] = []
        for number, part in enumerate(text.split(SPACE)):
            ids += (self._mark if number else []) + self._processor.encode(part)
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes that the ids stand for; end-of-document ids give nothing."""
        numbers = [int(number) for number in np.asarray(ids).reshape(-1)]
        numbers = [number for number in numbers if number != self.end_of_document]
        if self._prefixed:
            return self._processor.decode(numbers).encode()
        return b"".join(self._pieces[number] for number in numbers)


def _end(processor: Any, path: str, asked: str) -> int:
    """The id that ends a document: a control piece, or one beside the model's pieces."""
    size, own = processor.get_piece_size(), processor.eos_id()
    control = {processor.id_to_piece(i): i for i in range(size) if processor.is_control(i)}
    beside = end_of_document.numbers_beside(path)
    named = control | {name: number for name, number in beside.items() if number >= size}
    if asked == end_of_document.NEW:
        return size
    if asked in named:
        return named[asked]
    there = {*named.values(), *range(size, size + KEPT_BEYOND)}
    if asked.isascii() and asked.isdecimal() and int(asked) in there:
        return int(asked)
    if asked:
        raise UserError(
            f"data.end_of_document={asked!r} is no control piece of data.tokenizer_path; "
            f"{nearest(asked, [*named, end_of_document.NEW])}"
        )
    said = end_of_document.named_beside(path, named, there.__contains__)
    return said if said is not None else own if own >= 0 else size


def _piece_bytes(processor: Any, number: int) -> bytes:
    piece = processor.id_to_piece(number)
    if processor.is_byte(number):
        return bytes([int(piece[3:-1], 16)])
    if processor.is_control(number):
        return b""
    return piece.replace(SPACE, " ").encode()


def train(documents: Sequence[bytes], vocab_size: int, model_type: str) -> bytes:
    """A serialized model of up to `vocab_size` pieces, the end of a document among them.

    Fewer pieces come out where the documents do not support as many. Digits are split, no text is
    normalized, and characters too rare for a piece fall back to their bytes.

    Args:
      model_type: "bpe" or "unigram".

    Raises:
      UserError: where vocab_size does not hold the bytes and the characters of the text.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(document.decode() for document in documents),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            byte_fallback=True,
            character_coverage=0.9995,
            max_sentence_length=1 << 30,
            unk_id=UNKNOWN,
            eos_id=END,
            bos_id=-1,
            pad_id=-1,
            num_threads=1,  # the same model on every machine
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _training_error(error, vocab_size) from error
    return model.getvalue()


def _training_error(error: RuntimeError, vocab_size: int) -> UserError:
    sizes = re.search(r"(\d+) vs (\d+)", str(error))
    if sizes:
        return UserError(
            f"data.vocab_size={vocab_size} is too small for data.tokenizer='sentencepiece' on this "
            f"text, whose bytes and characters take {sizes[2]} ids; give {sizes[2]} or more"
        )
    reason = str(error).strip().splitlines()[-1]
    return UserError(
        f"data.tokenizer='sentencepiece' cannot be trained on this text ({reason}); "
        "give more text, or use data.tokenizer=bpe"
    )


def read(content: bytes, path: str, end: str = "") -> SentencePieceTokenizer:
    """The tokenizer in the content of a .model file; `path` is for the error, `end` as in a config.

    Raises:
      UserError: where the content is no model.
    """
    import sentencepiece

    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=content)
        if processor.get_piece_size() == 0:
            raise RuntimeError("it holds no pieces")
    except RuntimeError as error:
        raise UserError(
            f"data.tokenizer_path={path!r} is not a SentencePiece model{other_kind(content)}; "
            "name another file, or leave it empty to train one"
        ) from error
    return SentencePieceTokenizer(processor, path, end)


@dataclasses.dataclass(frozen=True)
class SentencePieceConfig:
    """The settings of the tokenizer `sentencepiece`."""

    model: str = setting(
        "bpe", "the model that is trained", choices=("bpe", "unigram"), was="sentencepiece_model"
    )


def _train_settings(own: SentencePieceConfig, config: "DataConfig") -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "bytes": config.tokenizer_bytes,
        "model": own.model,
    }


KIND = TokenizerKind(
    "sentencepiece",
    read=lambda content, path, own, end: read(content, path, end),
    file="tokenizer.model",
    settings=SentencePieceConfig,
    train=lambda documents, own, config: train(documents, config.vocab_size, own.model),
    train_settings=_train_settings,
)

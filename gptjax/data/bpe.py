"""BPE of bytes or of characters with GPT-2's pre-tokenization, through the `tokenizers` library.

Radford et al., "Language Models are Unsupervised Multitask Learners", 2019: text is cut by GPT-2's
regular expression, each piece is written as bytes, and the most frequent neighbours are merged.
Every byte is in the vocabulary, so any text has ids and comes back from them unchanged.

Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016: the same over
characters. Where they end each word with a mark, words begin with their space here, so that text
comes back unchanged; a character that is not in the vocabulary becomes its bytes.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gptjax.errors import UserError

BYTES = 256
END = "<|endoftext|>"
# Names under which published tokenizers keep their end of a document, most specific first.
ENDS = (END, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]")
BATCH_BYTES = 1 << 22
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class BpeTokenizer:
    """A tokenizer.json, with an end-of-document id that no text encodes to.

    Attributes:
      special: ids of its special tokens by name, which no text encodes to.
      added: ids of all tokens that its file adds to its vocabulary, special or not.
    """

    def __init__(self, tokenizer: Any):
        # Otherwise the text "<|endoftext|>" would become the special token.
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        found = tokenizer.get_added_tokens_decoder()
        self.added = {token.content: number for number, token in found.items()}
        special = {token.content: number for number, token in found.items() if token.special}
        ids = tokenizer.get_vocab(with_added_tokens=True).values()
        size = max(ids, default=-1) + 1
        self.special = special
        self.end_of_document = next((special[name] for name in ENDS if name in special), size)
        self.vocab_size = max(size, self.end_of_document + 1)

    def encode(self, documents: Sequence[bytes]) -> Iterator[np.ndarray]:
        """The ids of each document (UTF-8), as uint32 arrays."""
        for batch in _batches(documents):
            texts = [document.decode() for document in batch]
            for found in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
                yield np.array(found.ids, dtype=np.uint32)

    def encode_text(self, text: str) -> list[int]:
        """The ids of plain text; never those of `special`, whatever it says."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The text of the ids as UTF-8; bytes that are none become U+FFFD."""
        kept = [int(number) for number in np.asarray(ids).reshape(-1)]
        kept = [number for number in kept if number != self.end_of_document]
        return self._tokenizer.decode(kept, skip_special_tokens=False).encode()


def train(documents: Sequence[bytes], vocab_size: int) -> bytes:
    """A tokenizer.json of up to `vocab_size` ids, the last of them the end of a document.

    Fewer ids come out where the documents hold too few different pairs.

    Raises:
      UserError: where vocab_size does not hold the bytes and the end of a document.
    """
    check_vocab_size(vocab_size)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator((document.decode() for document in documents), trainer)
    tokenizer.add_special_tokens([END])
    return tokenizer.to_str().encode()


def train_characters(documents: Sequence[bytes], vocab_size: int) -> bytes:
    """The same over characters: 256 bytes to fall back on, the characters, and what is merged.

    The most frequent characters that fit are taken.
    """
    check_vocab_size(vocab_size)
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(GPT2_PATTERN), behavior="isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        show_progress=False,
        limit_alphabet=vocab_size - 1 - BYTES,
        special_tokens=[f"<0x{byte:02X}>" for byte in range(BYTES)],
    )
    tokenizer.train_from_iterator((document.decode() for document in documents), trainer)
    # The bytes are ordinary entries. No text merges into their names, which the pattern cuts apart.
    content = json.loads(tokenizer.to_str()) | {"added_tokens": []}
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_special_tokens([END])
    return tokenizer.to_str().encode()


LEVELS = {"bytes": train, "characters": train_characters}
"""By `data.bpe_level`."""


def check_vocab_size(vocab_size: int) -> None:
    """Refuse a vocabulary that cannot hold every byte."""
    if vocab_size < BYTES + 1:
        raise UserError(
            f"data.vocab_size={vocab_size} is too small for data.tokenizer='bpe', which needs "
            f"{BYTES} ids for the bytes and one for the end of a document; give {BYTES + 1} or more"
        )


def read(content: bytes, path: str) -> BpeTokenizer:
    """The tokenizer in the content of a tokenizer.json; `path` is for the error.

    Raises:
      UserError: where the content is no tokenizer.
    """
    from tokenizers import Tokenizer

    try:
        json.loads(content)
        tokenizer = Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises bare Exception
        raise UserError(
            f"data.tokenizer_path={path!r} is not a tokenizer.json that `tokenizers` can read "
            f"({_first_line(error)}); name another file, or leave it empty to train one"
        ) from error
    return BpeTokenizer(tokenizer)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _batches(documents: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Runs of documents of about BATCH_BYTES, because encodings take far more room than ids."""
    batch: list[bytes] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

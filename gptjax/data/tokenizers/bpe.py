"""The tokenizer `bpe`: BPE of bytes or of characters, trained by the library `tokenizers`.

Radford et al., "Language Models are Unsupervised Multitask Learners", 2019: text is cut by GPT-2's
regular expression, each piece is written as bytes, and the most frequent neighbours are merged.
Every byte is in the vocabulary, so any text has ids and comes back from them unchanged.

Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016: the same over
characters. Where they end each word with a mark, words begin with their space here, so that text
comes back unchanged; a character that is not in the vocabulary becomes its bytes.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gptjax.data.tokenizers.base import TokenizerKind
from gptjax.data.tokenizers.huggingface import END, read_json
from gptjax.errors import UserError
from gptjax.fields import setting

if TYPE_CHECKING:
    from gptjax.data.config import DataConfig

BYTES = 256
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


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
"""By `data.bpe.level`."""


@dataclasses.dataclass(frozen=True)
class BpeConfig:
    """The settings of the tokenizer `bpe`."""

    level: str = setting(
        "bytes",
        "the symbols that are merged: bytes (GPT-2), or characters, rare ones as bytes "
        "(Sennrich 2016)",
        choices=LEVELS,
        was="bpe_level",
    )


def check_vocab_size(vocab_size: int) -> None:
    """Refuse a vocabulary that cannot hold every byte."""
    if vocab_size < BYTES + 1:
        raise UserError(
            f"data.vocab_size={vocab_size} is too small for data.tokenizer='bpe', which needs "
            f"{BYTES} ids for the bytes and one for the end of a document; give {BYTES + 1} or more"
        )


def _train_settings(own: BpeConfig, config: "DataConfig") -> dict[str, Any]:
    check_vocab_size(config.vocab_size)
    settings: dict[str, Any] = {"vocab_size": config.vocab_size, "bytes": config.tokenizer_bytes}
    return settings if own.level == "bytes" else settings | {"level": own.level}


KIND = TokenizerKind(
    "bpe",
    read=lambda content, path, own, end: read_json(content, path, end),
    file="tokenizer.json",
    settings=BpeConfig,
    train=lambda documents, own, config: LEVELS[own.level](documents, config.vocab_size),
    train_settings=_train_settings,
)

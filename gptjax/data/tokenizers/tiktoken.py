"""The tokenizer `tiktoken`: byte-level BPE from a file of ranks, a base64 token and rank a line.

Ranks say which bytes are tokens and in which order they were made. The merges that made them are
found again: the last merge of a token joins the two parts that all earlier merges leave of it.
The file has no special tokens; the ids that published vocabularies give them are facts beside it.
"""

import base64
import binascii
import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path

from gptjax.data.tokenizers.base import TokenizerKind, other_kind
from gptjax.data.tokenizers.bpe import GPT2_PATTERN
from gptjax.data.tokenizers.end_of_document import NEW, named_beside, numbers_beside
from gptjax.data.tokenizers.huggingface import JsonTokenizer
from gptjax.errors import UserError
from gptjax.fields import setting

MAX_RANK = 1 << 24
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"

# Pre-tokenization: Radford et al. (2019), and the published patterns of `tiktoken`.
PATTERNS = {
    "gpt2": GPT2_PATTERN,
    "cl100k": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "o200k": "|".join(
        [
            rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTION}?",
            rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTION}?",
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        ]
    ),
}

PUBLISHED = {
    (50_256, 50_255): 50_256,  # r50k_base, <|endoftext|>
    (50_280, 50_280): 50_256,  # p50k_base, <|endoftext|>
    (100_256, 100_255): 100_257,  # cl100k_base, <|endoftext|>
    (199_998, 199_997): 199_999,  # o200k_base, <|endoftext|>
    (128_000, 127_999): 128_001,  # Llama 3, <|end_of_text|>
    (151_643, 151_642): 151_643,  # Qwen, <|endoftext|>
}
"""(ranks, the last of them) of published files -> the id of their end of a document."""
KEPT = "ranks.tiktoken"


def read(content: bytes, path: str, pattern: str, end: str = "") -> JsonTokenizer:
    """The tokenizer of a file of ranks.

    Ranks may leave numbers out, as p50k_base does where its special tokens are: no text gets those.
    The end of a document is what `end` says, the files beside it, or the published vocabulary of as
    many ranks; else the id after the last rank.

    Args:
      path: for the error, and beside which settings may name the end of a document.
      pattern: a name of PATTERNS.
      end: `data.end_of_document`, a number, or a name that a tokenizer_config.json beside it has.

    Raises:
      UserError: where the content is no file of ranks, or lacks a byte.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    ranks = _ranks(content, path)
    end_id = _end(ranks, path, end)
    letters = _letters()
    spelt = {token: "".join(letters[byte] for byte in token) for token in ranks}
    vocab = {spelt[token]: rank for token, rank in ranks.items()}
    pairs = [_last_merge(ranks, token) for token in sorted(ranks, key=ranks.__getitem__)]
    merges = [(spelt[pair[0]], spelt[pair[1]]) for pair in pairs if pair]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    cut = pre_tokenizers.Split(Regex(PATTERNS[pattern]), behavior="isolated")
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, spell])
    tokenizer.decoder = decoders.ByteLevel()
    return JsonTokenizer(tokenizer, end_id=end_id)


def _end(ranks: Mapping[bytes, int], path: str, asked: str) -> int:
    """The id that ends a document: one that no text gets."""
    taken, after = set(ranks.values()), max(ranks.values()) + 1

    def free(number: int) -> bool:
        return 0 <= number <= MAX_RANK and number not in taken

    if asked == NEW:
        return after
    named = numbers_beside(path)
    if asked:
        number = named.get(asked, int(asked) if asked.isascii() and asked.isdecimal() else -1)
        if not free(number):
            raise UserError(
                f"data.end_of_document={asked!r} is no id beside the ranks, which have no names; "
                f"give a number that no token has, such as {after}, or leave it empty"
            )
        return number
    said = named_beside(path, named, free)
    if said is not None:
        return said
    if Path(path).name == KEPT:  # by a version of gptjax that knew no other
        return after
    return PUBLISHED.get((len(ranks), after - 1), after)


def _ranks(content: bytes, path: str) -> dict[bytes, int]:
    try:
        rows = [line.split() for line in content.splitlines() if line.strip()]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in rows}
    except (ValueError, binascii.Error) as error:
        raise UserError(
            f"data.tokenizer_path={path!r} is not a file of ranks ({error})"
            f"{other_kind(content)}; its lines are a token in base64 and a number"
        ) from error
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise UserError(
            f"data.tokenizer_path={path!r} does not rank every byte (0x{missing[0]:02x} is not "
            "there); name another file"
        )
    numbers = sorted(ranks.values())
    if numbers[0] < 0 or numbers[-1] >= MAX_RANK or len(set(numbers)) < len(rows):
        raise UserError(
            f"data.tokenizer_path={path!r} gives two tokens one rank, one token two ranks, or a "
            f"rank that is negative or above {MAX_RANK}; name another file"
        )
    return ranks


def _last_merge(ranks: Mapping[bytes, int], token: bytes) -> tuple[bytes, bytes] | None:
    """The two parts that merges of lower rank leave of a token; None for a byte."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        made = [ranks.get(a + b, MAX_RANK) for a, b in itertools.pairwise(parts)]
        best = min(range(len(made)), key=made.__getitem__)
        if made[best] >= ranks[token]:
            return None  # reached only as a whole piece
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return (parts[0], parts[1]) if len(parts) == 2 else None


def _letters() -> list[str]:
    """GPT-2's printable character for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


@dataclasses.dataclass(frozen=True)
class TiktokenConfig:
    """The settings of the tokenizer `tiktoken`."""

    pattern: str = setting(
        "cl100k",
        "the pre-tokenization of a file of ranks",
        choices=PATTERNS,
        was="tiktoken_pattern",
    )


KIND = TokenizerKind(
    "tiktoken",
    read=lambda content, path, own, end: read(content, path, own.pattern, end),
    file=KEPT,
    settings=TiktokenConfig,
    read_settings=lambda own, config: {"pattern": own.pattern},
)

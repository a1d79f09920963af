"""The source `zipf-facts`: a generated language whose entropy is known exactly.

A document is the end-of-document id, then the m digits of an entity, then r attribute tokens. The
entity of popularity rank k = 1 … K is drawn with P(k) = k^-s / Σ_j j^-s; which number it bears is
a fixed random permutation, and its attributes are a fixed random function of it. So everything
after the digits is certain to one who knows the facts, and a document carries

    H(K) = −Σ_k P(k) ln P(k)  nats, spread over m + r scored tokens:  E = H(K) / (m + r),

or over 1 + m + r where the end-of-document target is scored too (it is certain, as documents have a
fixed length). The digits' own shares follow from the chain rule: digit j costs
−ln P(d_1 … d_j) + ln P(d_1 … d_{j-1}), so that every token's exact −log P is known, and a model can
be scored by its paired difference from the truth.

Windows whose length is a multiple of 1 + m + r start at a document's start, so a model sees all
that the truth conditions on.

Document number i is a function of (seed, side, i) alone: SplitMix64 (Steele, Lea and Flood, 2014)
of a counter, whose upper half belongs to the held-out side. No two documents share a random number.
"""

import dataclasses
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptjax.data.sources.base import Generated, Source
from gptjax.data.token_files import TokenWriter, content
from gptjax.errors import UserError
from gptjax.fields import setting

if TYPE_CHECKING:
    from gptjax.data.config import DataConfig

HELDOUT_START = 1 << 63
BLOCK = 1 << 18
MAX_FACTS = 1 << 27
MAX_TOKENS = 1 << 36
SYMBOLS = string.digits + string.ascii_letters


@dataclasses.dataclass(frozen=True)
class ZipfFactsConfig:
    """The settings of the source `zipf-facts`."""

    exponent: float = setting(1.5, "s in P(k) ∝ k^-s", minimum=0, maximum=20, was="zipf_exponent")
    entities: int = setting(4096, "entities K", minimum=2, maximum=1 << 22, was="zipf_entities")
    base: int = setting(
        10, "base of an entity's digits", minimum=2, maximum=1 << 16, was="zipf_base"
    )
    digits: int = setting(
        0,
        "digits m of an entity; 0 = as few as hold K entities",
        minimum=0,
        maximum=32,
        was="zipf_digits",
    )
    relations: int = setting(
        3, "attribute tokens r after the digits", minimum=0, maximum=1024, was="zipf_relations"
    )
    attributes: int = setting(
        52, "distinct attribute tokens", minimum=1, maximum=1 << 16, was="zipf_values"
    )
    tokens: int = setting(1 << 22, "training tokens to generate", minimum=1, was="zipf_tokens")
    heldout_tokens: int = setting(
        1 << 17, "held-out tokens to generate", minimum=1, was="zipf_heldout_tokens"
    )
    seed: int = setting(
        0,
        "seed of the facts and of the documents",
        minimum=0,
        maximum=2**32 - 1,
        was="zipf_seed",
    )


@dataclasses.dataclass(frozen=True)
class Language:
    """The facts: who is how popular, and what is true of them.

    Attributes:
      cumulative: Σ P up to and including each popularity rank, float64 (K,).
      entity_of_rank: the number of the entity of each rank, int64 (K,).
      bodies: the m digits and r attributes of each entity number, uint32 (K, m + r).
      nll: −ln P of each of those tokens given those before it, float64 (K, m + r).
      entropy_of_document: H(K) in nats.
      vocab_size: base + values + 1; digits first, then attributes, then end of document.
    """

    cumulative: np.ndarray
    entity_of_rank: np.ndarray
    bodies: np.ndarray
    nll: np.ndarray
    entropy_of_document: float
    vocab_size: int

    @property
    def document_length(self) -> int:
        """Tokens of a document with its end-of-document id: 1 + m + r."""
        return self.bodies.shape[1] + 1

    def entropy_nats(self, *, mask_end_of_document: bool) -> float:
        """E: exact nats for each scored token."""
        return self.entropy_of_document / (self.document_length - mask_end_of_document)


def num_digits(config: ZipfFactsConfig) -> int:
    """The digits m of an entity: as set, or as few as tell K entities apart.

    Raises:
      UserError: where the digits set cannot tell them apart, or there would be too many facts.
    """
    needed = 1
    while config.base**needed < config.entities:
        needed += 1
    digits = config.digits or needed
    if digits < needed:
        raise UserError(
            f"data.zipf_facts.digits={digits} of data.zipf_facts.base={config.base} cannot write "
            f"data.zipf_facts.entities={config.entities} different entities; give {needed} or more"
        )
    facts = config.entities * (digits + config.relations)
    if facts > MAX_FACTS:
        raise UserError(
            f"data.zipf_facts.entities={config.entities} with data.zipf_facts.relations="
            f"{config.relations} makes {facts} facts, more than {MAX_FACTS}; give fewer"
        )
    return digits


def check(config: ZipfFactsConfig, seq_len: int) -> None:
    """Refuse settings for which the exact entropy would not hold, before anything is generated.

    Raises:
      UserError: as `num_digits` does, for a window that is no whole number of documents, and for
        fewer tokens than one window or more than a disk holds.
    """
    length = 1 + num_digits(config) + config.relations
    if seq_len % length:
        near = sorted({max(1, seq_len // length) * length, (seq_len // length + 1) * length})
        raise UserError(
            f"model.seq_len={seq_len} is not a multiple of {length}, the length of a zipf-facts "
            f"document (1 + digits + data.zipf_facts.relations), so its exact entropy would not "
            f"hold; try {' or '.join(map(str, near))}"
        )
    for name in ("tokens", "heldout_tokens"):
        tokens = getattr(config, name)
        if not seq_len <= tokens <= MAX_TOKENS:
            raise UserError(
                f"data.zipf_facts.{name}={tokens} must hold a window of model.seq_len={seq_len} "
                f"and be at most {MAX_TOKENS}; give a number between them"
            )


def language(config: ZipfFactsConfig) -> Language:
    """The facts that the settings and data.zipf_facts.seed determine."""
    count, digits = config.entities, num_digits(config)
    relations = config.relations
    weights = np.arange(1, count + 1, dtype=np.float64) ** -config.exponent
    by_rank = weights / weights.sum()
    entity_of_rank = np.argsort(_random(config.seed, "entity", np.arange(count)), kind="stable")
    probability = np.empty(count)
    probability[entity_of_rank] = by_rank
    number = np.arange(count)
    bodies = np.zeros((count, digits + relations), dtype=np.uint32)
    nll = np.zeros((count, digits + relations))
    before = np.zeros(count)
    for j in range(digits):
        # Larger powers than any entity number give the same digits and stay within int64.
        prefix = number // min(config.base ** (digits - 1 - j), 1 << 62)
        bodies[:, j] = prefix % config.base
        log_p = np.log(np.bincount(prefix, weights=probability))[prefix]
        nll[:, j] = before - log_p
        before = log_p
    facts = _random(config.seed, "fact", np.arange(count * relations))
    values = (facts % np.uint64(config.attributes)).astype(np.uint32) + config.base
    bodies[:, digits:] = values.reshape(count, relations)
    return Language(
        cumulative=np.cumsum(by_rank),
        entity_of_rank=entity_of_rank,
        bodies=bodies,
        nll=nll,
        entropy_of_document=float(-(by_rank * np.log(by_rank)).sum()),
        vocab_size=config.base + config.attributes + 1,
    )


def entities(facts: Language, seed: int, first: int, count: int, *, heldout: bool) -> np.ndarray:
    """The entity numbers of documents `first` to `first + count` of one side, int64 (count,)."""
    start = np.uint64(first + (HELDOUT_START if heldout else 0))
    bits = _random(seed, "document", start + np.arange(count, dtype=np.uint64))
    uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    rank = np.searchsorted(facts.cumulative, uniform * facts.cumulative[-1], side="right")
    return facts.entity_of_rank[np.minimum(rank, len(facts.cumulative) - 1)]


def write(config: ZipfFactsConfig, folder: Path) -> dict[str, Any]:
    """Generate both sides into `folder`; returns the metadata of the corpus."""
    facts = language(config)
    end = facts.vocab_size - 1
    meta: dict[str, Any] = {"report": {}}
    digests = []
    for side, tokens in (("train", config.tokens), ("heldout", config.heldout_tokens)):
        count = -(-tokens // facts.document_length)
        with TokenWriter(folder / f"{side}.bin", facts.vocab_size) as ids:
            for who in _blocks(facts, config.seed, count, heldout=side == "heldout"):
                ids.write(np.insert(facts.bodies[who], 0, end, axis=1).reshape(-1))
            ids.write(np.array([end]))
            digests.append(ids.digest)
        meta["report"][f"documents_{side}"] = count
        meta[f"{side}_bytes"] = count * (facts.document_length - 1)
    with (folder / "heldout_nll.bin").open("wb") as file:
        for who in _blocks(facts, config.seed, count, heldout=True):
            file.write(np.insert(facts.nll[who], 0, 0.0, axis=1).data)
        file.write(np.zeros(1).data)
    meta["entropy_nats"] = [
        facts.entropy_nats(mask_end_of_document=masked) for masked in (False, True)
    ]
    meta["content"] = content(digests, facts.vocab_size, end)
    return meta


def _blocks(facts: Language, seed: int, count: int, *, heldout: bool) -> Iterator[np.ndarray]:
    """The entities of documents 0 to count, in parts that fit in memory."""
    for first in range(0, count, BLOCK):
        yield entities(facts, seed, first, min(BLOCK, count - first), heldout=heldout)


def stamp(config: ZipfFactsConfig) -> dict[str, Any]:
    """The settings that determine the documents."""
    fields = dataclasses.fields(config)
    settings = {field.metadata["was"]: getattr(config, field.name) for field in fields}
    return settings | {"digits": num_digits(config)}


class SymbolTokenizer:
    """The ids of the language as text, one symbol each: digits, letters, then rare characters."""

    def __init__(self, base: int, values: int):
        self.end_of_document = base + values
        self.vocab_size = base + values + 1
        self._symbols = [
            SYMBOLS[i] if i < len(SYMBOLS) else chr(0x10000 + i) for i in range(base + values)
        ]
        self._ids = {symbol: i for i, symbol in enumerate(self._symbols)}

    def encode(self, documents: Sequence[bytes]) -> Iterator[np.ndarray]:
        """The ids of each document's symbols, as uint32 arrays; other characters are refused."""
        for document in documents:
            text = document.decode()
            strange = next((symbol for symbol in text if symbol not in self._ids), None)
            if strange is not None:
                raise UserError(
                    f"the text {text[:40]!r} holds {strange!r}, which is no symbol of zipf-facts; "
                    f"use {''.join(self._symbols)[:80]!r}"
                )
            yield np.array([self._ids[symbol] for symbol in text], dtype=np.uint32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The symbols as UTF-8; end-of-document ids give nothing."""
        numbers = [int(i) for i in np.asarray(ids).reshape(-1)]
        return "".join(self._symbols[i] for i in numbers if i != self.end_of_document).encode()


def _random(seed: int, purpose: str, counter: np.ndarray) -> np.ndarray:
    """64 random bits for each counter: SplitMix64, keyed by the seed and the purpose."""
    key = _mix(np.array([seed], np.uint64) * np.uint64(0xD1342543DE82EF95))
    key = _mix(key ^ np.uint64(int.from_bytes(purpose.encode(), "big")))
    return _mix(key + (counter.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _open(own: ZipfFactsConfig, config: "DataConfig", seq_len: int) -> Generated:
    check(own, seq_len)
    return Generated(
        stamp={"zipf-facts": stamp(own)},
        write=lambda folder: write(own, folder),
        tokenizer=SymbolTokenizer(own.base, own.attributes),
        field="data.source='zipf-facts'",
    )


SOURCE = Source("zipf-facts", _open, ZipfFactsConfig)

"""The settings of the data: the section `config.data`."""

import dataclasses

from gptjax.data.sources import SOURCES
from gptjax.data.tokenizers import TOKENIZERS, bpe, sentencepiece, tiktoken
from gptjax.fields import setting


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which text, how it is tokenized and which part is held out."""

    source: str = setting("python-stdlib", "where the documents come from", choices=SOURCES)
    path: str = setting("", "text, jsonl: a file, a directory or a glob; tfds: the data directory")
    name: str = setting("", "tfds: the dataset, as name, name/config or name/config:version")
    split: str = setting("train", "tfds: the split to read")
    text_field: str = setting("text", "jsonl, tfds: the field that holds a document's text")
    document_bytes: int = setting(
        0,
        "text: cut files into documents of about this many bytes at blank lines; 0 = whole files, "
        "or, where there are fewer than 64, pieces of 1/512 of the text (512 to 8192 bytes)",
        minimum=0,
    )
    tokenizer: str = setting(
        "bytes",
        "how text becomes ids; tiktoken: a file of ranks",
        choices=TOKENIZERS,
    )
    tokenizer_path: str = setting(
        "",
        "a tokenizer.json (bpe), .model file (sentencepiece) or ranks (tiktoken) to load; empty = "
        "train one",
    )
    bpe_level: str = setting(
        "bytes",
        "bpe: what is merged: bytes (GPT-2), or characters, rare ones as bytes (Sennrich 2016)",
        choices=bpe.LEVELS,
    )
    tiktoken_pattern: str = setting(
        "cl100k", "tiktoken: how text is cut before merging", choices=tiktoken.PATTERNS
    )
    vocab_size: int = setting(
        4096, "ids of a trained tokenizer, end of document included", minimum=1, maximum=1 << 24
    )
    tokenizer_bytes: int = setting(
        1 << 24, "bytes of the train part that a tokenizer is trained on", minimum=1
    )
    sentencepiece_model: str = setting(
        "bpe", "the SentencePiece model that is trained", choices=sentencepiece.MODELS
    )
    heldout_fraction: float = setting(
        0.025, "share of documents held out, by hash of their content", above=0, below=1
    )
    normalize: bool = setting(
        False,
        "split English contractions and drop characters that are no letters, numbers, punctuation, "
        "symbols or separators, before anything else",
    )
    deduplicate: bool = setting(True, "drop documents with the same bytes as an earlier one")
    mask_end_of_document: bool = setting(True, "leave the end-of-document targets out of the loss")
    zipf_exponent: float = setting(1.5, "zipf-facts: s in P(k) ∝ k^-s", minimum=0, maximum=20)
    zipf_entities: int = setting(4096, "zipf-facts: entities K", minimum=2, maximum=1 << 22)
    zipf_base: int = setting(
        10, "zipf-facts: base of an entity's digits", minimum=2, maximum=1 << 16
    )
    zipf_digits: int = setting(
        0, "zipf-facts: digits m of an entity; 0 = as few as hold K entities", minimum=0, maximum=32
    )
    zipf_relations: int = setting(
        3, "zipf-facts: attribute tokens r after the digits", minimum=0, maximum=1024
    )
    zipf_values: int = setting(
        52, "zipf-facts: distinct attribute tokens", minimum=1, maximum=1 << 16
    )
    zipf_tokens: int = setting(1 << 22, "zipf-facts: training tokens to generate", minimum=1)
    zipf_heldout_tokens: int = setting(
        1 << 17, "zipf-facts: held-out tokens to generate", minimum=1
    )
    zipf_seed: int = setting(
        0, "zipf-facts: seed of the facts and of the documents", minimum=0, maximum=2**32 - 1
    )
    cache_dir: str = setting(
        "", "folder of the token cache; empty = $GPTJAX_CACHE, or ~/.cache/gptjax"
    )

    @property
    def kind(self) -> str:
        """The source's name with hyphens, whichever way it was spelt."""
        return self.source.replace("_", "-")

"""The settings of the data: the section `config.data`."""

import dataclasses
from typing import TYPE_CHECKING

from gptjax.data.sources import SOURCES
from gptjax.data.tokenizers import TOKENIZERS
from gptjax.fields import section, setting


def _sections() -> list[tuple[str, type, dataclasses.Field]]:
    """A section for each source and each tokenizer that has settings of its own."""
    sources = {source.section: source.settings for source in SOURCES.values()}
    kinds = {kind.name: kind.settings for kind in TOKENIZERS.values()}
    chosen = {name: cls for name, cls in (sources | kinds).items() if cls}
    return [(name, cls, section(cls, cls.__doc__ or "")) for name, cls in chosen.items()]


if TYPE_CHECKING:

    class _Sections:
        """Fields that only the tables know."""
else:
    _Sections = dataclasses.make_dataclass("_Sections", _sections(), frozen=True)


@dataclasses.dataclass(frozen=True)
class DataConfig(_Sections):
    """The text, its tokenizer and the part of it that is held out."""

    source: str = setting("python-stdlib", "where the documents come from", choices=SOURCES)
    sources: tuple[str, ...] = setting(
        (),
        "several sources in the place of data.source, each written as LABEL: KEY=VALUE KEY=VALUE "
        "with keys of this section",
    )
    weights: tuple[float, ...] = setting(
        (),
        "part of each of data.sources in every batch, summing to 1; with data.phases those of "
        "each phase, one after another",
        minimum=0.0,
        maximum=1.0,
    )
    phases: tuple[float, ...] = setting(
        (), "parts of the run after which the next weights hold, rising", above=0.0, below=1.0
    )
    repeats: tuple[float, ...] = setting(
        (1.0,),
        "how often a run may read each of data.sources; one number holds for all of them",
        above=0.0,
    )
    targets: tuple[float, ...] = setting(
        (),
        "part of each source's held-out loss in the loss of a run; () = the mean over the held-out "
        "tokens of all",
        minimum=0.0,
        maximum=1.0,
    )
    path: str = setting("", "text, jsonl: a file, a directory or a glob; tfds: the data directory")
    text_field: str = setting("text", "jsonl, tfds: the field that holds a document's text")
    picture_field: str = setting(
        "",
        "jsonl: the field that names a document's picture, a file seen from the line's own; empty: "
        "none",
    )
    picture_size: int = setting(
        0, "side in pixels to which pictures are brought; 0: as they are", minimum=0, maximum=4096
    )
    tokenizer: str = setting(
        "bytes", "how text becomes ids; tiktoken: by a file of ranks", choices=TOKENIZERS
    )
    tokenizer_path: str = setting(
        "",
        "a tokenizer.json (bpe), .model file (sentencepiece) or ranks (tiktoken) to load; empty = "
        "train one",
    )
    end_of_document: str = setting(
        "",
        "the token between documents, by name or by id, for a tokenizer that is loaded; empty = as "
        "the file or those beside it say, new = one more id",
    )
    lossy: bool = setting(False, "train on a tokenizer that does not give a text back unchanged")
    vocab_size: int = setting(
        4096, "ids of a trained tokenizer, end of document included", minimum=1, maximum=1 << 24
    )
    tokenizer_bytes: int = setting(
        1 << 24, "bytes of the train part that a tokenizer is trained on", minimum=1
    )
    heldout_fraction: float = setting(
        0.025, "share of documents held out, by hash of their content", above=0, below=1
    )
    normalize: bool = setting(
        False,
        "before anything else, split English contractions and drop all characters but letters, "
        "numbers, punctuation, symbols and separators",
    )
    deduplicate: bool = setting(True, "drop documents with the same bytes as an earlier one")
    mask_end_of_document: bool = setting(True, "leave the end-of-document targets out of the loss")
    processes: int = setting(
        0,
        "processes that tokenize a corpus of more than 64 MB; 0 = one for each core, at most 8",
        minimum=0,
        maximum=1024,
    )
    cache_dir: str = setting(
        "", "folder of the token cache; empty = $GPTJAX_CACHE, or ~/.cache/gptjax"
    )

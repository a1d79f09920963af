"""The settings of cleaning: what is read, the stages in their order, and what is written."""

import dataclasses
from collections.abc import Callable
from typing import Any

from gptjax.data.clean import c4, contamination, gopher, language, personal, word_list
from gptjax.data.clean.c4 import C4Config
from gptjax.data.clean.contamination import ContaminationConfig
from gptjax.data.clean.documents import Judge
from gptjax.data.clean.gopher import QualityConfig, RepetitionConfig
from gptjax.data.clean.language import LanguageConfig
from gptjax.data.clean.minhash import NearConfig
from gptjax.data.clean.personal import PersonalConfig
from gptjax.data.clean.spans import SpansConfig
from gptjax.data.clean.word_list import WordListConfig
from gptjax.data.clean.writers import WRITERS
from gptjax.fields import section, setting

JUDGES: dict[str, Callable[[Any], Judge]] = {
    "language": language.make,
    "repetition": gopher.make_repetition,
    "quality": gopher.make_quality,
    "c4": c4.make,
    "word_list": word_list.make,
    "personal": personal.make,
    "contamination": contamination.make,
}
"""Stages that judge one document, each by the settings under its name."""
AMONG_ALL = {
    "urls": "URL of an earlier document",
    "exact": "text of an earlier document",
    "near": "like an earlier document",
    "spans": "spans of earlier documents",
}
"""Stages that compare all documents, and the reason that they give."""
STAGES = (*JUDGES, *AMONG_ALL)
DEFAULT = (
    "language",
    "urls",
    "repetition",
    "quality",
    "c4",
    "word_list",
    "personal",
    "contamination",
    "exact",
    "near",
)
"""The order of the literature."""


@dataclasses.dataclass(frozen=True)
class CleanConfig:
    """What job=clean reads, does and writes."""

    input: str = setting("", "files to clean: a file, a folder or a glob")
    output: str = setting("", "folder of the cleaned shards; '' = clean/ in the workdir")
    stages: tuple[str, ...] = setting(DEFAULT, "stages in their order", choices=STAGES)
    text_field: str = setting("", "field with the text; '' = text, content, raw_content, …")
    strict: bool = setting(False, "whether a broken record is fatal")
    format: str = setting("jsonl.zst", "format of the shards", choices=WRITERS)
    tokenizer_path: str = setting(
        "", "tokenizer.json or tokenizer.model whose tokens are counted too; '' = none"
    )
    workers: int = setting(0, "processes; 0 = one for each core", minimum=0)
    task_bytes: int = setting(
        64 << 20, "files are joined to tasks of about so many bytes, each a shard", minimum=1
    )
    language: LanguageConfig = section(LanguageConfig, "the language filter")
    repetition: RepetitionConfig = section(RepetitionConfig, "Gopher's limits of repetition")
    quality: QualityConfig = section(QualityConfig, "Gopher's limits of quality")
    c4: C4Config = section(C4Config, "C4's rules")
    word_list: WordListConfig = section(WordListConfig, "the word list")
    personal: PersonalConfig = section(PersonalConfig, "masks of personal data")
    contamination: ContaminationConfig = section(ContaminationConfig, "evaluation files")
    near: NearConfig = section(NearConfig, "near-duplicates")
    spans: SpansConfig = section(SpansConfig, "repeated spans of sentences")

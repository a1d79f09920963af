"""The language filter: a score for each language, a threshold, and code that passes by.

The scores are those of py3langid (Lui and Baldwin 2012, langid.py), whose model is inside the
package, so that nothing is fetched. It takes code for a language, so code is known by its lines.
"""

import dataclasses
import functools
import re
from typing import Any

from gptjax.data.clean.documents import KEPT, Document, Judge, Verdict
from gptjax.errors import UserError, nearest
from gptjax.fields import setting

SCORED_CHARACTERS = 4000
"""Of a longer document this much is scored."""
CODE_LINE = re.compile(
    r"[;{}]\s*$|^\s*(?:#include|#define|import |from \S+ import|def |class |function |return\b|"
    r"public |private |static |const |let |var |elif |else:|for \(|if \(|while \(|@\w+|//|/\*|\*/|"
    r"<\?|</?\w+>|\}|\w[\w.\[\]]*\s*[-+*/|&]?=[^=]|\w[\w.]*\(.*\)$)"
)
CODE_SHARE = 0.4
"""Share of lines that look like code, from which on a document is code."""


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """Which languages are kept, and how sure that must be."""

    keep: tuple[str, ...] = setting(("en",), "languages that are kept, by ISO 639-1; () = all")
    threshold: float = setting(0.65, "least score of one of them", minimum=0, maximum=1)
    code: bool = setting(True, "whether source code is kept, whatever its score")


def make(config: LanguageConfig) -> Judge:
    """The judge of languages.

    Raises:
      UserError: where py3langid is missing, or does not know a language.
    """
    if not config.keep:
        return lambda document: KEPT
    known = _identifier().labels
    for language in config.keep:
        if language not in known:
            raise UserError(
                f"clean.language.keep={language!r} is not a language that is known; "
                f"{nearest(language, known)}"
            )

    def judge(document: Document) -> Verdict:
        if config.code and looks_like_code(document.text):
            return Verdict(counts={"code": 1})
        language, score = best_language(document.text)
        if language in config.keep and score >= config.threshold:
            return Verdict(counts={language: 1})
        unsure = language in config.keep
        return Verdict(f"unsure {language}" if unsure else f"language {language}", counts={})

    return judge


def best_language(text: str) -> tuple[str, float]:
    """The language of a text and its score in [0, 1]."""
    language, score = _identifier().classify(text[:SCORED_CHARACTERS])
    return str(language), float(score)


def looks_like_code(text: str) -> bool:
    """Whether many of its lines are those of a program."""
    lines = [line for line in text[: 4 * SCORED_CHARACTERS].splitlines() if line.strip()]
    if len(lines) < 3:
        return False
    return sum(bool(CODE_LINE.search(line)) for line in lines) >= CODE_SHARE * len(lines)


@functools.cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise UserError(
            "clean.language needs the package py3langid; pip install 'gptjax[clean]', or leave "
            "language out of clean.stages"
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

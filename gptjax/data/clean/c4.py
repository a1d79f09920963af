"""C4's rules for pages and lines (Raffel et al. 2020, section 2.2, and the code that made it)."""

import dataclasses
import re

from gptjax.data.clean.documents import Document, Judge, Verdict, sentences_of
from gptjax.fields import setting

CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
ENDS = (".", "?", "!", '"', "'")
ELLIPSIS = "..."
POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)


@dataclasses.dataclass(frozen=True)
class C4Config:
    """The thresholds of C4."""

    sentences: int = setting(5, "fewest sentences of a page, after lines were dropped", minimum=0)
    line_words: int = setting(3, "fewest words of a line", minimum=0)
    word_characters: int = setting(1000, "a line with a longer word is dropped", minimum=1)
    terminal_punctuation: bool = setting(True, "drop lines that do not end in . ? ! or a quote")
    lorem_ipsum: bool = setting(True, "drop pages with 'lorem ipsum'")
    braces: bool = setting(True, "drop pages with a curly bracket")
    javascript: bool = setting(True, "drop lines with the word Javascript")
    policies: bool = setting(True, "drop lines about cookies and terms of use")
    citations: bool = setting(True, "remove [1], [edit] and [citation needed]")


def make(config: C4Config) -> Judge:
    """The judge of pages with these thresholds."""

    def judge(document: Document) -> Verdict:
        kept, sentences = [], 0
        for raw in document.text.splitlines():
            line, words = raw.strip(), raw.split()
            if len(line) > config.word_characters < max(map(len, words)):
                continue
            if config.citations and "[" in line:
                line = CITATION.sub("", line)
            if config.terminal_punctuation and not _ends(line):
                continue
            if len(words) < config.line_words:
                continue
            lower = line.lower()
            if config.lorem_ipsum and "lorem ipsum" in lower:
                return Verdict("lorem ipsum")
            if config.javascript and "javascript" in lower:
                continue
            if config.braces and "{" in line:
                return Verdict("curly bracket")
            if config.policies and any(policy in lower for policy in POLICIES):
                continue
            if sentences < config.sentences:
                sentences += len(sentences_of(line))
            kept.append(line)
        if sentences < config.sentences:
            return Verdict("too few sentences")
        return Verdict(text="\n".join(kept).strip())

    return judge


def _ends(line: str) -> bool:
    return line.endswith(ENDS) and not line.endswith(ELLIPSIS)

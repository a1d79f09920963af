"""The word list: documents that hold one of its words or phrases are dropped, as in C4."""

import dataclasses
import re

from gptjax.data.clean.documents import KEPT, Document, Judge, Verdict
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import check_plain, user_path


@dataclasses.dataclass(frozen=True)
class WordListConfig:
    """The file of words, and how many a document may hold."""

    path: str = setting("", "file with one word or phrase a line; '' = no list")
    allowed: int = setting(0, "how many places a document may have", minimum=0)


def make(config: WordListConfig) -> Judge:
    """The judge of words, which never tells the word.

    Raises:
      UserError: where the list cannot be read or is empty.
    """
    if not config.path:
        return lambda document: KEPT
    pattern = pattern_of(read(config.path))

    def judge(document: Document) -> Verdict:
        lower = document.text.lower()
        for found, _ in enumerate(pattern.finditer(lower), start=1):
            if found > config.allowed:
                return Verdict("listed word")
        return KEPT

    return judge


def read(path: str) -> list[str]:
    """The words of a list in small letters, empty lines and those that begin with # left out."""
    place = user_path(path)
    check_plain(place)
    try:
        lines = place.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"clean.word_list.path={path!r} cannot be read ({error}); give a text file with one "
            "word a line"
        ) from error
    words = [line.strip().lower() for line in lines]
    words = [word for word in words if word and not word.startswith("#")]
    if not words:
        raise UserError(f"clean.word_list.path={path!r} holds no word; give one a line")
    return words


def pattern_of(words: list[str]) -> re.Pattern:
    """Any of the words between characters that are no word's."""
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(set(words))))})(?!\w)")

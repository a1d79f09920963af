"""Text of answers: bytes of tokens as they come, and the strings that end an answer."""

import codecs
import dataclasses
from collections.abc import Sequence

from gptjax.infer.model import Model


@dataclasses.dataclass
class Detokenizer:
    """The text of one answer, token by token.

    A tokenizer may write the first token of a text otherwise than one inside it, and a character
    may take several tokens: an answer is the text of prompt and answer without that of the prompt,
    and only whole characters are shown.
    """

    model: Model
    prompt: Sequence[int]
    stop: tuple[str, ...] = ()

    def text(self, ids: Sequence[int], *, whole: bool = True) -> tuple[str, bool]:
        """(the answer's text up to a stop string, whether one was found).

        Args:
          whole: the answer has ended; else what may still become a character or a stop string at
            its end is left out.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(self.after_prompt(ids), final=whole)
        places = [place for place in (text.find(word) for word in self.stop) if place >= 0]
        if places:
            return text[: min(places)], True
        return (text if whole else text[: len(text) - self._begun(text)]), False

    def tokens_before_stop(self, ids: Sequence[int]) -> int:
        """Tokens up to the one that completes a stop string."""
        low, high = 0, len(ids)
        while low < high:
            middle = (low + high) // 2
            found = self.text(ids[:middle])[1]
            low, high = (low, middle) if found else (middle + 1, high)
        return low

    def after_prompt(self, ids: Sequence[int]) -> bytes:
        """The bytes that the answer adds to those of the prompt."""
        before = self.model.decode(list(self.prompt))
        both = self.model.decode([*self.prompt, *ids])
        return both[len(before) :] if both.startswith(before) else self.model.decode(list(ids))

    def _begun(self, text: str) -> int:
        """Characters at the end with which a stop string may begin."""
        longest = max((len(word) for word in self.stop), default=0)
        for length in range(min(longest - 1, len(text)), 0, -1):
            if any(word.startswith(text[-length:]) for word in self.stop):
                return length
        return 0


def places_of(pieces: Sequence[bytes], before: bytes = b"") -> list[int]:
    r"""How many characters of the text come before each piece of its bytes.

    >>> places_of([b"a", b"\xc3", b"\xa9", b"b"])
    [0, 1, 1, 2]
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    place, found = len(decoder.decode(before)), []
    for piece in pieces:
        found.append(place)
        place += len(decoder.decode(piece))
    return found

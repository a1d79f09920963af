"""Examples as token ids, with a mark at those that the assistant writes.

The ids of a prompt are those that generation gives it, so that an answer is learned where it is
asked for: a token that would stand across the seam of prompt and answer is cut there.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from gptjax.align.examples import Example, Messages, Prompt
from gptjax.data.chat import FORMATS, encode_chat
from gptjax.data.tokenizers import Tokenizer
from gptjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A text: its ids, and which of them are learned."""

    ids: np.ndarray
    scored: np.ndarray


@dataclasses.dataclass(frozen=True)
class Item:
    """An example and its texts as ids."""

    example: Example
    texts: tuple[Encoded, ...]


@dataclasses.dataclass(frozen=True)
class Codec:
    """How texts become ids.

    Attributes:
      tokenizer: of the model.
      chat: a name of `gptjax.data.chat.FORMATS`, or "" where it is not known.
      context: most tokens of an example.
      drop_long: leave longer ones out, in place of an error.
      begins: tokens before every text that is no conversation (`convert.Model.begins`).
    """

    tokenizer: Tokenizer
    chat: str
    context: int
    drop_long: bool = False
    begins: tuple[int, ...] = ()

    def all(self, examples: Sequence[Example]) -> list[Item]:
        """The examples with their texts: one, or the preferred one and the other.

        Raises:
          UserError: for messages without a chat format, and for an example longer than the context.
        """
        found = [Item(example, self._texts(example)) for example in examples]
        kept = [item for item in found if self._fits(item.example, item.texts)]
        if not kept:
            raise UserError(
                f"none of the {len(found)} examples fits into {self.context} tokens; give a model "
                "with a longer context or shorter examples"
            )
        return kept

    def prompt(self, prompt: Prompt, place: str) -> list[int]:
        """The ids of a prompt, up to where the assistant goes on.

        Raises:
          UserError: for messages without a chat format.
        """
        if isinstance(prompt, str):
            return [*self.begins, *self.ids(prompt)]
        return self._chat(prompt, place, prompt=True)[0].tolist()  # type: ignore[no-any-return]

    def _texts(self, example: Example) -> tuple[Encoded, ...]:
        if not example.answers:
            assert not isinstance(example.prompt, str)
            return (Encoded(*self._chat(example.prompt, example.place)),)
        return tuple(self._answered(example, answer) for answer in example.answers)

    def _answered(self, example: Example, answer: str) -> Encoded:
        if isinstance(example.prompt, str):
            before = self.ids(example.prompt)
            whole = self.ids(example.prompt + answer)
            after = whole[len(before) :] if whole[: len(before)] == before else self.ids(answer)
            before = [*self.begins, *before]
            ids = [*before, *after, self.tokenizer.end_of_document]
            return Encoded(np.array(ids, np.int32), np.arange(len(ids)) >= len(before))
        messages = (*example.prompt, {"role": "assistant", "content": answer})
        text, wrote = self._chat(messages, example.place)
        start = len(self.prompt(example.prompt, example.place))
        return Encoded(text, wrote & (np.arange(len(text)) >= start))

    def ids(self, text: str) -> list[int]:
        """The ids of a piece of text."""
        (ids,) = self.tokenizer.encode([text.encode()])
        return np.asarray(ids).tolist()

    def _chat(
        self, messages: Messages, place: str, *, prompt: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        if not self.chat:
            raise UserError(
                f"{place} has messages, and the folder of the model names no chat format; set "
                f"finetune.chat to one of {', '.join(FORMATS)}"
            )
        if not hasattr(self.tokenizer, "added"):
            raise UserError(
                f"{place} has messages, and the model's tokenizer has no special tokens for them; "
                "write prompt and response"
            )
        added: Any = self.tokenizer
        try:
            made = encode_chat(added, messages, self.chat, prompt=prompt)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        return made.ids.astype(np.int32), made.assistant

    def _fits(self, example: Example, texts: Sequence[Encoded]) -> bool:
        longest = max(len(text.ids) for text in texts) - 1  # the last token is only a target
        if longest <= self.context:
            return True
        if self.drop_long:
            return False
        raise UserError(
            f"{example.place} has {longest + 1} tokens with its answer, and "
            f"{self.context + 1} are the most for a context of {self.context}; shorten it, or "
            "set finetune.drop_long=true"
        )

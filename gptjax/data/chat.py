"""Conversations as ids: roles are special tokens, which no message can write.

Messages are encoded as plain text, so that a user who types `<|assistant|>` gets those thirteen
characters and never the token.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from gptjax.errors import UserError, nearest


class ChatTokenizer(Protocol):
    """A tokenizer that names its special tokens."""

    special: Mapping[str, int]

    def encode_text(self, text: str) -> list[int]:
        """The ids of plain text; never a special one."""
        ...


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """How a conversation is written. Pieces that are special tokens' names become those tokens.

    Attributes:
      start: before the first message.
      before, after: around a message; {role} stands for its role.
      strips: messages lose the white space at their ends.
    """

    start: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    strips: bool = False


FORMATS = {
    # The roles are tokens of their own (Phi-3's, without a start).
    "roles": ChatFormat((), ("<|{role}|>", "\n"), ("<|end|>", "\n")),
    # OpenAI's ChatML, also Qwen2.5's.
    "chatml": ChatFormat((), ("<|im_start|>", "{role}\n"), ("<|im_end|>", "\n")),
    # AI@Meta, "The Llama 3 Herd of Models" (2024).
    "llama3": ChatFormat(
        ("<|begin_of_text|>",),
        ("<|start_header_id|>", "{role}", "<|end_header_id|>", "\n\n"),
        ("<|eot_id|>",),
        strips=True,
    ),
}
ROLES = ("system", "user", "assistant")


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Ids, and which of them the assistant wrote: its messages and what ends them."""

    ids: np.ndarray
    assistant: np.ndarray


def encode_chat(
    tokenizer: ChatTokenizer,
    messages: Sequence[Mapping[str, str]],
    form: str,
    *,
    prompt: bool = False,
) -> Conversation:
    """The ids of messages, each {"role": …, "content": …}.

    Args:
      form: a name of FORMATS.
      prompt: end with the beginning of an assistant's message, for it to go on.

    Raises:
      UserError: for an unknown format or role, and where the tokenizer lacks a special token.
    """
    if form not in FORMATS:
        raise UserError(f"chat format {form!r} is not known; {nearest(form, FORMATS)}")
    chat = FORMATS[form]
    ids = _pieces(tokenizer, chat.start, "")
    assistant = [False] * len(ids)
    for message in messages:
        role, text = message["role"], message["content"]
        if role not in ROLES:
            raise UserError(f"role {role!r} is not known; {nearest(role, ROLES)}")
        head = _pieces(tokenizer, chat.before, role)
        body = tokenizer.encode_text(text.strip() if chat.strips else text)
        end = _pieces(tokenizer, chat.after[:1], role)
        tail = _pieces(tokenizer, chat.after[1:], role)
        ids += head + body + end + tail
        wrote = role == "assistant"
        assistant += [False] * len(head) + [wrote] * len(body + end) + [False] * len(tail)
    if prompt:
        head = _pieces(tokenizer, chat.before, "assistant")
        ids, assistant = ids + head, assistant + [False] * len(head)
    return Conversation(np.array(ids, np.uint32), np.array(assistant, bool))


def _pieces(tokenizer: ChatTokenizer, pieces: Sequence[str], role: str) -> list[int]:
    ids: list[int] = []
    for piece in pieces:
        text = piece.replace("{role}", role)
        if not text.startswith("<|"):
            ids += tokenizer.encode_text(text)
        elif text in tokenizer.special:
            ids.append(tokenizer.special[text])
        else:
            raise UserError(
                f"the tokenizer has no special token {text}, which the chat format needs; add it, "
                "or choose another format"
            )
    return ids

"""Chat formats: conversations as token ids, as the published templates write them.

Messages are encoded as plain text, so that a user who types `<|assistant|>` gets those thirteen
characters and never the special token. Some families mark their turns with plain text (`[INST]` of
Llama 2 and of Mistral's first tokenizer). A reader cannot tell such a mark from a user who typed
it, so a message that contains one is refused. A system message without a turn of its own (Llama 2,
Mistral) begins a user's message; where no mark closes it (Mistral), the user can go on in its name.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np

from gptjax.errors import UserError, nearest

ROLES = ("system", "user", "assistant")
NAMES = ("user", "assistant", "system")


class ChatTokenizer(Protocol):
    """A tokenizer that names the tokens that were added to its vocabulary."""

    added: Mapping[str, int]

    def encode_text(self, text: str) -> list[int]:
        """The ids of plain text."""
        ...


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """How a family writes a conversation.

    Attributes:
      special: names of special tokens; in the strings below they become those tokens.
      user, assistant, system: what stands before and after a message of that role.
      prompt: what asks for the assistant's next message; `assistant[0]` begins with it.
      start: before the first message.
      end: after the last one, where no prompt follows.
      place: where a system message may be: a turn of its own ("any" number, or only the "start"),
        at the beginning of the "first" or of the "last" user's message, or "nowhere".
      alternates: whether messages are, after the system's, the user's and the assistant's in turn.
      strips: roles whose messages lose the white space at their ends.
      marks: plain text that readers take for the format's own.
    """

    special: tuple[str, ...]
    user: tuple[str, str]
    assistant: tuple[str, str]
    prompt: str
    system: tuple[str, str] = ("", "")
    start: str = ""
    end: str = ""
    place: Literal["any", "start", "first", "last", "nowhere"] = "any"
    alternates: bool = False
    strips: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


def _named(
    special: str, before: str, after: str, user: str, assistant: str, system: str = ""
) -> ChatFormat:
    """A format whose turns differ only in the name of the role, which `before` has for its {}."""
    asks = before.format(assistant)
    return ChatFormat(
        special=tuple(special.split()),
        user=(before.format(user), after),
        assistant=(asks, after),
        prompt=asks,
        system=(before.format(system), after),
    )


_PHI3 = _named(
    "<|system|> <|user|> <|assistant|> <|end|> <|endoftext|>", "<|{}|>\n", "<|end|>\n", *NAMES
)

FORMATS = {
    # The roles are tokens of their own (Phi-3-mini's, without a start).
    "roles": dataclasses.replace(_PHI3, special=_PHI3.special[:-1]),
    # OpenAI's ChatML, also Qwen2.5's.
    "chatml": _named("<|im_start|> <|im_end|>", "<|im_start|>{}\n", "<|im_end|>\n", *NAMES),
    # Llama-2-7b-chat (Touvron et al. 2023).
    "llama2": ChatFormat(
        special=("<s>", "</s>"),
        user=("<s>[INST] ", " [/INST]"),
        assistant=(" ", " </s>"),
        prompt="",
        system=("<<SYS>>\n", "\n<</SYS>>\n\n"),
        place="first",
        alternates=True,
        strips=("user", "assistant"),
        marks=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    ),
    # Meta-Llama-3-8B-Instruct (AI@Meta, "The Llama 3 Herd of Models", 2024).
    "llama3": dataclasses.replace(
        _named(
            "<|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>",
            "<|start_header_id|>{}<|end_header_id|>\n\n",
            "<|eot_id|>",
            *NAMES,
        ),
        start="<|begin_of_text|>",
        strips=ROLES,
    ),
    # Mistral's tokenizer v1: Mistral-7B-Instruct-v0.1 and v0.2, Mixtral-8x7B-Instruct.
    "mistral": ChatFormat(
        special=("<s>", "</s>"),
        user=(" [INST] ", " [/INST]"),
        assistant=(" ", "</s>"),
        prompt="",
        system=("", "\n\n"),
        start="<s>",
        place="first",
        alternates=True,
        marks=("[INST]", "[/INST]"),
    ),
    # Its tokenizer v3: Mistral-Large-Instruct-2407, Mistral-7B-Instruct-v0.3, Mixtral-8x22B.
    "mistral-v3": ChatFormat(
        special=("<s>", "</s>", "[INST]", "[/INST]"),
        user=("[INST] ", "[/INST]"),
        assistant=(" ", "</s>"),
        prompt="",
        system=("", "\n\n"),
        start="<s>",
        place="last",
        alternates=True,
        strips=("assistant",),
    ),
    # gemma-2-2b-it (Gemma Team 2024).
    "gemma2": dataclasses.replace(
        _named(
            "<bos> <start_of_turn> <end_of_turn>",
            "<start_of_turn>{}\n",
            "<end_of_turn>\n",
            *("user", "model"),
        ),
        start="<bos>",
        place="nowhere",
        alternates=True,
        strips=("user", "assistant"),
    ),
    # Phi-3-small-8k-instruct (Abdin et al. 2024): Phi-3's turns between its one end of text.
    "phi3-small": dataclasses.replace(_PHI3, start="<|endoftext|>", end="<|endoftext|>"),
    # DeepSeek-V2.5, without tools (DeepSeek-AI 2024).
    "deepseek-v2.5": ChatFormat(
        special=(
            "<｜begin▁of▁sentence｜>",
            "<｜end▁of▁sentence｜>",
            "<｜User｜>",
            "<｜Assistant｜>",
        ),
        user=("<｜User｜>", ""),
        assistant=("<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        prompt="<｜Assistant｜>",
        start="<｜begin▁of▁sentence｜>",
        place="start",
    ),
    # c4ai-command-r-plus, without tools and documents (Cohere For AI 2024).
    "command-r": dataclasses.replace(
        _named(
            "<BOS_TOKEN> <|START_OF_TURN_TOKEN|> <|END_OF_TURN_TOKEN|> <|SYSTEM_TOKEN|> "
            "<|USER_TOKEN|> <|CHATBOT_TOKEN|>",
            "<|START_OF_TURN_TOKEN|><|{}_TOKEN|>",
            "<|END_OF_TURN_TOKEN|>",
            *("USER", "CHATBOT", "SYSTEM"),
        ),
        start="<BOS_TOKEN>",
        place="start",
        alternates=True,
        strips=("user", "assistant"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Ids, and which of them the assistant wrote: its messages and what ends them."""

    ids: np.ndarray
    assistant: np.ndarray


class _Piece(NamedTuple):
    """A special token's name or a plain text, and whether the assistant wrote it."""

    text: str
    special: bool
    wrote: bool


def encode_chat(
    tokenizer: ChatTokenizer,
    messages: Sequence[Mapping[str, str]],
    form: str,
    *,
    prompt: bool = False,
) -> Conversation:
    """The ids of messages, each {"role": …, "content": …}.

    Plain text between special tokens is encoded in one piece, and cut only where the assistant
    begins to write, where a token would stand across: the ids of a prompt are the first ids of the
    conversation that it becomes (unless the system's text moves on to a later message).

    Args:
      form: a name of FORMATS.
      prompt: end where the assistant is to go on.

    Raises:
      UserError: for an unknown format or role, for messages in an order that the format does not
        have, for a text that the format would take for its own, and where the tokenizer lacks a
        special token.
    """
    if form not in FORMATS:
        raise UserError(f"chat format {form!r} is not known; {nearest(form, FORMATS)}")
    chat = FORMATS[form]
    _check(form, chat, messages, prompt)
    pieces = [*_cut(chat, chat.start)]
    for role, text in _turns(chat, messages):
        before, after = getattr(chat, role)
        pieces += _wrote(chat, text) if role == "assistant" else _said(chat, before, text, after)
    pieces += _cut(chat, chat.prompt if prompt else chat.end)
    return _encode(tokenizer, form, chat, _joined(pieces))


def _check(
    form: str, chat: ChatFormat, messages: Sequence[Mapping[str, str]], prompt: bool
) -> None:
    """Refuse what the format cannot say, and what could not be read back from it."""
    for number, message in enumerate(messages):
        role, here = message["role"], f"message {number} of a chat in the format {form!r}"
        if role not in ROLES:
            raise UserError(f"role {role!r} is not known; {nearest(role, ROLES)}")
        if role == "system" and chat.place == "nowhere":
            raise UserError(
                f"{here} is the system's, for which it has no place; put its text at the "
                "beginning of the first user's message"
            )
        if role == "system" and chat.place != "any" and number:
            raise UserError(f"{here} is the system's, which must be the first; move it there")
        mark = next((mark for mark in chat.marks if mark in message["content"]), None)
        if mark:
            raise UserError(
                f"{here} contains {mark}, which this format writes as plain text, so that none "
                "could tell it from a turn; take it out, or choose a format whose turns are "
                "special tokens"
            )
    if chat.alternates:
        _check_turns(form, chat, [message["role"] for message in messages], prompt)


def _check_turns(form: str, chat: ChatFormat, roles: list[str], prompt: bool) -> None:
    """Refuse all but the system, then the user and the assistant in turn."""
    turns = roles[roles[:1] == ["system"] :]
    for number, role in enumerate(turns):
        wanted = ("user", "assistant")[number % 2]
        if role != wanted:
            raise UserError(
                f"message {number + len(roles) - len(turns)} of a chat in the format {form!r} is "
                f"the {role}'s where the {wanted}'s is due; begin with the user, and join "
                "neighbours of one role"
            )
    if prompt and len(turns) % 2 == 0:
        raise UserError(
            f"a prompt in the format {form!r} must follow a user's message; add one, or leave "
            "prompt=False"
        )
    if roles and not turns and chat.place in ("first", "last"):
        raise UserError(
            f"the format {form!r} has the system's text in a user's message, and there is none; "
            "add one"
        )


def _turns(chat: ChatFormat, messages: Sequence[Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """Each turn's role and text, the system's text where the format has it."""
    turns = [(message["role"], message["content"]) for message in messages]
    if chat.place in ("first", "last") and turns and turns[0][0] == "system":
        (_, system), *turns = turns
        users = [number for number, (role, _) in enumerate(turns) if role == "user"]
        at = users[0] if chat.place == "first" else users[-1]
        turns[at] = ("user", chat.system[0] + system + chat.system[1] + turns[at][1])
    return ((role, text.strip() if role in chat.strips else text) for role, text in turns)


def _cut(chat: ChatFormat, text: str) -> Iterator[_Piece]:
    """The special tokens in what the format itself writes, and the text between them."""
    names = "|".join(map(re.escape, chat.special))
    for number, part in enumerate(re.split(f"({names})", text)):
        if part:
            yield _Piece(part, special=number % 2 == 1, wrote=False)


def _said(chat: ChatFormat, before: str, text: str, after: str) -> Iterator[_Piece]:
    yield from _cut(chat, before)
    yield _Piece(text, special=False, wrote=False)
    yield from _cut(chat, after)


def _wrote(chat: ChatFormat, text: str) -> Iterator[_Piece]:
    """The assistant writes what comes after its prompt, up to the special token that ends it."""
    before, after = chat.assistant
    yield from _cut(chat, chat.prompt)
    yield _Piece(before.removeprefix(chat.prompt) + text, special=False, wrote=True)
    writing = True
    for piece in _cut(chat, after):
        yield piece._replace(wrote=writing)
        writing = writing and not piece.special


def _joined(pieces: Sequence[_Piece]) -> Iterator[_Piece]:
    """The same, with neighbouring plain texts of one writer as one."""
    for (special, wrote), group in itertools.groupby(pieces, key=lambda piece: piece[1:]):
        if special:
            yield from group
        elif text := "".join(piece.text for piece in group):
            yield _Piece(text, special, wrote)


def _encode(
    tokenizer: ChatTokenizer, form: str, chat: ChatFormat, pieces: Iterable[_Piece]
) -> Conversation:
    own = {tokenizer.added[name]: name for name in chat.special if name in tokenizer.added}
    ids: list[int] = []
    wrote: list[bool] = []
    run = ""  # of plain text, since the last special token
    run_ids: list[int] = []
    for piece in pieces:
        if piece.special:
            run, run_ids, new = "", [], [_special(tokenizer, form, piece.text)]
        else:
            run, new = run + piece.text, _further(tokenizer, run, run_ids, piece.text)
            run_ids = run_ids + new
            forged = next((own[number] for number in new if number in own), None)
            if forged:
                raise UserError(
                    f"the tokenizer reads {forged} in a message as its token, because its file "
                    'does not call it special; write "special": true there, or take it out'
                )
        ids += new
        wrote += [piece.wrote] * len(new)
    return Conversation(np.array(ids, np.uint32), np.array(wrote, bool))


def _special(tokenizer: ChatTokenizer, form: str, name: str) -> int:
    if name not in tokenizer.added:
        raise UserError(
            f"the tokenizer has no special token {name}, which the chat format {form!r} needs; "
            "add it, or choose another format"
        )
    return tokenizer.added[name]


def _further(tokenizer: ChatTokenizer, run: str, run_ids: list[int], text: str) -> list[int]:
    """The ids of a text after those of the run before it, as of one text where that is possible."""
    both = tokenizer.encode_text(run + text)
    if both[: len(run_ids)] == run_ids:
        return both[len(run_ids) :]
    return tokenizer.encode_text(text)

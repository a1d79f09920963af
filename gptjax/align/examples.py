"""Examples of fine-tuning: prompts with answers, or with a preferred answer and another one."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gptjax.data.sources import jsonl
from gptjax.data.split import check_sides, digest, is_heldout
from gptjax.errors import UserError

Messages = tuple[Mapping[str, str], ...]
Prompt = str | Messages

ANSWERED = '{"prompt": "…", "response": "…"}'
PREFERRED = '{"prompt": "…", "chosen": "…", "rejected": "…"}'
ASKED = '{"prompt": "…"}'


@dataclasses.dataclass(frozen=True)
class Example:
    """One line of a file.

    Attributes:
      place: the file and line, for errors.
      prompt: plain text, or messages before the answer.
      answers: the answer, or the preferred one and the other. Empty: the prompt is a whole
        conversation, in which every message of the assistant is an answer.
      said: the whole line.
    """

    place: str
    prompt: Prompt
    answers: tuple[str, ...] = ()
    said: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read_answered(path: str) -> list[Example]:
    """Prompts with their answers: lines with `prompt` and `response`, or with `messages`.

    `completion` is another name of `response`; both may be messages, as those of TRL may.

    Raises:
      UserError: for a file that cannot be read, or a line that is neither, by its number.
    """
    return _read(path, ANSWERED, _answered)


def read_preferences(path: str) -> list[Example]:
    """Prompts with a preferred answer and another one: `prompt`, `chosen`, `rejected`.

    Both may be conversations that differ in their last message, with or without `prompt`.

    Raises:
      UserError: for a line that is none, or whose answers are equal, by its number.
    """
    return _read(path, PREFERRED, _preferred)


def read_prompts(path: str) -> list[Example]:
    """Prompts to be answered: lines with `prompt`; other fields are for the reward.

    Raises:
      UserError: for a line without one, by its number.
    """
    return _read(path, ASKED, lambda place, said: Example(place, _prompt(place, said), (), said))


def split(examples: Sequence[Example], fraction: float, field: str) -> tuple[list[Example], ...]:
    """(train, held out) by a hash of the prompt, so that no prompt is on both sides.

    Raises:
      UserError: where a side is empty.
    """
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        said = json.dumps(example.prompt, sort_keys=True, default=dict).encode()
        sides[is_heldout(digest(said), fraction)].append(example)
    check_sides(_Sides([len(side) for side in sides]), field, fraction)
    return sides


@dataclasses.dataclass
class _Sides:
    kept: list[int]


def _read(path: str, example: str, make: Callable[[str, dict[str, Any]], Example]) -> list[Example]:
    found = [make(place, said) for place, said in _records(path, example)]
    if not found:
        raise UserError(f"data.path={path!r} holds no example; write lines such as {example}")
    return found


def _records(path: str, example: str) -> Iterator[tuple[str, dict[str, Any]]]:
    return jsonl.records(path, example)


def _answered(place: str, said: dict[str, Any]) -> Example:
    if "messages" in said:
        messages = _messages(place, said, "messages")
        if not any(message["role"] == "assistant" for message in messages):
            raise UserError(f"{place} has no message of the assistant to learn; add one")
        return Example(place, messages, (), said)
    if "chosen" in said:
        raise UserError(
            f"{place} has a preferred answer and another one, which finetune.method=sft does not "
            f"read; set finetune.method=dpo, or write lines such as {ANSWERED}"
        )
    name = "completion" if "completion" in said and "response" not in said else "response"
    if isinstance(said.get(name), list):
        prompt, answer = _conversation(place, said, name)
        return Example(place, prompt, (answer,), said)
    return Example(place, _prompt(place, said), (_text(place, said, name, ANSWERED),), said)


def _preferred(place: str, said: dict[str, Any]) -> Example:
    if isinstance(said.get("chosen"), list):
        sides = [_conversation(place, said, name) for name in ("chosen", "rejected")]
        prompts, answers = zip(*sides, strict=True)
        if prompts[0] != prompts[1]:
            raise UserError(
                f"{place} has conversations as chosen and as rejected that differ before the last "
                "message; a preference is between two answers to one prompt"
            )
        prompt = prompts[0]
    else:
        prompt = _prompt(place, said)
        answers = tuple(_text(place, said, name, PREFERRED) for name in ("chosen", "rejected"))
    if answers[0] == answers[1]:
        raise UserError(
            f"{place} has the same answer as chosen and as rejected, which prefers none; drop it"
        )
    return Example(place, prompt, answers, said)


def _conversation(place: str, said: dict[str, Any], name: str) -> tuple[Messages, str]:
    """(messages before the answer, the answer), of a conversation or of its last message alone.

    A plain `prompt` beside whole conversations, as some data sets have, must be one of their
    messages.
    """
    *before, last = _messages(place, said, name)
    prompt = said.get("prompt")
    if isinstance(prompt, list):
        given = list(_messages(place, said, "prompt"))
        if before and before != given:
            raise UserError(f"{place} has a prompt that {name} does not begin with; correct one")
        before = given
    elif isinstance(prompt, str) and all(one["content"] != prompt for one in before):
        raise UserError(
            f"{place} has a prompt that is no message of {name}; write it as messages, or leave "
            "it out"
        )
    if not before or last["role"] != "assistant" or not last["content"]:
        raise UserError(
            f"{place} has no prompt before an answer of the assistant in {name}; end {name} with "
            "a message of the assistant"
        )
    return tuple(before), last["content"]


def _prompt(place: str, said: dict[str, Any]) -> Prompt:
    if isinstance(said.get("prompt"), list):
        return _messages(place, said, "prompt")
    return _text(place, said, "prompt", ANSWERED, empty=True)


def _text(place: str, said: dict[str, Any], name: str, example: str, *, empty: bool = False) -> str:
    value = said.get(name)
    if not isinstance(value, str):
        what = f"a {type(value).__name__} as {name}" if name in said else f"no {name}"
        raise UserError(f"{place} has {what}; write lines such as {example}")
    if not (value or empty):
        raise UserError(f"{place} has an empty {name}; drop it")
    return value


def _messages(place: str, said: dict[str, Any], name: str) -> Messages:
    value = said[name]
    valid = isinstance(value, list) and all(
        isinstance(one, dict) and all(isinstance(one.get(k), str) for k in ("role", "content"))
        for one in value
    )
    if not valid or not value:
        raise UserError(
            f'{place} has {name} that are no list of {{"role": "…", "content": "…"}}; correct them'
        )
    return tuple(value)

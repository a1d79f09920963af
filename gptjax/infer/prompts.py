"""Prompts from files: a text a line, or JSONL with prompts and conversations."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from gptjax.data.chat import FORMATS, encode_chat
from gptjax.errors import UserError, nearest
from gptjax.infer.generate import Prompt
from gptjax.infer.model import Model


@dataclasses.dataclass(frozen=True)
class Asked:
    """One line of a file of prompts.

    Attributes:
      prompt: text, or the ids of a conversation.
      said: what the line says, for the output.
      ends: tokens that end its answer besides the model's: those of a turn in a conversation.
    """

    prompt: Prompt
    said: dict[str, Any]
    ends: tuple[int, ...] = ()


def read_prompts(path: Path, model: Model, chat: str = "") -> list[Asked]:
    """The prompts of a file: the lines of a text, or of JSONL `prompt`, `tokens` or `messages`.

    Args:
      chat: the format of conversations; "": the model's own.

    Raises:
      UserError: for a file that is missing or a line that is neither.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(f"{path} cannot be read ({reason}); give a file of prompts") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise UserError(f"{path} has no prompt; give a text in each line")
    if path.suffix != ".jsonl":
        return [Asked(line, {"prompt": line}) for _, line in numbered]
    return [_of_json(f"{path} line {number}", line, model, chat) for number, line in numbered]


def conversation(model: Model, messages: Any, chat: str = "") -> list[int]:
    """The ids of messages up to where the assistant goes on.

    Raises:
      UserError: where the model's chat format is not known, or the messages do not fit it.
    """
    form = chat or model.chat
    if not form:
        raise UserError(
            f"{model.name} does not say how it writes a conversation; give the chat format, one of "
            f"{', '.join(FORMATS)}"
        )
    if not hasattr(model.tokenizer, "added"):
        raise UserError(
            f"{model.name} has no tokenizer with special tokens, which a conversation needs; give "
            "plain prompts"
        )
    valid = isinstance(messages, list) and all(
        isinstance(one, dict) and {"role", "content"} <= one.keys() for one in messages
    )
    if not valid or not messages:
        raise UserError('messages must be a list of {"role": …, "content": …}; correct them')
    return encode_chat(model.tokenizer, messages, form, prompt=True).ids.tolist()  # type: ignore[arg-type]


def turn_ends(model: Model, chat: str = "") -> tuple[int, ...]:
    """The special tokens that end the assistant's message in the model's chat format."""
    form = FORMATS[chat or model.chat]
    added = getattr(model.tokenizer, "added", {})
    names = [name for name in form.special if name in form.assistant[1]]
    return tuple(dict.fromkeys(added[name] for name in names if name in added))


def _of_json(place: str, line: str, model: Model, chat: str) -> Asked:
    try:
        said = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place} is not JSON ({error}); correct it") from error
    if isinstance(said, dict) and isinstance(said.get("prompt"), str):
        return Asked(said["prompt"], said)
    if isinstance(said, dict) and isinstance(said.get("tokens"), list):
        return Asked(said["tokens"], said)
    if isinstance(said, dict) and "messages" in said:
        ids = conversation(model, said["messages"], chat)
        return Asked(ids, said, turn_ends(model, chat))
    keys = [*said] if isinstance(said, dict) else []
    hint = nearest(keys[0], ("prompt", "messages", "tokens")) if keys else "write {'prompt': …}"
    raise UserError(f"{place} has neither prompt, messages nor tokens; {hint}")

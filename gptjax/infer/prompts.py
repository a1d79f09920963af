"""Prompts from files: a text a line, or JSONL with prompts and conversations."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gptjax.data.chat import FORMATS, encode_chat
from gptjax.errors import UserError, nearest
from gptjax.files import check_output, user_path, write_atomic
from gptjax.infer.generate import Prompt, encoded, fitted
from gptjax.infer.model import Model
from gptjax.infer.settings import Sampling


@dataclasses.dataclass(frozen=True)
class Asked:
    """One line of a file of prompts.

    Attributes:
      prompt: text, or the ids of a conversation.
      said: what the line says, for the output.
      ends: tokens that end its answer besides the model's: those of a turn in a conversation.
      place: file and line in words; "": there is none.
    """

    prompt: Prompt
    said: dict[str, Any]
    ends: tuple[int, ...] = ()
    place: str = ""


def read_prompts(path: Path, model: Model, chat: str = "") -> list[Asked]:
    """The prompts of a file: the lines of a text, or of JSONL `prompt`, `tokens` or `messages`.

    Args:
      chat: the format of conversations; "": the model's own.

    Raises:
      UserError: for a file that is missing or a line that is neither.
    """
    if path.suffix != ".jsonl":
        return [Asked(said["prompt"], said, place=place) for place, said in read_rows(path)]
    return [_asked(place, said, model, chat) for place, said in read_rows(path)]


def read_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(file and line in words, what the line says) of a file of prompts.

    A line of a text says its `prompt`, one of JSONL all that is in its object.

    Raises:
      UserError: for a file that is missing or empty, and a line that is no object of JSON.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(f"{path} cannot be read ({reason}); give a file of prompts") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise UserError(f"{path} has no prompt; give a text in each line")
    if path.suffix != ".jsonl":
        return [(f"{path} line {number}", {"prompt": line}) for number, line in numbered]
    return [(place := f"{path} line {number}", _object(place, line)) for number, line in numbered]


def check_paths(job: str, prompts: str, output: str, what: str = "prompts") -> None:
    """Refuse a file of prompts that is not there, and an output that cannot be written.

    Args:
      job: the section of both settings.
      what: the setting of the file of prompts.
    """
    if prompts and not user_path(prompts).is_file():
        raise UserError(f"{job}.{what}={prompts} is no file; give a file of {what}")
    if output:
        check_output(f"{job}.output", output)


def check_request(model: Model, one: Asked, request: Sampling) -> None:
    """Refuse a prompt that the model cannot answer, before others are.

    Raises:
      UserError: naming the line that it is from.
    """
    try:
        fitted(model, encoded(model, one.prompt), request)
    except UserError as error:
        raise UserError(f"{one.place}: {error}" if one.place else str(error)) from error


def write_rows(output: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write the file of answers, an object in each line; nothing where none is named."""
    if output:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomic(user_path(output), "".join(lines))


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


def _object(place: str, line: str) -> dict[str, Any]:
    """The object of a line of JSONL, which can be written as UTF-8 again."""
    try:
        said = json.loads(line, parse_constant=_no_number)
        json.dumps(said, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place} has half a surrogate pair; mend or drop the line") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON ({error}); correct it") from error
    if not isinstance(said, dict):
        raise UserError(f'{place} is no object; write lines such as {{"prompt": "…"}}')
    return said


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _asked(place: str, said: dict[str, Any], model: Model, chat: str) -> Asked:
    if not isinstance(said.get("adapter", ""), str):
        raise UserError(f"{place} has an adapter that is no text; give its name")
    if isinstance(said.get("prompt"), str):
        return Asked(said["prompt"], said, place=place)
    if isinstance(said.get("tokens"), list):
        if not all(type(one) is int for one in said["tokens"]):
            raise UserError(f"{place} has tokens that are no whole numbers; give ids")
        return Asked(said["tokens"], said, place=place)
    if "messages" in said:
        try:
            ids = conversation(model, said["messages"], chat)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        return Asked(ids, said, turn_ends(model, chat), place)
    keys = [*said]
    hint = nearest(keys[0], ("prompt", "messages", "tokens")) if keys else "write {'prompt': …}"
    raise UserError(f"{place} has neither prompt, messages nor tokens; {hint}")

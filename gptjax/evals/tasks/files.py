"""Items in JSON lines, in the layouts of HellaSwag, MMLU and our own."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptjax.errors import UserError
from gptjax.evals.choices import LETTERS, Item


def read_items(path: Path) -> list[Item]:
    """The items of a file.

    Raises:
      UserError: for no file, a line that is no object, or an item without its keys.
    """
    rows = read_rows(path)
    layout = next((one for keys, one in LAYOUTS if keys <= rows[0].keys()), None)
    if layout is None:
        raise UserError(
            f"{path} has the keys {sorted(rows[0])}; give question, choices and answer, or "
            "HellaSwag's ctx, endings and label"
        )
    items = [_item(layout, row, f"{path} line {n}") for n, row in enumerate(rows, 1)]
    return _as_letters(rows, items, path)


def _as_letters(rows: list[dict[str, Any]], items: list[Item], path: Path) -> list[Item]:
    """Items whose answer is a choice's text and another's letter, read as the file's others are.

    Raises:
      UserError: where the file gives letters and texts.
    """
    said = [row.get("answer") for row in rows]
    both = [
        (_letter_of(one, i.choices), one in i.choices) for one, i in zip(said, items, strict=True)
    ]
    unclear = [
        number
        for number, ((letter, text), item) in enumerate(zip(both, items, strict=True))
        if text and letter not in (None, item.answer)
    ]
    if not unclear or all(text or letter is None for letter, text in both):
        return items
    if any(text and letter is None for letter, text in both):
        number = unclear[0]
        raise UserError(
            f"{path} line {number + 1} has the answer {said[number]!r}, a choice's text and "
            "another one's letter, and the file gives both; give the place of each right choice"
        )
    return [
        item if letter is None else dataclasses.replace(item, answer=letter)
        for (letter, _), item in zip(both, items, strict=True)
    ]


def _letter_of(answer: Any, choices: tuple[str, ...]) -> int | None:
    """The place of a letter; None for another answer."""
    known = LETTERS[: len(choices)]
    is_letter = isinstance(answer, str) and len(answer) == 1 and answer in known
    return known.index(answer) if is_letter else None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON lines file."""
    rows = []
    if not path.is_file():
        raise UserError(
            f"evaluate.tasks={path} is no file; give the path of a .jsonl or .yaml task"
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({type(error).__name__})") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise UserError(f"{path} line {number} is no JSON object; give one a line")
            rows.append(row)
    if not rows:
        raise UserError(f"{path} has no items; give one JSON object a line")
    return rows


def _item(layout: Callable[[dict[str, Any], str], Item], row: dict[str, Any], where: str) -> Item:
    try:
        return layout(row, where)
    except KeyError as error:
        raise UserError(f"{where} lacks {error}; give what the first line has") from None


def text_of(value: Any, where: str) -> str:
    """A question or choice as text; numbers are written out.

    Raises:
      UserError: for a list, an object, true, false or null.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        return str(value)
    raise UserError(f"{where} has {json.dumps(value)} where a text is expected; give a text")


def texts_of(values: Any, where: str) -> tuple[str, ...]:
    """Choices as texts.

    Raises:
      UserError: for what is no list.
    """
    if not isinstance(values, list):
        raise UserError(
            f"{where} has the choices {json.dumps(values)}, which are no list; give a list of texts"
        )
    return tuple(text_of(value, where) for value in values)


def _plain(row: dict[str, Any], where: str) -> Item:
    choices = texts_of(row["choices"], where)
    answer = answer_of(row["answer"], choices, where)
    _refuse_two_readings(row["answer"], row["choices"], answer, where)
    question = text_of(row["question"], where)
    domain, document = label_of(row, where, "domain", "subject"), label_of(row, where, "document")
    return Item(question, choices, answer, domain, document)


def _refuse_two_readings(answer: Any, values: list[Any], place: int, where: str) -> None:
    """A number is a place; among choices that are numbers it could be one of them too."""
    if type(answer) is int and answer in values and values.index(answer) != place:
        raise UserError(
            f"{where} has the answer {answer}, a place or one of the choices {values}; give the "
            f'place of the right one, and the choices as texts, or its text, "{answer}"'
        )


def label_of(row: dict[str, Any], where: str, *names: str) -> str:
    """A domain's or document's name, from the first key that has one; "" for none.

    >>> label_of({"domain": None, "subject": 0}, "line 1", "domain", "subject")
    '0'
    """
    found = (row[name] for name in names if row.get(name) not in (None, ""))
    return text_of(next(found, ""), where)


def _hellaswag(row: dict[str, Any], where: str) -> Item:
    """Prepared as lm-evaluation-harness does."""
    if "ctx_a" in row:
        context = f"{row['ctx_a']} {text_of(row['ctx_b'], where).capitalize()}"
    else:
        context = text_of(row["ctx"], where)
    if row.get("activity_label"):
        context = f"{row['activity_label']}: {context}"
    choices = tuple(map(_cleaned, texts_of(row["endings"], where)))
    source, domain = label_of(row, where, "source_id"), label_of(row, where, "split_type")
    label = str(row["label"])
    answer = answer_of(int(label) if label.isdigit() else row["label"], choices, where)
    return Item(_cleaned(context), choices, answer, domain, source)


def _cleaned(text: str) -> str:
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


LAYOUTS: tuple[tuple[set[str], Callable[[dict[str, Any], str], Item]], ...] = (
    ({"question", "choices", "answer"}, _plain),
    ({"endings", "label"}, _hellaswag),
)
"""Layouts of a line by the keys that it has."""


def answer_of(answer: Any, choices: tuple[str, ...], where: str, *, letters: bool = True) -> int:
    """The place of an answer that is a place, a choice's text, or, with `letters`, a letter.

    Raises:
      UserError: for an answer that is not among the choices.
    """
    if isinstance(answer, int) and not isinstance(answer, bool):
        if 0 <= answer < len(choices):
            return answer
    elif str(answer) in choices:
        return choices.index(str(answer))
    elif letters and (place := _letter_of(answer, choices)) is not None:
        return place
    raise UserError(f"{where} has the answer {answer!r}, which is not among {list(choices)}")

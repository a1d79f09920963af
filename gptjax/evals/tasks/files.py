"""Tasks in files: JSON lines in the layouts of HellaSwag, MMLU and our own, and lm-eval's YAML."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptjax.errors import UserError
from gptjax.evals.choices import LETTERS, Item


def read_items(path: Path) -> tuple[list[Item], str]:
    """(items, style) of a file.

    Raises:
      UserError: for no file, a line that is no object, or an item without its keys.
    """
    if not path.is_file():
        raise UserError(
            f"evaluate.tasks={path} is no file; give the path of a .jsonl or .yaml task"
        )
    if path.suffix in (".yaml", ".yml"):
        return _from_yaml(path)
    rows = read_rows(path)
    layout = next((one for keys, one in LAYOUTS if keys <= rows[0].keys()), None)
    if layout is None:
        raise UserError(
            f"{path} has the keys {sorted(rows[0])}; give question, choices and answer, or "
            "HellaSwag's ctx, endings and label"
        )
    return [_item(layout, row, f"{path} line {n}") for n, row in enumerate(rows, 1)], "continuation"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON lines file."""
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
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
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{where} lacks or misspells {error}; give what the first line has"
        ) from None


def _plain(row: dict[str, Any], where: str) -> Item:
    choices = tuple(map(str, row["choices"]))
    domain = row.get("domain") or row.get("subject") or ""
    answer = answer_of(row["answer"], choices, where)
    return Item(str(row["question"]), choices, answer, str(domain), str(row.get("document", "")))


def _hellaswag(row: dict[str, Any], where: str) -> Item:
    """Prepared as lm-evaluation-harness does."""
    if "ctx_a" in row:
        context = f"{row['ctx_a']} {str(row['ctx_b']).capitalize()}"
    else:
        context = str(row["ctx"])
    if row.get("activity_label"):
        context = f"{row['activity_label']}: {context}"
    choices = tuple(_cleaned(str(ending)) for ending in row["endings"])
    source = str(row.get("source_id", ""))
    domain = str(row.get("split_type", ""))
    answer = answer_of(int(row["label"]), choices, where)
    return Item(_cleaned(context), choices, answer, domain, source)


def _cleaned(text: str) -> str:
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


LAYOUTS: tuple[tuple[set[str], Callable[[dict[str, Any], str], Item]], ...] = (
    ({"question", "choices", "answer"}, _plain),
    ({"endings", "label"}, _hellaswag),
)
"""Layouts of a line by the keys that it has."""


def answer_of(answer: Any, choices: tuple[str, ...], where: str) -> int:
    """The place of an answer that is a place, a choice's text, or a letter.

    Raises:
      UserError: for an answer that is not among the choices.
    """
    if isinstance(answer, int) and not isinstance(answer, bool):
        if 0 <= answer < len(choices):
            return answer
    elif str(answer) in choices:
        return choices.index(str(answer))
    elif len(str(answer)) == 1 and str(answer) in LETTERS[: len(choices)]:
        return LETTERS.index(str(answer))
    raise UserError(f"{where} has the answer {answer!r}, which is not among {list(choices)}")


def _from_yaml(path: Path) -> tuple[list[Item], str]:
    """A multiple-choice task of lm-evaluation-harness with local JSON files."""
    import jinja2
    import yaml

    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        said = None
    wanted = ("dataset_kwargs", "doc_to_text", "doc_to_choice", "doc_to_target")
    if not isinstance(said, dict) or said.get("output_type") != "multiple_choice":
        raise UserError(f"{path} is no task with output_type: multiple_choice")
    missing = [name for name in wanted if name not in said]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; give local JSON files and templates")
    split = said.get("test_split") or said.get("validation_split") or "test"
    files = said["dataset_kwargs"]["data_files"]
    file = Path(files[split] if isinstance(files, dict) else files)
    rows = read_rows(file if file.is_absolute() else path.parent / file)
    space, joined = said.get("target_delimiter", " "), []

    def filled(template: Any, row: dict[str, Any]) -> Any:
        if isinstance(template, list):
            return [filled(one, row) for one in template]
        if isinstance(template, int):
            return template
        if template in row:
            return row[template]
        return jinja2.Environment(keep_trailing_newline=True).from_string(template).render(**row)

    for number, row in enumerate(rows, start=1):
        choices = filled(said["doc_to_choice"], row)
        choices = yaml.safe_load(choices) if isinstance(choices, str) else choices
        target = filled(said["doc_to_target"], row)
        target = int(target) if str(target).isdigit() and str(target) not in choices else target
        texts = tuple(map(str, choices))
        answer = answer_of(target, texts, f"{path} item {number}")
        joined.append(Item(filled(said["doc_to_text"], row), texts, answer))
    if space == " ":
        return joined, "continuation"
    if space:
        raise UserError(f"{path} has target_delimiter={space!r}; give ' ' or ''")
    return joined, "joined"

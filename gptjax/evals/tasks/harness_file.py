"""Multiple-choice tasks of lm-evaluation-harness, from their YAML and local JSON lines.

Read as lm-evaluation-harness 0.4 reads them; a key that would change a score and is not read is
refused by its name, so that no task is silently another one.
"""

import ast
import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

from gptjax.errors import UserError
from gptjax.evals.choices import Item
from gptjax.evals.tasks.files import answer_of, read_rows, text_of, texts_of

READ = {
    *("output_type", "dataset_path", "dataset_kwargs"),
    *("training_split", "validation_split", "test_split", "fewshot_split"),
    *("doc_to_text", "doc_to_choice", "doc_to_target", "target_delimiter", "description"),
}
LABELS = {
    *("task", "task_alias", "tag", "group", "metadata", "dataset_name"),
    *("should_decontaminate", "doc_to_decontamination_query", "unsafe_code"),
}
"""Keys that change no score."""
FILLED = ("doc_to_text", "doc_to_choice", "doc_to_target", "description")
"""Keys that may name a column."""
NEEDED = ("dataset_kwargs", "doc_to_text", "doc_to_choice", "doc_to_target")
METRICS = ("acc", "acc_norm")


@dataclasses.dataclass(frozen=True)
class HarnessTask:
    """A task as its file describes it.

    Attributes:
      style: of `choices.STYLES`.
      examples: of the split that the harness takes them from; empty: the items.
      descriptions: before the examples of each item; none: ().
    """

    items: list[Item]
    style: str
    examples: list[Item]
    descriptions: tuple[str, ...]


def read_task(path: Path) -> HarnessTask:
    """The task of a YAML file.

    Raises:
      UserError: for a file that is no task of multiple choice with local files, a key that is not
        read, or an item that its templates do not fit.
    """
    said = _parsed(path)
    _refuse_unread(said, path)
    split = said.get("test_split") or said.get("validation_split") or "test"
    names = ("fewshot_split", "training_split", "validation_split")
    shots = next((said[name] for name in names if said.get(name)), split)
    rows = _rows(said, path, split)
    return HarnessTask(
        _items(said, path, rows),
        _style(said, path),
        _items(said, path, _rows(said, path, shots)) if shots != split else [],
        _descriptions(said, path, rows),
    )


def _parsed(path: Path) -> dict[str, Any]:
    import yaml

    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError:
        raise UserError(f"evaluate.tasks={path} is no file; give the path of a task") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())
        raise UserError(
            f"{path} cannot be read ({text}); give plain YAML in UTF-8, without !function"
        ) from None
    if not isinstance(said, dict) or said.get("output_type") != "multiple_choice":
        raise UserError(
            f"{path} is no task with output_type: multiple_choice; score it by "
            "python -m gptjax.evals.lm_eval"
        )
    missing = [name for name in NEEDED if name not in said]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; give local JSON files and templates")
    return said


def _refuse_unread(said: dict[str, Any], path: Path) -> None:
    for key, harmless in USUAL.items():
        if key in said and not harmless(said[key]):
            raise UserError(f"{path} has {key}={said[key]!r}, which is not read; {REPAIRS[key]}")
    for key in said:
        if key not in READ | LABELS | USUAL.keys():
            raise UserError(
                f"{path} has {key}, which is not read; remove it, or score the task by "
                "python -m gptjax.evals.lm_eval"
            )


def _only_known(metrics: Any) -> bool:
    """Whether a metric_list asks for means of what is computed anyway."""
    return isinstance(metrics, list) and all(
        isinstance(one, dict)
        and one.get("metric") in METRICS
        and one.get("aggregation", "mean") == "mean"
        for one in metrics
    )


USUAL: dict[str, Any] = {
    "metric_list": _only_known,
    "num_fewshot": lambda shots: not shots,
    "fewshot_delimiter": lambda text: text == "\n\n",
    "fewshot_config": lambda options: options in (None, {"sampler": "first_n"}),
    "filter_list": lambda filters: not filters,
    "repeats": lambda count: count == 1,
    "generation_kwargs": lambda options: not options,
}
"""Whether a key's value is the one that is followed anyway."""
REPAIRS = {
    "metric_list": f"give {' and '.join(METRICS)}, by their mean",
    "num_fewshot": "remove it and set evaluate.shots",
    "fewshot_delimiter": "examples are followed by an empty line",
    "fewshot_config": "examples are the first ones: sampler: first_n",
    "filter_list": "remove it; likelihoods need no filter",
    "repeats": "remove it; likelihoods do not vary",
    "generation_kwargs": "remove it; nothing is generated",
}


def _style(said: dict[str, Any], path: Path) -> str:
    space = said.get("target_delimiter", " ")
    if space not in ("", " "):
        raise UserError(f"{path} has target_delimiter={space!r}; give ' ' or ''")
    return "continuation" if space else "joined"


def _rows(said: dict[str, Any], path: Path, split: str) -> list[dict[str, Any]]:
    options = said["dataset_kwargs"]
    others = sorted(options.keys() - {"data_files"}) if isinstance(options, dict) else []
    if others or said.get("dataset_path", "json") != "json":
        raise UserError(
            f"{path} reads dataset_path={said.get('dataset_path')!r} with dataset_kwargs "
            f"{others or ['data_files']}; give dataset_path: json and data_files alone"
        )
    files = options.get("data_files") if isinstance(options, dict) else None
    name = files.get(split) if isinstance(files, dict) else files
    if not isinstance(name, str):
        raise UserError(
            f"{path} names no file for the split {split}; give dataset_kwargs.data_files.{split}"
        )
    file = Path(name) if Path(name).is_absolute() else path.parent / name
    return read_rows(file)


def _items(said: dict[str, Any], path: Path, rows: list[dict[str, Any]]) -> list[Item]:
    columns = {key for row in rows for key in row}
    for number, row in enumerate(rows, start=1):
        for key in FILLED:
            if isinstance(said.get(key), str) and said[key] in columns - row.keys():
                raise UserError(f"{path} item {number} lacks {said[key]}, the column of {key}")
    return [_item(said, row, f"{path} item {number}") for number, row in enumerate(rows, start=1)]


def _descriptions(said: dict[str, Any], path: Path, rows: list[dict[str, Any]]) -> tuple[str, ...]:
    if not said.get("description"):
        return ()
    return tuple(
        text_of(_filled(said["description"], row, where := f"{path} item {n}"), where)
        for n, row in enumerate(rows, start=1)
    )


def _item(said: dict[str, Any], row: dict[str, Any], where: str) -> Item:
    question = _filled(said["doc_to_text"], row, where)
    if isinstance(question, int) or (isinstance(question, str) and question.isdigit()):
        raise UserError(
            f"{where}: doc_to_text is the number {question}, by which the harness chooses among "
            "several contexts, and one is read here; give a text"
        )
    choices = said["doc_to_choice"]
    if isinstance(choices, dict):
        choices = list(choices.values())
    elif isinstance(choices, str):
        choices = row[choices] if choices in row else _literal(_filled(choices, row, where), where)
    target = _filled(said["doc_to_target"], row, where)
    if said["doc_to_target"] not in row and isinstance(target, str) and target.isdigit():
        target = int(target)  # a template's digits are a place, a column's a text
    texts = texts_of(choices, where)
    return Item(text_of(question, where), texts, answer_of(target, texts, where, letters=False))


def _filled(template: Any, row: dict[str, Any], where: str) -> Any:
    """A column's value, or a template with the row's columns in it."""
    import jinja2

    if not isinstance(template, str):
        return template
    if template in row:
        return row[template]
    try:
        return _compiled(template).render(**row)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise UserError(
            f"{where} does not fit the template {template!r} ({error}); give its columns"
        ) from None


@functools.lru_cache
def _compiled(template: str) -> Any:
    import jinja2

    rules = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    rules.filters["regex_replace"] = _replaced
    return rules.from_string(template)


def _replaced(text: str, pattern: str, put: str, count: int = 0) -> str:
    return re.sub(pattern, put, text, count=count)


def _literal(text: str, where: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        raise UserError(
            f"{where} has the choices {text!r}, which are no list; give a list of texts"
        ) from None

"""Tasks by name: how each scores a model. A new one is an entry of TASKS, or a file of items."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gptjax.data.compression import contents, stem
from gptjax.data.sources.jsonl import SUFFIXES
from gptjax.data.sources.stdlib import stdlib
from gptjax.data.sources.zipf_facts import ZipfFactsConfig
from gptjax.data.split import digest, is_heldout
from gptjax.data.text_check import TO_MARKUP, utf8
from gptjax.errors import UserError, nearest
from gptjax.evals import choices
from gptjax.evals.config import EvalConfig
from gptjax.evals.memorization import memorization
from gptjax.evals.needle import needle
from gptjax.evals.ngrams import compare_written
from gptjax.evals.perplexity import Document, perplexity
from gptjax.evals.result import Result
from gptjax.evals.tasks import items
from gptjax.evals.tasks.files import label_of, read_items, read_rows
from gptjax.evals.tasks.harness_file import HarnessTask, read_task
from gptjax.files import user_path
from gptjax.infer.model import Model


@dataclasses.dataclass(frozen=True)
class Task:
    """A way to score a model.

    Attributes:
      run: (model, settings, shots) → its scores.
      shots: whether solved examples make a difference.
      about: what it asks.
    """

    run: Callable[[Model, EvalConfig, int], Result]
    about: str
    shots: bool = False


def choice_task(
    name: str, make: Callable[[int, int], list[choices.Item]], about: str, style: str
) -> Task:
    """A task of multiple choice whose items are made by rule."""

    def run(model: Model, settings: EvalConfig, shots: int) -> Result:
        made = make(settings.count, settings.seed)
        return _choices(model, settings, name, made, style, shots)

    return Task(run, about, shots=True)


def file_task(path: Path) -> Task:
    """The items of a file, read when the task is named."""
    if path.suffix in (".yaml", ".yml"):
        found = read_task(path)
    else:
        found = HarnessTask(read_items(path), "continuation", [], ())
    for some in filter(None, (found.items, found.examples)):
        choices.check(some, str(path))

    def run(model: Model, settings: EvalConfig, shots: int) -> Result:
        return _choices(
            model,
            settings,
            path.stem,
            found.items,
            found.style,
            shots,
            examples=found.examples,
            before=found.descriptions,
        )

    return Task(run, f"items of {path}", shots=True)


def _choices(
    model: Model,
    settings: EvalConfig,
    name: str,
    made: list[choices.Item],
    style: str,
    shots: int,
    *,
    examples: Sequence[choices.Item] = (),
    before: Sequence[str] = (),
) -> Result:
    return choices.evaluate(
        model,
        made[: settings.limit or None],
        task=name,
        shots=shots,
        examples=examples or made,
        before=before[: settings.limit or None] or "",
        style=style if settings.style == "auto" else settings.style,
        tokens=settings.batch_tokens,
    )


def _perplexity(model: Model, settings: EvalConfig, shots: int) -> Result:
    documents = documents_of(settings)[: settings.limit or None]
    return perplexity(model, documents, stride=settings.stride, tokens=settings.batch_tokens)


def _needle(model: Model, settings: EvalConfig, shots: int) -> Result:
    text = "\n".join(document.text for document in documents_of(settings)[:8])[:200_000]
    return needle(
        model,
        text,
        lengths=settings.lengths,
        depths=settings.depths,
        repeats=settings.repeats,
        seed=settings.seed,
        tokens=settings.batch_tokens,
    )


def _memorization(model: Model, settings: EvalConfig, shots: int) -> Result:
    texts = [document.text for document in documents_of(settings)][: settings.limit or None]
    return memorization(
        model,
        texts,
        prefix=settings.prefix,
        length=settings.length,
        seed=settings.seed,
        tokens=settings.batch_tokens,
    )


def _ngrams(model: Model, settings: EvalConfig, shots: int) -> Result:
    return compare_written(
        model,
        [document.text for document in documents_of(settings)][: settings.limit or None],
        n=settings.ngram,
        written=settings.written,
        alpha=settings.smoothing,
        seed=settings.seed,
    )


def documents_of(settings: EvalConfig) -> list[Document]:
    """The texts of an evaluation with their domains.

    Raises:
      UserError: for a file that cannot be read, or a line without a text.
    """
    if not settings.texts:
        held = sorted(d.decode() for d in stdlib().read() if is_heldout(digest(d), items.HELDOUT))
        return [Document(text, "python-stdlib", f"file {i}") for i, text in enumerate(held)]
    found: list[Document] = []
    for name in settings.texts:
        path = user_path(name)
        if not path.is_file():
            raise UserError(f"evaluate.texts={name} is no file; give .jsonl or plain text")
        if path.suffix == ".jsonl":
            found += [_document(row, path, n) for n, row in enumerate(read_rows(path), 1)]
        else:
            found += _texts(path)
    return found


def _document(row: dict[str, Any], path: Path, number: int) -> Document:
    if not isinstance(row.get("text"), str):
        raise UserError(f"{path} line {number} has no text; give text and, if you like, domain")
    domain = label_of(row, f"{path} line {number}", "domain", "source") or path.stem
    return Document(row["text"], domain, f"{path} {number}")


def _texts(path: Path) -> Iterator[Document]:
    """A file's text, or that of each file in an archive."""
    try:
        for content in contents(path):
            if stem(content.name).endswith(SUFFIXES):
                raise UserError(
                    f"evaluate.texts={content.name} is no plain text; give JSON lines in a .jsonl "
                    "file that is neither compressed nor in an archive"
                )
            text = b"".join(utf8(content.chunks, content.name)).decode()
            yield Document(text, path.stem, content.name)
    except UserError as error:
        words = str(error).replace("data.path", "evaluate.texts").replace(TO_MARKUP, "")
        raise UserError(words) from error


TASKS: dict[str, Task] = {
    "perplexity": Task(_perplexity, "nats per token and bits per byte, by domain"),
    "needle": Task(_needle, "a fact hidden in a text, by depth and length"),
    "memorization": Task(_memorization, "continuations given word for word"),
    "ngrams": Task(_ngrams, "how far texts that the model writes are from the texts, by n-grams"),
    "arithmetic": choice_task("arithmetic", items.arithmetic, "sums", "continuation"),
    "copying": choice_task("copying", items.copying, "a sequence again", "continuation"),
    "agreement": choice_task("agreement", items.agreement, "verb and subject", "continuation"),
    "completion": choice_task("completion", items.completion, "the next line of code", "joined"),
    "facts": choice_task(
        "facts", items.facts_of(ZipfFactsConfig()), "attributes of zipf-facts", "joined"
    ),
}


def register(name: str, task: Task) -> None:
    """Let `evaluate.tasks` and `sweep.tasks` name another task."""
    TASKS[name] = task


def with_facts(data: Any) -> dict[str, Task]:
    """The tasks, `facts` about the language of `data.zipf_facts`."""
    make = items.facts_of(data.zipf_facts)
    facts = choice_task("facts", make, TASKS["facts"].about, "joined")
    return {**TASKS, "facts": facts}


def find(name: str, known: Mapping[str, Task] | None = None) -> Task:
    """The task of a name, or of a file.

    Raises:
      UserError: for an unknown name, or a file that cannot be read.
    """
    known = TASKS if known is None else known
    if name in known:
        return known[name]
    if "/" in name or Path(name).suffix in (".jsonl", ".json", ".yaml", ".yml"):
        return file_task(user_path(name))
    raise UserError(f"evaluate.tasks={name} is no task; {nearest(name, known)}")


def find_all(names: Sequence[str], known: Mapping[str, Task] | None = None) -> dict[str, Task]:
    """The tasks of names and files, each by the name that its scores have.

    Raises:
      UserError: as `find`, and for two tasks of one name.
    """
    known = TASKS if known is None else known
    found: dict[str, Task] = {}
    for name in dict.fromkeys(names):
        label = name if name in known else user_path(name).stem
        if label in found:
            raise UserError(
                f"evaluate.tasks={name} gives scores by the name {label}, as another task does; "
                "rename the file"
            )
        found[label] = find(name, known)
    return found


def evaluate(
    model: Model,
    settings: EvalConfig,
    tasks: Sequence[str] = (),
    *,
    known: Mapping[str, Task] | None = None,
) -> list[Result]:
    """The scores of a model on the tasks of the settings, with each number of shots.

    Args:
      tasks: names in the place of the settings'.
      known: in the place of TASKS.

    Raises:
      UserError: where a task is unknown or cannot be scored.
    """
    found = find_all(tasks or settings.tasks, known)
    rounds = tuple(dict.fromkeys(settings.shots))
    made = []
    for task in found.values():
        for shots in rounds if task.shots else (0,):
            result = task.run(model, settings, shots)
            suffix = f"@{shots}" if task.shots and len(rounds) > 1 else ""
            made.append(dataclasses.replace(result, task=result.task + suffix))
    return made

"""The pipeline: judge every document, compare all of them, write those that stay.

Tasks of the first and the last pass are shared out to processes; the pass between them runs in this
one. What is done is on disk, whole or absent, so a pipeline that was killed goes on where it was,
and its output is the same bytes for any number of processes.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.data.clean import columns, duplicates, readers
from gptjax.data.clean.config import AMONG_ALL, CleanConfig
from gptjax.data.clean.judged import COLUMNS, Task, judge_task, judges_of
from gptjax.data.clean.shards import write_task
from gptjax.data.clean.tokens import counter
from gptjax.data.files import facts
from gptjax.errors import UserError
from gptjax.files import read_json, user_path, write_json
from gptjax.threads import available_cores

WORK = ".work"
RECIPE, RESULT = "recipe.json", "clean.json"
SCHEMA = 2


ShareOut = Callable[[Callable[..., None], list[tuple]], None]
"""(work, the arguments of each call): makes all calls, in any order and anywhere."""


def clean(
    config: CleanConfig,
    output: Path,
    say: Callable[[str], None],
    share_out: ShareOut | None = None,
) -> dict[str, Any]:
    """Clean `config.input` into `output`; the content of its clean.json.

    Args:
      say: is told what begins.
      share_out: where tasks are done; None: in `config.workers` processes.

    Raises:
      UserError: for an input that cannot be read, an output that holds something else, and settings
        that make no sense.
    """
    judges_of(config)  # wrong settings are told before anything is written
    counter(config.tokenizer_path)
    share_out = share_out or functools.partial(_share_out, workers=config.workers)
    found = readers.find(config.input)
    _check_apart(config.input, found, output)
    recipe = _recipe(config, found)
    if (output / RESULT).exists() and _same(output / RECIPE, recipe):
        return read_json(output / RESULT)
    _prepare(output, recipe)
    tasks = _tasks(config, found, output / WORK)
    say(f"{len(found)} files in {len(tasks)} tasks: judge each document")
    share_out(judge_task, [(task, config) for task in tasks])
    say("compare all documents")
    compare(tasks, config)
    say("write those that stay")
    share_out(write_task, [(task, config, str(output)) for task in tasks])
    result = merged([read_json(task.path("tally.json")) for task in tasks], config)
    write_json(output / RESULT, result)
    shutil.rmtree(output / WORK)
    return result


def _check_apart(asked: str, found: list[Path], output: Path) -> None:
    """Refuse an output that the next start would read as input."""
    where = output.resolve()
    folder = user_path(asked)
    inside = folder.is_dir() and folder.resolve() in (where, *where.parents)
    if inside or any(where in file.resolve().parents for file in found):
        raise UserError(
            f"clean.output={output} lies in clean.input={asked}, which would read what is written; "
            "give a folder outside of it"
        )


def _recipe(config: CleanConfig, found: list[Path]) -> dict[str, Any]:
    """What decides the output: the files and every setting but the number of processes."""
    values = dataclasses.asdict(dataclasses.replace(config, workers=0, output=""))
    return {"schema": SCHEMA, "files": facts(found), "settings": values, **_read_besides(config)}


def _read_besides(config: CleanConfig) -> dict[str, Any]:
    """The files that are read besides the input, by setting."""
    read: dict[str, list[Path]] = {}
    if "word_list" in config.stages and config.word_list.path:
        read["word_list"] = [user_path(config.word_list.path)]
    if "contamination" in config.stages and config.contamination.path:
        read["contamination"] = readers.evaluation_files(config.contamination.path)
    if config.tokenizer_path:
        read["tokenizer"] = [user_path(config.tokenizer_path)]
    return {name: facts(some) for name, some in read.items()}


def _same(path: Path, recipe: dict[str, Any]) -> bool:
    return path.exists() and read_json(path) == _plain(recipe)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _prepare(output: Path, recipe: dict[str, Any]) -> None:
    """Make the folder, or see that it holds a part of the same work."""
    if (output / RECIPE).exists():
        if not _same(output / RECIPE, recipe):
            raise UserError(
                f"clean.output={output} was made from other files or settings; give another "
                "folder, or delete it"
            )
    elif output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(
            f"clean.output={output} holds something else; give a new folder or an empty one"
        )
    try:
        (output / WORK).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"clean.output={output} cannot be made: {error.strerror}; name another folder"
        ) from error
    write_json(output / RECIPE, recipe)


def _tasks(config: CleanConfig, found: list[Path], folder: Path) -> list[Task]:
    """Files in their order, joined until they have `task_bytes`; the same for any workers."""
    tasks: list[Task] = []
    files: list[str] = []
    size = 0
    for file, (_, bytes_, _) in zip(found, facts(found), strict=True):
        if files and size + bytes_ > config.task_bytes:
            tasks.append(Task(len(tasks), tuple(files), str(folder)))
            files, size = [], 0
        files.append(str(file))
        size += bytes_
    return [*tasks, Task(len(tasks), tuple(files), str(folder))]


def _share_out(work: Callable[..., None], calls: list[tuple], workers: int) -> None:
    """Make the calls in so many processes; in this one where one is enough."""
    count = min(workers or len(available_cores()), len(calls))
    if count == 1:
        for call in calls:
            work(*call)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(count, context) as pool:
        futures = [pool.submit(work, *call) for call in calls]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "a process that cleans was ended, perhaps for want of memory; start again to go "
                "on, with clean.workers=1 or a smaller clean.task_bytes"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def compare(tasks: list[Task], config: CleanConfig) -> None:
    """Write `final` of each task, the stage that drops each document, and repeated spans."""
    sizes = [len(_open(task, "facts")) for task in tasks]
    final = np.concatenate([_open(task, "facts")["dropped"] for task in tasks])
    for number, name in enumerate(config.stages):
        if name in COMPARISONS:
            alive = final > number
            final[COMPARISONS[name](tasks, config, alive)] = number
        elif name == "spans":
            _save_spans(tasks, sizes, final > number)
    for task, part in zip(tasks, np.split(final, np.cumsum(sizes)[:-1]), strict=True):
        columns.write(task.path("final"), part)


def _open(task: Task, name: str, width: int = 0) -> np.ndarray:
    return columns.read(task.path(name), COLUMNS[name], width)


def _same_field(name: str) -> Callable[[list[Task], CleanConfig, np.ndarray], np.ndarray]:
    def copies(tasks: list[Task], config: CleanConfig, alive: np.ndarray) -> np.ndarray:
        return duplicates.later_copies(
            lambda: (np.array(_open(task, "facts")[name]) for task in tasks), alive
        )

    return copies


def _near(tasks: list[Task], config: CleanConfig, alive: np.ndarray) -> np.ndarray:
    width = config.near.bands * config.near.rows
    signatures = [_open(task, "near", width) for task in tasks]
    return duplicates.near_copies(signatures, alive, config.near)


COMPARISONS: dict[str, Callable[[list[Task], CleanConfig, np.ndarray], np.ndarray]] = {
    "urls": _same_field("url"),
    "exact": _same_field("text"),
    "near": _near,
}
"""Which documents are copies, by stage."""
assert {*COMPARISONS, "spans"} == set(AMONG_ALL)


def _save_spans(tasks: list[Task], sizes: list[int], alive: np.ndarray) -> None:
    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return ((_open(task, "spans"), _open(task, "counts")) for task in tasks)

    starts = np.cumsum([0, *sizes])
    found = duplicates.repeated_spans(blocks, alive)
    for number, some in itertools.groupby(
        found, lambda one: int(np.searchsorted(starts, one[0], "right")) - 1
    ):
        rows = [
            np.stack([np.full(len(spans), document - starts[number]), spans], 1)
            for document, spans in some
        ]
        columns.write(tasks[number].path("repeated"), np.concatenate(rows).astype(np.int64))


def merged(tallies: list[dict[str, Any]], config: CleanConfig) -> dict[str, Any]:
    """The tallies of all tasks as one."""
    stages = []
    for number, name in enumerate(config.stages):
        each = [tally["stages"][number] for tally in tallies]
        stages.append({"stage": name} | _added([{**one, "stage": 0} for one in each]))
        stages[-1]["stage"] = name
    names = {name for tally in tallies for name in tally["examples"]}
    return {
        "input": config.input,
        "stages": stages,
        **{
            key: _added([tally[key] for tally in tallies])
            for key in ("read", "written", "sources", "counts", "lengths")
        },
        "broken": {
            "count": sum(tally["broken"]["count"] for tally in tallies),
            "places": [p for tally in tallies for p in tally["broken"]["places"]][: readers.NAMED],
        },
        "examples": {
            name: sorted(
                one for tally in tallies for one in map(tuple, tally["examples"].get(name, ()))
            )[:20]
            for name in sorted(names)
        },
    }


def _added(values: list[Any]) -> Any:
    """Sums of numbers at the same place in mappings."""
    if not isinstance(values[0], dict):
        return sum(values)
    keys = sorted({key for value in values for key in value})
    return {key: _added([value[key] for value in values if key in value]) for key in keys}

"""The first pass: the documents of a task judged one by one, with what the second pass needs.

A task is some files of the input. It writes the documents that no judge drops, with a row of facts
for every document that was read; its last file says that it is done, so that a pass that was killed
goes on after it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from gptjax.data.clean import readers
from gptjax.data.clean.columns import ColumnWriter
from gptjax.data.clean.config import AMONG_ALL, JUDGES, CleanConfig
from gptjax.data.clean.documents import Document, Judge
from gptjax.data.clean.minhash import Signer
from gptjax.data.clean.personal import masked
from gptjax.data.clean.spans import hashes_of
from gptjax.data.clean.tokens import counter
from gptjax.data.clean.urls import canonical
from gptjax.files import write_json

NOWHERE = 127
"""The stage that drops a document which no stage drops."""
FACTS = np.dtype(
    [
        ("dropped", "u1"),  # the number of the stage, or NOWHERE
        ("source", "<u4"),
        ("reason", "<u2"),
        ("bytes", "<u8"),
        ("words", "<u4"),
        ("url", "<u8"),
        ("text", "<u8"),
    ]
)
"""What is known of every document that was read; names of sources and reasons are in the tally."""
COLUMNS: dict[str, np.dtype] = {
    "facts": FACTS,
    "near": np.dtype("<u4"),
    "spans": np.dtype("<u8"),
    "counts": np.dtype("<u4"),
    "tokens": np.dtype("<u4"),
    "same": np.dtype("u1"),
}
"""Files of numbers that a task writes: facts, signatures, hashes of spans and how many of them;
where a tokenizer is given, tokens as it was read and whether no judge changed its text."""
EXAMPLES = 20
SPARE = 3
"""How many times as many examples are kept, since a later pass may take some away."""
SHOWN = 400
"""Characters of an example."""


@dataclasses.dataclass(frozen=True)
class Task:
    """Files that are cleaned together.

    Attributes:
      number: its place in the order of tasks.
      folder: where it writes.
    """

    number: int
    files: tuple[str, ...]
    folder: str

    def path(self, kind: str) -> Path:
        """Its file of this kind."""
        return Path(self.folder) / f"{self.number:05d}.{kind}"


def judge_task(task: Task, config: CleanConfig) -> None:
    """Write the task's files, `judged.json` last; nothing where it is there.

    Raises:
      UserError: for files that cannot be read.
    """
    done = task.path("judged.json")
    if done.exists():
        return
    compressor = zstandard.ZstdCompressor(level=1)
    part = task.path("part.jsonl.zst")
    temporary = part.with_suffix(".tmp")
    with (
        contextlib.ExitStack() as columns,
        temporary.open("wb") as file,
        compressor.stream_writer(file) as out,
    ):
        notes = _Notes(task, config, columns)
        for document in _documents(task, config, notes.broken):
            kept = notes.judge(document)
            if kept is not None:
                record = [notes.count - 1, vars(kept)]
                out.write(json.dumps(record, ensure_ascii=False, default=str).encode() + b"\n")
    os.replace(temporary, part)
    write_json(done, notes.tally())


def _documents(task: Task, config: CleanConfig, broken: readers.Broken) -> Iterator[Document]:
    root = readers.root_of(config.input)
    for file in task.files:
        yield from readers.documents(
            Path(file), broken, strict=config.strict, text_field=config.text_field, root=root
        )


@functools.lru_cache(maxsize=4)
def judges_of(config: CleanConfig) -> tuple[tuple[str, Judge | None], ...]:
    """The stages in their order; None for one that compares all documents."""
    return tuple(
        (name, JUDGES[name](getattr(config, name)) if name in JUDGES else None)
        for name in config.stages
    )


def hash_of(text: str) -> int:
    """A uint64 of a text, never 0."""
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") or 1


class _Notes:
    """What is known of the documents of a task."""

    def __init__(self, task: Task, config: CleanConfig, columns: contextlib.ExitStack):
        self.broken = readers.Broken()
        self.count = 0
        self._config, self._stages = config, judges_of(config)
        self._signer = Signer(config.near)
        wanted = {"facts"} | {"near", "spans"} & set(config.stages)
        wanted |= {"counts"} if "spans" in wanted else set()
        wanted |= {"tokens", "same"} if config.tokenizer_path else set()
        self._tokens = counter(config.tokenizer_path)
        self._columns = {
            name: columns.enter_context(ColumnWriter(task.path(name), COLUMNS[name]))
            for name in COLUMNS
            if name in wanted
        }
        self._names: dict[str, dict[str, int]] = {"source": {}, "reason": {"": 0}}
        self._counts: dict[str, dict[str, int]] = {}
        self._examples: dict[str, list[tuple[int, int, str, str, str]]] = {}

    def judge(self, document: Document) -> Document | None:
        """Note a document; what is left of it, or None where a stage drops it."""
        text, known = document.text, {"url": 0, "text": 0}
        signature, spans = np.zeros(self._signer.count, np.uint32), np.zeros(0, np.uint64)
        dropped, reason = NOWHERE, ""
        size, words = len(text.encode("utf-8", "replace")), len(text.split())
        tokens = self._tokens(text)
        for number, (name, judge) in enumerate(self._stages):
            if judge is not None:
                verdict = judge(document)
                self._count(name, verdict.counts)
                if not verdict.kept:
                    dropped, reason = number, verdict.reason
                    self._example(name, document, reason)
                    break
                if verdict.text is not None:
                    document = dataclasses.replace(document, text=verdict.text)
            elif name == "near":
                signature = self._signer.sign(document.text)
            elif name == "spans":
                spans = hashes_of(document.text, self._config.spans.sentences)
            elif name == "urls" and document.url:
                known["url"] = hash_of(canonical(document.url))
            elif name == "exact":
                known["text"] = hash_of(document.text)
        numbers = self._number("source", document.source), self._number("reason", reason)
        self._write(
            facts=(dropped, *numbers, size, words, known["url"], known["text"]),
            near=signature,
            spans=spans,
            counts=len(spans),
            tokens=tokens,
            same=document.text == text,
        )
        self.count += 1
        return document if dropped == NOWHERE else None

    def _number(self, kind: str, name: str) -> int:
        return self._names[kind].setdefault(name, len(self._names[kind]))

    def _count(self, stage: str, counts: Any) -> None:
        mine = self._counts.setdefault(stage, {})
        for kind, number in counts.items():
            mine[kind] = mine.get(kind, 0) + number

    def _example(self, stage: str, document: Document, reason: str) -> None:
        examples = self._examples.setdefault(stage, [])
        examples.append(example(document, reason, self.count))
        if len(examples) > 8 * SPARE * EXAMPLES:
            self._examples[stage] = sorted(examples)[: SPARE * EXAMPLES]

    def _write(self, **row: Any) -> None:
        for name, column in self._columns.items():
            column.add(row[name])

    def tally(self) -> dict[str, Any]:
        """Names, counts and examples; plain types only."""
        return {
            "names": {kind: list(names) for kind, names in self._names.items()},
            "counts": self._counts,
            "examples": {
                name: sorted(found)[: SPARE * EXAMPLES] for name, found in self._examples.items()
            },
            "broken": {"count": self.broken.count, "places": self.broken.places},
        }


def example(document: Document, reason: str, row: int) -> tuple[int, int, str, str, str]:
    """(a number that draws it, its row, id, reason, the beginning of its text, masked)."""
    shown = document.text[: SHOWN + 200]
    beginning = masked(shown)[0][:SHOWN]
    return hash_of(document.id) >> 12, row, masked(document.id)[0], reason, beginning


assert not set(AMONG_ALL) & set(JUDGES)

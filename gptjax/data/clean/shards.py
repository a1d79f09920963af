"""The last pass: the documents that stay, written to the shards of the output."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from gptjax.data.clean import columns
from gptjax.data.clean.config import AMONG_ALL, CleanConfig
from gptjax.data.clean.documents import Document
from gptjax.data.clean.judged import COLUMNS, EXAMPLES, FACTS, NOWHERE, Task, example
from gptjax.data.clean.spans import without
from gptjax.data.clean.tokens import counter
from gptjax.data.clean.writers import WRITERS
from gptjax.files import read_json, write_json

WRITTEN = ("text", "id", "source", "url")
"""Fields of the output; what else a record holds is `metadata`."""


def write_task(task: Task, config: CleanConfig, output: str) -> None:
    """Write the task's shard, and `tally.json` last; nothing where that is there."""
    done = task.path("tally.json")
    if done.exists():
        return
    tally = Tally(task, config)
    name = f"part-{task.number:05d}.{config.format}"
    temporary = Path(output) / f".{name}.tmp"
    WRITERS[config.format](temporary, tally.kept())
    if tally.written["documents"]:
        os.replace(temporary, Path(output) / name)
    else:
        temporary.unlink()
    write_json(done, tally.content())


class Tally:
    """The documents of a task that stay, and what is said of all of them.

    Attributes:
      written: documents, bytes and words that `kept` gave so far.
    """

    def __init__(self, task: Task, config: CleanConfig):
        self._task, self._config = task, config
        self._facts = columns.read(task.path("facts"), FACTS)
        self._tokens, self._count = None, counter(config.tokenizer_path)
        if config.tokenizer_path:
            self._tokens = columns.read(task.path("tokens"), COLUMNS["tokens"])
            self._same = columns.read(task.path("same"), COLUMNS["same"])
        self._final = columns.read(task.path("final"), np.uint8)
        self._judged = read_json(task.path("judged.json"))
        self.written = {"documents": 0, "bytes": 0, "words": 0}
        self.written |= {"tokens": 0} if config.tokenizer_path else {}
        self._short: dict[int, int] = {}
        self._examples: dict[str, list] = {}
        self._lengths: dict[str, dict[int, int]] = {"before": {}, "after": {}}

    def kept(self) -> Iterator[dict[str, Any]]:
        """The records of the output, in the order of reading."""
        spans = self._spans()
        for row, document in self._read():
            stage = int(self._final[row])
            if stage != NOWHERE:
                self._note(self._config.stages[stage], document, row)
                continue
            text = document.text
            if row in spans:
                text = without(text, spans[row], self._config.spans.sentences)
                if len(text.split()) < self._config.spans.words or not text:
                    self._short[row] = self._config.stages.index("spans")
                    self._note("spans", document, row)
                    continue
            record = {"text": text, "id": document.id, "source": document.source}
            record |= {"url": document.url} if document.url else {}
            extra = {k: v for k, v in document.fields.items() if not _is_written(k, v, record)}
            self._count_written(text, row, cut=row in spans)
            self._keep_example("kept", example(document, "", row))
            yield record | ({"metadata": extra} if extra else {})

    def _count_written(self, text: str, row: int, *, cut: bool) -> None:
        size = len(text.encode("utf-8", "replace"))
        self.written["documents"] += 1
        self.written["bytes"] += size
        self.written["words"] += len(text.split())
        if self._tokens is not None:
            same = self._same[row] and not cut
            self.written["tokens"] += int(self._tokens[row]) if same else self._count(text)
        _add(self._lengths["after"], size.bit_length())

    def _note(self, stage: str, document: Document, row: int) -> None:
        self._keep_example(stage, example(document, AMONG_ALL[stage], row))

    def _keep_example(self, stage: str, one: Any) -> None:
        found = self._examples.setdefault(stage, [])
        found.append(one)
        if len(found) > 8 * EXAMPLES:
            self._examples[stage] = sorted(found)[:EXAMPLES]

    def _read(self) -> Iterator[tuple[int, Document]]:
        path = self._task.path("part.jsonl.zst")
        with path.open("rb") as file:
            stream = zstandard.ZstdDecompressor().stream_reader(file)
            for line in _lines(stream):
                row, values = json.loads(line)
                yield row, Document(**values)

    def _spans(self) -> dict[int, np.ndarray]:
        path = self._task.path("repeated")
        if not path.exists():
            return {}
        pairs = columns.read(path, np.int64, width=2)
        edges = np.flatnonzero(np.diff(pairs[:, 0])) + 1
        return {int(rows[0, 0]): rows[:, 1] for rows in np.split(pairs, edges) if len(rows)}

    def content(self) -> dict[str, Any]:
        """Plain types only, after `kept` was read to its end."""
        final = np.array(self._final)
        for row, stage in self._short.items():
            final[row] = stage
        for size in self._facts["bytes"].tolist():
            _add(self._lengths["before"], size.bit_length())
        for stage, examples in self._judged["examples"].items():
            number = self._config.stages.index(stage)
            mine = [one for one in examples if final[one[1]] == number]
            self._examples[stage] = sorted(map(tuple, mine))[:EXAMPLES]
        return {
            "stages": [
                self._dropped(final, number, name)
                for number, name in enumerate(self._config.stages)
            ],
            "read": self._sums(np.ones(len(final), bool)),
            "written": self.written,
            "sources": self._sources(final),
            "counts": self._judged["counts"],
            "broken": self._judged["broken"],
            "examples": {k: sorted(map(tuple, v))[:EXAMPLES] for k, v in self._examples.items()},
            "lengths": self._lengths,
        }

    def _dropped(self, final: np.ndarray, number: int, name: str) -> dict[str, Any]:
        mine = final == number
        if name in AMONG_ALL:
            reasons = {AMONG_ALL[name]: int(mine.sum())} if mine.any() else {}
        else:
            names = self._judged["names"]["reason"]
            found, counts = np.unique(self._facts["reason"][mine], return_counts=True)
            reasons = {names[i]: int(n) for i, n in zip(found, counts, strict=True)}
        return {"stage": name, "reasons": reasons} | self._sums(mine)

    def _sums(self, mine: np.ndarray) -> dict[str, int]:
        some = self._facts[mine]
        found = {
            "documents": len(some),
            "bytes": int(some["bytes"].sum()),
            "words": int(some["words"].sum()),
        }
        if self._tokens is not None:
            found["tokens"] = int(self._tokens[mine].sum(dtype=np.int64))
        return found

    def _sources(self, final: np.ndarray) -> dict[str, dict[str, int]]:
        """Of each source: documents read and kept, and duplicates."""
        names, numbers = self._judged["names"]["source"], self._facts["source"]
        copies = [i for i, name in enumerate(self._config.stages) if name in AMONG_ALL]
        rows = {"read": final >= 0, "duplicates": np.isin(final, copies), "kept": final == NOWHERE}
        counts = [
            np.bincount(numbers[some], minlength=len(names)).tolist() for some in rows.values()
        ]
        return {
            name: dict(zip(rows, each, strict=True))
            for name, *each in zip(names, *counts, strict=True)
        }


def _is_written(name: str, value: Any, record: dict[str, Any]) -> bool:
    """Whether a field is written under its own name already, or would be and is nothing."""
    return name in WRITTEN and (value is None or str(value) == record.get(name, ""))


def _add(counts: dict[int, int], key: int) -> None:
    counts[key] = counts.get(key, 0) + 1


def _lines(stream: Any) -> Iterator[bytes]:
    rest = b""
    while part := stream.read(1 << 20):
        *lines, rest = (rest + part).split(b"\n")
        yield from lines

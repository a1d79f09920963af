"""Tokenization of partitions, here or in processes of its own.

Processes are started as programs of their own that import no accelerator library, so that each
takes little memory and starts in a second, whatever the caller has running.
"""

import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.data import tokenizers
from gptjax.data.config import DataConfig
from gptjax.data.spool import Record, ordered
from gptjax.data.token_files import file_blocks, smallest_dtype
from gptjax.data.tokenizers import Tokenizer
from gptjax.data.tokenizers.base import batches
from gptjax.errors import UserError
from gptjax.fields import make

BATCH_BYTES = 4 << 20
"""Documents that are encoded at once."""
MOST_PROCESSES = 8
PROGRAM = "import sys; from gptjax.data.encoder import main; sys.exit(main())"


@dataclasses.dataclass
class Counts:
    """What was written of some documents."""

    documents: int = 0
    duplicates: int = 0
    bytes: int = 0
    tokens: int = 0

    def add(self, other: "Counts") -> None:
        """Count those of `other` too."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def without_copies(
    records: Iterable[Record], counts: Counts, *, deduplicate: bool
) -> Iterator[bytes]:
    """The documents of records in order; copies are counted, and dropped where asked."""
    before = b""
    for record in records:
        copy = record.name == before
        before = record.name
        counts.duplicates += copy
        if not (copy and deduplicate):
            counts.documents += 1
            counts.bytes += len(record.document)
            yield record.document


def encoded(documents: Iterable[bytes], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """The ids of documents, each followed by the end of a document, many documents at once."""
    dtype = smallest_dtype(tokenizer.vocab_size)
    end = np.array([tokenizer.end_of_document], dtype)
    for batch in batches(documents, BATCH_BYTES):
        parts: list[np.ndarray] = []
        for ids in tokenizer.encode(batch):
            parts += [ids, end]
        yield np.concatenate(parts, dtype=dtype, casting="unsafe")


def partition_ids(
    spooled: Path, tokenizer: Tokenizer, counts: Counts, *, deduplicate: bool
) -> Iterator[np.ndarray]:
    """The ids of a partition's file, added to `counts` as they are taken."""
    documents = without_copies(ordered(spooled), counts, deduplicate=deduplicate)
    for ids in encoded(documents, tokenizer):
        counts.tokens += len(ids)
        yield ids


def encode_file(spooled: Path, out: Path, tokenizer: Tokenizer, *, deduplicate: bool) -> Counts:
    """Write the ids of a partition's file to `out`."""
    counts = Counts()
    with out.open("wb") as file:
        for ids in partition_ids(spooled, tokenizer, counts, deduplicate=deduplicate):
            file.write(ids.data)
    return counts


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A partition in ids.

    Attributes:
      blocks: its ids, to be taken once and before those of the next partition.
      counts: what they hold; complete once they are taken.
    """

    blocks: Iterator[np.ndarray]
    counts: Counts


def processes(config: DataConfig) -> int:
    """How many processes tokenize: one where the tokenizer is known in this one alone."""
    own = tokenizers.TOKENIZERS[config.tokenizer].read.__module__.startswith("gptjax.")
    if not own:
        return 1
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return config.processes or min(cores, MOST_PROCESSES)


def encode_partitions(
    tasks: Sequence[tuple[Path, Path]], config: DataConfig, folder: Path, tokenizer: Tokenizer
) -> Iterator[Encoded]:
    """Encode (partition, file for its ids) pairs, in their order.

    One process encodes what is taken and needs no file; several write their files ahead.

    Args:
      folder: where the tokenizer is kept.
    """
    count = processes(config)
    if count > 1:
        made = _written_ahead(tasks, config, folder, count)
        for (_, out), counts in zip(tasks, made, strict=True):
            yield Encoded(file_blocks(out, tokenizer.vocab_size), counts)
        return
    for spooled, _ in tasks:
        counts = Counts()
        blocks = partition_ids(spooled, tokenizer, counts, deduplicate=config.deduplicate)
        yield Encoded(blocks, counts)


def _written_ahead(
    tasks: Sequence[tuple[Path, Path]], config: DataConfig, folder: Path, count: int
) -> Iterator[Counts]:
    """What `encode_file` gives of each, by so many processes at once."""
    idle: queue.SimpleQueue[_Encoder] = queue.SimpleQueue()
    encoders = [_Encoder(config, folder) for _ in range(count)]
    for encoder in encoders:
        idle.put(encoder)

    def run(task: tuple[Path, Path]) -> Counts:
        encoder = idle.get()
        try:
            return encoder.encode(*task)
        finally:
            idle.put(encoder)

    waiting: deque[Future[Counts]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(run, task))
                if len(waiting) > 2 * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            for encoder in encoders:
                encoder.stop()


class _Encoder:
    """A process that encodes one partition after another."""

    def __init__(self, config: DataConfig, folder: Path):
        package = str(Path(__file__).parents[2])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "TOKENIZERS_PARALLELISM": "false",  # the processes are the parallelism
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._say({"config": dataclasses.asdict(config), "folder": str(folder)})

    def encode(self, spooled: Path, out: Path) -> Counts:
        """What `encode_file` gives."""
        self._say({"spooled": str(spooled), "out": str(out)})
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UserError(
                f"a process that tokenizes ended with status {self._process.wait()}; start again "
                "to go on, with data.processes=1 if memory was short"
            )
        found = json.loads(line)
        if "error" in found:
            raise UserError(found["error"])
        return Counts(**found)

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.communicate()

    def _say(self, value: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `encode` sees that it ended


def main() -> int:
    """Encode what standard input names until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this process ends it
    said = json.loads(sys.stdin.readline())
    config = make(DataConfig, said["config"], "data")
    tokenizer = tokenizers.reopen(config, Path(said["folder"]))
    for line in sys.stdin:
        task = json.loads(line)
        try:
            found = dataclasses.asdict(
                encode_file(
                    Path(task["spooled"]),
                    Path(task["out"]),
                    tokenizer,
                    deduplicate=config.deduplicate,
                )
            )
        except UserError as error:
            found = {"error": str(error)}
        except OSError as error:
            found = {
                "error": f"data.cache_dir: {task['out']!r} cannot be written: {error.strerror}; "
                "free some space there, or name another folder"
            }
        print(json.dumps(found), flush=True)
    return 0

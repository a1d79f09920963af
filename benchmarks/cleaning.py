"""Speed and memory of job=clean on one core, beside datatrove with the same filters.

    python benchmarks/cleaning.py 20 100 [--datatrove=PYTHON] [--only=filters] [--workers=2]

Writes JSON lines of so many megabytes each into a temporary folder: prose of made-up sentences, of
which some pages are copies. Each cleaning runs in a process of its own; bytes of text a processor
second, without imports, and the peak of its memory are printed. `--datatrove` names a Python that
has datatrove and spaCy, which splits words there; its filters are Gopher's two and C4's. `--only`
names one set of our stages. With `--workers` processor seconds are those of all processes, and the
peak is that of the parent and so many times that of the largest worker, an upper bound.
"""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FILTERS = "(repetition,quality,c4)"
STAGES = {
    "filters": FILTERS,
    "all but language": "(urls,repetition,quality,c4,personal,exact,near)",
}
FILES = 4
COPIES = 0.05
COMMON = ("the", "of", "and", "that", "with")
OURS = """
import resource, sys, time
from pathlib import Path
from gptjax.config import make_config
from gptjax.data.clean.pipeline import clean
workers = int(sys.argv[4])
config = make_config({"job": "clean", "clean": {"input": sys.argv[1], "workers": workers,
    "stages": tuple(sys.argv[3].strip("()").split(","))}})
start = time.process_time()
clean(config.own["clean"], Path(sys.argv[2]), lambda words: None)
mine, theirs = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(time.process_time() - start + theirs.ru_utime + theirs.ru_stime)
print((mine.ru_maxrss + (workers * theirs.ru_maxrss if workers > 1 else 0)) / 1024)
"""
THEIRS = """
import resource, sys, time
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.filters import C4QualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
start = time.process_time()
LocalPipelineExecutor(
    pipeline=[JsonlReader(sys.argv[1]), GopherRepetitionFilter(), GopherQualityFilter(),
              C4QualityFilter(), JsonlWriter(sys.argv[2])],
    tasks=1, logging_dir=sys.argv[2] + "/logs",
).run()
print(time.process_time() - start)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def page(rng: np.random.Generator, words: list[str]) -> str:
    """Sentences of common and rare words."""
    lengths = rng.integers(5, 19, size=rng.integers(6, 41))
    ranks = np.fmod(1 + rng.pareto(0.4, size=lengths.sum()), len(words)).astype(int)
    drawn = iter([words[rank] for rank in ranks])
    lines = []
    for length in lengths:
        some = list(itertools.islice(drawn, length))
        some.insert(rng.integers(length), COMMON[rng.integers(len(COMMON))])
        lines.append(" ".join(some).capitalize() + ".")
    return "\n".join(lines)


def make_input(folder: Path, megabytes: int) -> int:
    """Write the files; bytes of text in them."""
    rng, total = np.random.default_rng(megabytes), 0
    letters = list("etaoinshrdlucmfw")
    words = ["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(50_000)]
    folder.mkdir()
    for number in range(FILES):
        pages: list[str] = []
        size = 0
        with (folder / f"{number}.jsonl").open("w") as file:
            while size < megabytes * 1_000_000 // FILES:
                copy = pages and rng.random() < COPIES
                text = pages[rng.integers(len(pages))] if copy else page(rng, words)
                pages = [*pages[-99:], text]
                size += len(text)
                url = f"http://e.org/{number}/{size}"
                file.write(json.dumps({"text": text, "url": url, "id": f"{number}-{size}"}) + "\n")
        total += size
    return total


def timed(python: str, program: str, *arguments: str) -> tuple[float, float]:
    """(processor seconds, peak MiB) of a program that prints them last."""
    done = subprocess.run(
        [python, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    seconds, peak = done.stdout.split()[-2:]
    return float(seconds), float(peak)


def main(arguments: list[str]) -> None:
    """Print a row for each size and set of stages."""
    sizes = [int(one) for one in arguments if not one.startswith("--")] or [20]
    named = [one.partition("=")[2] for one in arguments if one.startswith("--datatrove=")]
    workers = [one.partition("=")[2] for one in arguments if one.startswith("--workers=")] or ["1"]
    only = [one.partition("=")[2] for one in arguments if one.startswith("--only=")]
    with tempfile.TemporaryDirectory() as folder:
        for megabytes in sizes:
            source = Path(folder) / f"in{megabytes}"
            total = make_input(source, megabytes)
            for name, stages in STAGES.items():
                if only and name not in only:
                    continue
                out = f"{folder}/{megabytes}-{name.replace(' ', '-')}"
                row(name, total, *timed(sys.executable, OURS, str(source), out, stages, *workers))
            for python in named:
                out = f"{folder}/{megabytes}-datatrove"
                row("datatrove", total, *timed(python, THEIRS, str(source), out))


def row(name: str, total: int, seconds: float, peak: float) -> None:
    """Print one."""
    rate = total / seconds / 1e6
    print(f"{total / 1e6:6.0f} MB  {name:22} {rate:7.2f} MB/s a core  {peak:6.0f} MiB", flush=True)


if __name__ == "__main__":
    start = time.monotonic()
    main(sys.argv[1:])
    print(f"{time.monotonic() - start:.0f} s")

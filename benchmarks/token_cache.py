"""Rate and memory of building the token cache, and of BPE beside the `tokenizers` library itself.

    python benchmarks/token_cache.py 100 1000

Bytes: so many megabytes of random letters in four files, by one process. BPE: the standard
library's code with 4,096 ids, read and encoded into a cache, beside `encode_batch_fast` of the same
documents alone. Printed are megabytes of text a second of processor time of this process and its
children, and of bytes the peak of the memory of either.
"""

import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

FILES = 4
BUILD = """
import sys
from gptjax.data import DataConfig, load
load(DataConfig(source="text", path=sys.argv[1], cache_dir=sys.argv[2], processes=1), seq_len=128)
"""
STDLIB = """
import sys
from gptjax.data import DataConfig, load
path = {"tokenizer_path": sys.argv[2]} if len(sys.argv) > 2 else {}
asked = DataConfig(tokenizer="bpe", vocab_size=4096, cache_dir=sys.argv[1], processes=1, **path)
corpus = load(asked, seq_len=128)
print(corpus.folder, corpus.train_bytes + corpus.heldout_bytes)
"""
ALONE = """
import sys
from tokenizers import Tokenizer
from gptjax.data.sources.stdlib import stdlib
tokenizer = Tokenizer.from_file(sys.argv[1])
texts = [document.decode() for document in stdlib().read()]
for first in range(0, len(texts), 256):
    tokenizer.encode_batch_fast(texts[first:first + 256], add_special_tokens=False)
"""
EMPTY = "import gptjax.data"


def spent(program: str, *arguments: str) -> tuple[float, float, str]:
    """(processor seconds, peak MiB, what it printed) of a program and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, after.ru_maxrss / 1024, done.stdout


def write(folder: Path, megabytes: int) -> None:
    """Files of random letters with a blank line after every kilobyte."""
    draw = random.Random(0)
    letters = bytes(draw.choice(b"abcdefgh ") for _ in range(1 << 20))
    folder.mkdir()
    for number in range(FILES):
        with (folder / f"{number}.txt").open("wb") as file:
            for _ in range(megabytes * 1000 // FILES):
                first = draw.randrange(len(letters) - 998)
                file.write(letters[first : first + 998] + b"\n\n")


def main(sizes: list[int]) -> None:
    """Print a row for each size, then the two of BPE."""
    start, _, _ = spent(EMPTY)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in sizes:
            write(folder / f"in{size}", size)
            seconds, peak, _ = spent(BUILD, str(folder / f"in{size}"), str(folder / "cache"))
            rate = size / (seconds - start)
            print(
                f"bytes, {size} MB: {rate:.1f} MB/s a core, peak so far {peak:.0f} MiB", flush=True
            )
        at, count = spent(STDLIB, str(folder / "trained"))[2].split()
        tokenizer, total = f"{at}/tokenizer.json", int(count) / 1e6
        for label, program, *arguments in (
            ("a build", STDLIB, str(folder / "again"), tokenizer),
            ("encode_batch_fast alone", ALONE, tokenizer),
        ):
            seconds = spent(program, *arguments)[0] - start
            print(f"BPE, {total:.1f} MB, {label}: {total / seconds:.2f} MB/s a core", flush=True)


if __name__ == "__main__":
    main([int(one) for one in sys.argv[1:]])

"""Wall time of the default sweep from a cold start, warm, and finished; its share of compiling.

    python benchmarks/default_sweep.py

cold: no token cache, no compiled programs. warm: both there, another workdir. again: the same
command once more on a finished workdir. About 25 minutes on two cores.
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "gptjax.main", "--config=experiments/chinchilla_sweep.py"]
PHASES = ("compile", "train", "evaluate", "checkpoint")


def main() -> None:
    extra = sys.argv[1:]
    with tempfile.TemporaryDirectory() as root:
        environment = {**os.environ, "GPTJAX_CACHE": f"{root}/cache"}
        for name, workdir in (("cold", "a"), ("warm", "b"), ("again", "b")):
            started = time.perf_counter()
            command = [*COMMAND, f"--workdir={root}/{workdir}", *extra]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            wall = time.perf_counter() - started
            print(f"{name}: {wall:.0f} s{'' if name == 'again' else shares(Path(root, workdir))}")


def shares(workdir: Path) -> str:
    """Seconds of each phase over all workers, and compiling as a share of them."""
    with open(workdir / "timing.csv") as file:
        rows = list(csv.DictReader(file))
    spent = {phase: sum(float(row[phase]) for row in rows) for phase in PHASES}
    flops = sum(float(row["flops_per_s"]) * float(row["train"]) for row in rows)
    text = ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in spent.items())
    total = sum(spent.values())
    return (
        f"; of {total:.0f} worker seconds: {text}; compiling {spent['compile'] / total:.1%}; "
        f"{flops / spent['train']:.3g} FLOP/s a worker"
    )


if __name__ == "__main__":
    main()

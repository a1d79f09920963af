"""Wall time of the default sweep from a cold start, warm, and finished; its share of compiling
and of products.

    python benchmarks/default_sweep.py [--keep=DIR] [overrides of the experiment]

cold: no token cache, no compiled programs. warm: both there, another workdir. again: the same
command once more on a finished workdir. About a quarter of an hour on two cores. `--keep` leaves
the workdirs in a folder.
"""

import contextlib
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gptjax import processor

COMMAND = [sys.executable, "-m", "gptjax.main", "--config=experiments/chinchilla_sweep.py"]
PHASES = ("compile", "train", "evaluate", "checkpoint")


def main() -> None:
    keep = [word.removeprefix("--keep=") for word in sys.argv[1:] if word.startswith("--keep=")]
    print(processor.description(), flush=True)
    extra = [word for word in sys.argv[1:] if not word.startswith("--keep=")]
    with contextlib.nullcontext(keep[0]) if keep else tempfile.TemporaryDirectory() as root:
        environment = {**os.environ, "GPTJAX_CACHE": f"{root}/cache"}
        for name, workdir in (("cold", "a"), ("warm", "b"), ("again", "b")):
            started = time.perf_counter()
            command = [*COMMAND, f"--workdir={root}/{workdir}", *extra]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            wall = time.perf_counter() - started
            found = "" if name == "again" else shares(Path(root, workdir), wall)
            print(f"{name}: {wall:.0f} s{found}", flush=True)


def shares(workdir: Path, wall: float) -> str:
    """Seconds of each phase over all workers, and what share of the wall time they are."""
    with open(workdir / "timing.csv") as file:
        rows = list(csv.DictReader(file))
    spent = {phase: sum(float(row[phase]) for row in rows) for phase in PHASES}
    flops = sum(float(row["flops_per_s"]) * float(row["train"]) for row in rows)
    products = sum(
        float(row["flops_per_s"]) * float(row["train"]) / float(row["product_flops_per_s"])
        for row in rows
    )
    text = ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in spent.items())
    total = sum(spent.values())
    outside = 1 - (spent["train"] + spent["evaluate"]) / (wall * len({r["worker"] for r in rows}))
    return (
        f"; of {total:.0f} worker seconds: {text}; compiling {spent['compile'] / total:.1%}; "
        f"{outside:.1%} of the wall time outside compiled steps and evaluations; "
        f"{flops / spent['train']:.3g} FLOP/s a worker; at the best rate of its products "
        f"({flops / products:.3g} FLOP/s) they take {products:.0f} s, "
        f"{products / spent['train']:.1%} of the training, and "
        f"{products / len({row['worker'] for row in rows}):.0f} s of the wall time"
    )


if __name__ == "__main__":
    main()

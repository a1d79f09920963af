"""Time job=fit_table as users call it: whole processes on tables of a few sizes, nothing cached.

    python -m benchmarks.table_fits [--rows 240 10000 100000]

Each table has noisy runs of a known law (.3 %); 240 rows are 12 budgets of 20 sizes, larger ones
have sizes and FLOPs at random over three decades. Printed are wall time, processor time of the
process and its peak memory: on a machine with other work the processor time is what compares.
"""

import argparse
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]


def write_table(path: pathlib.Path, rows: int) -> None:
    """A CSV of runs with the columns params, tokens and loss."""
    rng = np.random.default_rng(rows)
    if rows <= 300:
        sizes = rows // 12
        flops = np.repeat(np.geomspace(1e17, 1e20, 12), sizes)
        params = np.tile(np.geomspace(0.2, 5, sizes), 12) * 0.1 * np.sqrt(flops / 6)
    else:
        flops = np.exp(rng.uniform(np.log(1e17), np.log(1e20), rows))
        params = np.exp(rng.uniform(np.log(1e6), np.log(1e9), rows))
    params = np.round(params)
    tokens = np.round(flops / 6 / params)
    loss = 1.7 + 400 * params**-0.34 + 1200 * tokens**-0.36
    loss *= np.exp(0.003 * rng.standard_normal(len(loss)))
    lines = [f"{n:.0f},{d:.0f},{x:.6f}" for n, d, x in zip(params, tokens, loss, strict=True)]
    path.write_text("\n".join(["params,tokens,loss", *lines]) + "\n")


def measure(rows: int, folder: pathlib.Path) -> tuple[float, float, float]:
    """(wall seconds, processor seconds, peak MB) of the whole command."""
    table = folder / f"{rows}.csv"
    write_table(table, rows)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(
        [
            *(sys.executable, "-m", "gptjax.main"),
            f"--config={ROOT / 'experiments' / 'fit_table.py'}",
            f"--config.fit_table.table={table}",
            f"--workdir={folder / str(rows)}",
        ],
        check=True,
        cwd=folder,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
        | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, spent, after.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[240, 10_000, 100_000])
    with tempfile.TemporaryDirectory() as folder:
        for rows in sorted(parser.parse_args().rows):  # peak memory is that of the largest so far
            wall, spent, peak = measure(rows, pathlib.Path(folder))
            print(f"{rows:7d} rows: {wall:6.1f} s, {spent:6.1f} s of processor, {peak:5.0f} MB")


if __name__ == "__main__":
    main()

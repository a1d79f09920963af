"""Time to the last record: a sweep, its cells one by one, and the same cells in PyTorch.

    pip install -e '.[bench]'
    python benchmarks/sweep.py [--sample=4] [--out=FILE.json] [overrides of the experiment]

Three ways to the same table of losses on the same CPU cores:

- the sweep of `experiments/chinchilla_sweep.py` by `job=sweep`, measured whole, from its start to
  its last record (the fit comes after that);
- its cells one after another by our own `job=train`, each in a process of its own on all cores;
- its cells in PyTorch: `GPT2LMHeadModel` of transformers in a plain loop, eager and with
  torch.compile, one after another in one process of 2 threads, or in two processes of one thread,
  each pinned to a core, that share the cells. For each shape the attention is the faster one of
  scaled-dot-product and plain, measured with eager steps.

The last two would take most of an hour, so they are sampled: `--sample` of the sweep's shapes
(width and batch), evenly spread over the FLOPs of a step, are run for some seconds each; start,
compiling, a step and the evaluation are timed apart and summed over all cells, a step's time
interpolated between the sampled shapes, compiling counted once a shape. While a sample runs, the
sweep is stopped (SIGSTOP) and its clock with it, so that all see the machine at the same times. The
token cache is there before; no compiled program is.

GPT2LMHeadModel cannot express the demo's model (RMSNorm, rotary positions, no biases): it has
LayerNorm, learned positions and biases, and the same depth, widths, heads, context, vocabulary,
ReLU, tied head and initial scale. So losses are compared on one cell run whole: `job=train` against
the sweep's record, and PyTorch against `job=train` with LayerNorm, learned positions and biases, on
the same batches, two seeds each.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "chinchilla_sweep.py"
THREADS = 2
SECONDS_OF_A_SAMPLE = 2.0
SEEDS = (0, 1)
READ_JSON = "import json\n\n\ndef get_config(path):\n    return json.load(open(path))\n"
NEAREST = {"norm": "layernorm", "positions": "learned", "use_bias": True}
"""What the demo's model becomes so that GPT2LMHeadModel can express it."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds of one shape.

    Attributes:
      fixed: a process or a cell but for compiling and steps.
      compile: what the first cell of the shape pays besides.
      step: one update.
      evaluate: the held-out part once, where it is not in `fixed`.
    """

    fixed: float
    compile: float
    step: float
    evaluate: float = 0.0


class Sweep:
    """The sweep under test, whose clock runs while it does."""

    def __init__(self, workdir: Path, cells: int, flags: Sequence[str]) -> None:
        self._records, self._cells = workdir / "records", cells
        self.seconds = 0.0
        command = [sys.executable, "-m", "gptjax.main", f"--config={EXPERIMENT}"]
        self._started = time.perf_counter()
        self._process = subprocess.Popen(
            [*command, f"--workdir={workdir}", *flags], stdout=subprocess.DEVNULL
        )

    @property
    def done(self) -> bool:
        """Whether every cell has a record."""
        return self._records.exists() and len(list(self._records.glob("*.json"))) >= self._cells

    def run(self, seconds: float) -> None:
        """Let it run for so long, or to its last record."""
        stop = time.perf_counter() + seconds
        while not self.done and time.perf_counter() < stop:
            if self._process.poll():
                raise RuntimeError("the sweep failed; see its message above")
            time.sleep(0.02)

    @contextlib.contextmanager
    def stopped(self) -> Any:
        """Stop its processes and its clock while the context is open."""
        if self.done:
            yield
            return
        self.seconds += time.perf_counter() - self._started
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)
            self._started = time.perf_counter()

    def finish(self) -> float:
        """Run to the last record; returns the seconds it took in all."""
        self.run(float("inf"))
        self.seconds += time.perf_counter() - self._started
        self._process.wait()  # the fit
        return self.seconds

    def _signal(self, number: int) -> None:
        workers = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        for pid in (self._process.pid, *map(int, workers.split())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def one_by_one(place: Path, setup: Any, cell: Any, name: str, **changes: Any) -> dict[str, Any]:
    """`job=train` of a cell: its result, wall seconds and seconds by phase."""
    from gptjax import config as configs

    run = cell.run
    values = configs.to_mapping(setup)
    values |= {"job": "train", "experiment": name}
    values["model"] = {**dataclasses.asdict(run.model), **changes.get("model", {})}
    values["optim"] = dataclasses.asdict(run.optim)
    values["train"] |= {
        "batch_size": run.batch_size,
        "steps": changes.get("steps", run.steps),
        "tokens": 0,
        "seed": changes.get("seed", run.seed),
        "evaluations": 1,
        "keep_best": False,
        "tensorboard": False,
        "micro_batches": run.micro_batches,
    }
    (place / "one.py").write_text(READ_JSON)
    (place / f"{name}.json").write_text(json.dumps(values))
    workdir = place / name
    command = [
        sys.executable,
        "-m",
        "gptjax.main",
        f"--workdir={workdir}",
        f"--config={place / 'one.py'}:{place / f'{name}.json'}",
    ]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - started
    timing = json.loads((workdir / "timing.json").read_text())
    return {"wall": wall, **timing, **json.loads((workdir / "result.json").read_text())}


def cost_of_job(place: Path, setup: Any, cell: Any, steps: int) -> Cost:
    """The same twice: the first compiles, the second finds the programs on disk."""
    name = f"job-{cell.run.model.width}-{cell.run.batch_size}"
    cold, warm = (one_by_one(place, setup, cell, f"{name}-{i}", steps=steps) for i in (0, 1))
    fixed = warm["wall"] - warm["train"]
    return Cost(fixed, max(0.0, cold["wall"] - cold["train"] - fixed), warm["train"] / steps)


def torch_job(place: Path, corpus: Any, cell: Any, steps: int, seed: int, name: str) -> Path:
    """What a PyTorch process reads: tokens, windows in the order of our run, learning rates."""
    import jax.numpy as jnp

    from gptjax.data import num_windows
    from gptjax.data.shuffle import window_of_numpy
    from gptjax.optim.schedules import learning_rate

    run, model = cell.run, cell.run.model
    examples = np.arange(steps * run.batch_size)
    windows = window_of_numpy(seed, examples, num_windows(len(corpus.train), model.seq_len))
    total, peak = jnp.int32(run.steps), jnp.float32(run.optim.learning_rate)
    rates = np.asarray(learning_rate(run.optim, jnp.arange(steps), total, peak))
    path = place / f"{name}.npz"
    np.savez(
        path,
        train=np.asarray(corpus.train),
        heldout=np.asarray(corpus.heldout),
        rates=rates,
        windows=windows.reshape(steps, run.batch_size),
    )
    config = {
        "vocab_size": model.vocab_size,
        "n_positions": model.seq_len,
        "n_embd": model.width,
        "n_layer": model.depth,
        "n_head": model.num_heads,
        "n_inner": model.hidden_width,
        "activation_function": model.mlp,
        "initializer_range": model.init_scale,
        "layer_norm_epsilon": model.norm_eps,
        "tie_word_embeddings": model.tied_head,
    }
    optim = {
        "betas": (run.optim.b1, run.optim.b2),
        "eps": run.optim.eps,
        "weight_decay": run.optim.weight_decay,
        "clip": run.optim.clip_norm,
    }
    masked = corpus.end_of_document if corpus.mask_end_of_document else -1
    job = {"data": str(path), "config": config, "optim": optim, "masked": masked, "seed": seed}
    path.with_suffix(".json").write_text(json.dumps(job))
    return path.with_suffix(".json")


def in_torch(job: Path, rival: "Rival", attention: str = "sdpa") -> dict[str, float]:
    """Run a job in a process of its own, or in as many at once as the rival has; their mean."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(job.parent / "inductor")}
    threads = THREADS // rival.processes
    command = [
        sys.executable,
        __file__,
        f"--worker={job}",
        f"--compiled={int(rival.compiled)}",
        f"--threads={threads}",
        f"--attention={attention}",
    ]
    running = [
        subprocess.Popen(
            [*command, f"--core={core if rival.processes > 1 else -1}"],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for core in range(rival.processes)
    ]
    found = []
    for process in running:
        output = process.communicate()[0]
        if process.returncode:
            raise RuntimeError("PyTorch's process failed; see its message above")
        found.append(json.loads(output.splitlines()[-1]))
    return {name: statistics.mean(one[name] for one in found) for name in found[0]}


@dataclasses.dataclass(frozen=True)
class Rival:
    """A way to train the cells in PyTorch: cells in so many processes at once."""

    compiled: bool
    processes: int = 1

    def cost(self, job: Path, attention: str) -> Cost:
        """Of a sampled shape."""
        found = in_torch(job, self, attention)
        return Cost(found["start"], found["compile"], found["step"], found["evaluate"])


RIVALS = {
    "eager": Rival(compiled=False),
    "eager, two processes": Rival(compiled=False, processes=2),
    "compiled": Rival(compiled=True),
    "compiled, two processes": Rival(compiled=True, processes=2),
}


def faster_attention(job: Path) -> str:
    """The kind of attention with the shorter eager step."""
    steps = {kind: in_torch(job, RIVALS["eager"], kind)["step"] for kind in ("sdpa", "eager")}
    return min(steps, key=lambda kind: steps[kind])


def serve(path: Path, *, compiled: bool, threads: int, attention: str, core: int) -> None:
    """A PyTorch process: train on the given windows, evaluate, print seconds and loss."""
    if core >= 0:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})
    started = time.perf_counter()
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    job = json.loads(path.read_text())
    torch.set_num_threads(threads)
    torch.manual_seed(job["seed"])
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = GPT2Config(
        **job["config"],
        **dropout,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation=attention,
    )
    arrays = np.load(job["data"])
    model = GPT2LMHeadModel(config).train()
    call = torch.compile(model) if compiled else model
    start = time.perf_counter() - started
    seconds = torch_updates(model, call, arrays, job)
    usual = statistics.median(seconds[len(seconds) // 4 :])
    before = time.perf_counter()
    loss = torch_score(model, arrays["heldout"], 4 * arrays["windows"].shape[1], job["masked"])
    found = {
        "start": start,
        "compile": sum(each - usual for each in seconds[:3]) if compiled else 0.0,
        "step": usual,
        "evaluate": time.perf_counter() - before,
        "loss": loss,
    }
    print(json.dumps(found), flush=True)


def torch_loss(call: Any, rows: Any, masked: int) -> Any:
    """Mean nats per scored token of windows."""
    import torch

    targets = rows[:, 1:].masked_fill(rows[:, 1:] == masked, -100)
    logits = call(input_ids=rows[:, :-1]).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=-100
    )


def torch_optimizer(model: Any, rate: float, settings: dict[str, Any]) -> Any:
    """Fused AdamW; norms, biases and embeddings do not decay."""
    import torch

    decayed: list[Any] = []
    rest: list[Any] = []
    for name, p in model.named_parameters():
        decays = p.ndim == 2 and "wte" not in name and "wpe" not in name
        (decayed if decays else rest).append(p)
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": settings["weight_decay"]},
            {"params": rest, "weight_decay": 0.0},
        ],
        lr=rate,
        betas=tuple(settings["betas"]),
        eps=settings["eps"],
        fused=True,
    )


def torch_updates(model: Any, call: Any, arrays: Any, job: dict[str, Any]) -> list[float]:
    """Train on the windows of a job; seconds of each update."""
    import torch

    tokens = torch.from_numpy(arrays["train"].astype(np.int64))
    windows, rates = torch.from_numpy(arrays["windows"]), arrays["rates"].tolist()
    optimizer = torch_optimizer(model, rates[0], job["optim"])
    length = job["config"]["n_positions"]
    offsets = torch.arange(length + 1)
    seconds = []
    for step, rate in enumerate(rates):
        before = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        rows = tokens[windows[step][:, None] * length + offsets]
        torch_loss(call, rows, job["masked"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), job["optim"]["clip"])
        optimizer.step()
        seconds.append(time.perf_counter() - before)
    return seconds


def torch_score(model: Any, heldout: Any, batch: int, masked: int) -> float:
    """Mean nats per scored token of the held-out part."""
    import torch

    model.eval()
    length = model.config.n_positions
    tokens = torch.from_numpy(heldout.astype(np.int64))
    count = (len(tokens) - 1) // length
    rows = tokens[: count * length + 1].unfold(0, length + 1, length)
    sums, scored = 0.0, 0
    with torch.no_grad():
        for first in range(0, count - batch + 1, batch):
            part = rows[first : first + batch]
            number = int((part[:, 1:] != masked).sum())
            sums += float(torch_loss(model, part, masked)) * number
            scored += number
    return sums / scored


def total(
    cells: Sequence[Any], costs: dict[Any, Cost], *, each_starts: bool, at_once: int = 1
) -> float:
    """Seconds of all cells, from the costs of sampled shapes.

    Args:
      costs: by shape, as `shape_of` names it.
      each_starts: whether `fixed` is paid by every cell, or once.
      at_once: processes that share the cells, taken as equally busy to the last second.
    """
    sampled = sorted(costs, key=lambda shape: shape[0])
    flops = [shape[0] for shape in sampled]

    def at(shape: Any, name: str) -> float:
        return float(np.interp(shape[0], flops, [getattr(costs[s], name) for s in sampled]))

    shapes = [shape_of(cell) for cell in cells]
    fixed = statistics.median(cost.fixed for cost in costs.values())
    seconds = sum(at(shape, "compile") for shape in set(shapes))
    for cell, shape in zip(cells, shapes, strict=True):
        seconds += cell.run.steps * at(shape, "step") + at(shape, "evaluate")
    return seconds / at_once + fixed * (len(cells) if each_starts else 1)


def shape_of(cell: Any) -> tuple[float, int, int]:
    """FLOPs of a step, width and batch."""
    return cell.flops / cell.run.steps, cell.run.model.width, cell.run.batch_size


def sample_of(cells: Sequence[Any], count: int) -> list[Any]:
    """One cell of `count` shapes, the cheapest and the costliest step among them."""
    first = {shape_of(cell): cell for cell in reversed(cells)}
    ordered = sorted(first)
    picks = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [first[ordered[i]] for i in dict.fromkeys(picks.tolist())]


def equal_losses(place: Path, setup: Any, corpus: Any, cell: Any, record: dict) -> dict[str, Any]:
    """The losses of one cell, run whole in each way."""
    seeds = SEEDS
    whole = one_by_one(place, setup, cell, "whole", seed=cell.run.seed)["loss"]
    nearest = [
        one_by_one(place, setup, cell, f"nearest-{seed}", seed=seed, model=NEAREST)["loss"]
        for seed in seeds
    ]
    jobs = [torch_job(place, corpus, cell, cell.run.steps, seed, f"whole-{seed}") for seed in seeds]
    return {
        "width": cell.run.model.width,
        "steps": cell.run.steps,
        "sweep": record["loss"],
        "one by one": whole,
        "one by one, as GPT-2": nearest,
        "PyTorch": [in_torch(job, RIVALS["eager"])["loss"] for job in jobs],
    }


def measure(place: Path, sample: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Everything, under a folder."""
    from gptjax import config as configs
    from gptjax import experiment, processor
    from gptjax.engines import cells as planned
    from gptjax.engines import cores
    from gptjax.sweeps import record_path, timing

    os.environ["GPTJAX_CACHE"] = str(place / "cache")
    pairs = [flag.removeprefix("--config.").partition("=")[::2] for flag in overrides]
    setup = configs.make_config(experiment.override(experiment.load(str(EXPERIMENT)), pairs))
    corpus = configs.load_corpus(setup)
    cells = planned.make_cells(setup, corpus)
    chosen = sample_of(cells, sample)
    reference = timing.reference_rate()
    workers = cores.worker_count(setup, planned.make_bundles(setup, cells))
    predicted = timing.predicted_total(planned.make_bundles(setup, cells), reference, workers)
    # The samples' programs are their own: the sweep must compile what it needs.
    apart = dataclasses.replace(
        setup,
        general=dataclasses.replace(setup.general, compilation_cache=str(place / "programs")),
    )
    costs: dict[str, dict[Any, Cost]] = {name: {} for name in ("one by one", *RIVALS)}
    sweep = Sweep(place / "sweep", len(cells), overrides)
    for i, cell in enumerate(chosen):
        sweep.run(predicted / (len(chosen) + 1))
        with sweep.stopped():
            shape, guess = shape_of(cell), timing.predicted_seconds(cell, 1, reference)
            steps = min(cell.run.steps, max(30, round(SECONDS_OF_A_SAMPLE / guess)))
            job = torch_job(place, corpus, cell, steps, 0, f"torch-{i}")
            costs["one by one"][shape] = cost_of_job(place, apart, cell, steps)
            attention = faster_attention(job)
            for name, rival in RIVALS.items():
                costs[name][shape] = rival.cost(job, attention)
            print(
                f"{cell.run.model.width} × {cell.run.batch_size}, {steps} steps, PyTorch's "
                f"{attention} attention:",
                flush=True,
            )
            for name, found in costs.items():
                print(f"  {name}: {_words(found[shape])}", flush=True)
    ours = sweep.finish()
    whole = min(cells, key=lambda cell: (cell.budget, abs(cell.run.model.width - 28)))
    record = json.loads(record_path(place / "sweep", whole).read_text())
    return {
        "processor": processor.description(),
        "cells": len(cells),
        "sweep": ours,
        "one by one": total(cells, costs["one by one"], each_starts=True),
        **{
            name: total(cells, costs[name], each_starts=False, at_once=rival.processes)
            for name, rival in RIVALS.items()
        },
        "losses": equal_losses(place, apart, corpus, whole, record),
    }


def _words(cost: Cost) -> str:
    return (
        f"{cost.fixed:.1f} s fixed, {cost.compile:.1f} s compiling, {1e3 * cost.step:.2f} ms a "
        f"step, {cost.evaluate:.1f} s evaluation"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=4, help="shapes that are run for the rivals")
    parser.add_argument("--out", type=Path, help="the numbers as JSON")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--compiled", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=THREADS, help=argparse.SUPPRESS)
    parser.add_argument("--attention", default="sdpa", help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, default=-1, help=argparse.SUPPRESS)
    args, overrides = parser.parse_known_args()
    if args.worker:
        serve(
            args.worker,
            compiled=bool(args.compiled),
            threads=args.threads,
            attention=args.attention,
            core=args.core,
        )
        return
    from gptjax import processor

    print(processor.description(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), args.sample, overrides)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1))
    print(f"\n| {found['cells']} cells | time to the last record | over the sweep |\n|---|---|---|")
    for name in ("sweep", "one by one", *RIVALS):
        print(f"| {name} | {found[name]:.0f} s | {found[name] / found['sweep']:.2f} |")
    print(json.dumps(found["losses"]))


if __name__ == "__main__":
    main()

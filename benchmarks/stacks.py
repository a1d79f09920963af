"""What stacking cells gives: time of a member's step, alone and beside others, one core.

    taskset -c 0 python benchmarks/stacks.py --widths=8,16,32,64 --members=1,4,16

The demo sweep's shape (3 layers, context 64, 512 tokens a batch). The sizes of a stack take turns;
medians of the rounds; the ratio is the time alone over the time in a stack.
"""

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np

from gptjax import data
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.train import RunSpec, Session, TrainConfig, make_hyper
from gptjax.train.stack import stacked


def corpus(folder: Path) -> data.Corpus:
    """Random bytes as text."""
    letters = np.random.default_rng(0).choice(list("abcdefgh \n"), size=400_000)
    (folder / "text.txt").write_text("".join(letters))
    config = data.DataConfig(source="text", path=str(folder), cache_dir=str(folder / "cache"))
    return data.load(config, seq_len=64)


def make_spec(width: int, batch_size: int, vocab_size: int) -> RunSpec:
    """A cell of the demo sweep."""
    model = ModelConfig(
        depth=3,
        width=width,
        num_heads=max(1, width // 16),
        seq_len=64,
        vocab_size=vocab_size,
        positions="rotary",
        mlp="relu",
        norm="rmsnorm",
        use_bias=False,
        init_scale=0.1,
    )
    return RunSpec(model=model, optim=OptimConfig(), batch_size=batch_size, steps=10**6)


def stepper(session: Session, spec: RunSpec, members: int):
    """Runs so many steps of a stack and returns the seconds of a member's step."""
    specs = [spec] * members
    states = [session.init(each) for each in specs]
    hyper = stacked([make_hyper(each) for each in specs])
    state = [stacked(states)]

    def steps(count: int) -> float:
        started = time.perf_counter()
        state[0], metrics = session.advance_stack(spec, state[0], hyper, count)
        jax.block_until_ready(metrics.loss)
        return (time.perf_counter() - started) / count / members

    def steps_alone(count: int) -> float:
        started = time.perf_counter()
        states[0], metrics = session.advance(spec, states[0], make_hyper(spec), count)
        jax.block_until_ready(metrics.loss)
        return (time.perf_counter() - started) / count

    return steps_alone if members == 1 else steps


def row(cells: list[str]) -> None:
    """Print one."""
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser()
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument("--widths", type=numbers, default=[8, 16, 32, 64])
    parser.add_argument("--members", type=numbers, default=[1, 4, 16])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        session = Session(corpus(Path(folder)), TrainConfig())
        stacks = [k for k in options.members if k > 1]
        row(["width", "ms alone", *(f"{k} side by side" for k in stacks)])
        row(["---"] * (len(stacks) + 2))
        for width in options.widths:
            spec = make_spec(width, options.batch, session.corpus.vocab_size)
            programs = {k: stepper(session, spec, k) for k in (1, *stacks)}
            times: dict[int, list[float]] = {k: [] for k in programs}
            for program in programs.values():
                program(2)
            for _ in range(options.rounds):
                for k, program in programs.items():
                    times[k].append(program(max(2, 100 // k)))
            ms = {k: 1e3 * statistics.median(values) for k, values in times.items()}
            beside = [f"{ms[k]:.2f} ms ({ms[1] / ms[k]:.2f})" for k in stacks]
            row([str(width), f"{ms[1]:.2f}", *beside])


if __name__ == "__main__":
    main()

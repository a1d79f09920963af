"""Our training step beside Hugging Face's GPT-2 in PyTorch, eager and compiled.

    pip install -e '.[bench]'
    python benchmarks/train_step.py [--rounds=7] [--shapes=2x64x128x32,4x128x128x32] \\
        [--dtype=bfloat16] [--rivals="gptjax,gptjax 2 devices,torch compile"]

One update each: forward, backward, AdamW; float32 (or bfloat16, under autocast in PyTorch), GELU by
tanh, no dropout, the same shapes and vocabulary. Rivals run in processes of their own that take
turns, round by round, so that a busy machine slows all of them alike; the table gives medians over
rounds, and the median over rounds of the ratio within a round. PyTorch has 2 threads,
scaled-dot-product or plain attention (whichever is faster, measured first) and its fused AdamW. The
last columns are our exact FLOP/s and their share of the best matrix product that either library
reached in the same run. `gptjax 2 devices` is ours with the batch over two simulated devices, two
threads in all.

The last line of a shape has the step's own products alone: each product of the step, forward and
backward, at its own shape and in its own form, timed by itself on two threads and added up. What it
leaves of a step is everything else, so a step can be no faster than that with this library.
"""

import argparse
import dataclasses
import functools
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

THREADS = 2


@dataclasses.dataclass(frozen=True)
class Shape:
    depth: int
    width: int
    seq_len: int
    batch_size: int

    @property
    def heads(self) -> int:
        return max(2, self.width // 64)

    @property
    def vocab_size(self) -> int:
        """Bytes and an end of document for small models, GPT-2's for GPT-2."""
        return 50257 if self.width >= 768 else 257

    @property
    def tokens(self) -> int:
        return self.seq_len * self.batch_size

    def __str__(self) -> str:
        return f"{self.depth}x{self.width}x{self.seq_len}x{self.batch_size}"


def parse_shape(text: str) -> Shape:
    return Shape(*(int(part) for part in text.split("x")))


def flops_per_step(shape: Shape) -> float:
    """Exact matmul FLOPs of one update, attention over the full square."""
    from gptjax.cost.flop_formulas import TRAINING_OVER_FORWARD, forward_flops

    forward = forward_flops(
        depth=shape.depth,
        width=shape.width,
        num_heads=shape.heads,
        mlp_width=4 * shape.width,
        seq_len=shape.seq_len,
        vocab_size=shape.vocab_size,
    )
    return TRAINING_OVER_FORWARD * forward.total * shape.tokens


# Workers: `make(shape, dtype)` returns a function that runs n steps and waits for them.


def part_of(shape: Shape) -> tuple[int, int]:
    """(micro-batches of a step, sequences of one) that suit two threads."""
    from gptjax.ops import backend

    parts = backend.micro_batches(shape.batch_size, shape.seq_len, tokens=512 * THREADS)
    return parts, shape.batch_size // parts


def ours(shape: Shape, dtype: str, devices: int = 1) -> Callable[[int], Any]:
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    import jax.numpy as jnp

    from gptjax.models.config import ModelConfig
    from gptjax.optim import OptimConfig
    from gptjax.parallel import MeshConfig
    from gptjax.train.config import RunSpec
    from gptjax.train.feed import next_token_batch
    from gptjax.train.layout import make_layout, state_shardings
    from gptjax.train.objectives import next_token
    from gptjax.train.state import init_state, make_hyper
    from gptjax.train.step import make_train_step

    model = ModelConfig(
        vocab_size=shape.vocab_size,
        depth=shape.depth,
        width=shape.width,
        num_heads=shape.heads,
        seq_len=shape.seq_len,
        compute_dtype=dtype,
    )
    parts, _ = part_of(shape)
    spec = RunSpec(
        model, OptimConfig(), batch_size=shape.batch_size, steps=100_000, micro_batches=parts
    )
    state, hyper = init_state(spec, jax.random.key(0)), make_hyper(spec)
    window = jax.random.randint(
        jax.random.key(1), (shape.batch_size, shape.seq_len + 1), 0, shape.vocab_size
    )
    batch = next_token_batch(spec, window[:, :-1], window[:, 1:], end_of_document=0)
    layout = make_layout(MeshConfig(), spec)
    step = make_train_step(spec, next_token(spec), layout)

    def many(state: Any, batch: Any, hyper: Any, n: Any) -> Any:
        return jax.lax.fori_loop(0, n, lambda _, state: step(state, batch, hyper)[0], state)

    if layout is None:
        program: Any = jax.jit(many, donate_argnums=0)
    else:
        shardings = state_shardings(layout, state)
        state, hyper = jax.device_put((state, hyper), (shardings, layout.replicated))
        batch = jax.device_put(batch, layout.batch)
        with layout.context():
            jitted = jax.jit(many, donate_argnums=0, out_shardings=shardings)
            program = jitted.lower(state, batch, hyper, layout.put(np.int32(1))).compile()

    def run(n: int) -> None:
        nonlocal state
        count = jnp.int32(n) if layout is None else layout.put(np.int32(n))
        state = jax.block_until_ready(program(state, batch, hyper, count))

    return run


def products_alone(shape: Shape, dtype: str) -> float:
    """Seconds of the products of one of our steps, each timed by itself in its own form."""
    parts, size = part_of(shape)
    D, L = shape.width, shape.depth
    linears = [(D, D, 4 * L), (D, 4 * D, L), (4 * D, D, L), (D, shape.vocab_size, 1)]
    each = linear_seconds(linears, size * shape.seq_len, dtype)
    each += L * attention_seconds(size * shape.heads, shape.seq_len, D // shape.heads, dtype)
    return parts * each


def linear_seconds(linears: list[tuple[int, int, int]], tokens: int, dtype: str) -> float:
    """Seconds of so many projections (inputs, outputs, how many) of so many tokens and their
    gradients."""
    import jax

    from gptjax import ops

    def linear(x: Any, w: Any, g: Any) -> Any:
        y, pull = jax.vjp(lambda x, w: ops.linear(x, w), x, w)
        return y, pull(g)

    return sum(
        count * least(linear, [(tokens, inputs), (inputs, outputs), (tokens, outputs)], dtype)
        for inputs, outputs, count in linears
    )


def attention_seconds(heads: int, tokens: int, width: int, dtype: str) -> float:
    """Seconds of the six products of so many heads of a layer, masked blocks left out."""
    import jax.numpy as jnp

    from gptjax.ops.attention import query_blocks

    def attend(q: Any, k: Any, e: Any) -> Any:
        equations = ("BrH,BsH->Brs", "Brs,BsH->BrH", "BrH,Brs->BHs")
        pairs = ((q, k), (e, k), (q, e))
        dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
        return [dot(equation, *pair) for equation, pair in zip(equations, pairs, strict=True)]

    shapes = [
        [(heads, end - start, width), (heads, end, width), (heads, end - start, end)]
        for start, end in query_blocks(tokens)
    ]
    return 2 * sum(least(attend, each, dtype) for each in shapes)


COPIES = 8
"""Calls of small products in one program, so that starting it does not count."""


def least(function: Callable[..., Any], shapes: Sequence[tuple[int, ...]], dtype: str) -> float:
    """The shortest time of a function of arrays: of ten programs, and of more within a second."""
    import jax

    copies = COPIES if max(map(math.prod, shapes)) < 2**18 else 1
    keys = iter(jax.random.split(jax.random.key(0), copies * len(shapes)))
    arrays = [[jax.random.normal(next(keys), s, dtype) for s in shapes] for _ in range(copies)]
    program = jax.jit(lambda sets: [jax.lax.optimization_barrier(function(*one)) for one in sets])
    jax.block_until_ready(program(arrays))
    seconds: list[float] = []
    while len(seconds) < 10 or (sum(seconds) < 1.0 and len(seconds) < 100):
        started = time.perf_counter()
        jax.block_until_ready(program(arrays))
        seconds.append(time.perf_counter() - started)
    return min(seconds) / copies


def torch_gpt2(shape: Shape, dtype: str, compiled: bool) -> Callable[[int], Any]:
    runs = {kind: _torch_step(shape, dtype, kind, compiled) for kind in ("sdpa", "eager")}
    seconds = {}
    for kind, run in runs.items():
        run(2)
        started = time.perf_counter()
        run(2)
        seconds[kind] = time.perf_counter() - started
    return runs[min(seconds, key=lambda kind: seconds[kind])]


def _torch_step(shape: Shape, dtype: str, attention: str, compiled: bool) -> Callable[[int], Any]:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.seq_len,
        n_embd=shape.width,
        n_layer=shape.depth,
        n_head=shape.heads,
        activation_function="gelu_new",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation=attention,
    )
    model = GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    call = torch.compile(model) if compiled else model
    tokens = torch.randint(0, shape.vocab_size, (shape.batch_size, shape.seq_len))

    def run(n: int) -> None:
        for _ in range(n):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
                loss = call(input_ids=tokens, labels=tokens).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return run


def best_matmul(library: str) -> float:
    """The best FLOP/s of a float32 product of two 2048-square matrices."""
    if library == "jax":
        import jax

        x = jax.numpy.ones((2048, 2048))
        product = jax.jit(lambda x: x @ x)
        multiply = lambda: product(x).block_until_ready()  # noqa: E731
    else:
        import torch

        y = torch.from_numpy(np.ones((2048, 2048), np.float32))
        multiply = lambda: y @ y  # noqa: E731
    multiply()
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        multiply()
        seconds.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(seconds)


WORKERS: dict[str, Callable[[Shape, str], Callable[[int], Any]]] = {
    "gptjax": ours,
    "gptjax 2 devices": functools.partial(ours, devices=2),
    "torch eager": functools.partial(torch_gpt2, compiled=False),
    "torch compile": functools.partial(torch_gpt2, compiled=True),
}


def serve(name: str, shape: Shape, dtype: str) -> None:
    """Answer "step n" with seconds per step, "peak" with FLOP/s and "products" with seconds, one
    line each."""
    run = WORKERS[name](shape, dtype)
    run(2)
    print("ready", flush=True)
    for line in sys.stdin:
        command, *rest = line.split()
        if command == "peak":
            print("=", best_matmul("torch" if name.startswith("torch") else "jax"), flush=True)
            continue
        if command == "products":
            print("=", products_alone(shape, dtype), flush=True)
            continue
        run(1)  # wake threads and caches after the rivals' turns
        started = time.perf_counter()
        run(int(rest[0]))
        print("=", (time.perf_counter() - started) / int(rest[0]), flush=True)


class Rival:
    """A worker process that sleeps on its standard input between turns."""

    def __init__(self, name: str, shape: Shape, dtype: str) -> None:
        command = [sys.executable, __file__, f"--worker={name}", f"--shapes={shape}"]
        command.append(f"--dtype={dtype}")
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._read("ready")

    def _read(self, prefix: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(prefix):
                return line[len(prefix) :]
        raise RuntimeError(f"the worker of {self.name} ended; see its message above")

    def ask(self, command: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return float(self._read("="))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def measure(shape: Shape, dtype: str, names: list[str], rounds: int, seconds: float) -> None:
    """Print the table's rows for one shape."""
    rivals = [Rival(name, shape, dtype) for name in names]
    once = max(rival.ask("step 1") for rival in rivals)
    steps = max(1, round(seconds / once))
    times: dict[str, list[float]] = {rival.name: [] for rival in rivals}
    for _ in range(rounds):
        for rival in rivals:
            times[rival.name].append(rival.ask(f"step {steps}"))
    peaks = [rival.ask("peak") for rival in rivals]
    products = rivals[0].ask("products") if names[0].startswith("gptjax") else 0.0
    for rival in rivals:
        rival.close()
    flops = flops_per_step(shape)
    for name, mine in times.items():
        ratios = [a / b for a, b in zip(mine, times[names[0]], strict=True)]
        median = statistics.median(mine)
        print(
            f"{shape!s:>14} {name:>14} {1e3 * median:9.1f} ms {shape.tokens / median:9.0f} tok/s"
            f" {statistics.median(ratios):6.2f} x first {flops / median / 1e9:7.1f} GFLOP/s"
            f" {flops / median / max(peaks):6.1%} of {max(peaks) / 1e9:.0f}",
            flush=True,
        )
    if products:
        share = products / statistics.median(times[names[0]])
        print(f"{shape!s:>14} products alone {1e3 * products:9.1f} ms, {share:.1%} of the step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="2x64x128x32,4x128x128x32,4x256x256x16,12x768x256x4")
    parser.add_argument("--rivals", default="gptjax,torch eager,torch compile")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one turn, at least a step")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    shapes = [parse_shape(text) for text in args.shapes.split(",")]
    if args.worker:
        serve(args.worker, shapes[0], args.dtype)
        return
    from gptjax import processor

    print(f"{processor.description()}, {args.dtype}", flush=True)
    for shape in shapes:
        measure(shape, args.dtype, args.rivals.split(","), args.rounds, args.seconds)


if __name__ == "__main__":
    main()

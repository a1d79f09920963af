"""What a device gives: steps, attention, stacks, decoding, a small law, 8-bit products.

    python benchmarks/accelerator.py [--out=accelerator.jsonl] [--seconds=480] [--parts=train,…]

One command for the first minutes on a GPU or TPU. Parts run in the order of their worth, each in a
process of its own with a time limit, and every number is written to `--out` as soon as it is there,
so that a part that fails or is stopped loses only itself. Figures are medians. Kernels and types of
products take turns in one process; PyTorch has a process after ours, on a device that nobody else
uses. `--size=toy` runs every part on a CPU in seconds, to see that it works; its figures mean
nothing.

    train      tokens a second, FLOP/s and MFU of an update of GPT-2 124M, 350M and 1.5B at 1,024
               tokens in bfloat16
    torch      the same of `transformers`' GPT-2 compiled by PyTorch, with fused attention and AdamW
               under autocast, where PyTorch sees the device
    attention  forward and backward of our kernels, cuDNN's and Pallas'
    stacks     cells a second of small cells side by side, over one by one
    decode     tokens a second of GPT-2 124M at batch 1, 8 and 64
    law        the default sweep at budgets of 3e14 to 3e15 FLOPs, to its laws
    fp8        products of 8-bit floats by qwix beside bfloat16, quantizing activations included
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import selectors
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Timed = Callable[[int], Any]
"""Runs so many times and waits for the last."""

ROOT = Path(__file__).parents[1]


# Time, and what a device can do.


def seconds_of(rivals: dict[str, Timed], rounds: int, turn: float) -> dict[str, float]:
    """Median seconds of one run of each, in turns of about `turn` seconds."""
    counts = {}
    for name, run in rivals.items():
        run(1)
        started = time.perf_counter()
        run(1)
        counts[name] = max(1, round(turn / (time.perf_counter() - started)))
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            started = time.perf_counter()
            run(counts[name])
            times[name].append((time.perf_counter() - started) / counts[name])
    return {name: statistics.median(each) for name, each in times.items()}


def peak_flops() -> float | None:
    """Published dense bfloat16 FLOP/s of this device; None where the table has not got it."""
    import jax

    from gptjax.cost.chips import CHIPS

    kind = jax.devices()[0].device_kind.lower()
    named = [chip.flops for name, chip in CHIPS.items() if name in kind.replace("tpu ", "")]
    return named[0] if named else None


def or_reason(make: Callable[[], Timed]) -> tuple[Timed | None, str]:
    """A rival that has run once, or one line that says why there is none."""
    try:
        run = make()
        run(1)
    except Exception as error:  # whatever a kernel refuses is a result of this benchmark
        lines = str(error).strip().splitlines() or [""]
        return None, f"{type(error).__name__}: {lines[0][:200]}"
    return run, ""


# Training.


@dataclasses.dataclass(frozen=True)
class Shape:
    preset: str
    seq_len: int
    batch_size: int
    tiny: bool = False


TRAIN = {
    "full": [
        Shape("gpt2", 1024, 32),
        Shape("gpt2-medium", 1024, 16),
        Shape("gpt2-xl", 1024, 8),
    ],
    "toy": [Shape("gpt2", 16, 2, tiny=True)],
}


def model_of(shape: Shape) -> Any:
    """The config of a shape, in bfloat16."""
    from gptjax import models

    config = dataclasses.replace(
        models.preset(shape.preset),
        seq_len=shape.seq_len,
        compute_dtype="bfloat16",
    )
    small: dict[str, Any] = {"depth": 1, "width": 32, "num_heads": 2, "vocab_size": 64}
    return dataclasses.replace(config, **small) if shape.tiny else config


def our_step(shape: Shape) -> Timed:
    """An update of ours, many in one call."""
    import jax
    import jax.numpy as jnp

    from gptjax.optim import OptimConfig
    from gptjax.train.config import RunSpec
    from gptjax.train.feed import next_token_batch
    from gptjax.train.objectives import next_token
    from gptjax.train.state import init_state, make_hyper
    from gptjax.train.step import make_train_step

    spec = RunSpec(model_of(shape), OptimConfig(), batch_size=shape.batch_size, steps=100_000)
    tokens = (shape.batch_size, shape.seq_len + 1)
    window = jax.random.randint(jax.random.key(1), tokens, 0, spec.model.vocab_size)
    batch = next_token_batch(spec, window[:, :-1], window[:, 1:], end_of_document=0)
    step, hyper = make_train_step(spec, next_token(spec)), make_hyper(spec)

    def many(state: Any, n: Any) -> Any:
        return jax.lax.fori_loop(0, n, lambda _, state: step(state, batch, hyper)[0], state)

    program = jax.jit(many, donate_argnums=0)
    state = jax.jit(functools.partial(init_state, spec))(jax.random.key(0))

    def run(n: int) -> None:
        nonlocal state
        state = jax.block_until_ready(program(state, jnp.int32(n)))

    return run


def torch_step(shape: Shape) -> Timed:
    """The same update in PyTorch: compiled, fused attention, fused AdamW, autocast."""
    import jax
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and jax.default_backend() != "cpu":
        raise RuntimeError("this PyTorch does not see the device")
    ours = model_of(shape)
    config = GPT2Config(
        vocab_size=ours.vocab_size,
        n_positions=ours.seq_len,
        n_embd=ours.width,
        n_layer=ours.depth,
        n_head=ours.num_heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model = GPT2LMHeadModel(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1, fused=True)
    call = torch.compile(model)
    tokens = torch.randint(0, ours.vocab_size, (shape.batch_size, shape.seq_len), device=device)

    def run(n: int) -> None:
        for _ in range(n):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = call(input_ids=tokens, labels=tokens).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def train(size: str) -> Iterator[Row]:
    """Rows of our updates."""
    yield from updates("gptjax", our_step, size)


def torch_train(size: str) -> Iterator[Row]:
    """Rows of PyTorch's; in a process of its own, since JAX keeps the memory that it has used."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # JAX only names the device here
    missing = [name for name in ("torch", "transformers") if not importlib.util.find_spec(name)]
    if missing:
        yield {"rival": "torch compile", "skipped": f"{missing[0]} is not installed"}
    else:
        yield from updates("torch compile", torch_step, size)


def updates(rival: str, make: Callable[[Shape], Timed], size: str) -> Iterator[Row]:
    """Rows of tokens a second, FLOP/s and MFU; a batch that does not fit is halved."""
    from gptjax.cost.flops import training_flops_per_token

    for shape in TRAIN[size]:
        fitted, run, reason = fitting(make, shape)
        row = {"model": shape.preset, "rival": rival, "batch": fitted.batch_size}
        if run is None:
            yield {**row, "failed": reason}
            continue
        seconds = seconds_of({rival: run}, ROUNDS[size], TURN[size])[rival]
        del run  # and its state: the next model needs the room
        tokens = fitted.batch_size * fitted.seq_len / seconds
        flops, peak = training_flops_per_token(model_of(fitted)) * tokens, peak_flops()
        mfu = {"mfu": flops / peak} if peak else {}
        yield {**row, "ms": 1e3 * seconds, "tokens_per_s": tokens, "flops_per_s": flops, **mfu}


def fitting(make: Callable[[Shape], Timed], shape: Shape) -> tuple[Shape, Timed | None, str]:
    """The largest of the batch, its half, its quarter and its eighth that fits the device."""
    reason = ""
    for parts in (1, 2, 4, 8):
        smaller = dataclasses.replace(shape, batch_size=max(1, shape.batch_size // parts))
        run, reason = or_reason(functools.partial(make, smaller))
        if run is not None or not ("RESOURCE_EXHAUSTED" in reason or "OutOfMemory" in reason):
            return smaller, run, reason
    return smaller, None, reason


# Attention.

ATTENTION = {  # (batch, tokens, heads, head width)
    "full": [(16, 1024, 12, 64), (8, 2048, 16, 128), (2, 8192, 16, 128)],
    "toy": [(1, 128, 2, 128)],
}


def pallas_attention(q_BTNH: Any, k_BTNH: Any, v_BTNH: Any) -> Any:
    """Pallas' kernel for this backend: Triton's on GPUs, splash attention on TPUs."""
    import jax

    from gptjax import ops

    if jax.default_backend() == "gpu":
        from jax.experimental.pallas.ops.gpu.attention import mha

        return mha(q_BTNH, k_BTNH, v_BTNH, None, sm_scale=q_BTNH.shape[-1] ** -0.5, causal=True)
    interpret = jax.default_backend() == "cpu"
    return ops.splash_attention(q_BTNH, k_BTNH, v_BTNH, interpret=interpret)


def attention(size: str) -> Iterator[Row]:
    """Rows of milliseconds of each kernel, or of why it does not run here."""
    import jax

    from gptjax import ops

    kernels: dict[str, Callable[..., Any]] = {
        "dense": ops.attention,
        "blockwise": ops.blockwise_attention,
        "cudnn": ops.cudnn_attention,
        "pallas": pallas_attention,
    }
    for B, T, N, H in ATTENTION[size]:
        keys = jax.random.split(jax.random.key(0), 3)
        qkv = [jax.random.normal(key, (B, T, N, H), jax.numpy.bfloat16) for key in keys]
        found = {
            name: or_reason(functools.partial(gradient_of, k, qkv)) for name, k in kernels.items()
        }
        rivals = {name: run for name, (run, _) in found.items() if run is not None}
        seconds = seconds_of(rivals, ROUNDS[size], TURN[size])
        # Two products forward and five backward, of the half of the square that is not masked.
        flops = 7 * B * N * T * T * H
        for name, (run, reason) in found.items():
            row: Row = {"shape": f"{B}x{T}x{N}x{H}", "kernel": name}
            if run is None:
                yield {**row, "failed": reason}
            else:
                yield {**row, "ms": 1e3 * seconds[name], "flops_per_s": flops / seconds[name]}


def gradient_of(kernel: Callable[..., Any], qkv: list[Any]) -> Timed:
    """Forward and backward of a kernel."""
    import jax
    import jax.numpy as jnp

    def loss(q: Any, k: Any, v: Any) -> Any:
        return jnp.sum(kernel(q, k, v).astype(jnp.float32) ** 2)

    program = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))

    def run(n: int) -> None:
        for _ in range(n):
            out = program(*qkv)
        jax.block_until_ready(out)

    return run


# Stacks of small cells.

STACKS = {"full": ([32, 128, 256], [1, 2, 8, 32, 128]), "toy": ([8], [1, 2])}


def stacks(size: str) -> Iterator[Row]:
    """Rows of the time of one member's step, alone over side by side."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import stacks as small_cells

    from gptjax.train import Session, TrainConfig

    widths, members = STACKS[size]
    with tempfile.TemporaryDirectory() as folder:
        session = Session(small_cells.corpus(Path(folder)), TrainConfig())
        for width in widths:
            alone = 0.0
            for count in members:
                spec = small_cells.make_spec(width, 8, session.corpus.vocab_size)
                step = small_cells.stepper(session, spec, count)
                step(2)
                each = statistics.median(step(max(2, 100 // count)) for _ in range(ROUNDS[size]))
                alone = alone or each
                yield {"width": width, "members": count, "ms": 1e3 * each, "gain": alone / each}


# Decoding.

DECODE = {
    "full": (Shape("gpt2", 1024, 1), 128, [1, 8, 64]),
    "toy": (Shape("gpt2", 32, 1, tiny=True), 4, [1]),
}


def decode(size: str) -> Iterator[Row]:
    """Rows of tokens a second from caches, prompts of as many tokens as the answers."""
    import jax
    import numpy as np

    from gptjax import convert, infer, models

    shape, length, batches = DECODE[size]
    config = model_of(shape)
    params = jax.jit(functools.partial(models.init, config))(jax.random.key(0))
    narrow = jax.tree.map(lambda leaf: leaf.astype(config.compute_dtype), params)
    model = infer.prepare(convert.Model(config, narrow))
    greedy = infer.sampling("greedy", max_tokens=length)
    for batch in batches:
        rng = np.random.default_rng(0)
        prompts = rng.integers(0, config.vocab_size, (batch, length)).tolist()
        answer = functools.partial(infer.generate, model, prompts, greedy)
        once = functools.partial(_repeat, answer)
        seconds = seconds_of({"decode": once}, ROUNDS[size], TURN[size])["decode"]
        yield {"batch": batch, "tokens": length, "tokens_per_s": batch * length / seconds}


def _repeat(action: Callable[[], Any], n: int) -> None:
    for _ in range(n):
        action()


# A law.

LAW = {
    "full": ["--config.sweep.budgets=(3e14,5e14,1e15,1.8e15,3e15)"],
    "toy": [
        "--config.sweep.budgets=(2e8,4e8)",
        "--config.sweep.widths=(8,12,16)",
        "--config.sweep.head_width=4",
        "--config.sweep.rule=fixed",
        "--config.model.depth=1",
        "--config.model.seq_len=16",
        "--config.train.batch_size=8",
        "--config.optim.schedule=constant",
        "--config.data.source=zipf-facts",
        "--config.data.zipf_facts.tokens=4096",
        "--config.data.zipf_facts.heldout_tokens=2048",
        "--config.sweep.part_tokens=0",
        "--config.fit.resamples=0",
        "--config.fit.diagnostics=False",
        "--config.fit.approaches=('parametric',)",
        "--config.report.formats=('png',)",
    ],
}


def law(size: str) -> Iterator[Row]:
    """One row: seconds, cells and what the laws say of a sweep."""
    experiment = ROOT / "experiments" / "chinchilla_sweep.py"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gptjax.main", f"--config={experiment}"]
        started = time.perf_counter()
        done = subprocess.run(
            [*command, f"--workdir={folder}/sweep", *LAW[size]], capture_output=True, text=True
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or [""]
            yield {"failed": lines[-1][:300]}
            return
        records = list(Path(folder, "sweep", "records").iterdir())
        laws = json.loads(Path(folder, "sweep", "laws.json").read_text())["laws"]
        found = {name: list(each.get("params", {})) for name, each in laws.items()}
        yield {"seconds": seconds, "cells": len(records), "laws": found}


# Products of 8-bit floats.

PRODUCTS = {
    "full": [(16384, 768, 3072), (8192, 4096, 4096), (8192, 8192, 8192)],
    "toy": [(8, 32, 16)],
}


def fp8(size: str) -> Iterator[Row]:
    """Rows of a product's time in bfloat16 over the same by 8-bit floats."""
    if not importlib.util.find_spec("qwix"):
        yield {"skipped": "qwix is not installed"}
        return
    import jax
    import jax.numpy as jnp

    for rows, inputs, outputs in PRODUCTS[size]:
        x = jax.random.normal(jax.random.key(0), (rows, inputs), jnp.bfloat16)
        w = jax.random.normal(jax.random.key(1), (inputs, outputs), jnp.bfloat16)
        makers = {
            "bfloat16": functools.partial(product, x, w),
            "fp8": functools.partial(narrow_product, x, w),
        }
        found = {name: or_reason(make) for name, make in makers.items()}
        rivals = {name: run for name, (run, _) in found.items() if run is not None}
        seconds = seconds_of(rivals, ROUNDS[size], TURN[size])
        row: Row = {"shape": f"{rows}x{inputs}x{outputs}"}
        for name, (run, reason) in found.items():
            if run is None:
                yield {**row, "type": name, "failed": reason}
            else:
                flops = 2 * rows * inputs * outputs / seconds[name]
                gain = seconds.get("bfloat16", float("nan")) / seconds[name]
                yield {**row, "type": name, "flops_per_s": flops, "gain": gain}


def product(x: Any, w: Any) -> Timed:
    """x·w as they are."""
    import jax

    return _jitted(jax.jit(lambda x, w: x @ w), x, w)


def narrow_product(x: Any, w: Any) -> Timed:
    """x·w in e4m3, weights quantized before by column, activations in the program by row."""
    import jax
    import jax.numpy as jnp
    import qwix

    def narrow(array: Any, axis: int) -> Any:
        return qwix.quantize(array, jnp.float8_e4m3fn, channelwise_axes=[axis])

    weights = jax.jit(functools.partial(narrow, axis=1))(w)
    dims = (((1,), (0,)), ((), ()))
    return _jitted(jax.jit(lambda x, w: qwix.dot_general(narrow(x, 0), w, dims)), x, weights)


def _jitted(program: Callable[..., Any], *arguments: Any) -> Timed:
    import jax

    def run(n: int) -> None:
        for _ in range(n):
            out = program(*arguments)
        jax.block_until_ready(out)

    return run


# The whole.

ROUNDS = {"full": 5, "toy": 1}
TURN = {"full": 0.5, "toy": 0.0}


@dataclasses.dataclass(frozen=True)
class Part:
    """A part, and the most seconds that it may take of a run at full size."""

    rows: Callable[[str], Iterator[Row]]
    seconds: float


PARTS = {  # in the order of their worth
    "train": Part(train, 100),
    "torch": Part(torch_train, 80),
    "law": Part(law, 110),
    "stacks": Part(stacks, 50),
    "decode": Part(decode, 45),
    "attention": Part(attention, 50),
    "fp8": Part(fp8, 30),
}


def device() -> Row:
    """What the numbers were measured on."""
    import jax

    first = jax.devices()[0]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": first.device_kind,
        "devices": jax.device_count(),
        "platform": first.platform,
        "jax": jax.__version__,
        "peak_flops": peak_flops(),
    }


def run_part(name: str, size: str) -> None:
    """Print a part's rows, one line each; in a process of its own."""
    for row in [device()] if name == "device" else PARTS[name].rows(size):
        print("= " + json.dumps({"part": name, **row}), flush=True)


def rows_of(name: str, size: str, seconds: float) -> Iterator[Row]:
    """Rows of a part as they come, and one that says why it ended where it ended badly."""
    if seconds <= 0.0:
        yield {"part": name, "skipped": "no time was left"}
        return
    command = [sys.executable, __file__, f"--part={name}", f"--size={size}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    ends = time.monotonic() + seconds
    assert process.stdout is not None
    try:
        for line in lines_until(process.stdout, ends):
            if line.startswith("= "):
                yield json.loads(line[2:])
        if process.poll() is None and time.monotonic() >= ends:
            yield {"part": name, "failed": f"stopped after {seconds:.0f} s"}
        elif process.wait():
            yield {"part": name, "failed": f"ended with status {process.returncode}"}
    finally:  # with the processes that it started: a sweep's would hold the device on
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def lines_until(file: Any, ends: float) -> Iterator[str]:
    """Lines of a pipe until it ends or the time has come."""
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(file, selectors.EVENT_READ)
        while (left := ends - time.monotonic()) > 0:
            if not selector.select(left):
                continue
            read = os.read(file.fileno(), 65536)
            *lines, buffer = (buffer + read).split(b"\n")
            yield from (line.decode() for line in lines)
            if not read:
                return


def words(row: Row) -> str:
    """A row as it is printed.

    >>> words({"part": "decode", "batch": 8, "tokens_per_s": 1234.5})
    'decode: batch 8, tokens_per_s 1.23e+03'
    """
    text = {k: f"{v:.3g}" if isinstance(v, float) else f"{v}" for k, v in row.items()}
    part = text.pop("part")
    return f"{part}: " + ", ".join(f"{name} {value}" for name, value in text.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="accelerator.jsonl")
    parser.add_argument("--seconds", type=float, default=480.0, help="of all parts together")
    parser.add_argument("--size", choices=("full", "toy"), default="full")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--part", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        run_part(args.part, args.size)
        return
    names = args.parts.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"--parts={unknown[0]} is not known; parts are {', '.join(PARTS)}")
    ends = time.monotonic() + args.seconds
    with open(args.out, "w") as file:
        for name in ("device", *names):
            most = PARTS[name].seconds * (args.size == "full" or 10) if name in PARTS else 60.0
            for row in rows_of(name, args.size, min(most, ends - time.monotonic())):
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(words(row), flush=True)


if __name__ == "__main__":
    main()

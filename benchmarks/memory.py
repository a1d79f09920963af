"""What training keeps in memory, table by table.

    python benchmarks/memory.py [optimizers] [remat] [attention] [loss]

`optimizers`: bytes of optimizer state per parameter, counted from the arrays that `init` makes for
GPT-2 small (shapes only, nothing is allocated), and the temporary bytes per parameter that the
compiler plans for one update of a 13-million-parameter model, its gradients (4 bytes) included.
"""

import dataclasses
import functools
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import models, ops
from gptjax.optim import OPTIMIZERS, OptimConfig, make_optimizer

MEDIUM = models.ModelConfig(
    depth=4, width=512, num_heads=8, vocab_size=1024, positions="rotary", seq_len=128
)


def shapes_of(model: models.ModelConfig):
    """The parameters as shapes and types."""
    return jax.eval_shape(lambda: models.init(model, jax.random.key(0)))


def size(tree) -> int:
    """Elements of all arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def state_bytes(config: OptimConfig, params) -> int:
    """Bytes of the state that belongs to `params`."""
    state = jax.eval_shape(make_optimizer(config).init, params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def update_temporaries(config: OptimConfig, params) -> int:
    """Bytes that the compiler reserves for one update besides what goes in and comes out."""
    optimizer = make_optimizer(config)

    def step(params, state, rate):
        grads = jax.tree.map(lambda w: rate * w, params)
        updates, state = optimizer.update(grads, state, params, learning_rate=rate)
        return jax.tree.map(jnp.add, params, updates), state

    state = jax.eval_shape(optimizer.init, params)
    rate = jax.ShapeDtypeStruct((), jnp.float32)
    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, rate)
    memory: Any = lowered.compile().memory_analysis()
    return memory.temp_size_in_bytes


def optimizers() -> None:
    """Bytes per parameter of every optimizer and of what may be added to one."""
    small = shapes_of(dataclasses.replace(models.preset("gpt2"), vocab_size=50257))
    blocks, medium = small["blocks"], shapes_of(MEDIUM)
    rows = {name: OptimConfig(name=name) for name in OPTIMIZERS}
    rows["adamw, ema_decay=0.999"] = OptimConfig(ema_decay=0.999)
    print(f"| optimizer | state, GPT-2 small | its blocks only | temporaries, {size(medium):,} |")
    print("|---|---|---|---|")
    for name, config in rows.items():
        whole, inside = (state_bytes(config, tree) / size(tree) for tree in (small, blocks))
        temporary = update_temporaries(config, medium) / size(medium)
        print(f"| {name} | {whole:.3f} | {inside:.3f} | {temporary:.2f} |")


DEPTHS, POLICIES = (1, 4, 16, 64, 256), ("none", "dots", "block", "sqrt")
TIMED_DEPTH = 16
CONTEXTS = (1024, 2048, 4096, 8192, 16384)
FIGURES = Path(__file__).parents[1] / "docs" / "figures"


def remat() -> None:
    """Temporary bytes of one gradient by depth, time at one depth, and bytes a parameter."""
    shape = models.ModelConfig(
        width=64,
        num_heads=2,
        vocab_size=64,
        seq_len=32,
        layers="scan",
        positions="rotary",
        mlp="relu",
        norm="rmsnorm",
        use_bias=False,
    )
    found: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    for depth in DEPTHS:
        for policy in POLICIES:
            config = dataclasses.replace(shape, depth=depth, remat=policy)
            found[policy].append(temporary_mib(_gradient_of(config, 128)))
    print("| blocks | " + " | ".join(POLICIES) + " |\n|---|" + "---|" * len(POLICIES))
    for row, depth in enumerate(DEPTHS):
        print(f"| {depth} | " + " | ".join(f"{found[p][row]:.1f}" for p in POLICIES) + " |")
    programs = {}
    for policy in POLICIES:
        config = dataclasses.replace(shape, depth=TIMED_DEPTH, remat=policy)
        params = jax.jit(functools.partial(models.init, config))(jax.random.key(0))
        ids = jnp.zeros((128, shape.seq_len), jnp.int32)
        programs[policy] = (_gradient_of(config, 128), (params, ids))
    times = seconds_of(programs)
    ratios = (f"{times[policy] / times['none']:.2f}" for policy in POLICIES)
    print(f"| time, {TIMED_DEPTH} blocks | " + " | ".join(ratios) + " |")
    small = dataclasses.replace(models.preset("gpt2"), vocab_size=50257, layers="scan")
    each = []
    for policy in POLICIES:
        config = dataclasses.replace(small, remat=policy)
        program = _gradient_of(config, 4, _chunked_model_loss)
        each.append(temporary_mib(program) * 2**20 / size(shapes_of(config)))
    print(
        "| bytes a parameter, GPT-2 small, 4 × 1,024 tokens | "
        + " | ".join(f"{one:.1f}" for one in each)
        + " |"
    )
    _draw(
        "memory_depth",
        "blocks",
        DEPTHS[1:],
        {policy: [mib - values[0] for mib in values[1:]] for policy, values in found.items()},
        "temporary memory beyond one block's, MiB",
    )


def _chunked_model_loss(config: models.ModelConfig, params, ids) -> jax.Array:
    x_BTD, w_DV = models.features(config, params, ids)
    return ops.chunked_cross_entropy(x_BTD, w_DV, ids, jnp.ones(ids.shape), chunk=512)[0]


def _model_loss(config: models.ModelConfig, params, ids) -> jax.Array:
    logits = models.apply(config, params, ids)
    return jnp.mean(ops.cross_entropy(logits, ids))


def _gradient_of(
    config: models.ModelConfig, batch: int, loss: Callable[..., jax.Array] = _model_loss
) -> Any:
    """The compiled gradient of the loss of `batch` sequences."""
    ids = jax.ShapeDtypeStruct((batch, config.seq_len), jnp.int32)
    slope = jax.jit(jax.grad(functools.partial(loss, config)))
    return slope.lower(shapes_of(config), ids).compile()


def attention() -> None:
    """Temporary bytes and time of attention's gradient by context: 1 sequence, 4 heads of 64."""
    paths = {"dense": ops.attention, "blockwise": ops.blockwise_attention}
    found: dict[str, list[float]] = {name: [] for name in paths}
    print(
        "| context | dense, MiB | blockwise, MiB | dense, ms | blockwise, ms |\n" + "|---" * 5 + "|"
    )
    for T in CONTEXTS:
        programs = {}
        one = [jax.random.normal(jax.random.key(i), (1, T, 4, 64)) for i in range(4)]
        for name, path in paths.items():
            slope = jax.jit(lambda q, k, v, g, path=path: jax.vjp(path, q, k, v)[1](g))
            programs[name] = (slope.lower(*one).compile(), one)
            found[name].append(temporary_mib(programs[name][0]))
        row = [f"{found[name][-1]:.1f}" for name in paths]
        if T <= 4096:
            times = seconds_of(programs)
            row += [f"{times[name] * 1e3:.0f}" for name in paths]
        print(f"| {T:,} | " + " | ".join([*row, *["–"] * (4 - len(row))]) + " |", flush=True)
    _draw("memory_context", "context, tokens", CONTEXTS, found)


def loss() -> None:
    """Temporary bytes and time at a vocabulary of 128k and a context of 4,096."""
    inputs = _loss_inputs(4096, 131_072)
    programs = {}
    for chunk in (0, 128, 256, 512):
        slope = jax.jit(jax.grad(functools.partial(_head_loss, chunk), (0, 1)))
        programs[str(chunk or "all")] = (slope.lower(*inputs).compile(), inputs)
    times = seconds_of(programs, rounds=3)
    print("| tokens at once | MiB | s | over plain |\n|---|---|---|---|")
    for name, (program, _) in programs.items():
        mib, ratio = temporary_mib(program), times[name] / times["all"]
        print(f"| {name} | {mib:.0f} | {times[name]:.2f} | {ratio:.2f} |")


def _loss_inputs(tokens: int, vocabulary: int, width: int = 256) -> list[jax.Array]:
    return [
        jnp.ones((1, tokens, width)),
        jnp.ones((width, vocabulary)),
        jnp.zeros((1, tokens), jnp.int32),
    ]


def _head_loss(chunk: int, x_BTD, w_DV, ids_BT) -> jax.Array:
    if chunk:
        return ops.chunked_cross_entropy(x_BTD, w_DV, ids_BT, jnp.ones(ids_BT.shape), chunk=chunk)[
            0
        ]
    return jnp.sum(ops.cross_entropy(ops.linear(x_BTD, w_DV, dtype=jnp.float32), ids_BT))


def temporary_mib(program) -> float:
    """What a compiled program holds beside its inputs and outputs."""
    return program.memory_analysis().temp_size_in_bytes / 2**20


def seconds_of(programs: dict[str, tuple], rounds: int = 5) -> dict[str, float]:
    """The median of a few runs of each, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds + 1):
        for name, (program, inputs) in programs.items():
            started = time.perf_counter()
            jax.block_until_ready(program(*inputs))
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def _draw(
    name: str,
    label: str,
    x: tuple[int, ...],
    lines: dict[str, list[float]],
    y_label: str = "temporary memory, MiB",
) -> None:
    """Bytes against x on log axes, the slope of each line's last two points in the legend."""
    from gptjax.report import style

    figure, ax = style.new_figure()
    colours = style.palette(len(lines))
    with style.drawing():
        for i, (key, y) in enumerate(lines.items()):
            slope = math.log(y[-1] / y[-2]) / math.log(x[-1] / x[-2])
            ax.plot(x, y, "o-", color=colours[i], label=f"{key}, slope {slope:.2f}")
        ax.set_xlabel(label)
        ax.set_ylabel(y_label)
        ax.legend()
        for which in ("x", "y"):
            style.log_axis(ax, which, "count")
    style.save(figure, FIGURES, name, ("png",), 160)


TABLES: dict[str, Callable[[], None]] = {
    "optimizers": optimizers,
    "remat": remat,
    "attention": attention,
    "loss": loss,
}


def main() -> None:
    for name in sys.argv[1:] or TABLES:
        print(f"\n{name}")
        TABLES[name]()


if __name__ == "__main__":
    main()

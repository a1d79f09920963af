"""What each way of mixing tokens costs; nothing is run.

    python benchmarks/attention_slopes.py

FLOPs and temporary bytes by context, by the compiler's count, of the mixing's gradient without the
projections around it: one sequence, 4 heads of 64, float32. Blocks and strides are √T, as the
defaults have them, but for blocksparse: Phi-3-small's blocks of 64 and stride of 8, and as
many local blocks as the window is long. Draws docs/figures/attention_flops.png and
attention_bytes.png.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import ops

CONTEXTS = (1024, 2048, 4096, 8192, 16384)
HEADS, HEAD = 4, 64
WINDOW, SUMMARY, ROUNDS, CHUNK, STATES = 256, 4, 4, 64, 16
BLOCK, STRIDE = 64, 8
FEATURES = math.ceil(HEAD * math.log(HEAD))
FIGURES = Path(__file__).parents[1] / "docs" / "figures"

Mix = tuple[Callable[..., jax.Array], list[tuple[int, ...]]]


def qkv(T: int) -> list[tuple[int, ...]]:
    """Shapes of queries, keys and values."""
    return [(1, T, HEADS, HEAD)] * 3


def linformer(T: int) -> Mix:
    """By blocks, causal."""
    shape = (block_of(T), SUMMARY)
    return ops.linformer_causal_attention, [*qkv(T), shape, shape]


def longformer(T: int) -> Mix:
    """With one global token."""
    attend = functools.partial(ops.longformer_attention, window=WINDOW)
    return attend, [*qkv(T), *[(1, 1, HEADS, HEAD)] * 3]


def performer(T: int) -> Mix:
    """With the features that the default draws."""
    w_KFH = jnp.asarray(ops.orthogonal_features(HEADS, HEAD, FEATURES))
    return functools.partial(ops.performer_attention, features_KFH=w_KFH), qkv(T)


def reformer(T: int) -> Mix:
    """With four rounds in 2T / 64 buckets."""
    factors = ops.bucket_factors(2 * T // CHUNK)
    turns = jnp.asarray(ops.hash_rotations(HEADS, HEAD, ROUNDS, factors))
    options: dict[str, Any] = {"factors": factors, "chunk": CHUNK}
    return functools.partial(ops.lsh_attention, rotations_NHRh=turns, **options), qkv(T)[:2]


def mamba(T: int) -> Mix:
    """The scan over time of twice as many channels as the heads have columns together."""
    channels = 2 * HEADS * HEAD
    shapes = [(1, T, channels), (1, T, channels), (channels, STATES), *[(1, T, STATES)] * 2]
    return ops.selective_scan, shapes


def block_of(T: int) -> int:
    """√T, upwards."""
    return math.isqrt(T - 1) + 1


MIXES: dict[str, Callable[[int], Mix]] = {
    "dense": lambda T: (ops.attention, qkv(T)),
    "strided": lambda T: (functools.partial(ops.strided_attention, stride=block_of(T)), qkv(T)),
    "fixed": lambda T: (
        functools.partial(ops.fixed_attention, block=block_of(T), summary=SUMMARY),
        qkv(T),
    ),
    "blocksparse": lambda T: (
        functools.partial(
            ops.blocksparse_attention, block=BLOCK, local_blocks=WINDOW // BLOCK, stride=STRIDE
        ),
        qkv(T),
    ),
    "linformer": linformer,
    "banded": lambda T: (functools.partial(ops.windowed_attention, window=WINDOW), qkv(T)),
    "longformer": longformer,
    "performer": performer,
    "reformer": reformer,
    "mamba": mamba,
}


def compiled(mix: Mix) -> Any:
    """The program of the gradient with respect to all inputs."""
    attend, shapes = mix

    def slope(g: jax.Array, *inputs: jax.Array) -> tuple:
        return jax.vjp(attend, *inputs)[1](g)

    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(slope).lower(jax.eval_shape(attend, *inputs), *inputs).compile()


def fitted_slope(values: list[float]) -> float:
    """Of a straight line through the logarithms."""
    return float(np.polyfit(np.log(CONTEXTS), np.log(values), 1)[0])


def table(title: str, found: dict[str, list[float]], unit: float) -> None:
    """One row a kind."""
    print(f"\n| {title} | " + " | ".join(f"{T:,}" for T in CONTEXTS) + " | slope |")
    print("|---" * (len(CONTEXTS) + 2) + "|")
    for name, values in found.items():
        cells = [f"{value / unit:.3g}" for value in values]
        print(f"| {name} | " + " | ".join(cells) + f" | {fitted_slope(values):.2f} |", flush=True)


def draw(name: str, label: str, found: dict[str, list[float]], unit: float) -> None:
    """Lines on log axes, the fitted slope of each in the legend."""
    from gptjax.report import style

    figure, ax = style.new_figure()
    colours, marks = style.palette(len(found)), "osv^D<>pX*"
    with style.drawing():
        for i, (key, values) in enumerate(found.items()):
            text = f"{key}, slope {fitted_slope(values):.2f}"
            y = [value / unit for value in values]
            ax.plot(CONTEXTS, y, marks[i] + "-", color=colours[i], label=text)
        ax.set_xlabel("context, tokens")
        ax.set_ylabel(label)
        ax.legend(fontsize="x-small")
        for which in ("x", "y"):
            style.log_axis(ax, which, "count")
    style.save(figure, FIGURES, name, ("png",), 160)


def slopes() -> None:
    """The tables and figures by context."""
    flops: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    for name, make in MIXES.items():
        programs = [compiled(make(T)) for T in CONTEXTS]
        flops[name] = [one.cost_analysis()["flops"] for one in programs]
        memory[name] = [float(one.memory_analysis().temp_size_in_bytes) for one in programs]
    table("GFLOPs by context", flops, 1e9)
    table("temporary MiB by context", memory, 2**20)
    draw("attention_flops", "gradient, GFLOPs", flops, 1e9)
    draw("attention_bytes", "temporary memory, MiB", memory, 2**20)


if __name__ == "__main__":
    slopes()

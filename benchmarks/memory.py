"""What training keeps in memory, table by table.

    python benchmarks/memory.py [optimizers]

`optimizers`: bytes of optimizer state per parameter, counted from the arrays that `init` makes for
GPT-2 small (shapes only, nothing is allocated), and the temporary bytes per parameter that the
compiler plans for one update of a 13-million-parameter model, its gradients (4 bytes) included.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import models
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


TABLES: dict[str, Callable[[], None]] = {"optimizers": optimizers}


def main() -> None:
    for name in sys.argv[1:] or TABLES:
        print(f"\n{name}: bytes per parameter")
        TABLES[name]()


if __name__ == "__main__":
    main()

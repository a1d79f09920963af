"""Time of one training step with every optimizer, beside AdamW's.

    python benchmarks/optimizer_step.py [--rounds=5] [--batch=8] [name ...]

A decoder of 13 million parameters, context 128, float32. `step` is the whole step (forward,
backward, update), `update` the optimizer alone on given gradients. Every round times each optimizer
once, so that a busy machine slows all alike; the table gives medians over rounds, and the median of
the ratio to AdamW within a round.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import models
from gptjax.optim import OPTIMIZERS, OptimConfig, make_optimizer
from gptjax.train import RunSpec, init_state, make_hyper, make_train_step
from gptjax.train.feed import next_token_batch
from gptjax.train.objectives import next_token

MODEL = models.ModelConfig(
    depth=4, width=512, num_heads=8, vocab_size=1024, positions="rotary", seq_len=128
)


def step_of(config: OptimConfig, batch_size: int) -> Callable[[], Any]:
    """A function that does one training step and keeps its state."""
    spec = RunSpec(model=MODEL, optim=config, batch_size=batch_size, steps=1000)
    tokens = jax.random.randint(jax.random.key(0), (batch_size, MODEL.seq_len + 1), 0, 1024)
    batch = next_token_batch(spec, tokens[:, :-1], tokens[:, 1:], -1)
    state, hyper = init_state(spec, jax.random.key(0)), make_hyper(spec)
    program = jax.jit(make_train_step(spec, next_token(spec)), donate_argnums=0)

    def step() -> Any:
        nonlocal state
        state, metrics = program(state, batch, hyper)
        return metrics.loss

    return step


def update_of(config: OptimConfig) -> Callable[[], Any]:
    """A function that applies the optimizer to the same gradients again."""
    optimizer = make_optimizer(config)
    params = models.init(MODEL, jax.random.key(0))
    grads = jax.tree.map(lambda x: 1e-3 * jax.random.normal(jax.random.key(1), x.shape), params)
    state = jax.jit(optimizer.init)(params)

    def change(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(grads, state, params, learning_rate=1e-3)
        return jax.tree.map(jnp.add, params, updates), state

    program = jax.jit(change, donate_argnums=(0, 1))

    def update() -> Any:
        nonlocal params, state
        params, state = program(params, state, grads)
        return params

    return update


def seconds(action: Callable[[], Any], repeats: int) -> float:
    """Of one call."""
    started = time.perf_counter()
    for _ in range(repeats):
        result = action()
    jax.block_until_ready(result)
    return (time.perf_counter() - started) / repeats


def measure(actions: dict[str, Callable[[], Any]], rounds: int, repeats: int) -> None:
    for action in actions.values():
        jax.block_until_ready(action())
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            times[name].append(seconds(action, repeats))
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, times["adamw"], strict=True))
        print(f"| {name} | {1e3 * statistics.median(values):.1f} | {ratio:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("names", nargs="*", default=list(OPTIMIZERS))
    options = parser.parse_args()
    configs = {name: OptimConfig(name=name) for name in ("adamw", *options.names)}
    print("update alone | ms | over AdamW")
    measure({name: update_of(config) for name, config in configs.items()}, options.rounds, 5)
    print("whole step | ms | over AdamW")
    steps = {name: step_of(config, options.batch) for name, config in configs.items()}
    measure(steps, options.rounds, 1)


if __name__ == "__main__":
    main()

"""Held-out loss over a grid of batch sizes and learning rates, members of a grid stacked.

The measurement behind the `demo` rule of `gptjax.sweeps.rules`. One program a (shape, batch,
length); the learning rates are mapped with vmap, so an accelerator trains them together.

    python benchmarks/tune_rules.py --flops 2e12 --widths 32,48 --batches 8,16 \
        --rates 4e-3,8e-3,1.6e-2 --out tune.csv

Each row: the shape, the batch in sequences, the learning rate, steps, held-out nats per token.
"""

import argparse
import csv
import dataclasses
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import data
from gptjax.cost.flops import training_flops_per_token
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.sweeps import shapes
from gptjax.sweeps.config import SweepConfig
from gptjax.train import RunSpec, TokenFeed, evaluate, init_state, make_hyper, next_token
from gptjax.train.session import make_advance


def main() -> None:
    options = _arguments()
    corpus = data.load(data.DataConfig(), seq_len=options.seq_len)
    base = ModelConfig(
        depth=options.depth,
        seq_len=options.seq_len,
        vocab_size=corpus.vocab_size,
        norm="rmsnorm",
        positions=options.positions,
        mlp=options.mlp,
        use_bias=False,
        tied_head=options.tied,
        init_scale=options.init_scale,
    )
    sweep = SweepConfig(head_width=options.head_width)
    rates = [float(rate) for rate in options.rates.split(",")]
    optim = OptimConfig(
        b2=options.b2, weight_decay=options.weight_decay, warmup_fraction=options.warmup
    )
    with open(options.out, "a", newline="") as file:
        writer = csv.writer(file)
        for width in (int(width) for width in options.widths.split(",")):
            model = shapes.with_width(base, sweep, width)
            per_token = training_flops_per_token(model)
            for batch in (int(batch) for batch in options.batches.split(",")):
                steps = max(1, round(options.flops / per_token / batch / options.seq_len))
                spec = RunSpec(model=model, optim=optim, batch_size=batch, steps=steps, seed=0)
                started = time.time()
                losses = grid_losses(spec, corpus, rates, options.stack, options.seeds)
                for (rate, seed), (loss, error) in losses.items():
                    row = [
                        options.label,
                        f"{options.flops:g}",
                        width,
                        model.depth,
                        model.num_heads,
                        options.seq_len,
                        options.mlp,
                        batch,
                        steps,
                        rate,
                        seed,
                        f"{loss:.5f}",
                        f"{error:.5f}",
                        shapes.size_of(model),
                        f"{time.time() - started:.1f}",
                    ]
                    writer.writerow(row)
                    print(*row, flush=True)
                file.flush()


def grid_losses(
    spec: RunSpec, corpus: data.Corpus, rates: list[float], stack: int, seeds: int
) -> dict[tuple[float, int], tuple[float, float]]:
    """Held-out (loss, standard error) for each (learning rate, seed), `stack` runs at a time."""
    feed = TokenFeed(corpus)
    advance = jax.jit(
        jax.vmap(make_advance(spec, feed, next_token(spec)), in_axes=(0, None, 0, None))
    )
    start = jax.jit(jax.vmap(lambda key: init_state(spec, key)))
    tokens = jnp.asarray(np.asarray(corpus.train))
    rows = jnp.asarray(evaluate.held_out_windows(corpus, spec.model.seq_len, 64))

    def score(params: object) -> tuple[jax.Array, jax.Array]:
        return evaluate.window_losses(spec, feed, params, rows)

    scored = jax.jit(jax.vmap(score))
    members = [(rate, seed) for seed in range(seeds) for rate in rates]
    found = {}
    for i in range(0, len(members), stack):
        part = members[i : i + stack]
        specs = [
            dataclasses.replace(
                spec, seed=seed, optim=dataclasses.replace(spec.optim, learning_rate=rate)
            )
            for rate, seed in part
        ]
        hypers = jax.tree.map(lambda *x: jnp.stack(x), *[make_hyper(one) for one in specs])
        state = start(jnp.stack([jax.random.key(one.seed) for one in specs]))
        done = 0
        while done < spec.steps:
            count = min(512, spec.steps - done)
            state, _ = advance(state, tokens, hypers, jnp.int32(count))
            done += count
        sums, counts = scored(state.params)
        for k, member in enumerate(part):
            summary = evaluate.summarise(
                specs[k], corpus, np.asarray(sums[k]), np.asarray(counts[k])
            )
            found[member] = (summary.loss, summary.stderr)
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flops", type=float, default=1e12)
    parser.add_argument("--widths", default="32")
    parser.add_argument("--batches", default="8")
    parser.add_argument("--rates", default="8e-3")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--head_width", type=int, default=32)
    parser.add_argument("--seq_len", type=int, default=128)
    parser.add_argument("--mlp", default="relu")
    parser.add_argument("--positions", default="rotary")
    parser.add_argument("--tied", type=int, default=1)
    parser.add_argument("--init_scale", type=float, default=0.02)
    parser.add_argument("--b2", type=float, default=0.95)
    parser.add_argument("--weight_decay", type=float, default=0.1)
    parser.add_argument("--warmup", type=float, default=0.02)
    parser.add_argument("--stack", type=int, default=8)
    parser.add_argument("--label", default="")
    parser.add_argument("--out", default="tune.csv")
    return parser.parse_args(sys.argv[1:])


if __name__ == "__main__":
    main()

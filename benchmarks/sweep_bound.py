"""The shortest time of the default sweep's training on this processor: its products alone.

    python benchmarks/sweep_bound.py [overrides of the experiment]

One core, as a worker has. For every width of the plan each product of a micro-batch, forward and
backward, is timed by itself at its own shape and in its own form (`train_step.py`), and multiplied
by the micro-batches that the plan trains, beginnings that cells share counted once. Divided by the
workers this is what training takes at least with this library, however little the rest of a step
takes; compiling, evaluation, start, fit and report come on top.
"""

import collections
import os
import sys
from pathlib import Path
from typing import Any

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX counts its threads

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "chinchilla_sweep.py"


def part_seconds(model: Any, tokens: int) -> float:
    """Seconds of the products of one micro-batch of a model without gates."""
    import train_step

    D, F, L = model.width, model.hidden_width, model.depth
    linears = [(D, D, 4 * L), (D, F, L), (F, D, L), (D, model.vocab_size, 1)]
    each = train_step.linear_seconds(linears, tokens, model.compute_dtype)
    heads, width = model.num_heads * tokens // model.seq_len, model.head_width
    return each + L * train_step.attention_seconds(heads, model.seq_len, width, model.compute_dtype)


def main() -> None:
    from gptjax import config as configs
    from gptjax import experiment, processor
    from gptjax.engines import cells as planned
    from gptjax.ops.backend import product_rate

    pairs = [flag.removeprefix("--config.").partition("=")[::2] for flag in sys.argv[1:]]
    setup = configs.make_config(experiment.override(experiment.load(str(EXPERIMENT)), pairs))
    cells = planned.make_cells(setup, configs.load_corpus(setup))
    parts: collections.Counter = collections.Counter()
    flops: dict[Any, float] = collections.defaultdict(float)
    for bundle in planned.make_bundles(setup, cells):
        for cell, updates, spent in zip(bundle.cells, bundle.updates, bundle.flops, strict=True):
            tokens = cell.run.batch_size * cell.run.model.seq_len // cell.run.micro_batches
            parts[cell.run.model, tokens] += updates * cell.run.micro_batches
            flops[cell.run.model, tokens] += spent
    print(f"{processor.description()}; best product of a core {product_rate() / 1e9:.0f} GFLOP/s")
    total = 0.0
    for (model, tokens), count in sorted(parts.items(), key=lambda item: item[0][0].width):
        each = part_seconds(model, tokens)
        total += count * each
        rate = flops[model, tokens] / (count * each) / 1e9
        print(
            f"width {model.width}: {count:,} parts of {tokens} tokens, products {1e3 * each:.2f} "
            f"ms each ({rate:.0f} GFLOP/s), {count * each:.0f} s",
            flush=True,
        )
    print(
        f"{sum(flops.values()):.3g} FLOPs: {total:.0f} s on a core, {total / 2:.0f} s on two; at "
        f"the best product {sum(flops.values()) / product_rate() / 2:.0f} s on two"
    )


if __name__ == "__main__":
    main()

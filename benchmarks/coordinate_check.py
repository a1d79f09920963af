"""How far a few steps move a model at several widths, with and without width transfer.

    python benchmarks/coordinate_check.py [widths]

Root mean squares of the change of the stream after the embedding and after each block, and of the
logits, after eight steps of AdamW on the same tokens; b of size ∝ width^b in the last column. With
transfer b is near zero everywhere.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.train import RunSpec, init_state, make_hyper, make_train_step, transfer_width
from gptjax.train.feed import next_token_batch
from gptjax.train.mup import coordinate_check
from gptjax.train.objectives import next_token

STEPS = 8


def moved(width: int, transfer: str) -> dict[str, float]:
    """The check at one width: four heads at each, learning rate and scales tuned at none."""
    model = ModelConfig(
        depth=2,
        width=width,
        num_heads=4,
        seq_len=32,
        vocab_size=64,
        positions="rotary",
        norm="rmsnorm",
        use_bias=False,
        init_scale=0.1,
    )
    optim = OptimConfig(
        learning_rate=4e-3,
        schedule="constant",
        width_transfer=transfer,
        base_width=64,
        base_head_dim=16,
    )
    model, optim = transfer_width(model, optim)
    spec = RunSpec(model=model, optim=optim, batch_size=8, steps=100)
    tokens = np.random.default_rng(0).integers(0, 64, (8, 33))
    batch = next_token_batch(spec, jnp.asarray(tokens[:, :-1]), jnp.asarray(tokens[:, 1:]), -1)
    start = state = init_state(spec, jax.random.key(0))
    step = jax.jit(make_train_step(spec, next_token(spec)))
    for _ in range(STEPS):
        state, _ = step(state, batch, make_hyper(spec))
    return coordinate_check(model, start.params, state.params, batch.inputs_BT)


def main() -> None:
    widths = [int(text) for text in sys.argv[1].split(",")] if sys.argv[1:] else [64, 128, 256, 512]
    print("| transfer | coordinate | " + " | ".join(map(str, widths)) + " | b |")
    for transfer in ("none", "mup"):
        rows = [moved(width, transfer) for width in widths]
        for name in rows[0]:
            sizes = [row[name] for row in rows]
            slope = np.polyfit(np.log(widths), np.log(sizes), 1)[0]
            shown = " | ".join(f"{size:.3g}" for size in sizes)
            print(f"| {transfer} | {name} | {shown} | {slope:+.2f} |")


if __name__ == "__main__":
    main()

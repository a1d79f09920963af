"""Shapes, files and commands that the tests of alignment share."""

import dataclasses
import json
from pathlib import Path

from gptjax import models
from gptjax.main import main
from gptjax.optim import OptimConfig
from gptjax.train import RunSpec

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
CONFIG = models.ModelConfig(
    vocab_size=257,
    depth=1,
    width=16,
    num_heads=2,
    seq_len=32,
    positions="rotary",
    mlp="relu",
    norm="rmsnorm",
    use_bias=False,
    init_scale=0.1,
)
LLAMA = models.ModelConfig(
    vocab_size=257,
    depth=2,
    width=16,
    num_heads=4,
    num_kv_heads=2,
    mlp_width=24,
    seq_len=32,
    positions="rotary",
    mlp="swiglu",
    norm="rmsnorm",
    use_bias=False,
    tied_head=False,
    init_scale=0.2,
)
NEOX = dataclasses.replace(
    CONFIG, depth=2, mlp="gelu", norm="layernorm", use_bias=True, block="parallel", tied_head=False
)
GPT2 = dataclasses.replace(
    CONFIG, depth=2, positions="learned", mlp="gelu_tanh", norm="layernorm", use_bias=True
)
SPEC = RunSpec(model=CONFIG, optim=OptimConfig(), batch_size=4, steps=8)


def write(path, lines):
    """JSON Lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def finetune(base, path, workdir, *flags, experiment="finetune.py"):
    """The exit status of job=finetune on a few examples."""
    return main(
        [
            "gptjax",
            f"--config={EXPERIMENTS / experiment}",
            f"--config.model_folder={base}",
            f"--config.data.path={path}",
            f"--workdir={workdir}",
            "--config.data.heldout_fraction=0.2",
            "--config.train.steps=6",
            "--config.train.batch_size=4",
            "--config.train.evaluations=2",
            "--config.optim.learning_rate=1e-2",
            *flags,
        ]
    )

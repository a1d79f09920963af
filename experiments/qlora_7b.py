"""QLoRA of a 7B-shaped model on one card: what a step needs, compiled from shapes alone.

    python -m gptjax.main --config=experiments/qlora_7b.py
    python -m gptjax.main --config=experiments/qlora_7b.py --config.compile.target=l40s-1 \
        --config.train.batch_size=16

The first is for a card of 24 GB, the second for one of 48. They need the GPUs' compiler
(pip install 'gptjax[cuda]') and no GPU; no weight is allocated, and each took 40 seconds of one CPU
core. The base is in NF4 with double quantization, the embedding and the head in bfloat16, adapters
of rank 16 on every matrix inside the layers, in bfloat16 too. To train, quantize a folder by
experiments/quantize.py with --config.quantize.method=nf4 and tune it by experiments/lora.py.
"""

import dataclasses

from ml_collections import ConfigDict

from gptjax import models
from gptjax.config import default_config


def get_config() -> ConfigDict:
    """Llama 2 7B's shape in rows of 2,048 tokens, one row at a time."""
    config = default_config()
    config.experiment = "qlora_7b"
    config.job = "compile"
    config.compile.target = "l4-1"
    config.compile.base = "nf4"
    config.quantize.bits = 4
    config.quantize.embedding_bits = 16
    config.finetune.lora.rank = 16
    config.finetune.lora.targets = ("blocks/",)
    model = {**dataclasses.asdict(models.preset("llama2-7b")), "preset": ""}
    model |= {"seq_len": 2048, "layers": "scan", "remat": "block", "attention_impl": "blockwise"}
    config.model.update({**model, "compute_dtype": "bfloat16"})
    config.train.update({"batch_size": 1, "steps": 1000, "param_dtype": "bfloat16"})
    config.train.loss_chunk = 256
    return config

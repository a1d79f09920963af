"""One GPT-2 small, 124M parameters, through the machinery of a sweep's cells.

    python -m gptjax.main --config=experiments/train_gpt2_small.py

12 layers of width 768 and GPT-2's vocabulary size, so that the parameters are the published
124,439,808; the corpus is the standard library's source under the byte tokenizer, so that nothing
has to be downloaded. For your own text: --config.data.source=text --config.data.path=DIR
--config.data.tokenizer=bpe --config.data.vocab_size=50257. Meant for an accelerator; to see it
work on a laptop: --config.model.depth=2 --config.model.width=64 --config.model.num_heads=2
--config.model.seq_len=128 --config.model.vocab_size=0 --config.train.tokens=1000000.
"""

import dataclasses

from ml_collections import ConfigDict

from gptjax import models
from gptjax.config import default_config


def get_config() -> ConfigDict:
    """GPT-2 small with GPT-3's optimizer settings for this size (Brown et al. 2020, table 2.1)."""
    config = default_config()
    config.experiment = "train_gpt2_small"
    config.job = "train"
    config.model.update({**dataclasses.asdict(models.preset("gpt2")), "preset": ""})
    config.optim.learning_rate = 6e-4
    config.optim.warmup_fraction = 0.01
    config.train.batch_size = 8
    config.train.tokens = 10_000_000
    config.train.evaluations = 4
    config.train.keep_best = True
    config.train.tensorboard = True
    return config

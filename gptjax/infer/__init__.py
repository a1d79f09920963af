"""Generation: from a model folder to text, token by token from caches.

>>> from gptjax import infer
>>> infer.sampling("greedy", max_tokens=3).temperature
0.0
"""

from gptjax.infer.batching import Batcher
from gptjax.infer.generate import Answer, generate, stream
from gptjax.infer.limits import Limits
from gptjax.infer.model import Model, load, prepare
from gptjax.infer.settings import PRESETS, Sampling, sampling

__all__ = [
    "PRESETS",
    "Answer",
    "Batcher",
    "Limits",
    "Model",
    "Sampling",
    "generate",
    "load",
    "prepare",
    "sampling",
    "stream",
]

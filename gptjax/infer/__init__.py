"""Generation: from a model folder to text, token by token from caches.

>>> from gptjax import infer
>>> infer.sampling("greedy", max_tokens=3).temperature
0.0
"""

from gptjax.infer.batching import Batcher
from gptjax.infer.beam import BeamSearch, beam_search
from gptjax.infer.generate import Answer, generate, stream
from gptjax.infer.limits import Limits
from gptjax.infer.model import Model, load, prepare
from gptjax.infer.settings import PRESETS, Sampling, sampling
from gptjax.infer.speculative import Gain, best_drafts, expected_tokens, speculate

__all__ = [
    "PRESETS",
    "Answer",
    "Batcher",
    "BeamSearch",
    "Gain",
    "Limits",
    "Model",
    "Sampling",
    "beam_search",
    "best_drafts",
    "expected_tokens",
    "generate",
    "load",
    "prepare",
    "sampling",
    "speculate",
    "stream",
]

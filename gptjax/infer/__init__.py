"""Generation: from a model folder to text, token by token from caches.

>>> from gptjax import infer
>>> infer.sampling("greedy", max_tokens=3).temperature
0.0
"""

from gptjax.infer.answers import best_of, best_right, majority, majority_right, pass_at_k
from gptjax.infer.batching import Batcher
from gptjax.infer.beam import BeamSearch, beam_search
from gptjax.infer.generate import Answer, generate, stream
from gptjax.infer.limits import Limits
from gptjax.infer.members import Contrast, Mixture, joined, streaming
from gptjax.infer.model import Model, for_few_rows, load, prepare, with_adapters
from gptjax.infer.pplm import Bag, Steering, steer
from gptjax.infer.settings import PRESETS, Sampling, sampling
from gptjax.infer.speculative import Gain, best_drafts, expected_tokens, speculate

__all__ = [
    "PRESETS",
    "Answer",
    "Bag",
    "Batcher",
    "BeamSearch",
    "Contrast",
    "Gain",
    "Limits",
    "Mixture",
    "Model",
    "Sampling",
    "Steering",
    "beam_search",
    "best_drafts",
    "best_of",
    "best_right",
    "expected_tokens",
    "for_few_rows",
    "generate",
    "joined",
    "load",
    "majority",
    "majority_right",
    "pass_at_k",
    "prepare",
    "sampling",
    "speculate",
    "steer",
    "stream",
    "streaming",
    "with_adapters",
]

"""Limits of a batcher: the size of its batch, which bounds its memory, and how it shares time."""

import dataclasses

from gptjax.fields import setting


@dataclasses.dataclass(frozen=True)
class Limits:
    """The size of a batcher, which bounds its memory, and how it shares time."""

    slots: int = setting(8, "requests that are answered at once", minimum=1, maximum=4096)
    length: int = setting(
        0,
        "tokens of the longest prompt and answer; 0: the model's context, 2048 without one",
        minimum=0,
    )
    waiting: int = setting(64, "requests that may wait for a slot", minimum=0)
    piece: int = setting(
        128,
        "prompt tokens that are read in one pass, between which the other requests go on; prefixes "
        "are shared in whole pieces",
        minimum=16,
    )
    steps: int = setting(4, "tokens of every slot between two looks at the queue", minimum=1)
    logprobs: int = setting(
        20, "most log-probabilities of other tokens that a request may ask for", minimum=0
    )

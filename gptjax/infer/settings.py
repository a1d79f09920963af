"""Settings of generation: how a token is chosen, when an answer ends, and published presets."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gptjax.errors import UserError
from gptjax.fields import make, setting


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How one answer is made; the requests of a batch may differ in everything here.

    Applied in this order: logit bias, penalties, temperature, top-k, top-p, min-p, locally typical.
    """

    max_tokens: int = setting(128, "most tokens of an answer", minimum=1)
    temperature: float = setting(1.0, "divides the logits; 0: the likeliest token", minimum=0.0)
    top_k: int = setting(0, "so many of the likeliest tokens stay, with ties; 0: all", minimum=0)
    top_p: float = setting(
        1.0,
        "nucleus: the fewest likeliest tokens stay that have this probability (Holtzman 2019)",
        above=0.0,
        maximum=1.0,
    )
    min_p: float = setting(
        0.0,
        "tokens stay that have this share of the likeliest's probability (Nguyen 2024)",
        minimum=0.0,
        maximum=1.0,
    )
    typical_p: float = setting(
        1.0,
        "locally typical: tokens of this probability stay whose surprise is nearest to the entropy "
        "(Meister 2022)",
        above=0.0,
        maximum=1.0,
    )
    repetition_penalty: float = setting(
        1.0, "CTRL: divides positive logits of tokens seen, multiplies negative ones", above=0.0
    )
    count_power: float = setting(
        0.0, "probabilities over count^α for tokens seen `count` times so far: α", minimum=0.0
    )
    presence_penalty: float = setting(0.0, "taken from the logit of each token seen")
    frequency_penalty: float = setting(0.0, "the same for each time that it was seen")
    penalize: str = setting(
        "answer",
        "tokens that penalties count: the answer's, or the prompt's too; end of document and chat "
        "markers never count",
        choices=("answer", "all"),
    )
    stop: tuple[str, ...] = setting((), "texts that end an answer, which does not include them")
    stop_ids: tuple[int, ...] = setting(
        (), "tokens that end it, besides the end of document", minimum=0
    )
    seed: int = setting(
        -1, "of this answer alone; -1: drawn from the batch's", minimum=-1, maximum=2**63 - 1
    )
    logprobs: int = setting(
        0,
        "likeliest tokens to report beside each; their log-probabilities are the model's own",
        minimum=0,
        maximum=100,
    )
    regex: str = setting(
        "", "the answer matches this regular expression as a whole (needs gptjax[constrained])"
    )
    json_schema: str = setting(
        "", "the answer is JSON of this schema, given as text (needs gptjax[constrained])"
    )


@dataclasses.dataclass(frozen=True)
class Sampling(SamplingConfig):
    """The settings, with what a request may give and a config may not.

    Attributes:
      logit_bias: added to the logits of single tokens, by id.
      own: settings of filters from outside, by name.
      adapter: a name of the model's adapters; "": the base alone.
    """

    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    adapter: str = ""


PRESETS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "gpt3": {"temperature": 0.7, "top_k": 40, "top_p": 0.9},
    "nucleus": {"top_p": 0.95},
}
"""Named settings: GPT-3's as users of its samples give them; nucleus as Holtzman et al. (2019)."""


def with_preset(given: SamplingConfig, preset: str) -> Sampling:
    """The settings, a preset's where they are at their defaults.

    >>> with_preset(SamplingConfig(top_k=5), "gpt3").top_k, with_preset(SamplingConfig(), "").top_k
    (5, 0)
    """
    plain = vars(SamplingConfig())
    changed = {name: value for name, value in vars(given).items() if value != plain[name]}
    return Sampling(**{**PRESETS.get(preset, {}), **changed})


def sampling(preset: str = "", **changes: Any) -> Sampling:
    """Checked settings: a preset's, with changes.

    Raises:
      UserError: for a preset or setting that is not known, or a value out of its limits.

    >>> sampling("gpt3", max_tokens=5).top_k
    40
    """
    if preset and preset not in PRESETS:
        raise UserError(f"sampling preset {preset!r} is not known; choose one of {[*PRESETS]}")
    bias = changes.pop("logit_bias", {})
    made = make(SamplingConfig, {**PRESETS.get(preset, {}), **changes}, "sampling")
    return Sampling(**vars(made), logit_bias=dict(bias))

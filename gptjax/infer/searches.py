"""Searches by name: how a batch of prompts is answered, as a config chooses it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.infer.beam import BeamSearch, beam_search
from gptjax.infer.generate import Answer, Prompt, generate
from gptjax.infer.model import Model, load
from gptjax.infer.settings import Sampling
from gptjax.infer.speculative import speculate

Found = tuple[list[Answer], str]
"""The answers, and a sentence about the search; "" where there is nothing to say."""


def _token_by_token(
    model: Model,
    prompts: Sequence[Prompt],
    requests: Sequence[Sampling],
    key: jax.Array,
    asked: "SearchConfig",
) -> Found:
    return generate(model, prompts, requests, key), ""


def _beam(
    model: Model,
    prompts: Sequence[Prompt],
    requests: Sequence[Sampling],
    key: jax.Array,
    asked: "SearchConfig",
) -> Found:
    for request in requests:
        _check_beam(request)
    first, *_ = requests
    search = BeamSearch(
        asked.beams,
        first.max_tokens,
        asked.length_penalty,
        asked.early_stopping,
        tuple(dict.fromkeys(one for request in requests for one in request.stop_ids)),
    )
    return [best for best, *_ in beam_search(model, prompts, search)], ""


def _check_beam(request: Sampling) -> None:
    """Refuse settings that a search for the likeliest answer does not follow.

    Raises:
      UserError: naming the first of them.
    """
    same = {"max_tokens", "seed", "stop_ids"}
    plain = dataclasses.replace(Sampling(), **{name: getattr(request, name) for name in same})
    for name, value in vars(request).items():
        if name == "temperature" and value == 0.0:
            continue
        if value != getattr(plain, name):
            raise UserError(
                f"sampling.{name}={value} is not followed by a beam search, which looks for the "
                "likeliest answer; leave it out, with preset=greedy, or use search.kind=sample"
            )


def _speculative(
    model: Model,
    prompts: Sequence[Prompt],
    requests: Sequence[Sampling],
    key: jax.Array,
    asked: "SearchConfig",
) -> Found:
    draft = load(asked.draft) if asked.draft else None
    answers, gain = speculate(model, prompts, requests, key, draft=draft, drafts=asked.drafts)
    return answers, (
        f"{gain.accepted:.0%} of the drafts were accepted, {gain.tokens_per_round:.2f} tokens a "
        "pass of the model"
    )


SEARCHES: dict[str, Callable[..., Found]] = {
    "sample": _token_by_token,
    "beam": _beam,
    "speculative": _speculative,
}


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """How answers are searched for."""

    kind: str = setting(
        "sample",
        "sample: token by token; beam: the likeliest answer among beams; speculative: drafts that "
        "one pass of the model checks, with the same distribution",
        choices=SEARCHES,
    )
    beams: int = setting(4, "beam: answers that are followed at a time", minimum=1)
    length_penalty: float = setting(
        1.0, "beam: power of the length that divides a score; above 0 favours long answers"
    )
    early_stopping: bool = setting(False, "beam: end with as many complete answers as beams")
    draft: str = setting(
        "",
        "speculative: folder of a smaller model of the same vocabulary; empty: drafts are looked "
        "up in the text",
    )
    drafts: int = setting(4, "speculative: tokens proposed at a time", minimum=1)


def search(
    model: Model,
    prompts: Sequence[Prompt],
    requests: Sequence[Sampling],
    key: jax.Array,
    asked: SearchConfig = SearchConfig(),
) -> Found:
    """The answers, and a sentence about the search.

    Raises:
      UserError: for settings that the search does not follow, as each of them has it.
    """
    found: Any = SEARCHES[asked.kind]
    return found(model, prompts, requests, key, asked)  # type: ignore[no-any-return]

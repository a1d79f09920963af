"""Beam search: the likeliest whole answers, by log-probability over a power of their length.

Only tokens of the answer are counted, its end included; the padding of a batch and the prompt never
are. The candidates of a step are found on the device; which of them go on is decided here.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.errors import UserError
from gptjax.infer import loop
from gptjax.infer.generate import SLOTS, Answer, Prompt, encoded, fitted, padded, width_of
from gptjax.infer.loop import Plan
from gptjax.infer.model import Model
from gptjax.infer.settings import Sampling
from gptjax.infer.text import Detokenizer


@dataclasses.dataclass(frozen=True)
class Beam:
    """One answer as far as it is, and the sum of its tokens' log-probabilities."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()

    def score(self, length_penalty: float) -> float:
        """Σ log P / length^penalty."""
        return sum(self.logprobs) / max(1, len(self.tokens)) ** length_penalty


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """Settings of a search.

    Attributes:
      beams: answers that are followed at a time.
      max_tokens: most tokens of an answer.
      length_penalty: the power of the length that divides a score; above 0 favours long answers.
      early_stopping: end with as many complete answers as beams; else only when no beam, at its
        present length, is better than the worst of them (as `transformers` has it).
      stop_ids: tokens that complete an answer, besides the end of document.
    """

    beams: int = 4
    max_tokens: int = 64
    length_penalty: float = 1.0
    early_stopping: bool = False
    stop_ids: tuple[int, ...] = ()


def beam_search(
    model: Model,
    prompts: Sequence[Prompt],
    search: BeamSearch = BeamSearch(),
) -> list[list[Answer]]:
    """Of each prompt the best answers, as many as beams, the best first.

    Raises:
      UserError: as `generate`, and for fewer than one beam.
    """
    if search.beams < 1:
        raise UserError(f"beams={search.beams} must be at least 1")
    ids = [encoded(model, prompt) for prompt in prompts]
    request = Sampling(max_tokens=search.max_tokens, stop_ids=search.stop_ids)
    limits = [fitted(model, prompt, request).max_tokens for prompt in ids]
    return _Search(model, search, ids, limits).to_the_end()


@functools.partial(jax.jit, static_argnames=("plan", "tokens", "most"))
def _begin(plan: Plan, params: Any, prompts: Any, counts: Any, *, tokens: int, most: int) -> Any:
    """(log-probabilities and ids of the first tokens, the cache)."""
    cache = loop.empty_cache(plan, prompts.shape[0], tokens)
    each_BTD, cache = loop.hidden(plan, params, cache, prompts, counts, fresh=True)
    return _likeliest(plan, params, loop.at_last(each_BTD, counts), most), cache


@functools.partial(jax.jit, static_argnames=("plan", "most"), donate_argnames="cache")
def _go_on(plan: Plan, params: Any, cache: Any, from_B: Any, token_B: Any, *, most: int) -> Any:
    """The same after one more token of each beam, which goes on from another one's cache."""
    cache = jax.tree.map(lambda leaf: leaf[from_B], cache)
    each_B1D, cache = loop.hidden(plan, params, cache, token_B[:, None], None)
    return _likeliest(plan, params, each_B1D, most), cache


def _likeliest(plan: Plan, params: Any, each_B1D: Any, most: int) -> tuple[Any, Any]:
    logits_BV = loop.logits(plan, params, each_B1D)[:, 0]
    values, ids = jax.lax.top_k(jax.nn.log_softmax(logits_BV), min(most, logits_BV.shape[-1]))
    return values, ids


class _Search:
    """A batch of searches: rows are prompts times beams."""

    def __init__(
        self, model: Model, search: BeamSearch, prompts: list[list[int]], limits: list[int]
    ) -> None:
        self.model, self.search, self.prompts, self.limits = model, search, prompts, limits
        self.running = [[Beam()] for _ in prompts]
        self.complete: list[list[Beam]] = [[] for _ in prompts]
        self.done = [False] * len(prompts)
        self.ends = (*model.end_ids, *search.stop_ids)

    def to_the_end(self) -> list[list[Answer]]:
        """Search until every prompt is done."""
        K, model = self.search.beams, self.model
        most = K * (1 + max(1, len(self.ends)))
        total = max(len(p) + n for p, n in zip(self.prompts, self.limits, strict=True))
        plan = Plan.of(model, total)
        many = [prompt for prompt in self.prompts for _ in range(K)]
        ids_BT, counts_BT = padded(many, width_of(max(map(len, many))))
        slots = -(-total // SLOTS) * SLOTS
        found, cache = _begin(plan, model.params, ids_BT, counts_BT, tokens=slots, most=most)
        for made in range(1, max(self.limits) + 1):
            values, tokens = (np.asarray(x) for x in found)
            origin = [self._step(row, values, tokens, made) for row in range(len(self.prompts))]
            if all(self.done):
                break
            from_B = jnp.asarray(
                [row * K + beam for row, some in enumerate(origin) for beam in some]
            )
            last = [b.tokens[-1] for some in self.running for b in self._filled(some)]
            found, cache = _go_on(
                plan, model.params, cache, from_B, jnp.asarray(last, jnp.int32), most=most
            )
        return [self._answers(row) for row in range(len(self.prompts))]

    def _filled(self, some: list[Beam]) -> list[Beam]:
        """As many as beams; the last stands for those that are missing."""
        return (some + [some[-1]] * self.search.beams)[: self.search.beams]

    def _step(self, row: int, values: np.ndarray, tokens: np.ndarray, made: int) -> list[int]:
        """Extend the beams of one prompt; which beam each of the next ones came from."""
        K, penalty, ends = self.search.beams, self.search.length_penalty, self.ends
        if self.done[row]:
            return list(range(K))
        candidates = [
            (sum(beam.logprobs) + float(value), number, int(token), float(value))
            for number, beam in enumerate(self.running[row])
            for value, token in zip(values[row * K + number], tokens[row * K + number], strict=True)
        ]
        candidates.sort(key=lambda one: -one[0])
        following: list[Beam] = []
        origin: list[int] = []
        for rank, (_, number, token, value) in enumerate(candidates):
            beam = self.running[row][number]
            longer = Beam((*beam.tokens, token), (*beam.logprobs, value))
            if token in ends:
                if rank < K:
                    self.complete[row].append(longer)
            elif len(following) < K:
                following.append(longer)
                origin.append(number)
        best = max((sum(b.logprobs) for b in following), default=-np.inf)
        self.complete[row].sort(key=lambda b: -b.score(penalty))
        del self.complete[row][K:]
        if made >= self.limits[row] or not following:
            self.complete[row] += following
            self.done[row] = True
        elif len(self.complete[row]) == K:
            worst = self.complete[row][-1].score(penalty)
            self.done[row] = self.search.early_stopping or worst >= best / made**penalty
        self.running[row] = following or self.running[row]
        return (origin + [origin[-1]] * K)[:K] if origin else list(range(K))

    def _answers(self, row: int) -> list[Answer]:
        penalty, prompt = self.search.length_penalty, tuple(self.prompts[row])
        ranked = sorted(self.complete[row], key=lambda beam: -beam.score(penalty))
        answers = []
        for beam in ranked[: self.search.beams]:
            ended = beam.tokens[-1] in self.ends
            shown = beam.tokens[:-1] if ended else beam.tokens
            text, _ = Detokenizer(self.model, prompt).text(shown)
            finish = "stop" if ended else "length"
            answers.append(Answer(prompt, beam.tokens, beam.logprobs, (), text, finish))
        return answers

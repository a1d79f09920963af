"""Answers to prompts: whole, or as they are made."""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import models
from gptjax.errors import UserError
from gptjax.infer import samplers
from gptjax.infer.constraints import Constraints
from gptjax.infer.loop import Plan, State, advance, prefill
from gptjax.infer.model import Model
from gptjax.infer.settings import Sampling
from gptjax.infer.text import Detokenizer

Prompt = str | Sequence[int]

CHUNK = 8
"""Tokens that are made between two looks at stop strings, and in one piece of a stream."""
SMALLEST, SLOTS = 16, 64
"""Shortest width of a prefill, and what a cache's length is a multiple of: few programs."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
      prompt: its ids.
      tokens: the answer's, with the one that ended it.
      logprobs: the model's log-probability of each, before any filter.
      top: of each place the likeliest tokens and their log-probabilities, where asked for.
      text: of the tokens, up to a stop string; "" without a tokenizer.
      finish: "stop" at an end of document, stop id or stop string, else "length".
      prompt_logprobs, prompt_top: the same of the prompt's tokens from the second on, where a
        batcher was asked to score it.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]
    text: str
    finish: str
    prompt_logprobs: tuple[float, ...] = ()
    prompt_top: tuple[tuple[tuple[int, float], ...], ...] = ()


def generate(
    model: Model,
    prompts: Sequence[Prompt],
    sampling: Sampling | Sequence[Sampling] = Sampling(),  # noqa: B008
    key: jax.Array | None = None,
    pictures: np.ndarray | None = None,
) -> list[Answer]:
    """The answer to each prompt, all of them in one batch.

    Args:
      prompts: texts or token ids.
      sampling: for all prompts, or one for each.
      key: of everything that is drawn; key 0 by default. A row's draws depend on the key, on its
        number and on nothing else of the batch.
      pictures: [prompts, rows, columns, channels], the picture before each, for `model.vision`.

    Raises:
      UserError: for an empty prompt, one that is too long, or ids that the model has not.
    """
    *_, answers = stream(model, prompts, sampling, key, pictures=pictures)
    return answers


def stream(
    model: Model,
    prompts: Sequence[Prompt],
    sampling: Sampling | Sequence[Sampling] = Sampling(),  # noqa: B008
    key: jax.Array | None = None,
    *,
    chunk: int = CHUNK,
    pictures: np.ndarray | None = None,
) -> Iterator[list[Answer]]:
    """All answers as far as they are, after every few tokens; the last are those of `generate`.

    While an answer grows its text leaves out what may still become a character or a stop string,
    and its `finish` is "".
    """
    if pictures is not None:
        # Ids of the places that a picture takes are not read; a prompt without them would be.
        places = (0,) * models.picture_places(model.config)
        prompts = [(*places, *encoded(model, prompt)) for prompt in prompts]
    batch = dataclasses.replace(Batch.of(model, prompts, sampling, key), pictures=pictures)
    state = batch.start()
    stopped = np.zeros(len(batch.requests), bool)
    chunk = 1 if batch.constraints else chunk
    for steps in itertools.chain([0], itertools.repeat(chunk)):
        if steps:
            done = state.done_B | stopped
            rows = batch.constraints.into(state.rows)
            state = dataclasses.replace(state, done_B=done, rows=rows)
            state = advance(batch.plan, batch.params, state, np.int32(steps))
        answers = batch.answers(state)
        for row, answer in enumerate(answers):
            batch.constraints.consume(row, answer.tokens)
        stopped = np.array([answer.finish != "" for answer in answers])
        yield answers
        if stopped.all():
            return


@dataclasses.dataclass(frozen=True)
class Batch:
    """Checked requests and what their programs need."""

    model: Model
    plan: Plan
    prompts: tuple[tuple[int, ...], ...]
    requests: tuple[Sampling, ...]
    keys: jax.Array
    constraints: Constraints
    pictures: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        model: Model,
        prompts: Sequence[Prompt],
        sampling: Sampling | Sequence[Sampling],
        key: jax.Array | None,
    ) -> "Batch":
        """Check and encode.

        Raises:
          UserError: as `generate`.
        """
        if isinstance(sampling, Sampling):
            sampling = [sampling] * len(prompts)
        assert len(sampling) == len(prompts), "one sampling for each prompt"
        if not prompts:
            raise UserError("there is no prompt; give at least one")
        ids = tuple(tuple(encoded(model, prompt)) for prompt in prompts)
        requests = tuple(
            fitted(model, prompt, request) for prompt, request in zip(ids, sampling, strict=True)
        )
        key = jax.random.key(0) if key is None else key
        keys = keys_of(requests, key)
        total = max(len(p) + r.max_tokens for p, r in zip(ids, requests, strict=True))
        top = max(request.logprobs for request in requests)
        plan = Plan.of(model, total, samplers.names_of(requests), top)
        return cls(model, plan, ids, requests, keys, Constraints.of(model, requests))

    @functools.cached_property
    def params(self) -> Any:
        """The model's parameters, with the adapter of each row where some row has one."""
        names = [request.adapter for request in self.requests]
        return self.model.adapters.params_of(names) if any(names) else self.model.params

    def start(self, *, spare: int = 0) -> State:
        """Prompts read, and the first token of each answer made.

        Args:
          spare: tokens for which the cache has room besides.
        """
        requests, V = self.requests, self.model.config.vocab_size
        limit_B = np.array([request.max_tokens for request in requests], np.int32)
        longest = max(map(len, self.prompts))
        total = max(len(p) + n for p, n in zip(self.prompts, limit_B, strict=True))
        prompts_BT, counts_BT = padded(self.prompts, width_of(longest))
        filters, spared = self.plan.filters, self.model.end_ids
        return prefill(
            self.plan,
            self.params,
            prompts_BT,
            counts_BT,
            self.constraints.into(samplers.rows_of(requests, V, filters)),
            samplers.memories_of(requests, self.prompts, V, spared, filters),
            self.keys,
            ends_of(self.model, requests),
            limit_B,
            self.pictures,
            tokens=-(-(total + spare) // SLOTS) * SLOTS,
            most=int(-(-limit_B.max() // SLOTS) * SLOTS),
        )

    def answers(self, state: State) -> list[Answer]:
        """The answers as far as they are."""
        found = jax.device_get(
            {
                "done": state.done_B,
                "made": state.made_B,
                "tokens": state.tokens_BM,
                "logprobs": state.logprobs_BM,
                "top_ids": state.top_ids_BMt,
                "top_logprobs": state.top_logprobs_BMt,
            }
        )
        return [self._answer(row, found) for row in range(len(self.requests))]

    def _answer(self, row: int, found: dict[str, Any]) -> Answer:
        request, made = self.requests[row], int(found["made"][row])
        return answer_of(
            self.model,
            self.prompts[row],
            request,
            found["tokens"][row, :made].tolist(),
            found["logprobs"][row, :made].tolist(),
            pairs(
                found["top_ids"][row, :made, : request.logprobs],
                found["top_logprobs"][row, :made, : request.logprobs],
            ),
            done=bool(found["done"][row]),
        )


def answer_of(
    model: Model,
    prompt: Sequence[int],
    request: Sampling,
    ids: Sequence[int],
    logprobs: Sequence[float],
    top: Sequence[tuple[tuple[int, float], ...]],
    *,
    done: bool,
) -> Answer:
    """The answer of these tokens, up to a stop string; `done`: there will be no more."""
    made, ends = len(ids), (*model.end_ids, *request.stop_ids)
    ended = bool(ids) and ids[-1] in ends
    words = Detokenizer(model, prompt, request.stop)
    shown = ids[:-1] if ended else ids
    text, stopped = words.text(shown, whole=done)
    if stopped:
        made = words.tokens_before_stop(shown)
    finish = "stop" if stopped or ended else "length" if done else ""
    return Answer(
        prompt=tuple(prompt),
        tokens=tuple(ids[:made]),
        logprobs=tuple(logprobs[:made]),
        top=tuple(top[:made]),
        text=text,
        finish=finish,
    )


def pairs(ids_Mt: np.ndarray, logprobs_Mt: np.ndarray) -> tuple[tuple[tuple[int, float], ...], ...]:
    """(id, log-probability) of the likeliest tokens at each place."""
    both = zip(ids_Mt.tolist(), logprobs_Mt.tolist(), strict=True)
    return tuple(tuple(zip(some, values, strict=True)) for some, values in both)


def keys_of(requests: Sequence[Sampling], key: jax.Array) -> jax.Array:
    """A key for each row: of its own seed, or of its number."""
    halves = [divmod(max(request.seed, 0), 2**32) for request in requests]
    seeds_2B = np.array(halves, np.uint32).T
    return _keys_of(seeds_2B, np.array([request.seed >= 0 for request in requests]), key)


@jax.jit  # as one program: each of its operations is else one for every number of rows
def _keys_of(seeds_2B: jax.Array, own_B: jax.Array, key: jax.Array) -> jax.Array:
    drawn_B = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(own_B)))
    return jnp.where(own_B, jax.vmap(_key_of)(*seeds_2B), drawn_B)


def key_of(seed: int) -> jax.Array:
    """The key of a seed of up to 63 bits; up to 32 it is JAX's own, which drops what is above."""
    return _key_of(*np.array(divmod(seed, 2**32), np.uint32))


@jax.jit
def _key_of(high: jax.Array, low: jax.Array) -> jax.Array:
    key = jax.random.key(low)
    return jnp.where(high == 0, key, jax.random.fold_in(key, high))


def encoded(model: Model, prompt: Prompt) -> list[int]:
    """The ids of a prompt.

    Raises:
      UserError: for an empty prompt, ids out of the vocabulary, and characters that the tokenizer
        has no ids for.
    """
    if isinstance(prompt, str):
        ids = model.encode_prompt(prompt)
        _refuse_unknown(model, prompt, ids)
    else:
        ids = _whole(prompt)
    if not ids:
        raise UserError("a prompt is empty; give at least one character or token")
    V = model.config.vocab_size
    beyond = [i for i in ids if not 0 <= i < V]
    if beyond:
        raise UserError(
            f"a prompt has the token {beyond[0]}, and {model.name} has {V}; give ids below {V}"
        )
    return ids


def _whole(ids: Sequence[int]) -> list[int]:
    try:
        return [operator.index(one) for one in ids]
    except TypeError as error:
        raise UserError(f"a prompt of token ids has one that is none ({error})") from error


def _refuse_unknown(model: Model, text: str, ids: Sequence[int]) -> None:
    """Refuse characters that become the tokenizer's one token for all that it does not know.

    A text may write that token itself where the tokenizer reads its name as the token.
    """
    unknown = getattr(model.tokenizer, "unknown", None)
    if unknown is None or unknown not in ids:
        return
    name = model.decode([unknown]).decode(errors="replace")
    pieces = text.split(name) if name else [text]
    if len(pieces) > 1 and not any(unknown in model.encode(piece) for piece in pieces):
        return
    found = [one for one in dict.fromkeys("".join(pieces)) if unknown in model.encode(one)]
    shown = repr(found[0]) if found else "a text"
    raise UserError(
        f"a prompt has {shown}, which the tokenizer of {model.name} does not know; leave it out, "
        "or give token ids"
    )


def fitted(model: Model, prompt: Sequence[int], request: Sampling) -> Sampling:
    """The request with no more tokens than the model's context has room for.

    Raises:
      UserError: for a prompt that fills the context, or tokens that the model has not.
    """
    V = model.config.vocab_size
    for name, ids in (("stop_ids", request.stop_ids), ("logit_bias", tuple(request.logit_bias))):
        if any(not 0 <= int(i) < V for i in ids):
            raise UserError(f"sampling.{name}={ids} has tokens beyond the {V} of {model.name}")
    if request.logprobs > V:
        raise UserError(
            f"sampling.logprobs={request.logprobs} is more than the {V} tokens of {model.name}"
        )
    if not all(request.stop):
        raise UserError(
            f"sampling.stop={request.stop} has an empty text, with which every answer begins; "
            "leave it out"
        )
    if request.stop and model.tokenizer is None:
        raise UserError(
            f"sampling.stop={request.stop} needs a tokenizer, which {model.name} has not; give "
            "sampling.stop_ids"
        )
    model.adapters.check(request.adapter)
    if not model.context:
        return request
    room = model.context - len(prompt)
    if room < 1:
        raise UserError(
            f"a prompt has {len(prompt)} tokens, and the context of {model.name} is "
            f"{model.context} with the answer; shorten it to {model.context - 1} or fewer"
        )
    return dataclasses.replace(request, max_tokens=min(request.max_tokens, room))


def width_of(longest: int) -> int:
    """The width of a prefill: a power of two, so that few programs serve all prompts.

    >>> width_of(3), width_of(17)
    (16, 32)
    """
    return max(SMALLEST, 1 << (longest - 1).bit_length())


def padded(prompts: Sequence[Sequence[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """(prompts_BT padded on the right, which tokens count)."""
    ids_BT = np.zeros((len(prompts), width), np.int32)
    for row, prompt in enumerate(prompts):
        ids_BT[row, : len(prompt)] = prompt
    lengths_B1 = np.array([len(prompt) for prompt in prompts])[:, None]
    return ids_BT, np.arange(width) < lengths_B1


def ends_of(model: Model, requests: Sequence[Sampling]) -> np.ndarray:
    """ids_Be that end each row's answer, −1 where a row has fewer."""
    each = [(*model.end_ids, *request.stop_ids) for request in requests]
    most = max(1, *map(len, each)) if each else 1
    return np.array([[*ids, *[-1] * (most - len(ids))] for ids in each], np.int32)

"""Continuous batching: requests enter and leave the slots of one batch at any step.

A static batch waits for its longest answer; here a slot that is done is given to the next request.
Prompts are read in pieces of one width, always by the same programs, so that a prefix which another
slot holds is copied in place of being computed, without a change of bits; and between two pieces
the others go on. Each row has settings, a seed and a place of its own: an answer equals the answer
that the same batcher gives when nothing else runs, bit for bit.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import models
from gptjax.errors import UserError
from gptjax.infer import loop, samplers, schedule
from gptjax.infer.constraints import Constraints, constraint_of
from gptjax.infer.constraints import check as check_constraint
from gptjax.infer.generate import (
    Answer,
    Prompt,
    answer_of,
    encoded,
    fitted,
    key_of,
    padded,
    pairs,
    width_of,
)
from gptjax.infer.limits import Limits
from gptjax.infer.loop import Plan, State
from gptjax.infer.model import Model
from gptjax.infer.schedule import FREE, Full
from gptjax.infer.settings import Sampling
from gptjax.models import Cache

STOP_IDS = 8
"""Most `stop_ids` of a request."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A checked request; `scores`: the log-probabilities of its prompt are wanted too."""

    prompt: tuple[int, ...]
    sampling: Sampling
    key: jax.Array
    scores: bool = False


@dataclasses.dataclass
class _Reading:
    """The prompt that is being read: its request, slot, tokens read, and cache."""

    number: int
    slot: int
    read: int
    cache: Any


@dataclasses.dataclass
class _Growing:
    """An answer as far as it is, after what was found of its prompt."""

    prompt_logprobs: list[float] = dataclasses.field(default_factory=list)
    prompt_top: list[tuple[tuple[int, float], ...]] = dataclasses.field(default_factory=list)
    ids: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    top: list[tuple[tuple[int, float], ...]] = dataclasses.field(default_factory=list)


class Batcher:
    """The slots of one model on its device; one thread calls `turn` while it is `busy`."""

    def __init__(
        self,
        model: Model,
        limits: Limits = Limits(),  # noqa: B008
        key: jax.Array | None = None,
    ) -> None:
        """Allocate the slots.

        Args:
          model: what answers.
          limits: slots and their length.
          key: of requests without a seed; key 0 by default, each folded with its number.

        Raises:
          UserError: for a length beyond the model's context, and for endless models.
        """
        if model.stream is not None:
            raise UserError(
                f"{model.name} forgets tokens, which slots are not built for; use infer.generate"
            )
        self.model, self.limits = model, limits
        self.length = _length(model, limits)
        self.key = jax.random.key(0) if key is None else key
        top = min(limits.logprobs, model.config.vocab_size)
        filters = tuple(name for name, one in samplers.FILTERS.items() if not one.joins)
        self.plan = Plan.of(model, self.length, filters, top)
        self.shares = all(map(models.rewinds, (model.config, *self.plan.others)))
        self.schedule = schedule.empty(limits.slots, limits.waiting)
        self.requests: dict[int, Request] = {}
        self.growing: dict[int, _Growing] = {}
        self.reading: _Reading | None = None
        self.read_tokens = self.shared_tokens = 0
        self.constraints = Constraints.free(limits.slots, model.config.vocab_size)
        self._last = -1
        self._of_rows: tuple[list[str], Any] | None = None
        self._state = self._allocate()

    def _allocate(self) -> State:
        """Empty slots, with arrays as those of a request that was read."""
        request = self._request([0], Sampling(max_tokens=1), 0)
        cache = _empty_cache(self.plan, self.length)
        _, each_B1D, cache = self._piece(cache, request.prompt, "", fresh=True)
        row = self._row_of(request, self.constraints.allowed_BV[0])
        one = _first(self.plan, self.model.params, cache, each_B1D, *row, most=self.length)
        state = _repeated(one, self.limits.slots)
        return dataclasses.replace(state, done_B=jnp.ones(self.limits.slots, bool))

    @property
    def busy(self) -> bool:
        """Whether a request is waiting, read or answered."""
        return bool(self.requests)

    @property
    def taken(self) -> int:
        """Slots that are taken."""
        return sum(slot.request != FREE for slot in self.schedule.slots)

    @property
    def cache_bytes(self) -> int:
        """Bytes of all slots' caches, and of the one that is being read."""
        configs = (self.model.config, *self.plan.others)
        held = sum(models.held_bytes(config, self.length) for config in configs)
        return held * (self.limits.slots + 1)

    def checked(self, prompt: Prompt, sampling: Sampling) -> tuple[tuple[int, ...], Sampling]:
        """The ids of a prompt, and its settings, if the batcher can answer them.

        Raises:
          UserError: for a request that is wrong or cannot fit.
        """
        ids = tuple(encoded(self.model, prompt))
        if len(ids) + sampling.max_tokens > self.length:
            raise UserError(
                f"a prompt of {len(ids)} tokens and {sampling.max_tokens} of its answer are more "
                f"than the {self.length} of a slot; shorten the prompt, or ask for "
                f"{max(self.length - len(ids), 0)} or fewer"
            )
        if sampling.logprobs > self.plan.top:
            raise UserError(
                f"sampling.logprobs={sampling.logprobs} is more than the {self.plan.top} that this "
                "batcher reports; ask for fewer"
            )
        if len(sampling.stop_ids) > STOP_IDS:
            raise UserError(
                f"sampling.stop_ids has {len(sampling.stop_ids)} tokens; give {STOP_IDS} or fewer"
            )
        joined = set(samplers.names_of([sampling])) - set(self.plan.filters)
        if joined:
            raise UserError(
                f"sampling.own={sorted(joined)} joins rows, and the slots of a batcher are apart; "
                "use infer.generate"
            )
        check_constraint(self.model, sampling)
        return ids, fitted(self.model, ids, sampling)

    def submit(
        self,
        prompt: Prompt,
        sampling: Sampling = Sampling(),  # noqa: B008
        *,
        scores: bool = False,
    ) -> int:
        """The number of a new request, which waits for a slot.

        Args:
          prompt: text or token ids.
          sampling: how it is answered.
          scores: report the log-probabilities of the prompt too, which is then read whole.

        Raises:
          Full: where too many wait.
          UserError: as `checked`.
        """
        return self.enqueue(*self.checked(prompt, sampling), scores=scores)

    def enqueue(self, ids: tuple[int, ...], sampling: Sampling, *, scores: bool = False) -> int:
        """`submit` for what `checked` returned."""
        number = self._last + 1
        self.schedule = schedule.queued(self.schedule, number)
        self._last = number
        request = self._request(ids, sampling, number)
        self.requests[number] = dataclasses.replace(request, scores=scores)
        self.growing[number] = _Growing()
        return number

    def cancel(self, number: int) -> None:
        """Forget a request; its slot is free at once. Nothing where it has ended."""
        if number not in self.requests:
            return
        for slot, one in enumerate(self.schedule.slots):
            if one.request == number:
                self.constraints.put(slot, None)
        self.schedule = schedule.left(self.schedule, number)
        if self.reading and self.reading.number == number:
            self.reading = None
        del self.requests[number], self.growing[number]

    def warm(self) -> None:
        """Compile the programs of every width, so that no request waits for one."""
        piece, asked = self.limits.piece, Sampling(max_tokens=1)
        widths = {min(16 << i, piece) for i in range(piece.bit_length())}
        lengths = sorted({n for w in widths for n in (w, piece + w) if n < self.length})
        self.answers([[0] * n for n in lengths], asked)
        self.schedule = schedule.empty(self.limits.slots, self.limits.waiting)
        self.read_tokens = self.shared_tokens = 0

    def turn(self) -> dict[int, Answer]:
        """Read a piece's tokens of prompts, give every slot a few tokens; the answers that grew.

        An answer that has ended has a `finish`, and its request is gone.
        """
        self._read()
        self._advance()
        return self._news()

    def answers(
        self, prompts: Sequence[Prompt], sampling: Sampling | Sequence[Sampling]
    ) -> list[Answer]:
        """The answers to all prompts, however many: the batch is kept full.

        Raises:
          UserError: as `submit`, before anything is computed.
        """
        each = [sampling] * len(prompts) if isinstance(sampling, Sampling) else sampling
        todo = [self.checked(*one) for one in zip(prompts, each, strict=True)][::-1]
        numbers: list[int] = []
        ended: dict[int, Answer] = {}
        while todo or self.busy:
            while todo and self.taken + len(self.schedule.waiting) < self.limits.slots:
                numbers.append(self.enqueue(*todo.pop()))
            ended |= {n: answer for n, answer in self.turn().items() if answer.finish}
        return [ended[number] for number in numbers]

    def _request(self, ids: Sequence[int], sampling: Sampling, number: int) -> Request:
        seeded = sampling.seed >= 0
        key = key_of(sampling.seed) if seeded else jax.random.fold_in(self.key, number)
        return Request(tuple(ids), sampling, key)

    def _read(self) -> None:
        """A piece of a prompt, or several short prompts of no more tokens together."""
        room = self.limits.piece
        while (ids := self._next_piece()) and len(ids) <= room:
            self._read_piece(ids)
            room -= len(ids)

    def _next_piece(self) -> tuple[int, ...]:
        """What comes next of the prompt that is being read, or of the first that waits."""
        if self.reading is None:
            self._begin()
        if self.reading is None:
            return ()
        read = self.reading.read
        return self.requests[self.reading.number].prompt[read : read + self.limits.piece]

    def _read_piece(self, ids: tuple[int, ...]) -> None:
        reading = self.reading
        assert reading is not None
        request = self.requests[reading.number]
        each_BTD, each_B1D, reading.cache = self._piece(
            reading.cache, ids, request.sampling.adapter, fresh=reading.read == 0
        )
        if request.scores:
            self._score(reading, request, each_BTD)
        reading.read += len(ids)
        self.read_tokens += len(ids)
        if reading.read == len(request.prompt):
            self._enter(reading, each_B1D)

    def _begin(self) -> None:
        """Give the first request that waits a slot, and copy what another slot holds of it."""
        if not self.schedule.waiting:
            return
        number = self.schedule.waiting[0]
        request = self.requests[number]
        piece = len(request.prompt) if request.scores else self.limits.piece
        entry = schedule.entry_of(self.schedule, self._told_apart(request), piece)
        if entry is None:
            return
        self.schedule = schedule.entered(self.schedule, entry)
        if entry.shared:
            cache = _row(self._state.cache, entry.source, entry.shared)
        else:
            cache = _empty_cache(self.plan, self.length)
        self.shared_tokens += entry.shared
        self.reading = _Reading(number, entry.slot, entry.shared, cache)

    def _score(self, reading: _Reading, request: Request, each_BTD: Sequence[jax.Array]) -> None:
        """Keep the log-probabilities of the tokens that follow those of a piece."""
        T, top = each_BTD[0].shape[1], request.sampling.logprobs
        after = request.prompt[reading.read + 1 :][:T]
        next_BT = np.zeros((1, T), np.int32)
        next_BT[0, : len(after)] = after
        found = _scored(self.plan, self.model.params, each_BTD, jnp.asarray(next_BT))
        logprobs_T, ids_Tt, values_Tt = (np.asarray(x)[0, : len(after)] for x in found)
        growing = self.growing[reading.number]
        growing.prompt_logprobs += logprobs_T.tolist()
        growing.prompt_top += pairs(ids_Tt[:, :top], values_Tt[:, :top])

    def _piece(
        self, cache: Any, ids: Sequence[int], adapter: str, *, fresh: bool
    ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...], Any]:
        ids_BT, counts_BT = padded([ids], min(width_of(len(ids)), self.limits.piece))
        params = self._params([adapter])
        return _read_piece(self.plan, params, cache, ids_BT, counts_BT, fresh=fresh)

    def _params(self, names: Sequence[str]) -> Any:
        """The parameters for rows of these adapters, kept while the rows stay."""
        if not self.model.adapters.names:
            return self.model.params
        if self._of_rows is None or self._of_rows[0] != names:
            self._of_rows = [*names], self.model.adapters.params_of(names)
        return self._of_rows[1]

    def _told_apart(self, request: Request) -> tuple[int, ...]:
        """The prompt as prefixes are compared: caches of other adapters hold other numbers."""
        V, adapter = self.model.config.vocab_size, request.sampling.adapter
        number = self.model.adapters.number(adapter)
        return tuple(id + V * number for id in request.prompt)

    def _enter(self, reading: _Reading, each_B1D: Sequence[jax.Array]) -> None:
        """Put the prompt's cache and the first token of its answer into the slot."""
        request, slot = self.requests[reading.number], reading.slot
        self.constraints.put(slot, constraint_of(self.model, request.sampling))
        allowed_V = self.constraints.allowed_BV[slot]
        row = self._row_of(request, allowed_V)
        self._state = _enter(
            self.plan, self.model.params, self._state, slot, reading.cache, each_B1D, *row
        )
        if self.constraints.rows[slot]:
            self.constraints.consume(slot, [int(self._state.token_B[slot])])
        if self.shares:
            self.schedule = schedule.filled(
                self.schedule, reading.slot, self._told_apart(request), self.limits.piece
            )
        self.reading = None

    def _row_of(self, request: Request, allowed_V: np.ndarray) -> tuple[Any, ...]:
        """What a row's first token is chosen by: settings, memories, key, ends and limit."""
        V, filters, asked = self.model.config.vocab_size, self.plan.filters, [request.sampling]
        rows = samplers.rows_of(asked, V, filters) | samplers.asked_of(asked, filters)
        ends = [*self.model.end_ids, *request.sampling.stop_ids]
        ends += [-1] * (len(self.model.end_ids) + STOP_IDS - len(ends))
        return (
            rows | {"allowed": allowed_V[None]},
            samplers.memories_of(asked, [request.prompt], V, self.model.end_ids, filters),
            request.key[None],
            np.array([ends], np.int32),
            np.array([request.sampling.max_tokens], np.int32),
        )

    def _active(self) -> dict[int, int]:
        """The request of each slot that makes tokens."""
        reading = self.reading.slot if self.reading else None
        slots = enumerate(self.schedule.slots)
        return {i: s.request for i, s in slots if s.request != FREE and i != reading}

    def _steps(self, active: dict[int, int]) -> int:
        """Tokens until the next look: up to the end of an answer for whose slot a request waits."""
        if not self.schedule.waiting:
            return self.limits.steps
        # The first token was made when the prompt entered.
        left = [
            self.requests[number].sampling.max_tokens - max(1, len(self.growing[number].ids))
            for number in active.values()
        ]
        return max(1, min(self.limits.steps, *left))

    def _advance(self) -> None:
        active = self._active()
        if not active:
            return
        idle_B = np.ones(self.limits.slots, bool)
        idle_B[list(active)] = False
        steps = 1 if self.constraints else self._steps(active)
        rows = self.constraints.into(self._state.rows)
        adapters = [""] * self.limits.slots
        for slot, number in active.items():
            adapters[slot] = self.requests[number].sampling.adapter
        self._state = _advance(
            self.plan,
            self._params(adapters),
            dataclasses.replace(self._state, rows=rows),
            jnp.asarray(idle_B),
            steps,
        )

    def _news(self) -> dict[int, Answer]:
        active = self._active()
        if not active:
            return {}
        top = any(self.requests[number].sampling.logprobs for number in active.values())
        found = _found(self._state, top=top)
        news = {}
        for slot, number in active.items():
            request, growing = self.requests[number], self.growing[number]
            done = self._grow(growing, request, slot, found)
            self.constraints.consume(slot, growing.ids)
            news[number] = self._answer(request, growing, done=done)
            if news[number].finish:
                self.cancel(number)
        return news

    def _answer(self, request: Request, growing: _Growing, *, done: bool) -> Answer:
        answer = answer_of(
            self.model,
            request.prompt,
            request.sampling,
            growing.ids,
            growing.logprobs,
            growing.top,
            done=done,
        )
        if not request.scores:
            return answer
        return dataclasses.replace(
            answer,
            prompt_logprobs=tuple(growing.prompt_logprobs),
            prompt_top=tuple(growing.prompt_top),
        )

    @staticmethod
    def _grow(growing: _Growing, request: Request, slot: int, found: dict[str, Any]) -> bool:
        """Add what is new; whether the row is done."""
        new = np.s_[slot, len(growing.ids) : int(found["made"][slot])]
        growing.ids += found["tokens"][new].tolist()
        growing.logprobs += found["logprobs"][new].tolist()
        top = request.sampling.logprobs
        if top:
            growing.top += pairs(
                found["top_ids"][new][:, :top], found["top_logprobs"][new][:, :top]
            )
        return bool(found["done"][slot])


def _found(state: State, *, top: bool) -> dict[str, Any]:
    """What answers are read from, on the host."""
    found = {
        "done": state.done_B,
        "made": state.made_B,
        "tokens": state.tokens_BM,
        "logprobs": state.logprobs_BM,
    }
    if top:
        found |= {"top_ids": state.top_ids_BMt, "top_logprobs": state.top_logprobs_BMt}
    return jax.device_get(found)  # type: ignore[no-any-return]


def _length(model: Model, limits: Limits) -> int:
    """Tokens of a slot."""
    if not limits.length:
        return model.context or 2048
    if model.context and limits.length > model.context:
        raise UserError(
            f"slots of {limits.length} tokens are longer than the context of {model.name}, "
            f"{model.context}; give length={model.context} or less"
        )
    return max(2, limits.length)


@functools.partial(jax.jit, static_argnames=("plan", "tokens"))
def _empty_cache(plan: Plan, tokens: int) -> Any:
    return loop.empty_cache(plan, 1, tokens)


@functools.partial(jax.jit, static_argnames="slots")
def _repeated(one: State, slots: int) -> State:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (slots, *x.shape[1:])), one)


@jax.jit
def _row(cache: Any, slot: jax.Array | int, tokens: jax.Array | int) -> Any:
    """A copy of one row of a cache, told to go on after so many tokens."""
    one = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, slot, 1), cache)
    read_B = jnp.full(1, tokens, jnp.int32)
    return jax.tree.map(
        lambda member: dataclasses.replace(member, tokens_B=read_B),
        one,
        is_leaf=lambda x: isinstance(x, Cache),
    )


@functools.partial(jax.jit, static_argnames=("plan", "fresh"), donate_argnames="cache")
def _read_piece(
    plan: Plan,
    params: Any,
    cache: Any,
    ids_BT: jax.Array,
    counts_BT: jax.Array,
    *,
    fresh: bool,
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...], Any]:
    """(x_BTD of each member, x_B1D after the last token that counts, the cache after it all)."""
    each_BTD, cache = loop.hidden(plan, params, cache, ids_BT, counts_BT, fresh=fresh)
    return each_BTD, loop.at_last(each_BTD, counts_BT), cache


@functools.partial(jax.jit, static_argnames="plan")
def _scored(
    plan: Plan, params: Any, each_BTD: Sequence[jax.Array], next_BT: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(log-probabilities of the next tokens, the likeliest ids, their log-probabilities)."""
    log_BTV = jax.nn.log_softmax(loop.logits(plan, params, each_BTD))
    values_BTt, ids_BTt = jax.lax.top_k(log_BTV, plan.top)
    return jnp.take_along_axis(log_BTV, next_BT[..., None], axis=-1)[..., 0], ids_BTt, values_BTt


@functools.partial(jax.jit, static_argnames=("plan", "most"))
def _first(
    plan: Plan, params: Any, cache: Any, each_B1D: Sequence[jax.Array], *row: Any, most: int
) -> State:
    logits_BV = loop.logits(plan, params, each_B1D)[:, 0]
    return loop.first(plan, cache, logits_BV, *row, most=most)


@functools.partial(jax.jit, static_argnames="plan", donate_argnames="state")
def _enter(
    plan: Plan,
    params: Any,
    state: State,
    slot: Any,
    cache: Any,
    each_B1D: Sequence[jax.Array],
    *row: Any,
) -> State:
    """The state with another row in a slot, in one program, which makes no copy of its cache."""
    one = _first(plan, params, cache, each_B1D, *row, most=state.tokens_BM.shape[1])
    return loop.put_row(state, slot, one)


@functools.partial(jax.jit, static_argnames="plan", donate_argnames="state")
def _advance(plan: Plan, params: Any, state: State, idle_B: jax.Array, steps: Any) -> State:
    """`loop.advance` where idle rows rest."""
    state = dataclasses.replace(state, done_B=state.done_B | idle_B)
    return loop.advance(plan, params, state, steps)


__all__ = ["Batcher", "Full", "Limits", "Request"]

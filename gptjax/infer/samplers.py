"""Samplers: pure functions from logits to a token, in the field's order, with settings by row.

A `Filter` changes logits; those that some row asks for are applied in the order of FILTERS: the
pool of rows, then as in `transformers` and vLLM bias, penalties, temperature, top-k, top-p, min-p,
typical. Then a token is drawn, with a key of each row's own. What a filter must remember is a
`Memory`.

Sets of likeliest tokens are found by bisection over the bits of a threshold: 32 sums in place of a
sort of the vocabulary, the same for every row's own setting, and ties stay together.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.infer.settings import Sampling

Rows = dict[str, Any]
"""The numbers of `Sampling` by name, one for each row of the batch."""
Memories = dict[str, Any]

ASKED = "asked:"
"""Before the name of a filter: the entry of Rows that tells which rows need it."""

SMALLEST_T = 1e-30
"""Below it the likeliest token is all that is drawn, and logits / T is no float32 any more."""

NUMBERS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "count_power",
    "presence_penalty",
    "frequency_penalty",
)


@dataclasses.dataclass(frozen=True)
class Filter:
    """One step between a model's logits and a draw.

    Attributes:
      apply: (logits_BV, settings of the rows, memories) → logits_BV; −inf: impossible.
      is_on: whether a request needs it; what no request of a batch needs is not computed.
      memory: a name of MEMORIES that it reads; "" for none.
      rows: its own arrays from the requests and the vocabulary, [B, …] by name.
      joins: whether a row's logits depend on other rows', which must then begin and end together:
        no filter of a batcher.
    """

    apply: Callable[[jax.Array, Rows, Memories], jax.Array]
    is_on: Callable[[Sampling], bool]
    memory: str = ""
    rows: Callable[[Sequence[Sampling], int], Rows] = lambda requests, vocabulary: {}
    joins: bool = False


@dataclasses.dataclass(frozen=True)
class Memory:
    """What filters remember of an answer.

    Attributes:
      start: (requests, prompts, vocabulary, ids that never count) → a pytree of [B, …].
      update: (pytree, token_B, counts_B: rows that go on) → pytree.
    """

    start: Callable[[Sequence[Sampling], Sequence[Sequence[int]], int, Sequence[int]], Any]
    update: Callable[[Any, jax.Array, jax.Array], Any]


def pick(
    logits_BV: jax.Array, rows: Rows, memories: Memories, key_B: jax.Array, names: tuple[str, ...]
) -> jax.Array:
    """token_B: filtered by the filters `names`, then drawn, or the likeliest where T = 0."""
    logits_BV = filtered(logits_BV.astype(jnp.float32), rows, memories, names)
    likeliest_B = jnp.argmax(logits_BV, axis=-1)
    if "temperature" not in names:
        return likeliest_B.astype(jnp.int32)
    drawn_B = _where_asked(
        rows,
        "temperature",
        lambda: jax.vmap(jax.random.categorical)(key_B, logits_BV),
        lambda: likeliest_B,
    )
    return jnp.where(rows["temperature"] == 0.0, likeliest_B, drawn_B).astype(jnp.int32)


def filtered(
    logits_BV: jax.Array, rows: Rows, memories: Memories, names: tuple[str, ...]
) -> jax.Array:
    """The logits after the filters `names`, in the order of FILTERS."""
    for name in FILTERS:
        if name in names:
            one = functools.partial(FILTERS[name].apply, logits_BV, rows, memories)
            logits_BV = _where_asked(rows, name, one, functools.partial(jnp.copy, logits_BV))
    return logits_BV


def asked_of(requests: Sequence[Sampling], names: tuple[str, ...]) -> Rows:
    """For rows of a program that has all filters: which rows need each of them.

    With these in the rows, a filter runs in a step only where some row asks for it.
    """
    is_on = {name: FILTERS[name].is_on for name in names}
    is_on["logprobs"] = lambda request: request.logprobs > 0
    return {
        ASKED + name: np.array([on(request) for request in requests]) for name, on in is_on.items()
    }


def likeliest(log_BV: jax.Array, rows: Rows, count: int) -> tuple[jax.Array, jax.Array]:
    """(values_Bt, ids_Bt) of the `count` largest of each row; zeros where no row asks for any."""
    B = log_BV.shape[0]
    none = jnp.zeros((B, count), log_BV.dtype), jnp.zeros((B, count), jnp.int32)
    return _where_asked(rows, "logprobs", lambda: tuple(jax.lax.top_k(log_BV, count)), lambda: none)


def _where_asked(rows: Rows, name: str, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """`yes()`, or `no()` where the rows say who asks for `name` and none does."""
    asked_B = rows.get(ASKED + name)
    return yes() if asked_B is None else jax.lax.cond(jnp.any(asked_B), yes, no)


def names_of(requests: Sequence[Sampling]) -> tuple[str, ...]:
    """The filters that some request needs."""
    return tuple(name for name, one in FILTERS.items() if any(map(one.is_on, requests)))


def rows_of(requests: Sequence[Sampling], vocabulary: int, names: tuple[str, ...]) -> Rows:
    """The settings of the requests as arrays of the host, which programs take as they are."""
    rows = {name: _float32([getattr(r, name) for r in requests]) for name in NUMBERS}
    T_B = rows["temperature"]
    rows["temperature"] = np.where(T_B < SMALLEST_T, np.float32(0.0), T_B)
    rows["top_k"] = np.array([min(r.top_k, vocabulary) for r in requests], np.int32)
    for name in names:
        rows |= FILTERS[name].rows(requests, vocabulary)
    return rows


def _float32(values: Sequence[float]) -> np.ndarray:
    """The values, those that float32 has not as its largest, and as its smallest above zero."""
    found, limits = np.array(values, np.float64), np.finfo(np.float32)
    small = (found > 0.0) & (found < limits.tiny)
    return np.where(small, limits.tiny, found.clip(limits.min, limits.max)).astype(np.float32)


def memories_of(
    requests: Sequence[Sampling],
    prompts: Sequence[Sequence[int]],
    vocabulary: int,
    spared: Sequence[int],
    names: tuple[str, ...],
) -> Memories:
    """What the filters `names` remember before the first token."""
    used = dict.fromkeys(FILTERS[name].memory for name in names if FILTERS[name].memory)
    return {name: MEMORIES[name].start(requests, prompts, vocabulary, spared) for name in used}


def remembered(memories: Memories, token_B: jax.Array, counts_B: jax.Array) -> Memories:
    """The memories after one more token of the rows that go on."""
    return {
        name: MEMORIES[name].update(memory, token_B, counts_B) for name, memory in memories.items()
    }


def likeliest_set(keys_BV: jax.Array, weights_BV: jax.Array, target_B: jax.Array) -> jax.Array:
    """bool [B, V]: the fewest entries with the largest keys whose weights reach the target.

    Entries as large as the smallest of them are in it too; all are where the target is not reached.

    >>> keys = jnp.array([[0.1, 0.4, 0.2, 0.3]])
    >>> likeliest_set(keys, keys, jnp.array([0.6])).tolist()
    [[False, True, False, True]]
    """
    # −0 has other bits than 0, and is as large.
    keys_BV = jnp.where(keys_BV == 0.0, 0.0, keys_BV).astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(keys_BV, jnp.uint32)
    negative = bits >> 31 == 1
    order_BV = jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31))

    def one(i: jax.Array, least_B: jax.Array) -> jax.Array:
        higher_B = least_B | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        mass_B = jnp.sum(jnp.where(order_BV >= higher_B[:, None], weights_BV, 0.0), axis=-1)
        return jnp.where(mass_B >= target_B, higher_B, least_B)

    least_B = jax.lax.fori_loop(0, 32, one, jnp.zeros(keys_BV.shape[0], jnp.uint32))
    return order_BV >= least_B[:, None]


def _only(logits_BV: jax.Array, stays: jax.Array) -> jax.Array:
    return jnp.where(stays, logits_BV, -jnp.inf)


def _pooled(logits_BV: jax.Array, rows: Rows, memories: Memories) -> jax.Array:
    """log Σ_z P(z)·P(token | z) over the rows z of a group, the same in each of them."""
    B = logits_BV.shape[0]
    weighted_BV = jax.nn.log_softmax(logits_BV) + rows["pool_weight"][:, None]
    most_BV = jax.ops.segment_max(weighted_BV, rows["pool"], num_segments=B)
    shares_BV = jnp.exp(weighted_BV - most_BV[rows["pool"]])
    sums_BV = jax.ops.segment_sum(shares_BV, rows["pool"], num_segments=B)
    return (most_BV + jnp.log(sums_BV))[rows["pool"]]


def _pooled_rows(requests: Sequence[Sampling], vocabulary: int) -> Rows:
    """The group of each row, a row without one in its own, and its log-weight there."""
    asked = [request.own.get("pooled") for request in requests]
    names = [("alone", i) if one is None else ("pool", one[0]) for i, one in enumerate(asked)]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    weights = [0.0 if one is None else one[1] for one in asked]
    return {
        "pool": np.array([numbers[name] for name in names], np.int32),
        "pool_weight": np.array(weights, np.float32),
    }


def _allowed(logits_BV: jax.Array, rows: Rows, memories: Memories) -> jax.Array:
    return _only(logits_BV, rows["allowed"])


def _allowed_rows(requests: Sequence[Sampling], vocabulary: int) -> Rows:
    """All tokens; who runs the loop says after each token what may come next (`Constraints`)."""
    return {"allowed": np.ones((len(requests), vocabulary), bool)}


def _bias(logits_BV: jax.Array, rows: Rows, memories: Memories) -> jax.Array:
    return logits_BV + rows["logit_bias"]


def _bias_rows(requests: Sequence[Sampling], vocabulary: int) -> Rows:
    bias_BV = np.zeros((len(requests), vocabulary), np.float32)
    for row, request in enumerate(requests):
        for token, value in request.logit_bias.items():
            bias_BV[row, int(token)] = value
    return {"logit_bias": bias_BV}


def _repetition(logits_BV: jax.Array, rows: Rows, memories: Memories) -> jax.Array:
    """Keskar et al., "CTRL" (2019), section 4.1, with the sign that its users add."""
    penalty_B1 = rows["repetition_penalty"][:, None]
    harder = jnp.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1)
    return jnp.where(memories["counts"]["counts"] > 0, harder, logits_BV)


def _count_power(logits_BV: jax.Array, rows: Rows, memories: Memories) -> jax.Array:
    log_count_BV = jnp.log(jnp.maximum(memories["counts"]["counts"], 1).astype(jnp.float32))
    return logits_BV - rows["count_power"][:, None] * log_count_BV


def _presence(logits_BV: jax.Array, rows: Rows, memories: Memories) -> jax.Array:
    counts_BV = memories["counts"]["counts"]
    return (
        logits_BV
        - rows["presence_penalty"][:, None] * (counts_BV > 0)
        - rows["frequency_penalty"][:, None] * counts_BV
    )


def _temperature(logits_BV: jax.Array, rows: Rows, memories: Memories) -> jax.Array:
    T_B = rows["temperature"]
    return logits_BV / jnp.where(T_B == 0.0, 1.0, T_B)[:, None]


def _top_k(logits_BV: jax.Array, rows: Rows, memories: Memories) -> jax.Array:
    k_B, V = rows["top_k"], logits_BV.shape[-1]
    wanted_B = jnp.where(k_B == 0, V, k_B).astype(jnp.float32)
    return _only(logits_BV, likeliest_set(logits_BV, jnp.ones_like(logits_BV), wanted_B))


def _top_p(logits_BV: jax.Array, rows: Rows, memories: Memories) -> jax.Array:
    p_B = rows["top_p"]
    stays = likeliest_set(logits_BV, jax.nn.softmax(logits_BV), p_B)
    return _only(logits_BV, stays | (p_B >= 1.0)[:, None])


def _min_p(logits_BV: jax.Array, rows: Rows, memories: Memories) -> jax.Array:
    least = jnp.max(logits_BV, axis=-1, keepdims=True) + jnp.log(rows["min_p"])[:, None]
    return _only(logits_BV, logits_BV >= least)


def _typical(logits_BV: jax.Array, rows: Rows, memories: Memories) -> jax.Array:
    log_BV = jax.nn.log_softmax(logits_BV)
    p_BV, possible = jnp.exp(log_BV), jnp.isfinite(log_BV)
    entropy_B1 = -jnp.sum(jnp.where(possible, p_BV * log_BV, 0.0), axis=-1, keepdims=True)
    nearness_BV = jnp.where(possible, -jnp.abs(-log_BV - entropy_B1), -jnp.inf)
    stays = likeliest_set(nearness_BV, p_BV, rows["typical_p"])
    return _only(logits_BV, stays | (rows["typical_p"] >= 1.0)[:, None])


def _start_counts(
    requests: Sequence[Sampling],
    prompts: Sequence[Sequence[int]],
    vocabulary: int,
    spared: Sequence[int],
) -> Any:
    counts_BV = np.zeros((len(requests), vocabulary), np.int32)
    weights_BV = np.ones((len(requests), vocabulary), np.int32)
    weights_BV[:, list(spared)] = 0
    for row, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
        if request.penalize == "all":
            np.add.at(counts_BV[row], np.asarray(prompt, np.int64), 1)
    return {"counts": counts_BV * weights_BV, "weights": weights_BV}


def _update_counts(memory: Any, token_B: jax.Array, counts_B: jax.Array) -> Any:
    B = jnp.arange(token_B.shape[0])
    counts_BV, weights_BV = map(jnp.asarray, (memory["counts"], memory["weights"]))
    more_B = weights_BV[B, token_B] * counts_B
    return {**memory, "counts": counts_BV.at[B, token_B].add(more_B)}


MEMORIES: dict[str, Memory] = {"counts": Memory(_start_counts, _update_counts)}
"""What filters remember; another package adds its own."""

FILTERS: dict[str, Filter] = {
    "pooled": Filter(_pooled, lambda r: "pooled" in r.own, rows=_pooled_rows, joins=True),
    "allowed": Filter(_allowed, lambda r: bool(r.regex or r.json_schema), rows=_allowed_rows),
    "logit_bias": Filter(_bias, lambda r: bool(r.logit_bias), rows=_bias_rows),
    "repetition_penalty": Filter(_repetition, lambda r: r.repetition_penalty != 1.0, "counts"),
    "count_power": Filter(_count_power, lambda r: r.count_power != 0.0, "counts"),
    "presence_penalty": Filter(
        _presence, lambda r: r.presence_penalty != 0.0 or r.frequency_penalty != 0.0, "counts"
    ),
    "temperature": Filter(_temperature, lambda r: r.temperature != 0.0),
    "top_k": Filter(_top_k, lambda r: r.top_k != 0 and r.temperature != 0.0),
    "top_p": Filter(_top_p, lambda r: r.top_p != 1.0 and r.temperature != 0.0),
    "min_p": Filter(_min_p, lambda r: r.min_p != 0.0 and r.temperature != 0.0),
    "typical_p": Filter(_typical, lambda r: r.typical_p != 1.0 and r.temperature != 0.0),
}
"""Filters in the order in which they are applied; another package adds its own at its place."""

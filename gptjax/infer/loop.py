"""The token loop: prefill in one pass, then a token a step, all of it compiled.

The state of a batch is one pytree whose every array has the rows first, so that a row can be put
into a slot of a larger batch at any time (`put_row`); rows are at places of their own, have their
own settings and keys, and never see each other. `advance` runs as many steps as it is told in one
call, and ends early when all rows are done.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import models
from gptjax.infer import samplers
from gptjax.infer.model import Model
from gptjax.infer.samplers import Memories, Rows
from gptjax.models import ModelConfig


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is compiled into the programs of a batch.

    Attributes:
      config: the model's.
      filters: names of FILTERS that some row needs.
      top: likeliest tokens that are reported beside each.
      length: of `models.rope_length`.
      others: configs of further members, whose parameters and caches follow in tuples.
      combine: the members' logits [B, T, V] → the logits to choose from, hashable; None: one
        member.
      stream: how a cache forgets (`models.Stream`); None: it does not.
    """

    config: ModelConfig
    filters: tuple[str, ...] = ()
    top: int = 0
    length: int | None = None
    others: tuple[ModelConfig, ...] = ()
    combine: Callable[[Sequence[jax.Array]], jax.Array] | None = None
    stream: models.Stream | None = None

    @classmethod
    def of(cls, model: Model, tokens: int, filters: tuple[str, ...] = (), top: int = 0) -> "Plan":
        """The plan of a model, or of joined ones, for texts of up to so many tokens."""
        return cls(
            model.config,
            filters,
            top,
            models.rope_length(model.config, tokens),
            tuple(other.config for other in model.others),
            model.combine,
            model.stream,
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """A batch of answers as far as they are.

    Attributes:
      cache: of all tokens but the last of each answer.
      token_B: the last token of each answer, which the cache does not hold yet.
      done_B: rows that have ended, or hold nothing.
      made_B: tokens of each answer.
      tokens_BM, logprobs_BM: the answers, and the model's own log-probability of each token.
      top_ids_BMt, top_logprobs_BMt: the likeliest tokens at each place.
      memories: of the filters.
      rows: the settings of each row.
      key_B: keys of the rows; the n-th token is drawn with the key folded with n.
      ends_Be: ids that end a row's answer; −1: none.
      limit_B: most tokens of each answer.
    """

    cache: Any  # Cache, or a tuple of the members'
    token_B: jax.Array
    done_B: jax.Array
    made_B: jax.Array
    tokens_BM: jax.Array
    logprobs_BM: jax.Array
    top_ids_BMt: jax.Array
    top_logprobs_BMt: jax.Array
    memories: Memories
    rows: Rows
    key_B: jax.Array
    ends_Be: jax.Array
    limit_B: jax.Array


@functools.partial(jax.jit, static_argnames=("plan", "tokens", "most"))
def prefill(
    plan: Plan,
    params: Any,
    prompts_BT: jax.Array,
    counts_BT: jax.Array,
    rows: Rows,
    memories: Memories,
    key_B: jax.Array,
    ends_Be: jax.Array,
    limit_B: jax.Array,
    pictures_BYXC: jax.Array | None = None,
    *,
    tokens: int,
    most: int,
) -> State:
    """The state after all prompts in one pass, with the first token of each answer.

    Args:
      prompts_BT, counts_BT: padded prompts, and which of their tokens count.
      pictures_BYXC: the picture before each prompt.
      tokens: slots of the cache.
      most: M, the longest answer.
    """
    B = prompts_BT.shape[0]
    cache = empty_cache(plan, B, tokens)
    if pictures_BYXC is not None:
        cache = dataclasses.replace(cache, seen=models.see(plan.config, params, pictures_BYXC))
    logits_BV, cache = _read(plan, params, cache, prompts_BT, counts_BT, fresh=True)
    return first(plan, cache, logits_BV, rows, memories, key_B, ends_Be, limit_B, most=most)


def first(
    plan: Plan,
    cache: Any,
    logits_BV: jax.Array,
    rows: Rows,
    memories: Memories,
    key_B: jax.Array,
    ends_Be: jax.Array,
    limit_B: jax.Array,
    *,
    most: int,
) -> State:
    """The state with the first token of each answer, from the logits after the prompts."""
    B = logits_BV.shape[0]
    state = State(
        cache=cache,
        token_B=jnp.zeros(B, jnp.int32),
        done_B=limit_B <= 0,
        made_B=jnp.zeros(B, jnp.int32),
        tokens_BM=jnp.zeros((B, most), jnp.int32),
        logprobs_BM=jnp.zeros((B, most), jnp.float32),
        top_ids_BMt=jnp.zeros((B, most, plan.top), jnp.int32),
        top_logprobs_BMt=jnp.zeros((B, most, plan.top), jnp.float32),
        memories=memories,
        rows=rows,
        key_B=key_B,
        ends_Be=ends_Be,
        limit_B=limit_B,
    )
    return _choose(plan, state, logits_BV)


@functools.partial(jax.jit, static_argnames="plan", donate_argnames="state")
def advance(plan: Plan, params: Any, state: State, steps: jax.Array) -> State:
    """The state after up to `steps` more tokens of every row; fewer where all rows are done."""

    def goes_on(carry: tuple[jax.Array, State]) -> jax.Array:
        step, state = carry
        return (step < steps) & ~jnp.all(state.done_B)

    def one(carry: tuple[jax.Array, State]) -> tuple[jax.Array, State]:
        step, state = carry
        return step + 1, _step(plan, params, state)

    return jax.lax.while_loop(goes_on, one, (jnp.zeros((), jnp.int32), state))[1]


def put_row(state: State, slot: jax.Array | int, one: State) -> State:
    """The state with the only row of `one` in a slot."""
    return jax.tree.map(lambda many, single: many.at[slot].set(single[0]), state, one)


def _step(plan: Plan, params: Any, state: State) -> State:
    tokens_B1, counts_B1 = state.token_B[:, None], ~state.done_B[:, None]
    logits_BV, cache = _read(plan, params, state.cache, tokens_B1, counts_B1)
    return _choose(plan, dataclasses.replace(state, cache=cache), logits_BV)


def empty_cache(plan: Plan, batch: int, tokens: int) -> Any:
    """The cache of the model, or of each member."""
    each = [
        models.init_cache(config, batch, tokens, plan.stream)
        for config in (plan.config, *plan.others)
    ]
    return tuple(each) if plan.combine else each[0]


def hidden(
    plan: Plan, params: Any, cache: Any, tokens_BT: Any, counts_BT: Any, *, fresh: bool = False
) -> tuple[tuple[jax.Array, ...], Any]:
    """(x_BTD of each member, the cache after the tokens)."""
    found = [
        models.decode(
            config,
            weights,
            kept,
            tokens_BT,
            counts_BT,
            fresh=fresh,
            length=plan.length,
            stream=plan.stream,
        )
        for config, weights, kept in zip(
            (plan.config, *plan.others),
            params if plan.combine else (params,),
            cache if plan.combine else (cache,),
            strict=True,
        )
    ]
    caches = tuple(cache for _, cache in found)
    return tuple(x_BTD for x_BTD, _ in found), caches if plan.combine else caches[0]


def logits(plan: Plan, params: Any, each_BTD: Sequence[jax.Array]) -> jax.Array:
    """logits_BTV from the members' x_BTD."""
    if plan.combine is None:
        return models.logits(plan.config, params, each_BTD[0])
    configs = (plan.config, *plan.others)
    return plan.combine(
        [models.logits(*one) for one in zip(configs, params, each_BTD, strict=True)]
    )


def at_last(each_BTD: Sequence[jax.Array], counts_BT: jax.Array) -> tuple[jax.Array, ...]:
    """The members' x_B1D of the last token of each row that counts."""
    last_B = jnp.max(jnp.where(counts_BT, jnp.arange(counts_BT.shape[1]), 0), axis=1)
    return tuple(jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1) for x_BTD in each_BTD)


def _read(
    plan: Plan, params: Any, cache: Any, tokens_BT: Any, counts_BT: Any, *, fresh: bool = False
) -> tuple[jax.Array, Any]:
    """(logits_BV after the last token of each row that counts, the cache)."""
    each_BTD, cache = hidden(plan, params, cache, tokens_BT, counts_BT, fresh=fresh)
    return logits(plan, params, at_last(each_BTD, counts_BT))[:, 0], cache


def _choose(plan: Plan, state: State, logits_BV: jax.Array) -> State:
    """The state with one more token in every row that goes on."""
    goes_on_B = ~state.done_B
    key_B = jax.vmap(jax.random.fold_in)(state.key_B, state.made_B)
    token_B = samplers.pick(logits_BV, state.rows, state.memories, key_B, plan.filters)
    token_B = jnp.where(goes_on_B, token_B, state.token_B)
    log_BV = jax.nn.log_softmax(logits_BV)
    B, M = state.tokens_BM.shape
    row_B, place_B = jnp.arange(B), jnp.where(goes_on_B, state.made_B, M)

    def written(x: jax.Array, y: jax.Array) -> jax.Array:
        return x.at[row_B, place_B].set(y, mode="drop")

    top_logprobs, top_ids = state.top_logprobs_BMt, state.top_ids_BMt
    if plan.top:
        values_Bt, ids_Bt = samplers.likeliest(log_BV, state.rows, plan.top)
        top_logprobs, top_ids = written(top_logprobs, values_Bt), written(top_ids, ids_Bt)
    made_B = state.made_B + goes_on_B
    ended_B = jnp.any(token_B[:, None] == state.ends_Be, axis=1) | (made_B >= state.limit_B)
    return dataclasses.replace(
        state,
        token_B=token_B,
        done_B=state.done_B | ended_B,
        made_B=made_B,
        tokens_BM=written(state.tokens_BM, token_B),
        logprobs_BM=written(state.logprobs_BM, log_BV[row_B, token_B]),
        top_ids_BMt=top_ids,
        top_logprobs_BMt=top_logprobs,
        memories=samplers.remembered(state.memories, token_B, goes_on_B),
    )

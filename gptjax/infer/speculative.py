"""Speculative decoding: several tokens are proposed cheaply and checked in one pass of the model.

Leviathan et al. (2023) and Chen et al. (2023): a proposal d is accepted with probability
min(1, p(d)/q(d)); at the first refusal a token is drawn from (p − q)+ instead, and after n accepted
ones a further token from p. The answer has the model's own distribution, whatever proposes: a small
model, or what followed the last two tokens earlier in the text.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import models
from gptjax.errors import UserError
from gptjax.infer import samplers
from gptjax.infer.generate import SLOTS, Answer, Batch, Prompt, padded, width_of
from gptjax.infer.loop import Plan, State
from gptjax.infer.model import Model
from gptjax.infer.settings import Sampling


@dataclasses.dataclass(frozen=True)
class Gain:
    """What speculation did.

    Attributes:
      accepted: share of the proposals that were accepted where all before them were.
      rounds: passes of the model, over the rows.
      tokens: that they made.
    """

    accepted: float
    rounds: int
    tokens: int

    @property
    def tokens_per_round(self) -> float:
        """Tokens that a pass of the model makes; plain decoding makes one."""
        return self.tokens / max(1, self.rounds)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Run:
    """The answers, the proposer's cache, the text for look-up, and counts by row."""

    state: State
    draft: Any
    text_BL: jax.Array
    length_B: jax.Array
    rounds_B: jax.Array
    tried_B: jax.Array
    accepted_B: jax.Array


def speculate(
    model: Model,
    prompts: Sequence[Prompt],
    sampling: Sampling | Sequence[Sampling] = Sampling(),  # noqa: B008
    key: jax.Array | None = None,
    *,
    draft: Model | None = None,
    drafts: int = 4,
) -> tuple[list[Answer], Gain]:
    """The answers of `generate` in distribution, and what was gained; greedy ones are the same.

    Args:
      draft: a smaller model of the same vocabulary; None: proposals are looked up in the text.
      drafts: tokens proposed at a time.

    Raises:
      UserError: as `generate`; for penalties, and for a draft with another vocabulary.
    """
    batch = Batch.of(model, prompts, sampling, key)
    _check(batch, draft, drafts)
    run = _start(batch, draft, drafts)
    config = None if draft is None else draft.config
    params = (batch.params, None if draft is None else draft.params)
    run = _to_the_end(batch.plan, config, drafts, params, run)
    rounds, tried, accepted = (int(jnp.sum(x)) for x in (run.rounds_B, run.tried_B, run.accepted_B))
    made = int(jnp.sum(run.state.made_B)) - len(batch.requests)
    return batch.answers(run.state), Gain(accepted / max(1, tried), rounds, made)


def expected_tokens(acceptance: float, drafts: int) -> float:
    """(1 − a^(n+1))/(1 − a): tokens of a round whose proposals are accepted independently.

    Leviathan et al. (2023), equation 1.

    >>> expected_tokens(0.5, 1), expected_tokens(1.0, 3)
    (1.5, 4.0)
    """
    return float(sum(acceptance**i for i in range(drafts + 1)))


def best_drafts(
    acceptance: float, draft_seconds: float, pass_seconds: Mapping[int, float]
) -> tuple[int, float]:
    """(number of drafts, tokens per second over those without) that measured costs promise.

    Args:
      draft_seconds: of one proposed token.
      pass_seconds: of a pass of the model over 1 + n tokens, by n; with n = 0, plain decoding.

    >>> best_drafts(0.9, 0.0, {0: 1.0, 1: 1.0, 2: 5.0})
    (1, 1.9)
    """
    speeds = {
        n: expected_tokens(acceptance, n) / (n * draft_seconds + seconds)
        for n, seconds in pass_seconds.items()
    }
    best = max(speeds, key=lambda n: speeds[n])
    return best, round(speeds[best] * pass_seconds[0], 12)


def _check(batch: Batch, draft: Model | None, drafts: int) -> None:
    if drafts < 1:
        raise UserError(f"drafts={drafts} must be at least 1")
    for model in (batch.model, *([draft] if draft else [])):
        if model.others or model.stream is not None:
            raise UserError(
                f"{model.name} joins models or forgets tokens, and speculative decoding goes back "
                "in one cache of all tokens; decode without drafts"
            )
    if draft is not None and draft.config.vocab_size != batch.model.config.vocab_size:
        raise UserError(
            f"{draft.name} has {draft.config.vocab_size} tokens and {batch.model.name} "
            f"{batch.model.config.vocab_size}; a draft must have the same vocabulary"
        )
    if batch.constraints:
        raise UserError(
            "sampling.regex and sampling.json_schema are followed token by token, and speculative "
            "decoding checks several at once; leave them out, or decode without drafts"
        )
    remember = [name for name in batch.plan.filters if samplers.FILTERS[name].memory]
    if remember:
        raise UserError(
            f"sampling.{remember[0]} changes with every token, and speculative decoding checks "
            "several at once; leave it at its default, or decode without drafts"
        )


def _start(batch: Batch, draft: Model | None, drafts: int) -> _Run:
    """The prompts read by the model and by the draft, room for refused tokens in both."""
    state = batch.start(spare=drafts + 1)
    B, longest = len(batch.prompts), max(map(len, batch.prompts))
    cache = None
    if draft is not None:
        ids_BT, counts_BT = padded(batch.prompts, width_of(longest))
        slots = -(-(longest + state.tokens_BM.shape[1] + drafts + 1) // SLOTS) * SLOTS
        cache = _read(draft.config, draft.params, ids_BT, counts_BT, slots=slots)
    text_BL = np.zeros((B, longest + state.tokens_BM.shape[1] + drafts + 2), np.int32)
    for row, prompt in enumerate(batch.prompts):
        text_BL[row, : len(prompt)] = prompt
    length_B = jnp.asarray([len(prompt) for prompt in batch.prompts], jnp.int32)
    text = jnp.asarray(text_BL).at[jnp.arange(B), length_B].set(state.token_B)
    none = (jnp.zeros(B, jnp.int32) for _ in range(3))
    return _Run(state, cache, text, length_B + 1, *none)


@functools.partial(jax.jit, static_argnames=("config", "slots"))
def _read(config: Any, params: Any, ids_BT: Any, counts_BT: Any, *, slots: int) -> Any:
    cache = models.init_cache(config, ids_BT.shape[0], slots)
    return models.decode(config, params, cache, ids_BT, counts_BT, fresh=True)[1]


@functools.partial(jax.jit, static_argnames=("plan", "draft", "drafts"), donate_argnames="run")
def _to_the_end(plan: Plan, draft: Any, drafts: int, params: Any, run: _Run) -> _Run:
    def goes_on(run: _Run) -> jax.Array:
        return ~jnp.all(run.state.done_B)

    def one(run: _Run) -> _Run:
        return _round(plan, draft, drafts, params, run)

    return jax.lax.while_loop(goes_on, one, run)


def _round(plan: Plan, draft: Any, drafts: int, params: Any, run: _Run) -> _Run:
    """One pass of the model over the last token and the proposals after it."""
    state = run.state
    key_B = jax.vmap(jax.random.fold_in)(state.key_B, state.made_B)
    keys = jax.vmap(lambda key: jax.random.split(key, drafts + 2))(key_B)
    if draft is None:
        tokens_Bn, q_BnV = _look_up(run, drafts, plan.config.vocab_size)
        after = None
    else:
        tokens_Bn, q_BnV, after = _propose(plan, draft, drafts, params[1], run, keys)
    checked = jnp.concatenate([state.token_B[:, None], tokens_Bn], axis=1)
    counts = jnp.broadcast_to(~state.done_B[:, None], checked.shape)
    x, cache = models.decode(
        plan.config, params[0], state.cache, checked, counts, length=plan.length
    )
    logits_BmV = models.logits(plan.config, params[0], x)
    if _draws(plan):
        p_BmV = _probabilities(plan, state, logits_BmV)
        count_B, last_B = accept(p_BmV, q_BnV, tokens_Bn, keys[:, drafts], keys[:, drafts + 1])
    else:
        count_B, last_B = agree(_likeliest(plan, state, logits_BmV), tokens_Bn)
    kept_Bm = jnp.arange(drafts + 1) <= count_B[:, None]
    moved_B = jnp.where(state.done_B, 0, count_B + 1)
    cache = _settled(plan.config, params[0], state.cache, cache, checked, kept_Bm, moved_B, plan)
    if draft is not None:
        after = _settled(draft, params[1], run.draft, after, checked, kept_Bm, moved_B, plan)
    new_Bm = jnp.concatenate([tokens_Bn, tokens_Bn[:, :1]], axis=1)
    new_Bm = jnp.where(jnp.arange(drafts + 1) == count_B[:, None], last_B[:, None], new_Bm)
    run = dataclasses.replace(run, draft=after)
    return _written(run, cache, new_Bm, count_B, logits_BmV, plan.top)


def accept(
    p_BmV: jax.Array, q_BnV: jax.Array, tokens_Bn: jax.Array, try_B: jax.Array, draw_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(proposals accepted, the token after them) of each row.

    Args:
      p_BmV: the model's probabilities, m = n + 1.
      q_BnV: those by which the tokens were proposed.
      try_B, draw_B: keys.
    """
    n = tokens_Bn.shape[1]
    p_Bn, q_Bn = (
        jnp.take_along_axis(x[:, :n], tokens_Bn[..., None], axis=2)[..., 0] for x in (p_BmV, q_BnV)
    )
    u_Bn = jax.vmap(lambda key: jax.random.uniform(key, (n,)))(try_B)
    accepted_Bn = u_Bn * q_Bn < p_Bn
    count_B = jnp.sum(jnp.cumprod(accepted_Bn, axis=1), axis=1)
    padded_BmV = jnp.pad(q_BnV, ((0, 0), (0, 1), (0, 0)))  # nothing is proposed after the last
    here = count_B[:, None, None]
    p_BV, q_BV = (jnp.take_along_axis(x, here, axis=1)[:, 0] for x in (p_BmV, padded_BmV))
    rest_BV = residual(p_BV, q_BV)
    last_B = jax.vmap(jax.random.categorical)(draw_B, jnp.log(rest_BV))
    return count_B, last_B.astype(jnp.int32)


def agree(likeliest_Bm: jax.Array, tokens_Bn: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`accept` where all probability is on the likeliest tokens: no draw, no softmax.

    >>> agree(jax.numpy.array([[5, 6, 7]]), jax.numpy.array([[5, 9]]))[1].tolist()
    [6]
    """
    same_Bn = likeliest_Bm[:, :-1] == tokens_Bn
    count_B = jnp.sum(jnp.cumprod(same_Bn, axis=1), axis=1)
    return count_B, jnp.take_along_axis(likeliest_Bm, count_B[:, None], axis=1)[:, 0]


def residual(p_BV: jax.Array, q_BV: jax.Array) -> jax.Array:
    """(p − q)+, not normed; p where nothing is left, which only rounding brings about."""
    rest_BV = jnp.maximum(p_BV - q_BV, 0.0)
    return jnp.where(jnp.sum(rest_BV, axis=1, keepdims=True) > 0.0, rest_BV, p_BV)


def _draws(plan: Plan) -> bool:
    """Whether some row draws its tokens."""
    return "temperature" in plan.filters


def _likeliest(plan: Plan, state: State, logits_BmV: jax.Array) -> jax.Array:
    """The token that is likeliest at each place, after the filters."""

    def at(logits_BV: jax.Array) -> jax.Array:
        left_BV = samplers.filtered(logits_BV, state.rows, state.memories, plan.filters)
        return jnp.argmax(left_BV, axis=-1).astype(jnp.int32)

    return jax.vmap(at, in_axes=1, out_axes=1)(logits_BmV)


def _probabilities(plan: Plan, state: State, logits_BmV: jax.Array) -> jax.Array:
    """Of the filtered logits at each place; all on the likeliest token where T = 0."""

    def at(logits_BV: jax.Array) -> jax.Array:
        left_BV = samplers.filtered(logits_BV, state.rows, state.memories, plan.filters)
        p_BV = jax.nn.softmax(left_BV)
        best_BV = jax.nn.one_hot(jnp.argmax(left_BV, axis=-1), left_BV.shape[-1])
        return jnp.where(state.rows["temperature"][:, None] == 0.0, best_BV, p_BV)

    return jax.vmap(at, in_axes=1, out_axes=1)(logits_BmV)


def _propose(
    plan: Plan, draft: Any, drafts: int, params: Any, run: _Run, keys: jax.Array
) -> tuple[jax.Array, jax.Array, Any]:
    """(tokens_Bn, q_BnV, the draft's cache after all of them)."""
    state, cache, token_B = run.state, run.draft, run.state.token_B
    tokens, probabilities = [], []
    for number in range(drafts + 1):
        x_B1D, cache = models.decode(draft, params, cache, token_B[:, None], ~state.done_B[:, None])
        if number == drafts:
            break
        logits_B1V = models.logits(draft, params, x_B1D)
        if _draws(plan):
            q_BV = _probabilities(plan, state, logits_B1V)[:, 0]
            token_B = jax.vmap(jax.random.categorical)(keys[:, number], jnp.log(q_BV))
            token_B = token_B.astype(jnp.int32)
        else:
            token_B = _likeliest(plan, state, logits_B1V)[:, 0]
            q_BV = jax.nn.one_hot(token_B, logits_B1V.shape[-1])
        tokens.append(token_B)
        probabilities.append(q_BV)
    return jnp.stack(tokens, axis=1), jnp.stack(probabilities, axis=1), cache


def _look_up(run: _Run, drafts: int, vocabulary: int) -> tuple[jax.Array, jax.Array]:
    """What followed the last two tokens where they last stood before (Saxena, 2023)."""
    text_BL, place_B1 = run.text_BL, run.length_B[:, None] - 1
    L = text_BL.shape[1]
    last, before = (
        jnp.take_along_axis(text_BL, jnp.maximum(place_B1 - i, 0), axis=1) for i in (0, 1)
    )
    shifted_BL = jnp.pad(text_BL, ((0, 0), (1, 0)), constant_values=-1)[:, :L]
    same = (text_BL == last) & (shifted_BL == before) & (jnp.arange(L) < place_B1)
    found_B1 = jnp.max(jnp.where(same, jnp.arange(L), 0), axis=1, keepdims=True)
    places_Bn = jnp.minimum(found_B1 + 1 + jnp.arange(drafts), place_B1)
    tokens_Bn = jnp.take_along_axis(text_BL, places_Bn, axis=1)
    return tokens_Bn, jax.nn.one_hot(tokens_Bn, vocabulary)


def _settled(
    config: Any,
    params: Any,
    before: Any,
    after: Any,
    tokens_Bm: jax.Array,
    kept_Bm: jax.Array,
    moved_B: jax.Array,
    plan: Plan,
) -> Any:
    """The cache after the accepted tokens alone: told so, or computed again where it cannot."""
    if models.rewinds(config):
        return dataclasses.replace(after, tokens_B=before.tokens_B + moved_B)
    counts_Bm = kept_Bm & (moved_B > 0)[:, None]
    length = plan.length if config == plan.config else None
    return models.decode(config, params, before, tokens_Bm, counts_Bm, length=length)[1]


def _written(
    run: _Run, cache: Any, new_Bm: jax.Array, count_B: jax.Array, logits_BmV: jax.Array, top: int
) -> _Run:
    """The accepted tokens and the one after them, up to an end or the limit."""
    state, m = run.state, new_Bm.shape[1]
    goes_on_B, step_m = ~state.done_B, jnp.arange(m)
    ends_Bm = jnp.any(new_Bm[:, :, None] == state.ends_Be[:, None], axis=2)
    first_B = jnp.min(jnp.where(ends_Bm, step_m, m), axis=1)
    made_B = jnp.minimum(jnp.minimum(count_B, first_B) + 1, state.limit_B - state.made_B)
    made_B = jnp.where(goes_on_B, made_B, 0)
    row_B1, M = jnp.arange(new_Bm.shape[0])[:, None], state.tokens_BM.shape[1]
    place_Bm = jnp.where(step_m < made_B[:, None], state.made_B[:, None] + step_m, M)
    log_BmV = jax.nn.log_softmax(logits_BmV)
    log_Bm = jnp.take_along_axis(log_BmV, new_Bm[..., None], axis=2)[..., 0]
    values_Bmt, ids_Bmt = jax.vmap(
        lambda log_BV: samplers.likeliest(log_BV, state.rows, top), in_axes=1, out_axes=1
    )(log_BmV)

    def written(x: jax.Array, y: jax.Array) -> jax.Array:
        return x.at[row_B1, place_Bm].set(y, mode="drop")

    last_B = jnp.take_along_axis(new_Bm, jnp.maximum(made_B - 1, 0)[:, None], axis=1)[:, 0]
    total_B = state.made_B + made_B
    ended_B = (first_B < made_B) | (total_B >= state.limit_B)
    L = run.text_BL.shape[1]
    text_place_Bm = jnp.where(step_m < made_B[:, None], run.length_B[:, None] + step_m, L)
    return dataclasses.replace(
        run,
        state=dataclasses.replace(
            state,
            cache=cache,
            token_B=jnp.where(goes_on_B, last_B, state.token_B),
            done_B=state.done_B | (goes_on_B & ended_B),
            made_B=total_B,
            tokens_BM=written(state.tokens_BM, new_Bm),
            logprobs_BM=written(state.logprobs_BM, log_Bm),
            top_ids_BMt=written(state.top_ids_BMt, ids_Bmt),
            top_logprobs_BMt=written(state.top_logprobs_BMt, values_Bmt),
        ),
        text_BL=run.text_BL.at[row_B1, text_place_Bm].set(new_Bm, mode="drop"),
        length_B=run.length_B + made_B,
        rounds_B=run.rounds_B + goes_on_B,
        tried_B=run.tried_B + jnp.where(goes_on_B, jnp.minimum(count_B + 1, m - 1), 0),
        accepted_B=run.accepted_B + jnp.where(goes_on_B, count_B, 0),
    )

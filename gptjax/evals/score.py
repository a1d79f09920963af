"""Log-probabilities of given tokens: the one scoring function under every score.

Requests are batched by length into programs of few shapes, so that how many requests there are
changes a number by float32's rounding at most, and their order no bit. Requests with one context
(the choices of an item) share its cache: the context is computed once. The head sees those places
alone whose next token is scored.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import models
from gptjax.errors import UserError
from gptjax.infer.model import Model

SMALLEST = 32
TOKENS = 1024
"""Tokens of a batch, padding included."""
SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)
"""Shares of a batch's tokens whose logits a program may give."""
EACH = 4
"""Requests in a batch for each context that some share."""


@dataclasses.dataclass(frozen=True)
class Request:
    """Tokens whose log-probabilities are wanted, after a context of one token or more."""

    context: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def inputs(self) -> int:
        """Tokens that the model reads."""
        return len(self.context) + len(self.tokens) - 1


@dataclasses.dataclass(frozen=True)
class Scored:
    """The answer to a request.

    Attributes:
      logprobs: of each token, natural logarithms, float32.
      greedy: whether each token was the likeliest.
    """

    logprobs: np.ndarray
    greedy: bool

    @property
    def total(self) -> float:
        """Σ log p."""
        return float(np.sum(self.logprobs, dtype=np.float64))


def score(
    model: Model, requests: Sequence[Request], *, tokens: int = TOKENS, share: bool = True
) -> list[Scored]:
    """The log-probabilities of each request's tokens, in the requests' order.

    Args:
      tokens: of a batch, padding included.
      share: whether requests with one context share its cache.

    Raises:
      UserError: for an empty request, tokens that the model has not, a request longer than its
        context, which is never cut, or a model that gives NaN.
    """
    for request in requests:
        check(model, request)
    found: list[Scored | None] = [None] * len(requests)
    by_length: dict[int | None, list[int]] = {}
    for i, request in enumerate(requests):
        by_length.setdefault(_length(model, request), []).append(i)
    for length, places in by_length.items():
        groups = _groups(requests, places) if share else [[i] for i in places]
        alone = [group[0] for group in groups if len(group) == 1]
        shared = [group for group in groups if len(group) > 1]
        for where, made in (
            *_whole(model, requests, alone, tokens, length),
            *_shared(model, requests, shared, tokens, length),
        ):
            found[where] = made
    scored = [one for one in found if one is not None]
    if any(np.isnan(one.logprobs).any() for one in scored):
        raise UserError(
            f"{model.name} gives log-probabilities that are no numbers; its weights are NaN, or "
            "its activations overflow"
        )
    return scored


def fits(model: Model, request: Request) -> bool:
    """Whether the model's context holds the request."""
    return not model.context or request.inputs <= model.context


def check(model: Model, request: Request) -> None:
    """Refuse a request that cannot be scored as it is."""
    if not request.context or not request.tokens:
        raise UserError("a request has no context or no tokens; give one token of each or more")
    if model.others or model.stream is not None:
        raise UserError(f"{model.name} joins models or forgets tokens; score each model alone")
    if not fits(model, request):
        raise UserError(
            f"a request has {request.inputs} tokens, and the context of {model.name} is "
            f"{model.context}; shorten it"
        )
    V = model.config.vocab_size
    if not all(0 <= token < V for token in (*request.context, *request.tokens)):
        raise UserError(f"a request has tokens beyond the {V} of {model.name}")


def _groups(requests: Sequence[Request], places: Sequence[int]) -> list[list[int]]:
    """Places of requests by their context."""
    found: dict[tuple[int, ...], list[int]] = {}
    for i in places:
        found.setdefault(requests[i].context, []).append(i)
    return list(found.values())


def width_of(longest: int) -> int:
    """The padded width, in quarters of an octave: few programs, and little padding.

    >>> [width_of(n) for n in (1, 33, 65, 130, 256)]
    [32, 48, 80, 160, 256]
    """
    if longest <= SMALLEST:
        return SMALLEST
    step = max(SMALLEST // 2, 1 << ((longest - 1).bit_length() - 3))
    return -(-longest // step) * step


def _whole(
    model: Model, requests: Sequence[Request], where: Sequence[int], tokens: int, length: int | None
) -> list[tuple[int, Scored]]:
    """Requests that share nothing, each read in one pass."""
    found = []
    for width, places in _batches(requests, where, tokens):
        some = [requests[i] for i in places]
        found += _read_whole(model, some, places, tokens // width, width, length)
    return found


def _batches(
    requests: Sequence[Request], where: Sequence[int], tokens: int
) -> Iterator[tuple[int, list[int]]]:
    """(width, places of requests) of each batch, whatever the requests' order.

    What does not fill a batch goes on to the next width where that is less padding than a batch
    that is not full.
    """

    def key(i: int) -> tuple[Any, ...]:
        request = requests[i]
        return request.inputs, len(request.tokens), request.context, request.tokens

    by_width: dict[int, list[int]] = {}
    for i in sorted(where, key=key):
        by_width.setdefault(width_of(requests[i].inputs), []).append(i)
    widths, left = sorted(by_width), []
    for width, wider in zip(widths, [*widths[1:], 0], strict=False):
        rows = max(1, tokens // width)
        left += by_width[width]
        while len(left) >= rows or (left and not 0 < len(left) * wider < rows * width):
            yield width, left[:rows]
            left = left[rows:]


def _read_whole(
    model: Model,
    some: list[Request],
    where: list[int],
    rows: int,
    width: int,
    length: int | None,
) -> list[tuple[int, Scored]]:
    rows = max(rows, 1)
    ids_BT, lengths_B = _padded([[*r.context, *r.tokens[:-1]] for r in some], rows, width)
    targets = [token for r in some for token in r.tokens]
    places_P = np.zeros(_share_of(rows * width, len(targets)), np.int32)
    places_P[: len(targets)] = np.concatenate(
        [row * width + np.arange(len(r.context) - 1, r.inputs) for row, r in enumerate(some)]
    )
    targets_P = np.zeros(len(places_P), np.int32)
    targets_P[: len(targets)] = targets
    logprobs, greedy = _whole_program(
        model.config, length, model.params, ids_BT, lengths_B, places_P, targets_P
    )
    ends = np.cumsum([len(r.tokens) for r in some])[:-1]
    values, best = (np.split(np.asarray(x)[: len(targets)], ends) for x in (logprobs, greedy))
    made = [Scored(v.copy(), bool(np.all(b))) for v, b in zip(values, best, strict=True)]
    return list(zip(where, made, strict=True))


def _share_of(tokens: int, count: int) -> int:
    """Scored places of a batch, as one of few shares of its tokens."""
    return next(n for n in (math.ceil(tokens * share) for share in SHARES) if n >= count)


def _shared(
    model: Model,
    requests: Sequence[Request],
    groups: Sequence[Sequence[int]],
    tokens: int,
    length: int | None,
) -> list[tuple[int, Scored]]:
    """Groups of requests with one context, read once, then each request's own tokens."""

    def shape(g: int) -> tuple[int, int]:
        own = max(len(requests[i].tokens) for i in groups[g])
        return width_of(len(requests[groups[g][0]].context)), _few(own) - 1

    found = []
    for (width, own), places in _by_shape(range(len(groups)), shape).items():
        rows = max(1, tokens // (width + EACH * own))
        for some in _filled([groups[g] for g in places], rows):
            found += _read_shared(model, requests, some, rows, width, own, length)
    return found


def _filled(groups: Sequence[Sequence[int]], rows: int) -> Iterator[list[Sequence[int]]]:
    """Batches of at most `rows` groups and EACH times as many members; larger groups are split."""
    batch: list[Sequence[int]] = []
    most = EACH * rows
    for group in (piece for one in groups for piece in _chunks(list(one), most)):
        if len(batch) == rows or sum(map(len, batch)) + len(group) > most:
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch


def _read_shared(
    model: Model,
    requests: Sequence[Request],
    groups: Sequence[Sequence[int]],
    rows: int,
    width: int,
    own: int,
    length: int | None,
) -> list[tuple[int, Scored]]:
    where = [i for group in groups for i in group]
    some, count = [requests[i] for i in where], EACH * rows
    owner_B = np.zeros(count, np.int32)
    owner_B[: len(some)] = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    contexts_GT, lengths_G = _padded([requests[g[0]].context for g in groups], rows, width)
    inputs_Bt, own_B = _padded([r.tokens[:-1] for r in some], count, own)
    targets_Bu, _ = _padded([r.tokens for r in some], count, own + 1)
    logprobs, greedy = _shared_program(
        model.config,
        length,
        model.params,
        contexts_GT,
        lengths_G,
        owner_B,
        inputs_Bt,
        own_B,
        targets_Bu,
    )
    return list(zip(where, _cut(some, logprobs, greedy), strict=True))


def _cut(some: list[Request], logprobs: jax.Array, greedy: jax.Array) -> list[Scored]:
    values, best = np.asarray(logprobs), np.asarray(greedy)
    return [
        Scored(values[row, : len(r.tokens)].copy(), bool(np.all(best[row, : len(r.tokens)])))
        for row, r in enumerate(some)
    ]


def _length(model: Model, request: Request) -> int | None:
    """The text's length by which a request is rotated; None where none changes anything.

    One that the trained length holds is rotated as in training, a longer one as a text that fills
    the context.
    """
    whole = _full_length(model.config)
    trained = model.config.rope.trained_len or model.config.seq_len
    return trained if whole and request.inputs <= trained else whole


@functools.lru_cache
def _full_length(config: models.ModelConfig) -> int | None:
    return models.rope_length(config, config.seq_len)


def _few(count: int) -> int:
    """A bucket of short lengths: 1, 4, 16, then as `width_of`."""
    return next((few for few in (1, 4, 16) if count <= few), 0) or width_of(count)


def _by_shape(places: Any, shape: Any) -> dict[tuple[int, ...], list[int]]:
    found: dict[tuple[int, ...], list[int]] = {}
    for place in places:
        found.setdefault(shape(place), []).append(place)
    return found


def _chunks(places: list[int], size: int) -> list[list[int]]:
    return [places[i : i + size] for i in range(0, len(places), size)]


def _padded(rows: Sequence[Sequence[int]], count: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids_BT padded on the right, lengths_B)."""
    ids_BT, lengths_B = np.zeros((count, width), np.int32), np.zeros(count, np.int32)
    for row, ids in enumerate(rows):
        ids_BT[row, : len(ids)] = ids
        lengths_B[row] = len(ids)
    return ids_BT, lengths_B


@functools.partial(jax.jit, static_argnames=("config", "length"))
def _whole_program(
    config: models.ModelConfig,
    length: int | None,
    params: Any,
    ids_BT: jax.Array,
    lengths_B: jax.Array,
    places_P: jax.Array,
    targets_P: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Of the tokens that follow `places_P`, which count through all rows."""
    B, T = ids_BT.shape
    counts_BT = jnp.arange(T) < lengths_B[:, None]
    cache = models.init_cache(config, B, T)
    x_BTD, _ = models.decode(config, params, cache, ids_BT, counts_BT, fresh=True, length=length)
    x_1PD = x_BTD.reshape(1, B * T, -1)[:, places_P]
    logprobs_1P, greedy_1P = _of_targets(models.logits(config, params, x_1PD), targets_P[None])
    return logprobs_1P[0], greedy_1P[0]


@functools.partial(jax.jit, static_argnames=("config", "length"))
def _shared_program(
    config: models.ModelConfig,
    length: int | None,
    params: Any,
    contexts_GT: jax.Array,
    lengths_G: jax.Array,
    owner_B: jax.Array,
    inputs_Bt: jax.Array,
    own_B: jax.Array,
    targets_Bu: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Requests that go on from the context `owner_B`; their first token follows its last."""
    G, T = contexts_GT.shape
    t = inputs_Bt.shape[1]
    cache = models.init_cache(config, G, T + t)
    counts_GT = jnp.arange(T) < lengths_G[:, None]
    x_GTD, cache = models.decode(
        config, params, cache, contexts_GT, counts_GT, fresh=True, length=length
    )
    last_G = jnp.maximum(lengths_G - 1, 0)
    x_G1D = jnp.take_along_axis(x_GTD, last_G[:, None, None], axis=1)
    first_G1V = models.logits(config, params, x_G1D)
    found = [_of_targets(first_G1V[owner_B], targets_Bu[:, :1])]
    if t:
        cache = jax.tree.map(lambda x: x[owner_B], cache)
        counts_Bt = jnp.arange(t) < own_B[:, None]
        x_BtD, _ = models.decode(config, params, cache, inputs_Bt, counts_Bt, length=length)
        found.append(_of_targets(models.logits(config, params, x_BtD), targets_Bu[:, 1:]))
    logprobs, greedy = zip(*found, strict=True)
    return jnp.concatenate(logprobs, axis=1), jnp.concatenate(greedy, axis=1)


def _of_targets(logits_BtV: jax.Array, targets_Bt: jax.Array) -> tuple[jax.Array, jax.Array]:
    chosen_Bt = jnp.take_along_axis(logits_BtV, targets_Bt[..., None], axis=-1)[..., 0]
    return chosen_Bt - jax.nn.logsumexp(logits_BtV, axis=-1), chosen_Bt >= jnp.max(logits_BtV, -1)

"""Dense retrieval: texts compared by a decoder's own states, without a second model.

A text's vector is the mean over its tokens of the model's last states, each of length one (the
first token's is a hundred times longer in many decoders), less the mean over all documents (states
share a large common direction), again of length one; a score is the cosine. A decoder that was
trained to predict text is no trained retriever: measure it beside BM25.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import models
from gptjax.errors import UserError
from gptjax.infer import loop
from gptjax.infer.generate import padded, width_of
from gptjax.infer.loop import Plan
from gptjax.infer.model import Model
from gptjax.infer.retrieval import Index

TOKENS = 4096
"""Tokens of a batch, padding included."""


def with_states(index: Index, model: Model) -> Index:
    """The index with the vector of every document.

    Raises:
      UserError: for a document that is longer than the model's context, and joined models.
    """
    raw_ND = mean_states(model, [model.encode(text) for text in index.documents])
    mean_D = raw_ND.mean(axis=0)
    of = states_fingerprint(model)
    return dataclasses.replace(index, states_ND=_unit(raw_ND - mean_D), mean_D=mean_D, states_of=of)


def scores(index: Index, model: Model, query: str) -> np.ndarray:
    """The cosine of the query with every document, float64 [N].

    Raises:
      UserError: for an index without vectors, and a question that is empty or longer than the
        model's context.
    """
    if not index.states_of:
        raise UserError(
            "the index has no dense vectors; build it again in another folder with "
            "rag.retriever=dense"
        )
    ids = model.encode(query)
    if not ids:
        raise UserError("the question has no token, and its states are asked for; ask in words")
    if model.context and len(ids) > model.context:
        raise UserError(
            f"the question has {len(ids)} tokens, and the context of {model.name} holds "
            f"{model.context}; ask in fewer words"
        )
    (raw_D,) = mean_states(model, [ids])
    return (index.states_ND @ _unit(raw_D - index.mean_D)).astype(np.float64)


def check_states(index: Index, model: Model) -> None:
    """Refuse an index with vectors of another model."""
    if index.states_of and index.states_of != states_fingerprint(model):
        raise UserError(
            f"the index has dense vectors of another model than {model.name}; build it again with "
            "the model that asks"
        )


def states_fingerprint(model: Model) -> str:
    """A hash of the config and of every parameter, by which models are told apart."""
    hasher = hashlib.blake2b(repr(model.config).encode(), digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        array = np.asarray(leaf)
        hasher.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode())
        hasher.update(array.tobytes())
    return hasher.hexdigest()


def mean_states(model: Model, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """The mean of the last states over each text's tokens, float32 [N, D].

    Raises:
      UserError: for an empty text, one that is longer than the context, and joined models.
    """
    if model.others or model.stream is not None:
        raise UserError(f"{model.name} joins models or forgets tokens; give one plain model")
    for ids in texts:
        if not ids or (model.context and len(ids) > model.context):
            raise UserError(
                f"a text of the index has {len(ids)} tokens, and the context of {model.name} holds "
                f"1 to {model.context}; lower rag.passage_words"
            )
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found_ND = np.zeros((len(texts), model.config.width), np.float32)
    while order:
        width = width_of(len(texts[order[0]]))
        rows = max(1, min(TOKENS // width, len(texts)))
        some = [i for i in order[:rows] if len(texts[i]) <= width]
        order = order[len(some) :]
        batch = [texts[i] for i in some] + [[0]] * (rows - len(some))
        plan = Plan.of(model, width)
        found_ND[some] = np.asarray(_means(plan, model.params, *padded(batch, width)))[: len(some)]
    return found_ND


@functools.partial(jax.jit, static_argnames="plan")
def _means(plan: Plan, params: Any, ids_BT: jax.Array, counts_BT: jax.Array) -> jax.Array:
    cache = models.init_cache(plan.config, ids_BT.shape[0], ids_BT.shape[1])
    (x_BTD,), _ = loop.hidden(plan, params, cache, ids_BT, counts_BT, fresh=True)
    x_BTD = x_BTD.astype(jnp.float32)
    x_BTD = x_BTD / jnp.maximum(jnp.linalg.norm(x_BTD, axis=-1, keepdims=True), 1e-12)
    sums_BD = jnp.sum(jnp.where(counts_BT[..., None], x_BTD, 0.0), axis=1)
    return sums_BD / jnp.sum(counts_BT, axis=1, keepdims=True)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)

"""Retrieval-augmented generation: an answer whose probability is summed over retrieved documents.

Lewis et al., "Retrieval-Augmented Generation for Knowledge-Intensive NLP Tasks" (2020), sections
2.1 and 2.5. Each document stands in a prompt of its own, so that the documents behind an answer can
be named with their shares in it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import models
from gptjax.errors import UserError
from gptjax.infer import dense_retrieval, loop
from gptjax.infer.generate import Answer, encoded, fitted, generate, padded, width_of
from gptjax.infer.loop import Plan
from gptjax.infer.model import Model
from gptjax.infer.retrieval import Index, best
from gptjax.infer.settings import Sampling

Retriever = Callable[[Index, Model, str], np.ndarray]
"""(index, model, question) → score of every document, float64 [N]."""


def _bm25(index: Index, model: Model, query: str) -> np.ndarray:
    assert model.tokenizer is not None
    return index.scores(index.query(query, model.tokenizer))


RETRIEVERS: dict[str, Retriever] = {"bm25": _bm25, "dense": dense_retrieval.scores}
"""How documents are found; another package adds its own."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A document behind an answer.

    Attributes:
      name, text: of the document.
      score: the retriever's.
      prior: P(z|x), before the answer.
      posterior: P(z|x, y) ∝ P(z|x)·P(y|x, z), after it.
    """

    name: str
    text: str
    score: float
    prior: float
    posterior: float


@dataclasses.dataclass(frozen=True)
class Grounded:
    """An answer with the documents that it stands on.

    Attributes:
      logprob: log P(y|x) by the marginalisation that was asked for.
      sources: the likeliest after the answer first.
    """

    answer: Answer
    logprob: float
    sources: tuple[Source, ...]


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked, beside the documents that were found for it.

    Attributes:
      prompts: the ids of the prompt with each document.
      prior_Z: log P(z|x).
    """

    prompts: tuple[tuple[int, ...], ...]
    prior_Z: np.ndarray


def ask(
    model: Model,
    index: Index,
    question: str,
    request: Sampling = Sampling(),  # noqa: B008
    *,
    retriever: str = "bm25",
    marginal: str = "sequence",
    documents: int = 4,
    template: str = "{document}\n{question}",
    temperature: float = 1.0,
    seed: int = 0,
) -> Grounded:
    """The answer to a question, and its sources.

    Args:
      retriever: a name of RETRIEVERS.
      marginal: a name of MARGINALS.
      documents: the best of the index are read, each in a prompt of its own.
      template: the prompt, with {document} and {question}.
      temperature: divides the scores before P(z|x) = softmax(scores).
      seed: of what is drawn, where the request has none.

    Raises:
      UserError: for a prompt that does not fit the context, and settings that cannot be summed.
    """
    if model.others or model.stream is not None:
        raise UserError(f"{model.name} joins models or forgets tokens; ask one plain model")
    scores_N = RETRIEVERS[retriever](index, model, question)
    found = best(scores_N, documents)
    prompts = tuple(
        tuple(encoded(model, _filled(template, index.documents[i], question))) for i, _ in found
    )
    asked = Question(prompts, prior([score / temperature for _, score in found]))
    limit = min(fitted(model, ids, request).max_tokens for ids in prompts)
    seed = request.seed if request.seed >= 0 else seed
    request = dataclasses.replace(request, max_tokens=limit, seed=seed)
    answer, logprobs_ZT, total = MARGINALS[marginal](model, asked, request)
    posterior_Z = np.exp(prior(asked.prior_Z + logprobs_ZT.sum(axis=1)))
    sources = [
        Source(index.name(i), index.documents[i], score, float(np.exp(before)), float(after))
        for (i, score), before, after in zip(found, asked.prior_Z, posterior_Z, strict=True)
    ]
    sources.sort(key=lambda source: -source.posterior)
    return Grounded(answer, total, tuple(sources))


def prior(scores_Z: Any) -> np.ndarray:
    """log P(z|x) of the retrieved documents: log softmax of their scores (equation 1), float64."""
    scores_Z = np.asarray(scores_Z, np.float64)
    return scores_Z - np.logaddexp.reduce(scores_Z)  # type: ignore[no-any-return]


def rag_sequence(prior_Z: Any, logprobs_ZT: Any) -> float:
    """log Σ_z P(z|x) Π_i P(y_i|x, z, y_<i): one document for the whole answer.

    >>> half, p = np.log([0.5, 0.5]), np.array([[1.0, 0.5], [0.5, 1.0]])
    >>> round(float(np.exp(rag_sequence(half, np.log(p)))), 4)
    0.5
    """
    return float(np.logaddexp.reduce(prior_Z + np.sum(logprobs_ZT, axis=-1)))


def rag_token(prior_Z: Any, logprobs_ZT: Any) -> float:
    """log Π_i Σ_z P(z|x) P(y_i|x, z, y_<i): another document may stand behind each token.

    P(z|x) is that of the question at every token, as in the paper; it is not updated by the tokens
    before, with which the product would be that of RAG-Sequence.

    >>> half, p = np.log([0.5, 0.5]), np.array([[1.0, 0.5], [0.5, 1.0]])
    >>> round(float(np.exp(rag_token(half, np.log(p)))), 4)
    0.5625
    """
    each_T = np.logaddexp.reduce(np.asarray(prior_Z)[:, None] + logprobs_ZT, axis=0)
    return float(np.sum(each_T))


Found = tuple[Answer, np.ndarray, float]
"""The answer, its tokens' log-probabilities after each document [Z, T], and log P(y|x)."""


def _by_sequence(model: Model, asked: Question, request: Sampling) -> Found:
    """An answer from each document, and of these the likeliest over all documents.

    The paper's "thorough decoding", with one answer of a document in place of a beam.
    """
    made = generate(model, asked.prompts, request)
    different = {answer.tokens: answer for answer in made}
    found = []
    for answer in different.values():
        logprobs_ZT = logprobs(model, asked.prompts, answer.tokens)
        found.append((answer, logprobs_ZT, rag_sequence(asked.prior_Z, logprobs_ZT)))
    return max(found, key=lambda one: one[2])


def _by_token(model: Model, asked: Question, request: Sampling) -> Found:
    """One answer, each of whose tokens is chosen from Σ_z P(z|x) P(token|x, z, tokens before)."""
    counting = request.repetition_penalty != 1.0 or request.count_power != 0.0
    counting |= request.presence_penalty != 0.0 or request.frequency_penalty != 0.0
    if counting and request.penalize == "all":
        raise UserError(
            "sampling.penalize='all' counts the tokens of prompts, which differ by document; use "
            "penalize=answer, or marginal=sequence"
        )
    requests = [
        dataclasses.replace(request, own={**request.own, "pooled": (0, float(weight))})
        for weight in asked.prior_Z
    ]
    made = generate(model, asked.prompts, requests)
    count = min(len(answer.logprobs) for answer in made)
    logprobs_ZT = np.array([answer.logprobs[:count] for answer in made], np.float64)
    return made[0], logprobs_ZT, rag_token(asked.prior_Z, logprobs_ZT)


MARGINALS: Mapping[str, Callable[[Model, Question, Sampling], Found]] = {
    "sequence": _by_sequence,
    "token": _by_token,
}


def logprobs(model: Model, prompts: Sequence[Sequence[int]], answer: Sequence[int]) -> np.ndarray:
    """log P of the answer's tokens after each prompt, float64 [prompts, tokens]."""
    if not answer:
        return np.zeros((len(prompts), 0))
    texts = [[*prompt, *answer[:-1]] for prompt in prompts]
    width = width_of(max(map(len, texts)))
    first_B = jnp.asarray([len(prompt) - 1 for prompt in prompts])
    plan = Plan.of(model, width)
    found = _logprobs(plan, model.params, *padded(texts, width), first_B, jnp.asarray(answer))
    return np.asarray(found, np.float64)


@functools.partial(jax.jit, static_argnames="plan")
def _logprobs(
    plan: Plan,
    params: Any,
    ids_BT: jax.Array,
    counts_BT: jax.Array,
    first_B: jax.Array,
    answer_M: jax.Array,
) -> jax.Array:
    """log P of the same tokens after each row's first ones, [B, M]."""
    cache = models.init_cache(plan.config, ids_BT.shape[0], ids_BT.shape[1])
    (x_BTD,), _ = loop.hidden(plan, params, cache, ids_BT, counts_BT, fresh=True)
    place_BM = first_B[:, None] + jnp.arange(answer_M.shape[0])
    x_BMD = jnp.take_along_axis(x_BTD, place_BM[..., None], axis=1)
    log_BMV = jax.nn.log_softmax(loop.logits(plan, params, [x_BMD]))
    ids_BM1 = jnp.broadcast_to(answer_M[:, None], (*place_BM.shape, 1))
    return jnp.take_along_axis(log_BMV, ids_BM1, axis=-1)[..., 0]


def _filled(template: str, document: str, question: str) -> str:
    """The prompt; braces in a document stay as they are."""
    before, _, after = template.partition("{document}")
    return f"{before.replace('{question}', question)}{document}" + after.replace(
        "{question}", question
    )

"""Recall of job=rag's retrievers on questions to the documentation.

    python -m gptjax.main --config=experiments/rag.py --workdir=runs/rag
    python -m benchmarks.retrieval runs/rag

Twenty questions, each with words of the passages that answer it; those whose words are divided
between passages are left out. Printed is the share of questions with such a passage among the first
1, 4 and 16 of the experiment's passages: BM25 over words and over tokens, the model's own
states, and those of the same decoder untrained.
"""

import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from gptjax import experiment, models
from gptjax.config import make_config
from gptjax.infer import dense_retrieval, retrieval
from gptjax.infer.rag import RETRIEVERS
from gptjax.jobs import rag
from gptjax.stages import find_model

QUESTIONS = (
    ("How is the side of a document chosen, train or held out?", "first 8 bytes of a hash"),
    ("What happens to text that is not UTF-8?", "names the file and the byte"),
    ("In what order are the windows of an epoch read?", "Feistel network"),
    ("How is the end of a document of a loaded tokenizer found?", "one more id"),
    ("Which pages of a crawl are read?", "replies of success"),
    ("How are near-duplicates found?", "14 bands of 8"),
    ("What becomes of mail addresses in documents?", "masks mail and network addresses"),
    ("What does effective data mean in a mixture law?", "power law in effective data"),
    ("How are the intervals of the best mixture made?", "drawn with replacement"),
    ("How exact are the proportions of sources?", "Tijdeman"),
    ("How are examples packed into rows?", "longest first"),
    ("What is computed once before the first step of DPO?", "kept in `reference/`"),
    ("How is a LoRA matrix initialised?", "as PEFT draws it"),
    ("Why are other KL estimators refused?", "Tang and Munos"),
    ("How does a model judge its own answers by principles?", "P(kept) / (P(kept)"),
    ("What is the KL of the best of n answers?", "ln n"),
    ("How many tokens is pre-training worth?", "Hernandez et al. 2021"),
    ("What is the entropy of the generated facts?", "P(k) ln P(k)"),
    ("What does cleaning gain in compute?", "as many FLOPs the spoilt text"),
    ("How does continuous batching share prefixes?", "prefixes are shared in whole pieces"),
)
AMONG = (1, 4, 16)


def answers(documents: tuple[str, ...], words: str) -> set[int]:
    """The passages with these words, white space aside."""
    plain = re.sub(r"\s+", " ", words)
    return {i for i, text in enumerate(documents) if plain in re.sub(r"\s+", " ", text)}


def recalls(
    score: Callable[[str], np.ndarray], asked: list[tuple[str, set[int]]]
) -> dict[int, float]:
    """Share of questions with a right passage among the first k."""
    found = [
        [number for number, _ in retrieval.best(score(question), max(AMONG))]
        for question, _ in asked
    ]
    right = [passages for _, passages in asked]
    return {
        k: float(np.mean([bool(set(one[:k]) & own) for one, own in zip(found, right, strict=True)]))
        for k in AMONG
    }


def main(workdir: Path) -> None:
    """Print a row for each retriever."""
    config = make_config(experiment.load("experiments/rag.py"))
    settings = config.own["rag"]
    model = find_model.find(config, "", workdir)
    by_words = rag._build(dataclasses.replace(settings, retriever="dense"), model)
    by_tokens = rag._build(dataclasses.replace(settings, terms="tokens"), model)
    fresh = jax.jit(models.init, static_argnums=0)(model.config, jax.random.key(1))
    blank = dataclasses.replace(model, params=models.unstacked(model.config, fresh))
    untrained = dense_retrieval.with_states(by_words, blank)
    asked = [(question, answers(by_words.documents, words)) for question, words in QUESTIONS]
    asked = [(question, right) for question, right in asked if right]
    print(f"{len(by_words.documents):,} passages, {len(asked)} questions with a right one")
    rows = {
        "BM25, words": lambda q: RETRIEVERS["bm25"](by_words, model, q),
        "BM25, tokens": lambda q: RETRIEVERS["bm25"](by_tokens, model, q),
        "dense": lambda q: RETRIEVERS["dense"](by_words, model, q),
        "dense, untrained": lambda q: RETRIEVERS["dense"](untrained, blank, q),
    }
    for name, score in rows.items():
        found = recalls(score, asked)
        print(f"{name:18}", *(f"recall@{k} {value:.2f}" for k, value in found.items()), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

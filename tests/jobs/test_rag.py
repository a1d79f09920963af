"""job=rag from the command line: sources named, both marginalisations, mistakes in one sentence."""

import dataclasses
import json
import random

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax import infer, models
from gptjax.convert import own_folder
from gptjax.convert.own_folder import KeptTokenizer
from gptjax.data import DataConfig
from gptjax.data.tokenizers.byte import ByteTokenizer
from gptjax.infer import rag, retrieval
from gptjax.jobs.rag import _print
from gptjax.main import main

CONFIG = models.ModelConfig(
    vocab_size=257, depth=1, width=8, num_heads=2, seq_len=64, init_scale=0.5
)
FACTS = {"fox": "the fox is red", "dog": "a dog barks loudly", "owl": "owls fly by night"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models of one tokenizer, and a file of documents."""
    folder = tmp_path_factory.mktemp("rag")
    for name, seed in (("tiny", 0), ("other", 1)):
        params = compiled_model.drawn(CONFIG, seed)
        kept = KeptTokenizer(DataConfig(tokenizer="bytes"))
        own_folder.save_model(folder / name, CONFIG, params, kept)
    lines = [json.dumps({"id": name, "text": text}) for name, text in FACTS.items()]
    (folder / "facts.jsonl").write_text("\n".join(lines))
    return folder


def ask(place, *flags, model="tiny"):
    given = [f"model={place / model}", f"documents={place}/facts.jsonl", *flags]
    where = ["--config=experiments/rag.py", f"--workdir={place}/work"]
    return main(["gptjax", *where, *(f"--config.rag.{flag}" for flag in given)])


@pytest.mark.parametrize(
    ("retriever", "marginal"), [*zip(rag.RETRIEVERS, rag.MARGINALS, strict=True)]
)
def test_an_answer_names_its_sources(place, tmp_path, capfd, marginal, retriever):
    line = {"prompt": FACTS["fox"], "answer": "no such"}
    (tmp_path / "ask.jsonl").write_text(json.dumps(line) + "\n\n")
    flags = ["question=", f"questions={tmp_path}/ask.jsonl", "sources=2", "sampling.max_tokens=4"]
    flags += ["terms=tokens"] if retriever == "dense" else []
    flags += [f"index={place}/{retriever}", f"retriever={retriever}", f"marginal={marginal}"]
    assert ask(place, *flags, f"output={tmp_path}/out.jsonl") == 0
    (row,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    names = {one["name"] for one in row["sources"]}
    assert "fox" in names and len(names) == 2
    out = capfd.readouterr().out
    assert f"%  {row['sources'][0]['name']}\n" in out and "0 of 1 answers are right (0%)" in out
    # The probability by hand: the model's own scores of the answer after each document.
    model = infer.load(place / "tiny")
    prompts = [model.encode(f"{one['text']}\n{FACTS['fox']}") for one in row["sources"]]
    logprobs = rag.logprobs(model, prompts, row["tokens"])
    prior = np.log([one["prior"] for one in row["sources"]])
    total = {"sequence": rag.rag_sequence, "token": rag.rag_token}[marginal](prior, logprobs)
    assert row["logprob"] == pytest.approx(total, abs=1e-3)
    posterior = np.exp(prior + logprobs.sum(axis=1))
    np.testing.assert_allclose(
        [one["posterior"] for one in row["sources"]], posterior / posterior.sum(), atol=1e-3
    )


def test_an_index_of_another_model_tokenizer_or_of_other_files_is_refused(place, tmp_path, capfd):
    plain = retrieval.build(["a fox"], ByteTokenizer())
    for changes, flags, words in (
        ({"states_of": "x"}, ["retriever=dense"], "dense vectors of another model than tiny"),
        ({"states_of": "x"}, [], "index of other files"),  # bm25 reads no vectors
        ({"tokenizer": "x"}, [], "index of another tokenizer's tokens"),
        ({}, [], "index of other files than rag.documents="),
        ({}, ["documents=", "retriever=dense"], "has no dense vectors"),
    ):
        retrieval.save(dataclasses.replace(plain, **changes), tmp_path)
        assert ask(place, "question=x", f"index={tmp_path}", *flags) == 2
        err = capfd.readouterr().err
        assert words in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["question="], "rag.question='' and rag.questions=''"),
        (["questions=nowhere.txt", "question="], "rag.questions=nowhere.txt is no file"),
        (["template={question}"], "must have {document} once"),
        (["documents=nowhere/*"], "rag.documents='nowhere/*' matches no file"),
        (["passage_words=0", "template={document}" + "x" * 60 + "{question}"], "context of tiny"),
    ],
)
def test_a_mistake_is_one_sentence(place, tmp_path, capfd, flags, words):
    assert ask(place, "question=q", f"index={tmp_path}/index", *flags) == 2
    err = capfd.readouterr().err
    assert words in err and err.count("\n") == 1


def fact(rng):
    """A name and its number: no model knows them before it reads them."""
    return "".join(rng.sample("bcdfghjklmnpqrstvwxz", 5)), rng.choice("0123456789")


def prompt_of(name, number, asked):
    return f"{name}={number};\n{asked}="


@pytest.mark.slow
def test_answers_about_unseen_facts_are_right_only_with_the_index():
    """A layer of 300 steps that copies what stands in its prompt; the index knows 40 new facts.

    pytest -m slow tests/jobs/test_rag.py
    """
    config = dataclasses.replace(
        CONFIG, width=32, num_heads=4, norm="rmsnorm", positions="none", seq_len=16
    )
    rng, optimizer = random.Random(0), optax.adam(1e-2)
    params = compiled_model.init(config, jax.random.key(0))

    def loss(params, ids_BT):
        logits_BTV = models.apply(config, params, ids_BT[:, :-1])[:, -1]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits_BTV, ids_BT[:, -1]))

    @jax.jit
    def step(params, state, ids_BT):
        updates, state = optimizer.update(jax.grad(loss)(params, ids_BT), state)
        return optax.apply_updates(params, updates), state

    def text():
        name, number = fact(rng)
        return [*(prompt_of(name, number, name) + number).encode()]

    state = optimizer.init(params)
    for _ in range(300):
        params, state = step(params, state, np.array([text() for _ in range(16)]))
    model = infer.Model(config, models.unstacked(config, params), ByteTokenizer())
    facts = dict(fact(rng) for _ in range(40))
    index = retrieval.build([f"{k}={v};" for k, v in facts.items()], ByteTokenizer())
    other = retrieval.build(["zzzzz=0;"], ByteTokenizer())

    def right(index, marginal):
        request = infer.sampling("greedy", max_tokens=1)
        options = {"marginal": marginal, "documents": min(3, len(index.documents))}
        asked = [
            rag.ask(model, index, f"{k}=", request, template="{document}\n{question}", **options)
            for k in facts
        ]
        return np.mean([one.answer.text == v for one, v in zip(asked, facts.values(), strict=True)])

    for marginal in rag.MARGINALS:
        assert right(index, marginal) > 0.9
        assert right(other, marginal) < 0.3


@pytest.mark.parametrize("score", [0.0, 0.5])
def test_sources_that_no_term_of_the_question_found_are_told(score, capsys):
    source = rag.Source("a.md#1", "words", score, 1.0, 1.0)
    answer = infer.Answer((1,), (2,), (0.0,), (), "so", "stop")
    _print("Zzz?", rag.Grounded(answer, 0.0, (source,)))
    assert ("no passage has a term" in capsys.readouterr().out) == (not score)

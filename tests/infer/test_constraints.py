"""Constrained decoding: exact distributions, another library's masks, and what is refused."""

import collections
import dataclasses
import functools
import itertools
import json
import re

import compiled_model
import jax
import numpy as np
import pytest

from gptjax import infer, models
from gptjax.data.tokenizers.byte import ByteTokenizer
from gptjax.errors import UserError
from gptjax.infer.constraints import Constraint

pytest.importorskip("llguidance")

CONFIG = models.ModelConfig(
    vocab_size=257, depth=1, width=16, num_heads=2, seq_len=96, init_scale=0.5
)
LIMITS = infer.Limits(slots=3, piece=16, steps=3, logprobs=3)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "of": {"enum": ["us", "them"]},
    },
    "required": ["name", "age", "of"],
    "additionalProperties": False,
}


class Syllables:
    """A tiny vocabulary whose tokens overlap."""

    tokens = (b"a", b"b", b"c", b"ab", b"ba", b"cc")
    end_of_document = len(tokens)
    vocab_size = len(tokens) + 1

    def encode(self, documents):
        return [np.array([self.tokens.index(bytes([c])) for c in text]) for text in documents]

    def decode(self, ids):
        return b"".join(self.tokens[i] for i in ids if i < len(self.tokens))


@functools.cache
def tiny():
    config = models.ModelConfig(
        vocab_size=7, depth=1, width=8, num_heads=2, seq_len=16, init_scale=1.0
    )
    params = compiled_model.fresh(config, 1)
    return infer.Model(config, models.unstacked(config, params), Syllables(), name="tiny")


@functools.cache
def model():
    params = compiled_model.fresh_layers(CONFIG, 3)
    return infer.Model(CONFIG, params, ByteTokenizer(), name="bytes")


def asked(regex="", schema=None, **settings):
    text = json.dumps(schema) if schema else ""
    return infer.sampling(regex=regex, json_schema=text, **settings)


@pytest.mark.parametrize("regex", ["(ab|ba|aab)c?", "a(b|cc)*a{0,2}", "[ab]{3}", "c*|ab"])
def test_masks_are_those_of_the_language(regex):
    """Against all texts of up to nine letters that `re` matches, after every few tokens."""
    texts = ["".join(t) for n in range(10) for t in itertools.product("abc", repeat=n)]
    language = [text for text in texts if re.fullmatch(regex, text)]
    begun = {text[:n] for text in language for n in range(len(text) + 1)}
    tokens = [token.decode() for token in Syllables.tokens]
    for ids in itertools.chain(*(itertools.product(range(6), repeat=n) for n in range(4))):
        before = "".join(tokens[i] for i in ids)
        if before not in begun:
            continue
        now = Constraint(tiny(), asked(regex))
        now.consume(ids)
        wanted = [before + token in begun for token in tokens]
        assert now.allowed().tolist() == [*wanted, before in language], (regex, before)


@pytest.mark.parametrize("n", [1000, pytest.param(4000, marks=pytest.mark.slow)])
def test_draws_have_the_conditional_distribution(n):
    """Each step's: the model's probabilities over the allowed tokens, by χ² over whole answers."""
    regex = "(ab|ba|aab)c?"
    params = compiled_model.fresh(tiny().config, 1)
    logits_of = functools.partial(compiled_model.apply, tiny().config, params)
    expected: dict[tuple[int, ...], float] = {}

    def walk(ids, p):
        if ids and ids[-1] == 6:
            expected[ids] = p
            return
        now = Constraint(tiny(), asked(regex))
        now.consume(ids)
        row = np.zeros((1, 8), np.int32)
        row[0, : len(ids) + 1] = [2, *ids]
        weights = np.exp(np.asarray(logits_of(row), np.float64)[0, len(ids)]) * now.allowed()
        for token in np.flatnonzero(weights):
            walk((*ids, int(token)), p * weights[token] / weights.sum())

    walk((), 1.0)
    assert sum(expected.values()) == pytest.approx(1.0) and len(expected) > 8
    answers = infer.generate(tiny(), [[2]] * n, asked(regex, max_tokens=8), jax.random.key(5))
    found = collections.Counter(answer.tokens for answer in answers)
    assert found.keys() <= expected.keys()
    chi = sum((found[ids] - n * p) ** 2 / (n * p) for ids, p in expected.items())
    assert chi < len(expected) + 4 * (2 * len(expected)) ** 0.5


@pytest.mark.parametrize(
    "regex",
    [r"[0-9]{1,3}\.[0-9]{2}", r"(yes|no|maybe), (I|we) (do not|will)", r"[a-z]+@[a-z]+\.(com|org)"],
)
def test_masks_equal_those_of_another_library(regex):
    """outlines-core's, along random walks over single bytes and longer tokens.

    No text of these languages begins another one: there the two differ, and the language itself is
    on this side (`test_masks_are_those_of_the_language`).
    """
    outlines = pytest.importorskip("outlines_core")
    vocabulary = {bytes([i]): [i] for i in range(32, 127)}
    long = [b"es", b"may", b"be, ", b"12", b".0", b".00", b"@a", b".com", b" do", b"I do", b"ill"]
    vocabulary |= {token: [127 + i] for i, token in enumerate(long)}
    index = outlines.Index(regex, outlines.Vocabulary(256, vocabulary))
    spell = {ids[0]: token for token, ids in vocabulary.items()}

    class Tokens(ByteTokenizer):
        def decode(self, ids):
            return b"".join(spell.get(int(i), b"") for i in ids)

    own = dataclasses.replace(model(), tokenizer=Tokens())
    rng = np.random.default_rng(0)
    for _ in range(20):
        state, now = index.get_initial_state(), Constraint(own, asked(regex))
        for _ in range(12):
            wanted = sorted(index.get_allowed_tokens(state))
            assert np.flatnonzero(now.allowed()).tolist() == wanted
            token = int(rng.choice(wanted))
            if token == 256:
                break
            state = index.get_next_state(state, token)
            now.consume([token])


def test_answers_match_and_end():
    """Constrained and free requests in one batch, each as it is alone."""
    pattern = r"[A-F]{2}-[0-9]{3}"
    requests = [
        asked(pattern, max_tokens=30, seed=1),
        asked(schema=PERSON, max_tokens=90, seed=2),
        asked(max_tokens=20, seed=3),
        asked(pattern, max_tokens=30, temperature=0.0),
    ]
    batcher = infer.Batcher(model(), LIMITS)
    together = batcher.answers(["x"] * 4, requests)
    static = infer.generate(model(), ["x"] * 4, requests)
    for answer, request, other in zip(together, requests, static, strict=True):
        assert infer.Batcher(model(), LIMITS).answers(["x"], request) == [answer]
        assert other.tokens == answer.tokens
    assert re.fullmatch(pattern, together[0].text) and together[0].finish == "stop"
    assert re.fullmatch(pattern, together[3].text)
    person = json.loads(together[1].text)
    assert [*person] == ["name", "age", "of"] and 0 <= person["age"] <= 99
    assert person["of"] in ("us", "them") and together[1].text == json.dumps(
        person, ensure_ascii=False
    )
    assert not batcher.constraints


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"regex": "a("}, "sampling.regex is not offered: unclosed group"),
        (
            {"regex": "a(?=b)"},
            "look-around, including look-ahead and look-behind, is not supported",
        ),
        ({"regex": r"[^\s\S]"}, "sampling.regex matches no text of bytes's tokens"),
        ({"schema": {"uniqueItems": True}}, "Unimplemented keys"),
        (
            {"schema": {"type": "strnig"}},
            "sampling.json_schema is not offered: Invalid type: strnig",
        ),
        ({"schema": {"properties": {"a": {"minimal": 1}}}}, "the keyword 'minimal', which is not"),
        ({"schema": {"type": "integer", "minimum": 5, "maximum": 3}}, "Unsatisfiable schema"),
        ({"regex": "a", "schema": PERSON}, "are both given"),
    ],
)
def test_what_cannot_be_is_refused(settings, words):
    with pytest.raises(UserError, match=re.escape(words)) as refused:
        infer.generate(model(), ["x"], asked(max_tokens=3, **settings))
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=re.escape(words)):
        infer.Batcher(model(), LIMITS).checked("x", asked(max_tokens=3, **settings))


def test_schemas_are_json_objects_and_need_a_tokenizer():
    with pytest.raises(UserError, match="is not JSON"):
        infer.generate(model(), ["x"], infer.sampling(json_schema="{"))
    with pytest.raises(UserError, match="must be an object"):
        infer.generate(model(), ["x"], infer.sampling(json_schema="3"))
    bare = infer.Model(CONFIG, model().params, name="bare")
    with pytest.raises(UserError, match=r"sampling\.regex needs a tokenizer"):
        infer.generate(bare, [[1]], infer.sampling(regex="a"))


def test_a_missing_extra_is_named(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape("pip install 'gptjax[constrained]'")):
        infer.generate(model(), ["x"], infer.sampling(regex="a"))


def test_drafts_are_refused():
    with pytest.raises(UserError, match="are followed token by token"):
        infer.speculate(model(), ["x"], asked("[0-9]{3}"))

"""The scoring function: the forward pass's numbers for any batch and order; what is refused."""

import dataclasses
import functools

import compiled_model
import jax
import numpy as np
import pytest
from scored_model import CONFIG, by_whole_pass, model

from gptjax import convert, data, infer, models
from gptjax.convert import own_folder
from gptjax.errors import UserError
from gptjax.evals import Document, choices, perplexity, statistics, text
from gptjax.evals.score import Request, _batches, _length, score

TOLERANCE = 2e-5
"""Nats of a token, between batches of other shapes: float32's rounding."""


def requests(seed=0, count=24):
    """Items of one to four continuations, contexts of 1 to 40 tokens."""
    rng, made = np.random.default_rng(seed), []
    while len(made) < count:
        context = tuple(rng.integers(0, 257, rng.integers(1, 33)).tolist())
        for _ in range(rng.integers(1, 5)):
            made.append(Request(context, tuple(rng.integers(0, 257, rng.integers(1, 5)).tolist())))
    return made


def test_scores_are_those_of_the_forward_pass():
    asked = requests()
    for request, found in zip(asked, score(model(), asked), strict=True):
        expected = by_whole_pass(request.context, request.tokens)
        np.testing.assert_allclose(found.logprobs, expected, atol=TOLERANCE)
        assert found.total == pytest.approx(float(expected.sum()), abs=1e-4)


def test_a_text_within_the_trained_length_is_rotated_as_in_training():
    """LongRoPE's and dynamic models read short items by the frequencies of their longest text."""
    rope = dataclasses.replace(CONFIG.rope, scaling="dynamic", factor=4.0, trained_len=16)
    config = dataclasses.replace(CONFIG, positions="rotary", rope=rope)
    plain = dataclasses.replace(config, rope=CONFIG.rope)
    lengths = [
        {_length(infer.Model(one, None), Request((1,) * n, (2,))) for n in (1, 16, 17, 64)}
        for one in (config, plain)
    ]
    assert lengths == [{16, 64}, {None}]
    asked = [Request((1, 2, 3), (4, 5)), Request((1, 2, 3), (6,))]
    made = models.unstacked(config, compiled_model.drawn(config))
    scaled, own = (score(infer.Model(one, made), asked) for one in (config, plain))
    for one, other in zip(scaled, own, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=TOLERANCE)


def test_the_greedy_mark_is_that_of_the_argmax():
    context = (1, 2, 3)
    values = score(model(), [Request(context, (token,)) for token in range(257)])
    best = max(range(257), key=lambda token: values[token].total)
    assert [token for token in range(257) if values[token].greedy] == [best]
    assert np.exp([one.total for one in values]).sum() == pytest.approx(1.0, abs=1e-4)


def test_order_changes_no_bit_and_batches_no_more_than_rounding():
    asked = requests(1)
    plain = score(model(), asked)
    order = np.random.default_rng(2).permutation(len(asked))
    shuffled = score(model(), [asked[i] for i in order])
    for place, i in enumerate(order):
        np.testing.assert_array_equal(shuffled[place].logprobs, plain[i].logprobs)
    for tokens, share in ((64, True), (700, False)):
        others = score(model(), asked, tokens=tokens, share=share)
        for one, other in zip(plain, others, strict=True):
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=TOLERANCE)


def test_batches_hold_every_request_once_and_little_padding():
    rng = np.random.default_rng(0)
    asked = [Request((1,) * rng.integers(40, 140), (2,) * rng.integers(10, 40)) for _ in range(480)]
    made = list(_batches(asked, range(480), 1024))
    assert sorted(i for _, places in made for i in places) == list(range(480))
    for width, places in made:
        assert len(places) <= 1024 // width and all(asked[i].inputs <= width for i in places)
    padded = sum(1024 // width * width for width, _ in made)
    assert sum(one.inputs for one in asked) / padded > 0.88
    assert len(list(_batches(asked[:1] + asked[:1], range(2), 1024))) == 1


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request((), (1,)), "no context"),
        (Request((1,), ()), "no tokens"),
        (Request((1,), (300,)), "beyond the 257"),
        (Request((1,) * 65, (2,)), "has 65 tokens, and the context of tiny is 64; shorten it"),
    ],
)
def test_what_cannot_be_scored_is_refused(request_, words):
    with pytest.raises(UserError, match=words):
        score(model(), [request_])


class Pairs:
    """Two characters make a token where they can, from the left: a token may cross a seam."""

    end_of_document = 256

    def encode(self, documents):
        for document in documents:
            yield np.array([document[i] for i in range(0, len(document), 2)])

    def decode(self, ids):
        raise NotImplementedError


def test_a_token_across_the_seam_leaves_no_continuation_empty():
    odd = dataclasses.replace(model(), tokenizer=Pairs())
    request = text.request_of(odd, "abc", "d")
    assert len(request.tokens) == 1 and request.context == (ord("a"),)
    assert text.request_of(model(), "ab ", "c") == Request((97, 98), (32, 99))
    assert text.request_of(model(), "", "c") == Request((256,), (99,))
    with pytest.raises(UserError, match="empty"):
        text.request_of(model(), "ab", "")


def test_a_published_tokenizers_own_token_stands_before_a_context(tmp_path):
    """Llama's and Gemma's contexts were scored without it, texts after the end of a document."""
    from tokenizers import Tokenizer, processors
    from tokenizers.models import BPE

    plain = Tokenizer(BPE({"a": 0, "b": 1, "</s>": 2, "<s>": 3}, []))
    plain.add_special_tokens(["</s>", "<s>"])
    plain.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 3), ("</s>", 2)]
    )
    path = tmp_path / "tokenizer.json"
    plain.save(str(path))
    for published, begins in ((True, (3,)), (False, ())):
        settings = data.DataConfig(tokenizer="bpe", tokenizer_path=str(path))
        kept = own_folder.KeptTokenizer(settings, path, published)
        config = dataclasses.replace(CONFIG, vocab_size=4)
        own_folder.describe(tmp_path / f"{published}", config, kept)
        said = own_folder.read_description(tmp_path / f"{published}")
        params = jax.eval_shape(functools.partial(models.init, config), jax.random.key(0))
        params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), params)
        made = infer.prepare(convert.Model(config, params, kept=said.tokenizer))
        assert made.begins == begins and made.encode_prompt("a") == [*begins, 0]
        assert text.request_of(made, "a", "b") == Request((*begins, 0), (1,))
        first = begins or (2,)
        assert text.request_of(made, "", "b") == Request(first, (1,))
        assert text.prefix_of(made) == first[0]


@pytest.mark.parametrize("stride", [1, 3, 7, 0])
def test_windows_score_every_token_once_with_the_longest_context(stride):
    ids = list(range(1, 31))
    made = list(text.windows(ids, 0, 7, stride))
    assert [token for request in made for token in request.tokens] == ids
    assert all(request.inputs <= 7 for request in made)
    assert all(request.inputs == 7 for request in made[1:])
    for request in made[1:]:
        start = request.tokens[0] - 1
        assert request.context == tuple(ids[start - len(request.context) : start])


def test_perplexity_by_hand_and_by_domain():
    documents = [
        Document("abcdefgh" * 12, "letters", "a"),
        Document("0123", "digits", "b"),
        Document("99", "digits", "c"),
    ]
    found = perplexity(model(), documents)
    nats = [-sum(by_whole_pass((256,), list(d.text.encode()))) for d in documents[1:]]
    assert found.items[1]["nats"] == pytest.approx(nats[0], abs=1e-4)
    assert found.by["digits"].value == pytest.approx(sum(nats) / 6, abs=1e-4)
    whole = sum(item["nats"] for item in found.items) / sum(item["tokens"] for item in found.items)
    assert found.score.value == pytest.approx(whole)
    assert found.items[0]["tokens"] == found.items[0]["bytes"] == 96
    bits = sum(nats) / 6 / np.log(2)
    assert found.metrics["digits/bits_per_byte"].value == pytest.approx(bits, abs=1e-4)
    with pytest.raises(UserError, match="no text"):
        perplexity(model(), [Document("")])
    fewer = perplexity(model(), [*documents[1:], Document("", "digits")])
    assert fewer.skipped == 1 and fewer.notes == ("1 of 3 texts are empty and were left out",)
    assert fewer.score.value == pytest.approx(found.by["digits"].value)


def test_errors_by_hand():
    made = statistics.mean([1, 1, 0, 0], ["a", "a", "b", "b"])
    assert (made.value, made.count) == (0.5, 4)
    assert made.stderr == pytest.approx(np.std([1, 1, 0, 0], ddof=1) / 2)
    assert made.stderr_by_document == pytest.approx(np.sqrt(2 * 2) / 4)
    value, error = statistics.ratio([2.0, 6.0], [1.0, 2.0], range(2))
    assert value == pytest.approx(8 / 3)
    assert error == pytest.approx(np.sqrt(2 * 2 * (2 / 3) ** 2) / 3)
    both = statistics.paired([1, 1, 0, 1], [0, 1, 0, 0])
    assert both.value == 0.5 and both.low == pytest.approx(0.5 - 1.96 * both.stderr)


ITEMS = [
    choices.Item("2 + 2 =", ("4", "5", "22"), 0, "easy", "a"),
    choices.Item("The sky is", ("blue", "green"), 0, "hard", "a"),
    choices.Item("xyxyx", ("y", "xx"), 1, "hard", "b"),
]


@pytest.mark.parametrize("style", choices.STYLES)
@pytest.mark.parametrize("shots", [0, 1])
def test_choices_are_scored_by_both_normalisations(style, shots):
    found = choices.evaluate(model(), ITEMS, task="toy", style=style, shots=shots)
    assert len(found.items) + found.skipped == 3
    for row in found.items:
        item = next(item for item in ITEMS if item.question == row["question"])
        context, texts = choices.STYLES[style](item)
        if shots:
            other = next(one for one in ITEMS if one != item)
            before, answers = choices.STYLES[style](other)
            context = before + answers[other.answer] + "\n\n" + context
        totals = [by_whole_pass(context.encode(), t.encode()).sum() for t in texts]
        np.testing.assert_allclose(row["logprobs"], totals, atol=1e-4)
        lengths = [1 if style == "letter" else len(c) for c in item.choices]
        assert row["pick"] == int(np.argmax(totals))
        assert row["pick_norm"] == int(np.argmax(np.array(totals) / lengths))
        assert sum(row["probabilities"]) == pytest.approx(1.0)
    right = [row["pick"] == row["answer"] for row in found.items]
    assert found.score.value == pytest.approx(np.mean(right))
    if not found.skipped:
        assert found.baselines == {"chance": pytest.approx(4 / 9), "majority": pytest.approx(2 / 3)}
        assert set(found.by) == {"easy", "hard"}


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], "has no items"),
        ([choices.Item("q", ("a",), 0)], "give two or more"),
        ([choices.Item("q", ("a", ""), 0)], "none of them empty"),
        ([choices.Item("q", ("a", "b"), 2)], "has the answer 2, which is not among its 2"),
        ([choices.Item("q" * 70, ("a", "b"), 1)], "no item that the context of tiny"),
    ],
)
def test_wrong_items_are_one_sentence(items, words):
    with pytest.raises(UserError, match=words):
        choices.evaluate(model(), items, task="toy")


def test_items_longer_than_the_context_are_counted():
    found = choices.evaluate(model(), [*ITEMS, choices.Item("q" * 70, ("a", "b"), 1)], task="toy")
    assert found.skipped == 1 and found.notes[0].startswith("1 of 4 items are longer")


def test_five_shots_count_the_items_without_room():
    items = [choices.Item(f"{n}", ("a", "b"), 0) for n in range(6)]
    items.append(choices.Item("q" * 40, ("a", "b"), 0))
    found = choices.evaluate(model(), items, task="toy", shots=5)
    assert len(found.items) == 6 and found.skipped == 1
    assert found.notes == (
        "1 of 7 items after 5 examples are longer than the context and were left out",
    )
    texts = "".join(f"{n} a\n\n" for n in range(1, 6)) + "0"
    expected = [by_whole_pass(texts.encode(), f" {c}".encode()).sum() for c in "ab"]
    np.testing.assert_allclose(found.items[0]["logprobs"], expected, atol=1e-4)
    none = choices.evaluate(
        model(),
        [dataclasses.replace(i, question="q" * 40) for i in items[:2]]
        + [choices.Item("x" * 30, ("a", "b"), 0)] * 2,
        task="toy",
        shots=2,
    )
    assert none.skipped == 4 and np.isnan(none.score.value) and none.baselines == {}


def test_too_few_others_are_one_sentence_even_where_items_are_equal():
    twice = [ITEMS[0], ITEMS[0], ITEMS[1]]
    for items, shots in ((ITEMS, 5), (twice, 2)):
        with pytest.raises(UserError, match=rf"evaluate\.shots={shots} needs as many other items"):
            choices.evaluate(model(), items, task="toy", shots=shots)
    found = choices.evaluate(model(), ITEMS[:1], examples=ITEMS, task="toy", shots=2)
    assert len(found.items) == 1


def test_equal_choices_and_prefixes_of_each_other():
    items = [choices.Item("é ü", ("a", "a"), 1), choices.Item("", ("b", "bb", "b ö"), 0)]
    found = choices.evaluate(model(), items, task="toy")
    assert found.notes == ("1 of 2 items have equal choices, of which the first is picked",)
    assert found.items[0]["pick"] == 0 != found.items[0]["answer"]
    assert found.items[0]["logprobs"][0] == found.items[0]["logprobs"][1]
    texts = [" b", " bb", " b ö"]
    totals = [by_whole_pass((256,), text.encode()).sum() for text in texts]
    np.testing.assert_allclose(found.items[1]["logprobs"], totals, atol=1e-4)


def test_a_model_without_numbers_is_one_sentence():
    broken = dataclasses.replace(model(), params=jax.tree.map(lambda x: x * np.nan, model().params))
    with pytest.raises(UserError, match="tiny gives log-probabilities that are no numbers"):
        score(broken, requests()[:1])


def test_the_config_of_the_tests_reads_both_ways():
    assert CONFIG.seq_len == model().context == 64

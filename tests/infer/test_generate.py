"""Generation against the whole forward pass: greedy texts, unequal prompts, stops and errors."""

import dataclasses
import functools
import itertools

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import infer, models
from gptjax.data.tokenizers.byte import ByteTokenizer
from gptjax.errors import UserError
from gptjax.infer.generate import key_of, keys_of

CONFIG = models.ModelConfig(
    vocab_size=257, depth=1, width=16, num_heads=2, seq_len=48, init_scale=0.5
)
PROMPTS = ("def main(", "a", "import numpy as np")


@functools.cache
def model():
    params = compiled_model.fresh_layers(CONFIG, 3)
    return infer.Model(CONFIG, params, ByteTokenizer(), name="tiny")


def log_softmax(logits):
    return logits - np.log(np.exp(logits - 30).sum(axis=-1, keepdims=True)) - 30


def log_probs(ids):
    """Of the token after each, by the whole forward pass."""
    row = np.zeros((1, CONFIG.seq_len), np.int32)
    row[0, : len(ids)] = ids
    logits = np.asarray(compiled_model.apply(CONFIG, compiled_model.fresh(CONFIG, 3), row))
    return log_softmax(logits[0])[: len(ids)]


def by_whole_passes(prompt, count):
    ids = list(prompt.encode())
    for _ in range(count):
        ids.append(int(log_probs(ids)[-1].argmax()))
        if ids[-1] == 256:
            break
    return tuple(ids[len(prompt) :])


def test_greedy_is_the_argmax_of_whole_passes():
    """Three prompts of unequal length in one batch, to the end of the context."""
    answers = infer.generate(model(), PROMPTS, infer.sampling("greedy", max_tokens=99, logprobs=2))
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        assert answer.tokens == by_whole_passes(prompt, CONFIG.seq_len - len(prompt))
        assert answer.prompt == tuple(prompt.encode())
        assert answer.finish == ("stop" if answer.tokens[-1] == 256 else "length")
        ids = [*answer.prompt, *answer.tokens]
        log = log_probs(ids)[len(prompt) - 1 : -1]
        np.testing.assert_allclose(
            answer.logprobs, log[np.arange(len(log)), list(answer.tokens)], atol=1e-4
        )
        best = np.sort(log, axis=1)[:, :-3:-1]
        np.testing.assert_allclose([[v for _, v in top] for top in answer.top], best, atol=1e-4)


def test_an_answer_does_not_depend_on_its_batch():
    """Rows with settings and seeds of their own, alone and together."""
    requests = [
        infer.sampling("gpt3", max_tokens=9, seed=5),
        infer.sampling("greedy", max_tokens=12),
        infer.sampling(max_tokens=7, seed=6, repetition_penalty=1.3, presence_penalty=0.5),
    ]
    together = infer.generate(model(), PROMPTS, requests)
    for prompt, request, answer in zip(PROMPTS, requests, together, strict=True):
        (alone,) = infer.generate(model(), [prompt], request)
        assert alone.tokens == answer.tokens and len(answer.tokens) <= request.max_tokens
        np.testing.assert_allclose(alone.logprobs, answer.logprobs, atol=1e-5)


def test_keys_decide():
    request = infer.sampling(max_tokens=10)
    one, again, other = (
        infer.generate(model(), ["x", "x"], request, jax.random.key(k)) for k in (1, 1, 2)
    )
    assert one == again and one != other
    assert one[0].tokens != one[1].tokens


def test_a_seed_of_more_than_32_bits_is_one_of_its_own():
    seeds = (0, 5, 2**31, 2**32 - 1, 2**32, 2**32 + 5, 2**63 - 1, -1)
    data = jax.random.key_data(
        keys_of([infer.Sampling(seed=one) for one in seeds], jax.random.key(7))
    )
    for row, seed in enumerate(seeds[:4]):  # as JAX has them
        np.testing.assert_array_equal(data[row], jax.random.key_data(jax.random.key(seed)))
    drawn = jax.random.fold_in(jax.random.key(7), len(seeds) - 1)
    np.testing.assert_array_equal(data[-1], jax.random.key_data(drawn))
    assert len(np.unique(data, axis=0)) == len(seeds)
    for row, seed in enumerate(seeds[:-1]):
        np.testing.assert_array_equal(data[row], jax.random.key_data(key_of(seed)))


def test_a_stream_ends_as_the_answer():
    request = infer.sampling(max_tokens=20, seed=1)
    *parts, last = infer.stream(model(), PROMPTS[:1], request, chunk=3)
    assert last == infer.generate(model(), PROMPTS[:1], request)
    texts = [part[0].text for part in parts]
    assert all(later.startswith(text) for text, later in itertools.pairwise(texts))
    assert last[0].text.startswith(texts[-1]) and len(texts) > 3


def test_stop_strings_and_ids():
    (free,) = infer.generate(model(), ["q"], infer.sampling("greedy", max_tokens=30))
    ids = free.tokens
    (answer,) = infer.generate(
        model(), ["q"], infer.sampling("greedy", max_tokens=30, stop_ids=(ids[4],))
    )
    first = ids.index(ids[4])
    assert answer.tokens == ids[: first + 1] and answer.finish == "stop"
    letters = [i for i in range(len(ids) - 1) if max(ids[i : i + 2]) < 128]
    if letters:
        word = bytes(ids[letters[0] : letters[0] + 2]).decode()
        stopped = infer.sampling("greedy", max_tokens=30, stop=(word,))
        (answer,) = infer.generate(model(), ["q"], stopped)
        assert word not in answer.text and answer.finish == "stop"
        assert answer.tokens == ids[: letters[0] + 2]


def test_windows_and_states_generate():
    """A model without a limit of its context, longer than its training texts."""
    config = dataclasses.replace(
        CONFIG, layer_pattern=("ssm",), mlp_pattern=("none",), positions="none", seq_len=8
    )
    params = compiled_model.fresh_layers(config, 0)
    mamba = infer.Model(config, params, name="mamba")
    (answer,) = infer.generate(mamba, [[1, 2, 3]], infer.sampling("greedy", max_tokens=20))
    assert len(answer.tokens) == 20 and answer.text == ""


@pytest.mark.parametrize(
    "prompt, settings, words",
    [
        ("", {}, "a prompt is empty"),
        ([], {}, "a prompt is empty"),
        ([1, 300], {}, "a prompt has the token 300, and tiny has 257"),
        ("x" * 48, {}, "a prompt has 48 tokens, and the context of tiny is 48"),
        ("x", {"stop_ids": (999,)}, "stop_ids"),
        ("x", {"logit_bias": {400: 1.0}}, "logit_bias"),
    ],
)
def test_wrong_requests_are_refused(prompt, settings, words):
    with pytest.raises(UserError, match=words):
        infer.generate(model(), [prompt], infer.sampling(max_tokens=4, **settings))


def test_text_needs_a_tokenizer():
    bare = dataclasses.replace(model(), tokenizer=None)
    with pytest.raises(UserError, match="tiny has no tokenizer"):
        infer.generate(bare, ["x"])
    with pytest.raises(UserError, match="needs a tokenizer"):
        infer.generate(bare, [[1]], infer.sampling(stop=("a",)))
    (answer,) = infer.generate(bare, [[1]], infer.sampling(max_tokens=2))
    assert answer.text == ""


def test_a_row_is_put_into_a_slot():
    """A request that enters a batch which is under way answers as it does alone."""
    from gptjax.infer.generate import Batch
    from gptjax.infer.loop import advance, put_row

    request = infer.sampling("greedy", max_tokens=20)
    both = Batch.of(model(), PROMPTS[:2], request, None)
    state = advance(both.plan, model().params, both.start(), jnp.int32(4))
    one = Batch.of(model(), PROMPTS[2:], request, None)
    state = put_row(state, 1, one.start())
    state = advance(both.plan, model().params, state, jnp.int32(30))
    alone = infer.generate(model(), [PROMPTS[0], PROMPTS[2]], request)
    for row, answer in enumerate(alone):
        assert state.tokens_BM[row, : len(answer.tokens)].tolist() == list(answer.tokens)

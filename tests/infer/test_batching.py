"""Continuous batching: the schedule by hand, and answers that nothing beside them can change."""

import dataclasses
import functools

import compiled_model
import jax
import numpy as np
import pytest

from gptjax import infer, models
from gptjax.data.tokenizers.byte import ByteTokenizer
from gptjax.errors import UserError
from gptjax.infer import schedule
from gptjax.infer.batching import Batcher
from gptjax.infer.limits import Limits
from gptjax.infer.schedule import FREE, Full

CONFIG = models.ModelConfig(
    vocab_size=257, depth=1, width=16, num_heads=2, seq_len=96, init_scale=0.5
)
LIMITS = Limits(slots=3, piece=16, steps=3, waiting=4, logprobs=3)
SYSTEM = "a system's prompt of forty characters, 12"
PROMPTS = (SYSTEM + "one", "x", SYSTEM + "two!", "import numpy as np", SYSTEM[:30] + "three")
REQUESTS = (
    infer.sampling("gpt3", max_tokens=9, seed=5, logprobs=3),
    infer.sampling("greedy", max_tokens=30),
    infer.sampling(max_tokens=14, seed=6, repetition_penalty=1.3, presence_penalty=0.5),
    infer.sampling(max_tokens=5, seed=7, typical_p=0.5, min_p=0.01, logit_bias={65: 3.0}),
    infer.sampling(max_tokens=20, seed=8, stop=("e",)),
)


@functools.cache
def model():
    params = compiled_model.fresh_layers(CONFIG, 3)
    return infer.Model(CONFIG, params, ByteTokenizer(), name="tiny")


def drained(batcher):
    """Turns until nothing is left: every answer that ended, by its number."""
    ended = {}
    while batcher.busy:
        ended |= {n: answer for n, answer in batcher.turn().items() if answer.finish}
    return ended


def fresh(**changes):
    return Batcher(model(), dataclasses.replace(LIMITS, **changes))


def test_answers_equal_the_answer_alone_bit_for_bit():
    """Five requests for three slots, of which three share a prefix, against each with none beside
    it in slots that hold nothing."""
    together = fresh()
    answers = together.answers(PROMPTS, REQUESTS)
    assert together.shared_tokens == 32 + 16
    for prompt, request, answer in zip(PROMPTS, REQUESTS, answers, strict=True):
        (alone,) = fresh().answers([prompt], request)
        assert alone == answer


def test_joined_models_are_one_to_the_slots():
    """A mixture's answers and the scores of its prompt are those of `generate`, shared prefixes
    too."""
    deep = dataclasses.replace(CONFIG, depth=2)
    params = compiled_model.fresh_layers(deep, 4)
    both = infer.joined([model(), infer.Model(deep, params)], infer.Mixture((0.6, 0.4)))
    batcher = Batcher(both, dataclasses.replace(LIMITS, slots=2))
    asked = infer.sampling("greedy", max_tokens=6)
    answers = batcher.answers([SYSTEM + "one", SYSTEM + "two!", "x"], asked)
    assert batcher.shared_tokens == 32
    held = sum(models.held_bytes(config, 96) for config in (CONFIG, deep))
    assert batcher.cache_bytes == 3 * held
    static = infer.generate(both, [answer.prompt for answer in answers], asked)
    for answer, other in zip(answers, static, strict=True):
        assert answer.tokens == other.tokens
        np.testing.assert_allclose(answer.logprobs, other.logprobs, atol=1e-5)
    number = batcher.submit(answers[2].prompt + answers[2].tokens, asked, scores=True)
    scored = drained(batcher)[number]
    np.testing.assert_allclose(scored.prompt_logprobs, answers[2].logprobs, atol=1e-5)


def test_after_warming_nothing_is_compiled_for_a_request():
    compiled = []

    def listen(name, seconds, **others):
        if name == "/jax/core/compile/backend_compile_duration":
            compiled.append(name)

    batcher = fresh(slots=2, piece=8)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        batcher.warm()
        assert compiled and not batcher.busy and batcher.read_tokens == 0
        del compiled[:]
        (answer,) = batcher.answers([PROMPTS[0]], REQUESTS[0])
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == []
    assert fresh(slots=2, piece=8).answers([PROMPTS[0]], REQUESTS[0]) == [answer]


def test_answers_equal_those_of_generate():
    answers = fresh().answers(PROMPTS, REQUESTS)
    for static, answer in zip(infer.generate(model(), PROMPTS, REQUESTS), answers, strict=True):
        assert static.tokens == answer.tokens and static.text == answer.text
        assert static.finish == answer.finish
        np.testing.assert_allclose(static.logprobs, answer.logprobs, atol=1e-5)


def test_requests_enter_and_leave_while_others_go_on():
    batcher = fresh(waiting=1)
    first, second = (batcher.submit(p, r) for p, r in zip(PROMPTS[1:3], REQUESTS[1:3], strict=True))
    other, third = (batcher.submit(p, REQUESTS[i]) for p, i in (("z", 1), (PROMPTS[3], 3)))
    with pytest.raises(Full, match="4 requests wait already"):
        batcher.submit("y", REQUESTS[1])
    batcher.turn()
    batcher.cancel(second)
    ended = {}
    while third not in ended:
        ended |= {n: answer for n, answer in batcher.turn().items() if answer.finish}
    assert not ended.keys() & {first, second}, "the third took the cancelled one's slot"
    ended |= drained(batcher)
    assert {*ended} == {first, other, third} and batcher.taken == 0
    assert ended[first] == fresh().answers(PROMPTS[1:2], REQUESTS[1])[0]


def test_short_prompts_are_read_together_and_a_slot_waits_for_nobody():
    """Prompts of no more tokens than a piece enter in one turn; a turn ends with an answer whose
    slot is wanted."""
    batcher = fresh(slots=2)
    short, long, next_ = (
        batcher.submit(prompt, infer.sampling("greedy", max_tokens=tokens))
        for prompt, tokens in (("ab", 3), ("cde", 9), ("f", 2))
    )
    news = batcher.turn()
    assert [len(news[number].tokens) for number in (short, long)] == [3, 3]
    assert next_ in batcher.turn()
    batcher = fresh(slots=2)
    first, other = (batcher.submit(prompt, REQUESTS[1]) for prompt in ("x" * 9, "y" * 8))
    assert {*batcher.turn()} == {first}, "17 tokens are more than a piece"
    assert {*batcher.turn()} == {first, other}


def test_a_request_is_cancelled_while_it_waits_or_is_read():
    batcher = fresh()
    read, waits = (batcher.submit(prompt, REQUESTS[1]) for prompt in (SYSTEM, "x"))
    batcher.turn()
    assert batcher.reading is not None
    batcher.cancel(waits)
    batcher.cancel(read)
    batcher.cancel(read)
    assert not batcher.busy and batcher.turn() == {} and batcher.taken == 0


def test_caches_that_cannot_go_back_are_not_shared():
    config = dataclasses.replace(CONFIG, layer_pattern=("local",), window=8)
    params = compiled_model.fresh_layers(config, 3)
    windows = infer.Model(config, params, ByteTokenizer(), name="windows")
    batcher = Batcher(windows, LIMITS)
    answers = batcher.answers(PROMPTS[::2], REQUESTS[::2])
    assert batcher.shared_tokens == 0
    for prompt, request, answer in zip(PROMPTS[::2], REQUESTS[::2], answers, strict=True):
        assert Batcher(windows, LIMITS).answers([prompt], request) == [answer]


def test_bytes_are_those_of_the_slots():
    batcher = fresh()
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(batcher._state.cache.layers))
    one = held // LIMITS.slots
    assert batcher.cache_bytes == held + one
    assert one == CONFIG.depth * 2 * CONFIG.width * CONFIG.seq_len * 4


def test_prompts_are_scored():
    """Against the whole forward pass, over three pieces of a prompt that another slot holds."""
    batcher = fresh()
    batcher.answers([SYSTEM], REQUESTS[0])
    number = batcher.submit(SYSTEM, REQUESTS[0], scores=True)
    answer = drained(batcher)[number]
    ids = np.array([[*SYSTEM.encode()]])
    logits = compiled_model.apply(CONFIG, compiled_model.fresh(CONFIG, 3), ids)
    log = np.asarray(jax.nn.log_softmax(logits))[0, :-1]
    wanted = log[np.arange(len(SYSTEM) - 1), ids[0, 1:]]
    np.testing.assert_allclose(answer.prompt_logprobs, wanted, atol=1e-4)
    best = np.sort(log, axis=1)[:, :-4:-1]
    np.testing.assert_allclose([[v for _, v in top] for top in answer.prompt_top], best, atol=1e-4)


@pytest.mark.parametrize(
    "prompt, settings, words",
    [
        ("", {}, "a prompt is empty"),
        (
            "x" * 90,
            {"max_tokens": 7},
            "90 tokens and 7 of its answer are more than the 96 of a slot",
        ),
        ("x", {"logprobs": 4}, "logprobs=4 is more than the 3"),
        ("x", {"stop_ids": tuple(range(9))}, "has 9 tokens; give 8"),
    ],
)
def test_what_cannot_fit_is_refused(prompt, settings, words):
    batcher = fresh()
    with pytest.raises(UserError, match=words):
        batcher.submit(prompt, infer.sampling(**{"max_tokens": 3, **settings}))
    assert not batcher.busy


def test_slots_longer_than_the_context_are_refused():
    with pytest.raises(UserError, match="slots of 97 tokens are longer than the context of tiny"):
        fresh(length=97)


def test_the_schedule_by_hand():
    """Two slots, pieces of two tokens: the second prompt shares a piece with the first."""
    now = schedule.empty(2, 1)
    for number in (0, 1, 2):
        now = schedule.queued(now, number)
    with pytest.raises(Full):
        schedule.queued(now, 3)
    entry = schedule.entry_of(now, (5, 6, 7, 8), 2)
    assert (entry.slot, entry.source, entry.shared) == (0, FREE, 0)
    now = schedule.filled(schedule.entered(now, entry), 0, (5, 6, 7, 8), 2)
    assert now.slots[0].held == (5, 6), "the last token is always read"
    entry = schedule.entry_of(now, (5, 6, 9), 2)
    assert (entry.slot, entry.source, entry.shared) == (1, 0, 2)
    now = schedule.filled(schedule.entered(now, entry), 1, (5, 6, 9), 2)
    assert schedule.entry_of(now, (1,), 2) is None and now.waiting == (2,)
    now = schedule.left(schedule.left(now, 1), 0)
    assert [slot.request for slot in now.slots] == [FREE, FREE]
    assert schedule.entry_of(now, (1, 2, 3), 2).slot == 1, "left longest ago"
    held = (schedule.Slot(held=(5, 6), used=9), schedule.Slot(held=(1, 2), used=8))
    kept = dataclasses.replace(now, slots=held)
    assert schedule.entry_of(kept, (5, 6, 7), 2).slot == 0, "nothing of what it holds is lost"
    assert schedule.entry_of(kept, (4, 6, 7), 2).slot == 1
    assert schedule.left(now, 2).waiting == ()

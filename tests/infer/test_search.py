"""Beam search against all sequences, speculative decoding against the model's own distribution."""

import dataclasses
import functools
import itertools

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gptjax import infer, models
from gptjax.errors import UserError
from gptjax.infer import speculative

CONFIG = models.ModelConfig(
    vocab_size=6, depth=1, width=8, num_heads=2, seq_len=16, init_scale=0.7, positions="rotary"
)
END = 5
DEPTH = 3


@dataclasses.dataclass(frozen=True)
class Six:
    """A tokenizer of the digits 0 to 4, and an end of document."""

    vocab_size: int = 6
    end_of_document: int = END

    def decode(self, ids):
        return "".join(map(str, ids)).encode()


def made(seed, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    params = compiled_model.fresh_layers(config, seed)
    return infer.Model(config, params, Six(), name=f"model {seed}")


@functools.cache
def big():
    return made(1)


@functools.cache
def sequences(prompt, depth=DEPTH):
    """{answer: its tokens' log-probabilities} of every answer of at most `depth` tokens."""
    texts = np.array([[*prompt, *ids] for ids in itertools.product(range(6), repeat=depth)])
    config, params = big().config, big().params
    logits = compiled_model.fresh_logits(config, params, jnp.asarray(texts))
    log = np.asarray(jax.nn.log_softmax(logits), np.float64)
    found = {}
    for row, text in enumerate(texts):
        ids = text[len(prompt) :].tolist()
        ids = ids[: ids.index(END) + 1] if END in ids else ids
        places = len(prompt) - 1 + np.arange(len(ids))
        found[tuple(ids)] = log[row, places, ids]
    return found


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_a_wide_beam_finds_the_best_of_all_sequences(penalty):
    """Two prompts of unequal length in one batch: padding does not count."""
    prompts = [(1, 2, 3, 4), (2,)]
    search = infer.BeamSearch(beams=150, max_tokens=DEPTH, length_penalty=penalty)
    for prompt, answers in zip(prompts, infer.beam_search(big(), prompts, search), strict=True):
        scores = {ids: logs.sum() / len(ids) ** penalty for ids, logs in sequences(prompt).items()}
        best = sorted(scores, key=scores.get, reverse=True)[:5]
        assert [answer.tokens for answer in answers[:5]] == best
        np.testing.assert_allclose(answers[0].logprobs, sequences(prompt)[best[0]], atol=1e-4)


def test_one_beam_is_greedy():
    (answers,) = infer.beam_search(big(), [(1, 2)], infer.BeamSearch(beams=1, max_tokens=8))
    (greedy,) = infer.generate(big(), [(1, 2)], infer.sampling("greedy", max_tokens=8))
    assert answers[0].tokens == greedy.tokens
    with pytest.raises(UserError, match="beams=0 must be at least 1"):
        infer.beam_search(big(), [(1,)], infer.BeamSearch(beams=0))


def test_beams_equal_those_of_transformers(tmp_path):
    """Four and eight beams, prompts of unequal length, three penalties."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=32, n_embd=16, n_layer=2, n_head=2, initializer_range=0.6,
        bos_token_id=19, eos_token_id=19, pad_token_id=19,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = dataclasses.replace(infer.load(tmp_path), tokenizer=Six(20, 19))
    prompts = [(1, 2, 3, 4, 5), (7, 8)]
    padded = torch.tensor([[1, 2, 3, 4, 5], [19, 19, 19, 7, 8]])
    mask = torch.tensor([[1] * 5, [0, 0, 0, 1, 1]])
    for beams, penalty in itertools.product((4, 8), (0.0, 1.0, 2.0)):
        out = theirs.generate(
            padded, attention_mask=mask, num_beams=beams, max_new_tokens=8, do_sample=False,
            length_penalty=penalty, early_stopping=False,
        )  # fmt: skip
        search = infer.BeamSearch(beams, 8, penalty)
        for row, answers in enumerate(infer.beam_search(ours, prompts, search)):
            wanted = out[row, 5:].tolist()
            wanted = wanted[: wanted.index(19) + 1] if 19 in wanted else wanted
            assert list(answers[0].tokens) == wanted, (beams, penalty, row)


KINDS = {
    "rewinds": {},
    "window": {"layer_pattern": ("local",), "window": 2},
    "state": {"layer_pattern": ("ssm",), "mlp_pattern": ("none",), "positions": "none"},
}


@pytest.mark.parametrize(
    "kind, by",
    [
        ("rewinds", "a model"),
        pytest.param("rewinds", "look-up", marks=pytest.mark.slow),
        pytest.param("window", "a model", marks=pytest.mark.slow),
        pytest.param("state", "look-up", marks=pytest.mark.slow),
        pytest.param("state", "a model", marks=pytest.mark.slow),
    ],
)
def test_greedy_speculation_is_greedy(kind, by):
    target = made(2, **KINDS[kind])
    draft = made(3, **KINDS[kind]) if by == "a model" else None
    request = infer.sampling("greedy", max_tokens=9)
    prompts = [(1, 2, 1, 2), (3,)]
    answers, gain = infer.speculate(target, prompts, request, draft=draft, drafts=3)
    wanted = infer.generate(target, prompts, request)
    assert [a.tokens for a in answers] == [a.tokens for a in wanted]
    for one, other in zip(answers, wanted, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
        assert one.finish == other.finish
    assert (0.0 <= gain.accepted <= 1.0 and gain.tokens_per_round >= 1.0) or not gain.rounds


def first_two(count=20_000):
    """Emitted pairs of `accept` over a vocabulary of four, and their exact probabilities."""
    rng = np.random.default_rng(0)
    p_mV, q_nV = rng.dirichlet(np.ones(4), 3), rng.dirichlet(np.ones(4), 2)
    q_nV[1], p_mV[1, 2] = [0.7, 0.0, 0.3, 0.0], 0.0
    p_mV[1] /= p_mV[1].sum()
    tokens = np.stack([rng.choice(4, count, p=q) for q in q_nV], axis=1)
    keys = jax.random.split(jax.random.key(1), (2, count))
    p_BmV, q_BnV = (jnp.broadcast_to(x, (count, *x.shape)) for x in (p_mV, q_nV))
    done, last = (
        np.asarray(x) for x in speculative.accept(p_BmV, q_BnV, jnp.asarray(tokens), *keys)
    )
    first = np.where(done > 0, tokens[:, 0], last)
    second = np.where(done > 1, tokens[:, 1], last)[done > 0]
    return [(first, p_mV[0]), (second, p_mV[1])]


def test_accepted_and_refused_tokens_have_the_probabilities():
    for tokens, p in first_two():
        likely = p > 0
        found = np.bincount(tokens, minlength=4)
        assert found[~likely].sum() == 0
        assert stats.chisquare(found[likely], p[likely] * len(tokens)).pvalue > 1e-3


def test_a_wrong_residual_is_seen(monkeypatch):
    """Drawing from p after a refusal, the usual mistake, is refused by the same test."""
    monkeypatch.setattr(speculative, "residual", lambda p_BV, q_BV: p_BV)
    tokens, p = first_two()[0]
    assert stats.chisquare(np.bincount(tokens, minlength=4), p * len(tokens)).pvalue < 1e-6


def pvalue(draft, **more):
    """χ² of 20,000 sampled answers against all sequences, with a filter."""
    count = 20_000
    answers, gain = infer.speculate(
        big(), [(1, 2)] * count, infer.sampling(max_tokens=DEPTH, **more), draft=draft, drafts=2
    )
    scores = {ids: np.exp(logs.sum()) for ids, logs in sequences((1, 2)).items()}
    names, p = [*scores], np.array([*scores.values()])
    number = {ids: place for place, ids in enumerate(names)}
    found = np.bincount([number[a.tokens] for a in answers], minlength=len(names))
    likely = p * count > 5
    groups = [np.append(x[likely], x[~likely].sum()) for x in (found, p / p.sum() * count)]
    return stats.chisquare(*groups).pvalue, gain


@pytest.mark.slow
@pytest.mark.parametrize("by", ["a model", "look-up"])
def test_speculation_has_the_distribution_of_the_model(by):
    p, gain = pvalue(made(4) if by == "a model" else None)
    assert p > 1e-3
    assert 0.02 < gain.accepted < 0.98


@pytest.mark.slow
def test_the_model_as_its_own_draft_is_always_accepted():
    request = infer.sampling(max_tokens=9)
    _, gain = infer.speculate(big(), [(1, 2, 3)] * 4, request, draft=big(), drafts=2)
    assert gain.accepted > 0.99


def test_what_costs_promise():
    assert infer.expected_tokens(0.8, 4) == pytest.approx((1 - 0.8**5) / 0.2)
    best, gain = infer.best_drafts(0.8, 0.1, {n: 1 + 0.02 * n for n in range(9)})
    by_hand = [infer.expected_tokens(0.8, n) / (1 + 0.12 * n) for n in range(9)]
    assert best == int(np.argmax(by_hand)) and gain == pytest.approx(max(by_hand))


def test_what_speculation_cannot_do_is_refused():
    other = made(5, vocab_size=7)
    for given, words in [
        ({"draft": other}, "must have the same vocabulary"),
        ({"drafts": 0}, "drafts=0 must be at least 1"),
        ({"sampling": infer.sampling(presence_penalty=1.0)}, "sampling.presence_penalty changes"),
    ]:
        with pytest.raises(UserError, match=words):
            infer.speculate(big(), [(1,)], **given)

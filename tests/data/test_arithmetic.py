"""The source `arithmetic`: right sums, no question twice, held-out ones never in training."""

import re

import pytest

from gptjax.data import load
from gptjax.data.sources.arithmetic import ArithmeticConfig, problems
from gptjax.errors import UserError

OWN = {"source": "arithmetic", "arithmetic.digits": 2, "heldout_fraction": 0.2}


def lines(corpus, side):
    return corpus.decode(getattr(corpus, side)).decode().splitlines()


def test_every_sum_is_right_and_no_question_comes_twice():
    found = [text.decode() for text in problems(ArithmeticConfig(digits=2, problems=9_000))]
    pairs = [
        tuple(map(int, re.fullmatch(r"(\d+)\+(\d+)=(\d+)\n", line).groups())) for line in found
    ]
    assert all(a + b == c for a, b, c in pairs) and len({(a, b) for a, b, _ in pairs}) == 9_000
    assert {len(str(a)) for a, _, _ in pairs} == {1, 2}


def test_seeds_differ_and_large_spaces_are_drawn_from():
    drawn = [[*problems(ArithmeticConfig(digits=8, problems=50, seed=s))] for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 50


def test_held_out_questions_are_not_trained_on(config):
    corpus = load(config(**OWN, **{"arithmetic.problems": 300}), seq_len=20)
    train, held = lines(corpus, "train"), lines(corpus, "heldout")
    assert len(train) + len(held) == 300 and not {*train} & {*held}
    assert 0.1 < len(held) / 300 < 0.3


def test_more_questions_than_there_are_are_refused(config):
    with pytest.raises(UserError, match="more than the 100 different questions"):
        load(config(**OWN | {"arithmetic.digits": 1, "arithmetic.problems": 101}), seq_len=20)

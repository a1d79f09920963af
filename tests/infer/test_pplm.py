"""Control of an answer by its cached past: nothing at α = 0, more of the attribute with every α."""

import compiled_model
import numpy as np
import pytest
import scipy.special

from gptjax import infer, models
from gptjax.errors import UserError
from gptjax.infer.pplm import Bag, Steering, steer

CONFIG = models.ModelConfig(
    vocab_size=23, depth=2, width=16, num_heads=2, seq_len=24, init_scale=0.5, positions="rotary"
)
PROMPTS = [(1, 2, 3, 4, 5), (6, 7, 8)]
BAG = Bag((3, 11, 17))
REQUEST = infer.sampling("greedy", max_tokens=5)


@pytest.fixture(scope="module")
def model():
    params = compiled_model.fresh_layers(CONFIG, 0)
    return infer.Model(CONFIG, params, name="tiny")


def test_alpha_zero_changes_nothing(model):
    answers, said = steer(model, PROMPTS, BAG, Steering(alpha=0.0, steps=1), REQUEST)
    plain = infer.generate(model, PROMPTS, REQUEST)
    assert answers == [answer.tokens for answer in plain]
    for row, answer in enumerate(plain):
        ids = [*answer.prompt, *answer.tokens]
        text_BT = np.zeros((1, CONFIG.seq_len), np.int32)
        text_BT[0, : len(ids)] = ids
        logits = np.asarray(compiled_model.apply(CONFIG, _stacked(), text_BT), np.float64)[0]
        log = scipy.special.log_softmax(logits[len(answer.prompt) - 1 : len(ids) - 1], axis=1)
        bag = scipy.special.logsumexp(log[:, np.array(BAG.tokens)], axis=1)
        np.testing.assert_allclose(said[row], bag, atol=1e-4)


def _stacked():
    return compiled_model.fresh(CONFIG, 0)


def test_the_attribute_rises_with_alpha(model):
    """Of the first token, for which the past is the same whatever α."""
    said = [
        np.array(steer(model, PROMPTS, BAG, Steering(alpha, steps=1), REQUEST)[1])[:, 0]
        for alpha in (0.0, 0.1, 0.3)
    ]
    assert (np.diff(said, axis=0) > 1e-3).all()


def test_a_wrong_alpha_is_refused(model):
    with pytest.raises(UserError, match=r"alpha=-1.0 must be at least 0"):
        steer(model, PROMPTS, BAG, Steering(-1.0))

"""Preference learning: TRL's losses on the same log-probabilities, and what training does."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aligned import SPEC, finetune, write

from gptjax import convert, models
from gptjax.align import preferences, reward_model
from gptjax.align.encoding import Encoded
from gptjax.align.feeds import ExampleFeed, batch_of
from gptjax.align.logprobs import Scored, score, sequence_logprobs
from gptjax.align.packing import one_by_one
from gptjax.align.preferences import DpoConfig, Pairs
from gptjax.align.reward_model import RewardConfig, ScoredPairs
from gptjax.errors import UserError
from gptjax.train import Batch

GOLDEN = json.loads((Path(__file__).parent / "trl_golden.json").read_text())
TEXTS = [np.array([*text, 256], np.int32) for text in (b"ab: AAA", b"ab: bb", b"c: C", b"c: ccc")]


def batch_with(mask_BT):
    blank_BT = jnp.zeros(mask_BT.shape, jnp.int32)
    return Batch(blank_BT, blank_BT, jnp.asarray(mask_BT, jnp.float32))


def encoded(ids, start=4):
    return Encoded(ids, np.arange(len(ids)) >= start)


def pairs_of(base):
    """Two pairs, the reference's log-probabilities being those of the folder's model."""
    params = jax.tree.map(jnp.asarray, convert.load(base).params)
    sides = [one_by_one([encoded(TEXTS[i], 3) for i in side], 16) for side in ((0, 2), (1, 3))]
    reference = [sequence_logprobs(SPEC, params, ExampleFeed(rows, batch_of)) for rows in sides]
    return params, Pairs(*map(batch_of, sides), jnp.stack(list(map(jnp.asarray, reference)), -1))


@pytest.mark.parametrize("case", GOLDEN["dpo"], ids=lambda case: "-".join(map(str, case[:3])))
def test_the_losses_are_those_of_trl(monkeypatch, case):
    kind, beta, smoothing, wanted = case
    logprobs, mask = np.array(GOLDEN["logprobs"]), np.array(GOLDEN["mask"])
    reference_B2 = jnp.asarray(GOLDEN["reference"]).reshape(2, -1).T
    scored = Scored(jnp.asarray(logprobs), jnp.zeros(logprobs.shape))
    monkeypatch.setattr(preferences, "score", lambda *given: scored)
    objective = preferences.preference(SPEC, DpoConfig(kind, beta, smoothing))
    batch = Pairs(batch_with(mask[:3]), batch_with(mask[3:]), reference_B2)
    assert mean_of(objective, batch) == pytest.approx(wanted, rel=1e-5)


def mean_of(objective, batch):
    """As one program: each operation is else one of its own."""
    total, count = jax.jit(lambda: objective(None, batch)[:2])()
    return float(total) / float(count)


@pytest.mark.parametrize("case", GOLDEN["ranking"], ids=str)
def test_the_reward_models_loss_is_that_of_trl(monkeypatch, case):
    center, margin, wanted = case
    scores = jnp.asarray(GOLDEN["scores"])
    both = jnp.concatenate([scores[0], scores[1]])
    monkeypatch.setattr(reward_model, "rewards", lambda *given: (both, None))
    side = batch_with(np.ones((4, 3)))
    batch = ScoredPairs(side, side, jnp.abs(scores[2]) * margin)
    objective = reward_model.ranking(SPEC, RewardConfig(center=center))
    assert mean_of(objective, batch) == pytest.approx(wanted, rel=1e-5)


def test_log_probabilities_are_the_models_and_zero_outside_of_answers(base):
    params = jax.tree.map(jnp.asarray, convert.load(base).params)
    batch = batch_of(one_by_one([encoded(TEXTS[0])], 16))
    scored = jax.jit(lambda params: vars(score(SPEC, params, batch)))(params)
    ids = jnp.asarray(TEXTS[0][None, :-1])
    logits = jax.jit(lambda params: models.apply(SPEC.model, params, ids))(params)[0]
    by_hand = [jax.nn.log_softmax(logits[t])[TEXTS[0][t + 1]] for t in range(3, 7)]
    np.testing.assert_allclose(scored["logprobs_BT"][0, 3:7], by_hand, rtol=1e-5)
    assert not np.any(scored["logprobs_BT"][0, :3]) and not np.any(scored["logprobs_BT"][0, 7:])
    p_TV = np.exp(jax.nn.log_softmax(logits[3:7]))
    np.testing.assert_allclose(
        scored["entropy_BT"][0, 3:7], -np.sum(p_TV * np.log(p_TV), -1), rtol=1e-4
    )
    assert not np.any(scored["entropy_BT"][0, 7:])


def test_the_gradient_of_dpo_has_beta_once_and_leaves_the_reference_alone(base):
    """∇L = −β·σ(−βΔ)·(∇log π(chosen) − ∇log π(rejected)) (Rafailov et al. 2023, section 4)."""
    params, batch = pairs_of(base)
    batch = dataclasses.replace(batch, reference_B2=batch.reference_B2 + jnp.array([0.7, -0.4]))
    beta = 0.3
    objective = preferences.preference(SPEC, DpoConfig(beta=beta))
    found = jax.jit(jax.grad(lambda params: objective(params, batch)[0]))(params)

    def difference_B(params):
        sides = (batch.chosen, batch.rejected)
        return jnp.subtract(*(jnp.sum(score(SPEC, params, one).logprobs_BT, -1) for one in sides))

    def by_hand(params):
        away_B = difference_B(params)
        delta_B = jax.lax.stop_gradient(away_B) - jnp.subtract(*batch.reference_B2.T)
        return jnp.sum(-beta * jax.nn.sigmoid(-beta * delta_B) * away_B)

    wanted = jax.jit(jax.grad(by_hand))(params)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-6)


def test_nothing_is_preferred_before_the_first_step(base):
    params, batch = pairs_of(base)
    objective = preferences.preference(SPEC, DpoConfig())

    def means(params):
        total, count, terms = objective(params, batch)
        return total / count, terms.sums["align/reward_chosen"]

    loss, reward = jax.jit(means)(params)
    assert float(loss) == pytest.approx(np.log(2.0), abs=1e-5)
    assert float(reward) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    ("flags", "method"),
    [
        (("--config.finetune.method=dpo",), "dpo"),
        (("--config.finetune.method=reward", "--config.train.steps=30"), "reward"),
        *(
            pytest.param(
                ("--config.finetune.method=dpo", f"--config.finetune.dpo.loss={loss}"),
                "dpo",
                marks=pytest.mark.slow,
            )
            for loss in ("robust", "hinge", "ipo")
        ),
    ],
)
def test_a_known_preference_is_learned(base, preferences, tmp_path, flags, method):
    plain = ("--config.train.batch_size=8", "--config.train.steps=20")
    assert finetune(base, preferences, tmp_path, *plain, *flags) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["accuracy"] >= 0.95
    assert result["loss"] <= result["history"][0][1]
    kept = sorted((tmp_path / "reference").glob("*.npy")) if method == "dpo" else []
    assert len(kept) == 4 * (method == "dpo")
    if method == "reward":
        assert 0.0 <= result["calibration_error"] <= 0.5
        assert sum(row["pairs"] for row in result["reliability"]) == 4
        check_reward_model(tmp_path)


def check_reward_model(folder):
    """The folder's model ranks new texts, wherever padding ends."""
    model, params = reward_model.load(folder)
    scorer = reward_model.RewardModel(SPEC, params)
    texts = [encoded(np.array([*f"say {a}".encode(), 256], np.int32)) for a in ("z: ++", "z: --")]
    together = scorer(texts)
    assert together[0] > together[1]
    np.testing.assert_allclose(scorer(texts[:1]), together[:1], rtol=1e-4)
    assert "reward_head" not in model.params


def test_a_folder_without_a_head_scores_nothing(base):
    with pytest.raises(UserError, match="one with finetune"):
        reward_model.load(base)


@pytest.mark.parametrize(
    ("line", "flags", "said"),
    [
        ({"chosen": "a", "rejected": "a"}, (), "same answer as chosen and as rejected"),
        ({"chosen": "a"}, (), "has no rejected"),
        ({"chosen": "a", "rejected": "b"}, ("--config.finetune.dpo.beta=0",), "dpo.beta"),
        (
            {"chosen": "a", "rejected": "b"},
            ("--config.finetune.dpo.loss=hinge", "--config.finetune.dpo.smoothing=0.1"),
            "set finetune.dpo.smoothing=0",
        ),
        (
            {"chosen": "a", "rejected": "b"},
            ("--config.finetune.method=reward", "--config.finetune.reward.margin=true"),
            "needs a number",
        ),
    ],
)
def test_wrong_preferences_are_refused_in_a_sentence(base, tmp_path, capsys, line, flags, said):
    path = write(tmp_path / "x.jsonl", [{"prompt": str(i), **line} for i in range(20)])
    assert finetune(base, path, tmp_path / "run", "--config.finetune.method=dpo", *flags) == 2
    assert said in capsys.readouterr().err

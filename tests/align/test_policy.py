"""Policy optimisation: TRL's and rlax's numbers, metrics without padding, exact resumes."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aligned import EXPERIMENTS, SPEC, write

from gptjax import convert
from gptjax.align import policy, reinforce, rewards, rollouts
from gptjax.align.logprobs import Scored
from gptjax.align.policy import PolicyConfig, Rollouts
from gptjax.align.rewards import Asked
from gptjax.align.rollouts import Prompt
from gptjax.errors import UserError
from gptjax.main import main
from gptjax.ops import policy_losses as ops
from gptjax.stages import reinforcing
from gptjax.stages.reinforcing import measured, sampler_of
from gptjax.train import Batch, Interrupted

GOLDEN = json.loads((Path(__file__).parent / "trl_golden.json").read_text())
RLAX = {
    "rewards": [0.126, -0.132, 0.64, 0.105, -0.536],
    "values": [0.362, 1.304, 0.947, -0.704, -1.265],
    "advantages": [0.10265414, -1.15964711, -0.79992646, 0.19538, 0.72899997],
    "log_ratio": [-0.249, 0.017, -0.93, -0.088, -0.498],
    "of": [-0.732, -0.544, -0.316, 0.412, 1.043],
    "loss": 0.07611113786697388,
}
"""rlax 0.1.9: truncated_generalized_advantage_estimation with γ = .9, λ = .8, a final value of 0;
clipped_surrogate_pg_loss with ε = .2."""


def golden_rollouts(padding=0):
    """TRL's answers, with so many more places that hold nothing."""
    given = {name: np.array(x, np.float32) for name, x in GOLDEN["policy"].items()}
    wide = {
        name: jnp.pad(jnp.asarray(x), ((0, 0), (0, padding)))
        for name, x in given.items()
        if name != "advantages"
    }
    mask = wide["mask"]
    blank = jnp.zeros(mask.shape, jnp.int32)
    advantages = given["advantages"][:, None] * mask
    batch = Batch(blank, blank, mask)
    made = Rollouts(batch, wide["old"], wide["reference"], advantages, mask * 0, mask * 0)
    return wide["new"], made


def reported(monkeypatch, settings, padding=0):
    new, batch = golden_rollouts(padding)
    monkeypatch.setattr(policy, "score", lambda *given: Scored(new, 2.0 + new, None))
    objective = policy.policy(SPEC, settings)

    @jax.jit
    def means():
        total, count, terms = objective(None, batch)
        return total / count, {name: x / count for name, x in terms.sums.items()}

    loss, found = means()
    return float(loss), {name: float(x) for name, x in found.items()}


NAMES = {"grpo": "answer", "bnpo": "token", "dr_grpo": "constant"}


@pytest.mark.parametrize("case", GOLDEN["grpo"], ids=str)
def test_the_losses_of_grpo_are_those_of_trl(monkeypatch, case):
    kind, beta, wanted = case
    settings = PolicyConfig(beta=beta, aggregate=NAMES[kind], clip_low=0.2, clip_high=0.28)
    assert reported(monkeypatch, settings)[0] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("aggregate", policy.AGGREGATES)
def test_metrics_do_not_count_padding(monkeypatch, aggregate):
    settings = PolicyConfig(aggregate=aggregate)
    plain, more = (reported(monkeypatch, settings, padding)[1] for padding in (0, 5))
    for name, value in plain.items():
        assert more[name] == pytest.approx(value, rel=1e-5)
    new, batch = golden_rollouts()
    mask = batch.batch.weights_BT
    answers = jnp.sum((2.0 + new) * mask, 1) / jnp.sum(mask, 1)
    tokens = jnp.sum((2.0 + new) * mask) / jnp.sum(mask)
    wanted = tokens if aggregate == "token" else jnp.mean(answers)
    assert plain["align/entropy"] == pytest.approx(float(wanted), rel=1e-5)


def test_advantages_and_clipping_are_those_of_rlax():
    rewards_, values = (jnp.asarray([RLAX[name] + [9.0]]) for name in ("rewards", "values"))
    mask = jnp.asarray([[1.0] * 5 + [0.0]])  # what follows the answer is not there
    found = ops.generalized_advantages(rewards_, values, mask, discount=0.9, decay=0.8)
    np.testing.assert_allclose(found[0, :5], RLAX["advantages"], atol=1e-5)
    assert float(found[0, 5]) == 0.0
    ratio, of = (jnp.asarray([RLAX[name]]) for name in ("log_ratio", "of"))
    loss, clipped = ops.clipped_policy(ratio, of, low=0.2, high=0.2)
    assert float(jnp.mean(loss)) == pytest.approx(RLAX["loss"], rel=1e-5)
    # e^-.249 = .78, e^-.93 = .39 and e^-.498 = .61 are below .8: clipped where that is worse.
    np.testing.assert_array_equal(clipped[0], [1, 0, 1, 0, 0])


def test_values_move_no_further_than_the_clip():
    values, old, returns = (jnp.asarray([[x]]) for x in (3.0, 1.0, 2.9))
    loss = ops.clipped_value(values, old, returns, clip=0.5)
    assert float(loss[0, 0]) == pytest.approx(0.5 * (1.5 - 2.9) ** 2)
    loss = ops.clipped_value(values, old, jnp.asarray([[9.0]]), clip=5.0)
    assert float(loss[0, 0]) == pytest.approx(0.5 * 36.0)


def test_whitening_and_group_advantages_by_hand():
    x, mask = jnp.asarray([[1.0, 3.0, 100.0]]), jnp.asarray([[1.0, 1.0, 0.0]])
    np.testing.assert_allclose(ops.whitened(x, mask), [[-1.0, 1.0, 0.0]], atol=1e-5)
    found = ops.group_advantages(jnp.asarray([[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]]))
    np.testing.assert_allclose(found, [[-1, 0, 1], [0, 0, 0]], atol=2e-4)  # sample deviation 1


def test_estimators_have_the_mean_that_their_names_promise():
    """p against q on three tokens: k1 and k3 give KL(p‖q) in the mean over p."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
    difference = jnp.asarray(np.log(p / q))[None]
    means = {name: float(jnp.sum(k(difference)[0] * p)) for name, k in ops.KL_ESTIMATORS.items()}
    exact = float(np.sum(p * np.log(p / q)))
    assert means["k1"] == pytest.approx(exact, rel=1e-5)
    assert means["k3"] == pytest.approx(exact, rel=1e-5)
    assert means["k2"] == pytest.approx(0.5 * np.sum(p * np.log(p / q) ** 2), rel=1e-5)
    assert np.all(ops.KL_ESTIMATORS["k3"](difference) >= 0)


def test_estimators_that_are_offered_lead_back_to_the_reference():
    """The mean gradient over a policy near q, in a loss and in rewards, along that of KL(p‖q)."""
    q = jnp.log(jnp.array([0.2, 0.5, 0.3]))
    z = q + 0.02 * jnp.array([1.0, -2.0, 0.5])

    def kl(z):
        p = jax.nn.softmax(z)
        return jnp.sum(p * (jnp.log(p) - q))

    def in_loss(z, estimate):
        p = jax.lax.stop_gradient(jax.nn.softmax(z))
        return jnp.sum(p * estimate((jax.nn.log_softmax(z) - q)[None])[0])

    def in_rewards(z, estimate):
        p = jax.lax.stop_gradient(jax.nn.softmax(z))
        cost = estimate((jax.nn.log_softmax(z) - q)[None])[0]
        return jnp.sum(p * jax.lax.stop_gradient(cost) * jax.nn.log_softmax(z))

    exact = jax.grad(kl)(z)
    for method, mean in (("grpo", in_loss), ("ppo", in_rewards)):
        for name, estimate in ops.KL_ESTIMATORS.items():
            pull = float(jax.grad(mean)(z, estimate) @ exact / (exact @ exact))
            offered = name in policy.ESTIMATORS[method]
            assert pull == pytest.approx(1.0 if offered else 0.0, abs=0.1), (method, name)


def test_estimators_without_pull_are_refused():
    for method, name in (("ppo", "k2"), ("ppo", "k3"), ("grpo", "k1")):
        with pytest.raises(UserError, match=f"align.kl={name} does not lead back"):
            reinforce.check(SPEC, PolicyConfig(method=method, kl=name, prompts=SPEC.batch_size))
    assert [PolicyConfig(method=m).estimator for m in ("grpo", "ppo")] == ["k3", "k1"]


def test_ppos_rewards_are_the_answers_at_its_last_token_less_beta_kl_at_each():
    settings = PolicyConfig(method="ppo", kl="k1", discount=1.0, gae_decay=1.0)
    mask = np.array([[0.0, 1.0, 1.0, 0.0]], np.float32)
    away, value = np.array([[0, 0.5, -0.2, 0]]), np.array([[7.0, 0.1, 0.3, 8.0]])
    advantages, returns = rollouts._ppo(settings, away, value, mask, np.array([2.0]), 0.1)
    np.testing.assert_allclose(returns, [[0, 2.0 - 0.05 + 0.02, 2.0 + 0.02, 0]], atol=1e-6)
    np.testing.assert_allclose(advantages, [[0, 1, -1, 0]], atol=1e-4)  # 1.87 and 1.72, whitened


def test_a_round_that_ended_the_run_is_not_called_the_last(capsys):
    course = SimpleNamespace(
        updates=2, rounds=40, spec=SimpleNamespace(steps=80), settings=PolicyConfig(kl_stop=3.0)
    )
    config = SimpleNamespace(train=SimpleNamespace(log_seconds=0.0))
    log = SimpleNamespace(metrics=lambda *given: None, values=lambda *given: None)
    whole = {"align/reward": 0.5, "align/kl_answer": 3.1, "align/answer_tokens": 6.0}
    say = reinforcing._hooks(config, course, log, None).metrics
    say(18, {"train/loss": np.zeros(2)}, whole)
    say(80, {"train/loss": np.zeros(2)}, whole)
    say(80, {}, whole)
    assert capsys.readouterr().out.splitlines() == [
        "round 9/40: reward 0.5000, KL 3.100 nats an answer, 6.0 tokens",
        "round 40/40: reward 0.5000, KL 3.100 nats an answer, 6.0 tokens",
        "ended at align.kl_stop=3: reward 0.5000, KL 3.100 nats an answer, 6.0 tokens",
    ]


def test_programs_judge():
    def asked(text, answer, ended=True):
        return Asked({"answer": answer}, text, ended, "here")

    assert [rewards.exact(asked(t, "ab", e)) for t, e in (("ab", 1), ("ab", 0), ("b", 1))] == (
        [1.0, 0.0, 0.0]
    )
    assert rewards.letters(asked("abx", "abcd")) == 0.5 and rewards.letters(asked("", "a")) == 0.0
    assert rewards.number(asked("so 3 + 4 = 7.0", 7)) == 1.0
    assert rewards.number(asked("none", 7)) == 0.0
    with pytest.raises(UserError, match="has no answer"):
        rewards.exact(Asked({}, "a", True, "here"))
    with pytest.raises(UserError, match="must be finite"):
        rewards.judged(lambda one: float("nan"), [asked("a", "b")])


def ascii_share(asked):
    """The share of characters that are ASCII: half of the bytes."""
    return sum(c.isascii() for c in asked.text) / max(len(asked.text), 1)


@pytest.fixture(scope="module")
def course(base):
    """Answers of four bytes to four prompts."""
    model = convert.load(base)
    prompts = [Prompt((i,), {}, "here") for i in range(65, 69)]
    settings = PolicyConfig(prompts=4, group=8, max_tokens=4, epochs=2, eval_prompts=4, beta=0.01)
    optim = dataclasses.replace(
        SPEC.optim, learning_rate=0.02, weight_decay=0.0, schedule="constant"
    )
    spec = dataclasses.replace(SPEC, optim=optim, batch_size=32, steps=24)
    sampler = sampler_of(model, prompts, 4)
    judge = rollouts.program(ascii_share)
    return reinforce.Course(spec, settings, model.params, sampler, judge, prompts, "course")


def test_slots_give_the_answers_of_one_batch(course):
    """The next answer enters when one ends; keys are those of the answers' numbers."""
    each = [
        dataclasses.replace(course.sampler, slots=slots)(
            course.params, course.prompts[:2], 2, jax.random.key(5)
        )
        for slots in (0, 3)
    ]
    for one, other in zip(*(answers.texts for answers in each), strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
    assert len({tuple(text.ids) for text in each[0].texts}) > 2


def trained(course, folder, **settings):
    """(rounds' numbers, the score at the end)."""
    changed = dataclasses.replace(course.settings, **settings)
    course = dataclasses.replace(course, settings=changed)
    seen = []
    hooks = reinforce.Hooks(lambda step, each, whole: seen.append(whole))
    params = reinforce.train(course, folder, hooks)
    return seen, measured(course, params, course.prompts, course.judge, group=8), params


@pytest.fixture(scope="module")
def free(course, tmp_path_factory):
    """(rounds' numbers, the score at the end) of GRPO with next to no penalty."""
    return trained(course, tmp_path_factory.mktemp("free"))


def test_grpo_raises_the_reward(free):
    seen, score, _ = free
    assert seen[0]["align/kl_answer"] == pytest.approx(0.0, abs=1e-4)
    assert score["reward"] > seen[0]["align/reward"] + 0.2


def test_a_large_beta_keeps_ppo_near_the_reference(course, free, tmp_path):
    """Whitened advantages are of one size at every β; what is left is noise of the steps' size."""
    seen, score, _ = trained(course, tmp_path, method="ppo", kl="k1", beta=100.0)
    assert abs(score["kl_answer"]) < 0.5 * free[1]["kl_answer"], (score, free[1])
    assert abs(score["reward"] - seen[0]["align/reward"]) < 0.1


@pytest.mark.slow
def test_ppo_raises_the_reward_and_beta_bounds_the_kl(course, tmp_path):
    """python -m pytest -m slow tests/align/test_policy.py"""
    seen, score, params = trained(course, tmp_path / "free", method="ppo", kl="k1")
    assert score["reward"] > seen[0]["align/reward"] + 0.1 and policy.VALUE in params
    held = trained(course, tmp_path / "held", method="ppo", kl="k1", beta=100.0)[1]
    assert abs(held["kl_answer"]) < 0.5 * score["kl_answer"]
    free, held = (trained(course, tmp_path / f"grpo{b}", beta=b)[1] for b in (0.01, 30.0))
    assert held["kl_answer"] < 0.2 * free["kl_answer"]


def test_a_stopped_run_draws_the_same_answers_and_ends_with_the_same_bits(course, tmp_path):
    short = dataclasses.replace(course, spec=dataclasses.replace(course.spec, steps=6))
    whole = reinforce.train(short, tmp_path / "whole")
    seen = []
    hooks = reinforce.Hooks(lambda *given: seen.append(given), stop=lambda: len(seen) == 2)
    with pytest.raises(Interrupted):
        reinforce.train(short, tmp_path / "cut", hooks)
    rest = reinforce.train(short, tmp_path / "cut")
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(rest), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_run_ends_where_the_kl_is_too_large_and_beta_follows_its_target(course, tmp_path):
    seen, _, _ = trained(course, tmp_path / "stop", kl_stop=0.05)
    assert len(seen) < course.rounds and seen[-1]["align/kl_answer"] >= 0.05
    seen, _, _ = trained(course, tmp_path / "target", kl_target=0.01, method="ppo", kl="k1")
    assert seen[1]["align/beta"] < course.settings.beta < seen[-1]["align/beta"]


@pytest.mark.slow
def test_the_whole_journey_raises_the_gold_step_by_step(tmp_path):
    """Small: python -m pytest -m slow tests/align/test_policy.py, half a minute."""
    flags = [
        f"--config.{name}={value}"
        for name, value in {
            "data.cache_dir": tmp_path / "cache",
            "model.width": 32,
            "train.steps": 150,
            "align_task.prompts": 300,
            "align_task.reward_steps": 60,
            "align_task.dpo_steps": 20,
            "align_task.policy_rounds": 10,
        }.items()
    ]
    experiment = f"--config={EXPERIMENTS / 'align.py'}"
    assert main(["gptjax", experiment, f"--workdir={tmp_path / 'run'}", *flags]) == 0
    rows = json.loads((tmp_path / "run" / "alignment.json").read_text())
    gold = {row["model"]: row["reward"] for row in rows}
    assert gold["base"] < gold["sft"] < min(gold["best of 16"], gold["ppo"], gold["grpo"])
    assert all(row["kl_answer"] < 15 for row in rows)
    changed = ("--config.align_task.length=20",)
    assert main(["gptjax", experiment, f"--workdir={tmp_path / 'other'}", *changed]) == 2


def command(base, path, workdir, *flags):
    return main(
        [
            "gptjax",
            f"--config={EXPERIMENTS / 'grpo.py'}",
            f"--config.model_folder={base}",
            f"--config.data.path={path}",
            f"--workdir={workdir}",
            "--config.data.heldout_fraction=0.3",
            "--config.train.steps=2",
            "--config.train.batch_size=8",
            "--config.align.prompts=4",
            "--config.align.group=2",
            "--config.align.max_tokens=4",
            "--config.align.eval_prompts=4",
            *flags,
        ]
    )


def test_job_align_writes_a_model_and_its_score(base, tmp_path, capsys):
    path = write(tmp_path / "p.jsonl", [{"prompt": f"{i}", "answer": "a"} for i in range(20)])
    flags = ("--config.align.reward=letters", "--config.align.slots=3")
    watch = "--config.align.watch=letters,emphasis"
    path = write(path, [{**one, "best": 2} for one in map(json.loads, path.open())])
    assert command(base, path, tmp_path / "run", *flags, watch) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    rounds = [line for line in lines if "align/letters" in line]
    assert len(rounds) == 2 and all(one["align/letters"] == one["align/reward"] for one in rounds)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0.0 <= result["reward"] <= 1.0
    assert convert.load(tmp_path / "run").tokenizer is not None
    assert command(base, path, tmp_path / "run", *flags) == 0
    assert command(base, path, tmp_path / "run", "--config.align.reward=number") == 2
    assert "other settings of align" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--config.align.group=3",), "no whole number of batches"),
        (("--config.train.steps=3", "--config.align.epochs=2"), "no whole number of rounds"),
        (("--config.align.group=1", "--config.align.prompts=8"), "no other answers"),
        (("--config.align.max_tokens=40",), "shorten one of them"),
        (("--config.align.reward_folder={base}",), "scores no texts"),
        (("--config.align.beta=-1",), "align.beta"),
    ],
)
def test_what_cannot_be_aligned_is_refused_in_a_sentence(base, tmp_path, capsys, flags, said):
    path = write(tmp_path / "p.jsonl", [{"prompt": f"{i}", "answer": "a"} for i in range(20)])
    given = (flag.replace("{base}", str(base)) for flag in flags)
    assert command(base, path, tmp_path / "run", *given) == 2
    assert said in capsys.readouterr().err

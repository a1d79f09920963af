"""Constitutional AI: principles from a file, the stages in order, and the reward by hand."""

import dataclasses
import json

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aligned import EXPERIMENTS, write

from gptjax import convert, infer
from gptjax.align import constitution
from gptjax.align.constitution import Critic, Principle
from gptjax.align.encoding import Codec, Encoded
from gptjax.align.packing import one_by_one
from gptjax.align.rewards import Asked
from gptjax.align.rollouts import Answers
from gptjax.errors import UserError
from gptjax.jobs import align_task
from gptjax.main import main
from gptjax.optim import OptimConfig
from gptjax.train import RunSpec

FIRST = Principle("?", "y", "n", "!")
SECOND = Principle("#", "k", "v", "%")
FILE = "# loud\ncritique: ?\nkept: y\nviolated: n\nrevision: !\n\n\n# \ncritique: #\nkept: k\n"


@pytest.fixture(scope="module")
def critic(base):
    model = convert.load(base)
    params = jax.tree.map(jnp.asarray, model.params)
    spec = RunSpec(model=model.config, optim=OptimConfig(), batch_size=4, steps=1)
    speaker = infer.Model(model.config, None, model.tokenizer, "", "the critic")
    codec = Codec(model.tokenizer, "", model.config.seq_len)
    return Critic(spec, params, speaker, codec, (FIRST, SECOND), 4)


def test_principles_are_read_from_blocks(tmp_path):
    path = tmp_path / "principles.txt"
    path.write_text(FILE + "violated: v\nrevision: \\nAgain:\n", encoding="utf-8")
    assert constitution.read(path) == (FIRST, dataclasses.replace(SECOND, revision="\nAgain:"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FILE, "line 9 begins a principle that has not one text each"),
        ("critique: ?\nkept: y\nviolated: y\nrevision: !", "kept and violated are both 'y'"),
        ("# nothing\n", "holds no principle"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_principle_is_refused_by_its_line(tmp_path, text, said):
    path = tmp_path / "principles.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=said):
        constitution.read(path)


def test_each_stage_is_asked_with_those_before_it(critic, monkeypatch):
    asked = []

    def generate(model, ids, sampling, key):
        texts = [bytes(one).decode() for one in ids]
        asked.append((texts, jax.random.key_data(key).tolist()))
        return [infer.Answer((), (), (), (), f"<{len(asked)}>", "stop") for _ in texts]

    monkeypatch.setattr(constitution.infer, "generate", generate)
    found = critic.revise([{"prompt": "a>"}, {"prompt": "b>"}], jax.random.key(0))
    assert [texts for texts, _ in asked] == [
        ["a>", "b>"],
        ["a><1>?", "b><1>#"],
        ["a><1>?<2>!", "b><1>#<2>%"],
    ]
    assert len({str(key) for _, key in asked}) == 3  # each stage draws by itself
    assert found[1].to_json() == {
        "prompt": "b>",
        "response": "<3>",
        "answer": "<1>",
        "asked": "#",
        "critique": "<2>",
    }


def answers_of(*texts):
    asked = tuple(Asked({"prompt": "p>"}, text, True, "here") for text in texts)
    ids = [np.array([*f"p>{text}".encode()], np.int32) for text in texts]
    encoded = tuple(Encoded(one, np.arange(len(one)) >= 2) for one in ids)
    return Answers(one_by_one(encoded, 16), asked, encoded)


def test_the_reward_is_the_share_of_kept_among_both_verdicts(critic):
    found = critic.kept(answers_of("AB", "abc"))
    for text, reward in zip(("AB", "abc"), found, strict=True):
        shares = []
        for one in (FIRST, SECOND):
            ids = [*f"p>{text}{one.critique}".encode()]
            row = np.zeros((1, 16), np.int32)
            row[0, : len(ids)] = ids
            logits = compiled_model.apply(critic.spec.model, critic.params, row)
            last = np.asarray(logits)[0, len(ids) - 1]
            shares.append(1 / (1 + np.exp(last[ord(one.violated)] - last[ord(one.kept)])))
        assert reward == pytest.approx(np.mean(shares), rel=1e-5)
        assert shares[0] != pytest.approx(shares[1], rel=1e-3)


def test_the_critique_is_added_with_its_weight():
    answers = answers_of("A", "b")
    judge = constitution.with_critic(
        lambda given: np.array([1.0, 2.0], np.float32),
        lambda given: np.array([0.5, 0.25], np.float32),
        3.0,
    )
    assert judge(answers).tolist() == [2.5, 2.75]


def test_a_conversation_that_does_not_fit_is_refused(critic):
    long = dataclasses.replace(critic, principles=(Principle("?" * 40, "y", "n", "!"),))
    with pytest.raises(UserError, match="shorten the principles, or lower"):
        long.kept(answers_of("A"))


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
            "--config.align.reward=ended",
            *flags,
        ]
    )


def test_job_align_is_judged_by_a_constitution(base, tmp_path, capsys):
    path = write(tmp_path / "p.jsonl", [{"prompt": f"{i}"} for i in range(20)])
    principles = tmp_path / "principles.txt"
    principles.write_text("critique: ?\nkept: y\nviolated: n\nrevision: !\n")
    flag = f"--config.align.constitution={principles}"

    def result(name, *flags):
        assert command(base, path, tmp_path / name, *flags) == 0
        return json.loads((tmp_path / name / "result.json").read_text())

    plain, weightless, judged = (
        result("plain"),
        result("weightless", flag, "--config.align.critique_weight=0"),
        result("judged", flag),
    )
    assert weightless["params_sha256"] == plain["params_sha256"] != judged["params_sha256"]
    assert plain["reward"] < judged["reward"] < plain["reward"] + 1.0
    principles.write_text("critique: ?\nkept: n\nviolated: y\nrevision: !\n")
    assert command(base, path, tmp_path / "judged", flag) == 2
    assert "other settings of align" in capsys.readouterr().err
    write(path, [{"prompt": f"{i}", "answer": "1"} for i in range(20)])  # rewards may read it
    assert command(base, path, tmp_path / "plain") == 2
    assert "other prompts" in capsys.readouterr().err


def test_revisions_are_tuned_on_with_the_verdicts_that_were(tmp_path):
    """Without them the model forgets to judge; no round is counted that a KL left out."""
    (principle,) = align_task.write_constitution(tmp_path / "principles.txt")
    verdict = {"prompt": "a>B?", "response": principle.kept}
    pairs = [{"prompt": "a>", "response": "ABC"}, verdict, {"prompt": "a>B?y!", "response": "AB"}]
    write(tmp_path / "pairs.jsonl", pairs)
    assert align_task._verdicts(tmp_path, (principle,)) == [verdict]
    write(tmp_path / "metrics.jsonl", [{"align/kl_old": 0.0}, {"align/reward": 1.0}] * 3)
    assert align_task._rounds(tmp_path) == 3

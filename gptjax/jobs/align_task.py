"""job=align_task: a base, and every method of alignment, on a task with known answers.

Fine-tuning, a reward model, PPO, DPO, GRPO, and constitutional AI, in which the model revises its
own answers and judges them.

Every step is a folder of the workdir with its model and its files, so that each can be looked at,
and a command that was stopped goes on where it was.
"""

import dataclasses
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from gptjax import convert
from gptjax.align import best_of_n, constitution, reinforce, reward_model, rollouts, tasks
from gptjax.align.constitution import Principle
from gptjax.align.rewards import Asked
from gptjax.align.rollouts import Prompt
from gptjax.config import Config, enable_compilation_cache
from gptjax.engines.devices import start_backend
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import write_atomic, write_json
from gptjax.job import Job
from gptjax.stages.alignment_steps import base, changed, timed, write_lines
from gptjax.stages.reinforcing import course_of, critic_of, judge_of, measured, reinforce_folder
from gptjax.stages.run_log import flops_per_token
from gptjax.stages.tuning import tune

CONSTITUTION = "constitution.txt"
POLICIES = ("ppo", "grpo", "constitutional")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The task and the sizes of its steps; `model`, `optim` and `train` are the base's."""

    length: int = setting(6, "letters of a right answer", minimum=1)
    documents: int = setting(6000, "texts of the base", minimum=100)
    base_right: float = setting(0.4, "share of capitals in their answers", above=0.0, maximum=1.0)
    pairs: int = setting(300, "prompts with answers for fine-tuning", minimum=20)
    pairs_right: float = setting(0.65, "share of capitals there", above=0.0, maximum=1.0)
    prompts: int = setting(1000, "prompts for preferences and policies", minimum=40)
    sft_steps: int = setting(60, "updates of fine-tuning", minimum=1)
    reward_steps: int = setting(200, "updates of the reward model", minimum=1)
    dpo_steps: int = setting(100, "updates of dpo", minimum=1)
    policy_rounds: int = setting(40, "rounds of each policy optimisation", minimum=1)
    critiques: float = setting(
        0.5,
        "share of texts and pairs that go on to judge the answer and to revise it",
        minimum=0.0,
        maximum=1.0,
    )
    revised_right: float = setting(
        0.85, "share of capitals in those revisions", above=0.0, maximum=1.0
    )
    best_of: int = setting(16, "answers of which the reward model chooses one", minimum=2)


def check(config: Config) -> None:
    """Refuse a task that does not fit into the context."""
    settings: Settings = config.own["align_task"]
    needed = 6 * settings.length + 8  # a prompt, an answer, its critique and its revision
    if needed > config.model.seq_len:
        raise UserError(
            f"align_task.length={settings.length} needs {needed} tokens and "
            f"model.seq_len={config.model.seq_len} is the context; give a longer one"
        )


def main(config: Config, folder: Path) -> int:
    """All steps, then the table of what each gained."""
    start_backend(config)
    enable_compilation_cache(config)
    folder.mkdir(parents=True, exist_ok=True)
    write_texts(config, folder)
    steps = steps_of(config, folder)
    seconds = {name: timed(folder / name, step) for name, step in steps.items()}
    table = scores(config, folder, seconds)
    write_json(folder / "alignment.json", table)
    show(table, folder)
    return 0


def steps_of(config: Config, folder: Path) -> dict[str, Callable[[], Any]]:
    """The steps by their folders, in the order in which one needs the other."""

    def tuned(name: str, method: str, start: str, file: str, steps: int, rate: float) -> None:
        # What the model wrote is about prompts that no policy is scored on: others are held out.
        share = config.data.heldout_fraction * (1.0 if file == "pairs.jsonl" else 2.0)
        made = changed(
            config,
            general={"job": "finetune", "model_folder": str(folder / start)},
            data={"path": str(folder / file), "heldout_fraction": share},
            train={"steps": steps, "batch_size": 32},
            optim={"learning_rate": rate},
            finetune={"method": method},
        )
        tune(made, folder / name)

    settings: Settings = config.own["align_task"]
    return {
        "base": lambda: base(config, folder / "base.jsonl", folder / "base"),
        "sft": lambda: tuned("sft", "sft", "base", "pairs.jsonl", settings.sft_steps, 1e-3),
        "preferences": lambda: write_preferences(config, folder),
        "reward": lambda: tuned(
            "reward", "reward", "sft", "preferences.jsonl", settings.reward_steps, 1e-3
        ),
        "dpo": lambda: tuned("dpo", "dpo", "sft", "preferences.jsonl", settings.dpo_steps, 3e-4),
        "ppo": lambda: reinforce_folder(policy_config(config, folder, "ppo"), folder / "ppo"),
        "grpo": lambda: reinforce_folder(policy_config(config, folder, "grpo"), folder / "grpo"),
        "revisions": lambda: write_revisions(config, folder),
        "revised": lambda: tuned(
            "revised", "sft", "sft", "revisions.jsonl", settings.sft_steps, 1e-3
        ),
        "constitutional": lambda: reinforce_folder(
            policy_config(config, folder, "constitutional"), folder / "constitutional"
        ),
    }


def policy_config(config: Config, folder: Path, method: str) -> Config:
    """PPO by the reward model, GRPO by the program, or GRPO by the constitution."""
    settings: Settings = config.own["align_task"]
    usual = {"method": "grpo", "max_tokens": 2 * settings.length, "kl": "", "beta": 0.02}
    kinds: dict[str, dict[str, Any]] = {
        "grpo": {"reward": "capitals"},
        "ppo": {
            "method": "ppo",
            "reward_folder": str(folder / "reward"),
            "beta": 0.05,
            "epochs": 2,
        },
        "constitutional": {
            "reward": "ended",
            "constitution": str(folder / CONSTITUTION),
            "beta": 0.1,
            "kl_stop": 3.0,  # further off the small critic is wrong about what it has never read
        },
    }
    own = usual | kinds[method]
    start = "revised" if "constitution" in own else "sft"
    asked = dataclasses.replace(config.own["align"], **own)
    updates = asked.epochs * asked.prompts * asked.group // 64
    return changed(
        config,
        general={"job": "align", "model_folder": str(folder / start)},
        data={"path": str(folder / "prompts.jsonl")},
        train={"steps": settings.policy_rounds * updates, "batch_size": 64},
        optim={"learning_rate": 1e-3, "schedule": "constant"},
        align=own,
    )


def write_texts(config: Config, folder: Path) -> None:
    """The base's texts, fine-tuning pairs and prompts, functions of the seed."""
    settings, seed = config.own["align_task"], config.train.seed
    draw, length = random.Random(seed), settings.length

    def write(name: str, count: int, number: int, make: Callable[[str], dict[str, Any]]) -> None:
        write_lines(folder / name, map(make, tasks.prompts(count, 3 * seed + number)))

    (principle,) = write_constitution(folder / CONSTITUTION)

    def first(prompt: str, right: float) -> str:
        some = draw.randint(length // 2, length + length // 2)
        return prompt + tasks.answer(some, right, draw)

    def judged(prompt: str, answer: str) -> str:
        """Said to be kept as often as places are right."""
        right = tasks.capitals(Asked({"length": length}, answer, True, ""))
        return principle.kept if draw.random() < right else principle.violated

    def text(prompt: str) -> dict[str, Any]:
        if draw.random() >= settings.critiques:
            return {"text": first(prompt, settings.base_right)}
        said = first(prompt, draw.random())  # a critic has seen answers of every quality
        verdict = judged(prompt, said[len(prompt) :])
        revised = tasks.answer(length, settings.revised_right, draw)
        return {"text": said + principle.critique + verdict + principle.revision + revised}

    def pair(prompt: str) -> dict[str, Any]:
        if draw.random() >= settings.critiques:
            return {"prompt": prompt, "response": tasks.answer(length, settings.pairs_right, draw)}
        said = first(prompt, draw.random())
        verdict = judged(prompt, said[len(prompt) :])
        if draw.random() < 0.5:
            return {"prompt": said + principle.critique, "response": verdict}
        revised = tasks.answer(length, settings.revised_right, draw)
        asked = said + principle.critique + verdict + principle.revision
        return {"prompt": asked, "response": revised}

    write("base.jsonl", settings.documents, 0, text)
    plain = settings.pairs / max(1.0 - settings.critiques, 0.1)  # critiques are further pairs
    write("pairs.jsonl", round(plain), 1, pair)
    write("prompts.jsonl", settings.prompts, 2, lambda one: {"prompt": one, "length": length})


def write_constitution(path: Path) -> tuple[Principle, ...]:
    """A principle in the few letters of this language, as a text file."""
    write_atomic(
        path,
        "# Every letter of an answer is a capital.\n"
        "critique: ?\nkept: y\nviolated: n\nrevision: !\n",
    )
    return constitution.read(path)


def write_revisions(config: Config, folder: Path) -> None:
    """Each prompt with the fine-tuned model's revision of its own answer, and verdicts again.

    Tuned on revisions alone the model forgets to judge, and it is the critic of the next step.
    """
    if (folder / "revisions.jsonl").exists():
        return
    asked = policy_config(config, folder, "constitutional")
    model = convert.load(folder / "sft")
    course, _ = course_of(asked, model)
    critic = critic_of(asked.own["align"], course.spec, model)
    prompts = [one.said for one in course.prompts]
    found = critic.revise(prompts, rollouts.round_key(config.train.seed, 3))
    revised = [one.to_json() for one in found if one.revision]
    write_lines(folder / "revisions.jsonl", [*revised, *_verdicts(folder, critic.principles)])


def _verdicts(folder: Path, principles: Sequence[Principle]) -> list[dict[str, Any]]:
    """The lines of the fine-tuning file whose response says whether a principle is kept."""
    said = {word for one in principles for word in (one.kept, one.violated)}
    lines = (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    return [pair for pair in map(json.loads, lines) if pair["response"] in said]


def write_preferences(config: Config, folder: Path) -> None:
    """Of four answers of the fine-tuned model the best is preferred to the worst."""
    if (folder / "preferences.jsonl").exists():
        return
    course, _, model = _course(config, folder)
    params = jax.tree.map(jnp.asarray, model.params)
    key = rollouts.round_key(config.train.seed, 1)
    answers = course.sampler(params, course.prompts, 4, key)
    gold_N4 = rollouts.program(tasks.capitals)(answers).reshape(-1, 4)
    said = np.array([one.text for one in answers.asked]).reshape(-1, 4)
    rows = np.arange(len(gold_N4))
    best, worst = (pick(gold_N4, axis=1) for pick in (np.argmax, np.argmin))
    lines = [
        {"prompt": one.said["prompt"], "chosen": a, "rejected": b}
        for one, a, b, differ in zip(
            course.prompts,
            said[rows, best].tolist(),
            said[rows, worst].tolist(),
            (gold_N4[rows, best] > gold_N4[rows, worst]).tolist(),
            strict=True,
        )
        if differ and a and b
    ]
    write_lines(folder / "preferences.jsonl", lines)


def _course(config: Config, folder: Path) -> tuple[reinforce.Course, list[Prompt], convert.Model]:
    """The program's course from the fine-tuned model."""
    model = convert.load(folder / "sft")
    course, heldout = course_of(policy_config(config, folder, "grpo"), model)
    return course, heldout, model


def scores(config: Config, folder: Path, seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Gold score, KL from the fine-tuned model, FLOPs and seconds of each."""
    settings: Settings = config.own["align_task"]
    course, heldout, _ = _course(config, folder)
    gold = rollouts.program(tasks.capitals)
    per_token, T = flops_per_token(course.spec), course.sampler.width
    asked = {name: _rounds(folder / name) * course.answers * T for name in POLICIES}
    updates = {
        "base": config.train.steps * config.train.batch_size * config.model.seq_len,
        "sft": settings.sft_steps * 32 * config.model.seq_len,
        "dpo": settings.dpo_steps * 2 * 32 * T,
        "ppo": asked["ppo"] * 3,  # two epochs; answers and scores
        "grpo": asked["grpo"] * 2,
        "revised": settings.sft_steps * 32 * config.model.seq_len,
        "constitutional": asked["constitutional"] * 3,  # two judgements
    }
    rows = []
    for name, tokens in updates.items():
        params = convert.load(folder / name).params
        score = measured(course, params, heldout, gold)
        rows.append({"model": name, **score, "flops": tokens * per_token})
        rows[-1]["seconds"] = seconds[name]
    chosen = best_of(config, folder, course, heldout)
    rows.insert(2, {"model": f"best of {settings.best_of}", **chosen, "flops": 0.0, "seconds": 0.0})
    return rows


def _rounds(place: Path) -> int:
    """How many rounds a policy had before its end, which a KL may have brought."""
    lines = (place / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return sum("align/reward" in json.loads(line) for line in lines)


def best_of(
    config: Config, folder: Path, course: reinforce.Course, heldout: list[Prompt]
) -> dict[str, float]:
    """The gold of the answer that the reward model likes best, and the bound of its KL."""
    n = config.own["align_task"].best_of
    some = heldout[: course.settings.eval_prompts]
    model, params = reward_model.load(folder / "reward")
    judge = judge_of(dataclasses.replace(course.spec, model=model.config), params)
    key = rollouts.round_key(config.train.seed, 2)
    answers = course.sampler(jax.tree.map(jnp.asarray, course.params), some, n, key)
    proxy_GN, gold_GN = (
        each(answers).reshape(-1, n) for each in (judge, rollouts.program(tasks.capitals))
    )
    gold_G = gold_GN[np.arange(len(some)), proxy_GN.argmax(axis=1)]
    return {
        "reward": float(gold_G.mean()),
        "reward_stderr": float(gold_G.std(ddof=1) / math.sqrt(len(some))),
        "kl_answer": best_of_n.kl_bound(n),
    }


def show(table: list[dict[str, Any]], folder: Path) -> None:
    """Print the rows."""
    shown = Table(title=f"share of right places in answers, {folder}")
    for name in ("", "gold", "± standard error", "KL, nats an answer", "FLOPs", "seconds"):
        shown.add_column(name, justify="right" if name else "left")
    for row in table:
        numbers = (f"{row[name]:.3f}" for name in ("reward", "reward_stderr", "kl_answer"))
        shown.add_row(row["model"], *numbers, f"{row['flops']:.2e}", f"{row['seconds']:.0f}")
    Console(width=100).print(shown)


JOB = Job(main, settings=Settings, check=check, one_run=True, trains=True)

"""job=reward_overoptimization: the gold reward lost by optimising against small reward models.

Gao et al. 2022 (arXiv:2210.10760) on a task whose gold reward a program computes: reward models of
several amounts of data, best of n and reinforcement learning against each, and the two laws of the
gold reward by the distance from the first policy. Every step is a folder or file of the workdir,
and a command that was stopped goes on where it was.
"""

import dataclasses
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import convert
from gptjax.align import best_of_n, reinforce, reward_model, rollouts, tasks
from gptjax.align.rollouts import Answers, Prompt
from gptjax.config import Config, enable_compilation_cache
from gptjax.engines.devices import start_backend
from gptjax.engines.workdir import open_workdir
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.job import Job
from gptjax.stages.alignment_steps import base, changed, timed, write_lines
from gptjax.stages.overoptimization_laws import write
from gptjax.stages.reinforcing import course_of, judge_of, reinforce_folder
from gptjax.stages.tuning import tune

AT_ONCE = 2048
"""Answers that are drawn in one batch."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The task, its reward models, and how hard they are optimised against."""

    length: int = setting(12, "letters of an answer in the base's texts", minimum=2)
    right: float = setting(0.25, "share of capitals there", above=0.0, below=1.0)
    best: int = setting(4, "capitals of the best answer: the gold reward falls beyond", minimum=1)
    documents: int = setting(6000, "texts of the base", minimum=100)
    pairs: tuple[int, ...] = setting(
        (64, 256, 1024, 4096), "preferences that the reward models learn from", minimum=16
    )
    seeds: int = setting(3, "reward models of each amount, from other preferences", minimum=2)
    reward_steps: int = setting(100, "updates of a reward model", minimum=1)
    prompts: int = setting(400, "prompts of the policies", minimum=40)
    pool_prompts: int = setting(16, "held-out prompts for best of n", minimum=2)
    pool: int = setting(512, "answers to each of them", minimum=8)
    rounds: int = setting(20, "rounds of reinforcement learning", minimum=4)


def check(config: Config) -> None:
    """Refuse a context without room, and amounts of data that are no law's."""
    settings: Settings = config.own["reward_overoptimization"]
    needed = longest(settings) + 5
    if needed > config.model.seq_len:
        raise UserError(
            f"reward_overoptimization.length={settings.length} needs {needed} tokens and "
            f"model.seq_len={config.model.seq_len} is the context; give a longer one"
        )
    if len(set(settings.pairs)) < 2:
        raise UserError(
            f"reward_overoptimization.pairs={settings.pairs} gives nothing to compare; give two "
            "amounts or more, for example (32,128,512)"
        )


def longest(settings: Settings) -> int:
    """Most tokens of an answer."""
    return settings.length + settings.length // 2


def main(config: Config, folder: Path) -> int:
    """All steps, the points, and the laws through them."""
    start_backend(config)
    enable_compilation_cache(config)
    open_workdir(config, folder, fingerprint="written by the job")
    write_texts(config, folder)
    timed(folder / "base", lambda: base(config, folder / "base.jsonl", folder / "base"))
    course, heldout = first_policy(config, folder)
    write_preferences(config, folder, course)
    answers = pool(config, course, heldout)
    gold_GN = rollouts.program(tasks.emphasis)(answers).reshape(-1, pool_size(config))
    rows: list[dict[str, Any]] = []
    for pairs, seed in reward_models(config):
        name = f"{pairs}-{seed}"
        timed(folder / f"reward-{name}", lambda: reward(config, folder, name))  # noqa: B023
        judge = judge_of(*scorer(course, folder / f"reward-{name}"))
        proxy_GN = judge(answers).reshape(gold_GN.shape)
        rows += of_pool(proxy_GN, gold_GN, pairs, seed)
        timed(folder / f"rl-{name}", lambda: policy(config, folder, name))  # noqa: B023
        rows += of_policy(folder / f"rl-{name}", proxy_GN, gold_GN, pairs, seed)
        print(f"reward model of {pairs} preferences, seed {seed}: {said(rows, pairs, seed)}")
    write(config, folder, rows)
    return 0


def pool_size(config: Config) -> int:
    """Answers to each prompt of the pool."""
    return int(config.own["reward_overoptimization"].pool)


def reward_models(config: Config) -> Iterator[tuple[int, int]]:
    """(preferences, seed) of each."""
    settings: Settings = config.own["reward_overoptimization"]
    for pairs in sorted(set(settings.pairs)):
        yield from ((pairs, seed) for seed in range(settings.seeds))


def write_texts(config: Config, folder: Path) -> None:
    """The base's texts and the prompts, functions of the seed."""
    settings: Settings = config.own["reward_overoptimization"]
    seed = config.train.seed
    draw, least = random.Random(seed), settings.length // 2
    texts = (
        {"text": one + tasks.answer(draw.randint(least, longest(settings)), settings.right, draw)}
        for one in tasks.prompts(settings.documents, 3 * seed)
    )
    write_lines(folder / "base.jsonl", texts)
    asked = tasks.prompts(settings.prompts, 3 * seed + 1)
    write_lines(folder / "prompts.jsonl", ({"prompt": p, "best": settings.best} for p in asked))


def policy_config(config: Config, folder: Path, name: str) -> Config:
    """GRPO by a reward model, without a penalty: the KL is what is measured."""
    settings: Settings = config.own["reward_overoptimization"]
    own = {
        "method": "grpo",
        "max_tokens": longest(settings),
        "reward": "emphasis",
        "reward_folder": str(folder / f"reward-{name}") if name else "",
        "watch": ("emphasis",),
        "beta": 0.0,
    }
    asked = dataclasses.replace(config.own["align"], **own)
    updates = asked.epochs * asked.prompts * asked.group // 64
    return changed(
        config,
        general={"job": "align", "model_folder": str(folder / "base")},
        data={"path": str(folder / "prompts.jsonl")},
        train={"steps": settings.rounds * updates, "batch_size": 64},
        optim={"learning_rate": 1e-3, "schedule": "constant"},
        align=own,
    )


def first_policy(config: Config, folder: Path) -> tuple[reinforce.Course, list[Prompt]]:
    """The base as a policy, and the held-out prompts."""
    return course_of(policy_config(config, folder, ""), convert.load(folder / "base"))


def write_preferences(config: Config, folder: Path, course: reinforce.Course) -> None:
    """Pairs of the base's answers, the one of the higher gold reward first."""
    settings: Settings = config.own["reward_overoptimization"]
    most, seed = max(settings.pairs), config.train.seed
    texts = tasks.prompts(2 * most, 3 * seed + 2)
    encode = course.sampler.model.encode
    asked = [Prompt(tuple(encode(p)), {"prompt": p, "best": settings.best}, "") for p in texts]
    params = jax.tree.map(jnp.asarray, course.params)
    lines = []
    for i in range(0, len(asked), AT_ONCE // 2):
        part = asked[i : i + AT_ONCE // 2]
        answers = course.sampler(params, part, 2, rollouts.round_key(seed, 2**30 + i))
        gold = rollouts.program(tasks.emphasis)(answers)
        for k, one in enumerate(part):
            better, worse = sorted((2 * k, 2 * k + 1), key=lambda j: -gold[j])
            chosen, rejected = (answers.asked[j].text for j in (better, worse))
            if gold[better] > gold[worse] and chosen and rejected:
                lines.append({**one.said, "chosen": chosen, "rejected": rejected})
    if len(lines) < most:
        raise UserError(
            f"reward_overoptimization.pairs={most}: of {2 * most} pairs of answers {len(lines)} "
            "differ in their gold reward; give fewer pairs or longer answers"
        )
    for pairs, number in reward_models(config):
        some = random.Random(1000 * seed + number).sample(lines, pairs)
        write_lines(folder / f"preferences-{pairs}-{number}.jsonl", some)


def reward(config: Config, folder: Path, name: str) -> int:
    """A reward model from a file of preferences."""
    settings: Settings = config.own["reward_overoptimization"]
    made = changed(
        config,
        general={"job": "finetune", "model_folder": str(folder / "base")},
        data={"path": str(folder / f"preferences-{name}.jsonl"), "heldout_fraction": 0.2},
        train={"steps": settings.reward_steps, "batch_size": 32},
        optim={"learning_rate": 1e-3},
        finetune={"method": "reward"},
    )
    return tune(made, folder / f"reward-{name}")


def policy(config: Config, folder: Path, name: str) -> int:
    """A policy against that reward model."""
    return reinforce_folder(policy_config(config, folder, name), folder / f"rl-{name}")


def scorer(course: reinforce.Course, place: Path) -> tuple[Any, Any]:
    """The spec and parameters of a folder's reward model."""
    model, params = reward_model.load(place)
    return dataclasses.replace(course.spec, model=model.config), params


def pool(config: Config, course: reinforce.Course, heldout: list[Prompt]) -> Answers:
    """Answers of the base to some held-out prompts, from which every best of n is computed."""
    settings: Settings = config.own["reward_overoptimization"]
    some = heldout[: settings.pool_prompts]
    params = jax.tree.map(jnp.asarray, course.params)
    each = max(AT_ONCE // settings.pool, 1)
    parts = [
        course.sampler(
            params,
            some[i : i + each],
            settings.pool,
            rollouts.round_key(config.train.seed, 2**29 + i),
        )
        for i in range(0, len(some), each)
    ]
    rows = jax.tree.map(lambda *x: np.concatenate(x), *(part.rows for part in parts))
    asked, texts = (
        tuple(x for part in parts for x in getattr(part, name)) for name in ("asked", "texts")
    )
    return Answers(rows, asked, texts)


def of_pool(
    proxy_GN: np.ndarray, gold_GN: np.ndarray, pairs: int, seed: int
) -> list[dict[str, Any]]:
    """The points of best of n, n = 2, 4, 8, … of the pool; rewards above those of the base."""
    count = gold_GN.shape[1]
    sizes = [2**k for k in range(1, count.bit_length()) if 2**k <= count]
    gold = best_of_n.expected(proxy_GN, gold_GN, sizes) - gold_GN.mean(axis=1, keepdims=True)
    proxy = best_of_n.expected(proxy_GN, proxy_GN, sizes) - proxy_GN.mean(axis=1, keepdims=True)
    return [
        _row("best_of_n", pairs, seed, best_of_n.kl_bound(n), gold[:, i].mean(), proxy[:, i].mean())
        | {"n": n, "gold_stderr": float(gold[:, i].std(ddof=1) / np.sqrt(len(gold)))}
        for i, n in enumerate(sizes)
    ]


def of_policy(
    place: Path, proxy_GN: np.ndarray, gold_GN: np.ndarray, pairs: int, seed: int
) -> list[dict[str, Any]]:
    """The points of a policy, one of each round's answers."""
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    rounds = [line for line in lines if "align/emphasis" in line]
    first = {"gold": gold_GN.mean(), "proxy": proxy_GN.mean()}
    return [
        _row(
            "rl",
            pairs,
            seed,
            one["align/kl_answer"],
            one["align/emphasis"] - first["gold"],
            one["align/reward"] - first["proxy"],
        )
        | {"round": number}
        for number, one in enumerate(rounds)
    ]


def _row(method: str, pairs: int, seed: int, kl: float, gold: Any, proxy: Any) -> dict[str, Any]:
    numbers = {"kl": float(kl), "gold": float(gold), "proxy": float(proxy)}
    return {"method": method, "pairs": pairs, "seed": seed, **numbers}


def said(rows: Sequence[Mapping[str, Any]], pairs: int, seed: int) -> str:
    """Where the gold reward was highest, and where it ended."""
    parts = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [r for r in rows if (r["method"], r["pairs"], r["seed"]) == (method, pairs, seed)]
        best, last = max(mine, key=lambda row: row["gold"]), max(mine, key=lambda row: row["kl"])
        parts.append(
            f"{method} gold {best['gold']:+.3f} at {best['kl']:.1f} nats, {last['gold']:+.3f} at "
            f"{last['kl']:.1f} (proxy {last['proxy']:+.2f})"
        )
    return "; ".join(parts)


JOB = Job(main, settings=Settings, check=check, one_run=True, trains=True)

"""Policy optimisation of a folder's model: its course, its log, and what it ends with."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import convert, infer, models
from gptjax.align import constitution, reinforce, reward_model, rollouts
from gptjax.align import examples as read
from gptjax.align.constitution import Critic, Principle, with_critic
from gptjax.align.encoding import Codec
from gptjax.align.policy import PolicyConfig
from gptjax.align.rewards import REWARDS, check_finite
from gptjax.align.rollouts import HEADS, Answers, Judge, Prompt, Sampler
from gptjax.config import Config, describe_run, enable_compilation_cache
from gptjax.engines import workdir
from gptjax.engines.devices import start_backend
from gptjax.errors import UserError
from gptjax.files import read_json, write_json
from gptjax.infer.prompts import turn_ends
from gptjax.stages.run_log import Log
from gptjax.stages.tuned_model import keep
from gptjax.train import EXIT_RESUMABLE, Interrupted, RunSpec, stop_on_signal
from gptjax.train.loop import params_digest


def reinforce_folder(config: Config, folder: Path) -> int:
    """All rounds, from the last checkpoint if there is one; write the model and its score."""
    start_backend(config)
    enable_compilation_cache(config)
    model = convert.load(config.general.model_folder)
    course, heldout = course_of(config, model)
    workdir.open_workdir(config, folder, fingerprint=course.identity)
    if read_json(folder / workdir.TOKENS)["fingerprint"] != course.identity:
        raise UserError(
            f"--workdir={folder} was made from another model, other prompts or other settings of "
            "align; choose another --workdir or delete it"
        )
    if (folder / "result.json").exists():
        return _print_result(folder)
    log = Log(config, folder, course.spec)
    with stop_on_signal() as stop:
        print(_headline(course), flush=True)
        started = time.perf_counter()
        try:
            params = reinforce.train(course, folder, _hooks(config, course, log, stop))
        except Interrupted as stopped:
            print(f"{stopped}; the same command continues from here")
            return EXIT_RESUMABLE
        finally:
            log.close()
    params = {name: x for name, x in params.items() if name not in HEADS}
    keep(folder, model, params)
    score = measured(course, params, heldout, course.judge)
    result = {**score, "steps": course.spec.steps, "params_sha256": params_digest(params)}
    write_json(folder / "result.json", result)
    write_json(folder / "timing.json", {"all": time.perf_counter() - started})
    return _print_result(folder)


def course_of(config: Config, model: convert.Model) -> tuple[reinforce.Course, list[Prompt]]:
    """The run that the config describes, and the held-out prompts.

    Raises:
      UserError: for a model, a file or settings that cannot be used.
    """
    settings: PolicyConfig = config.own["align"]
    where = f"config.model_folder={config.general.model_folder}"
    if not isinstance(model.config, models.ModelConfig) or model.tokenizer is None:
        raise UserError(f"{where} holds no decoder with a tokenizer; give one")
    if model.recipe:
        raise UserError(f"{where} is quantized, and codes of weights are not trained; give floats")
    spec = describe_run(config, model.config)
    reinforce.check(spec, settings)
    asked = read.split(
        read.read_prompts(config.data.path),
        config.data.heldout_fraction,
        f"data.path={config.data.path}",
    )
    train, heldout = (_encoded(model, side, settings.max_tokens) for side in asked)
    sampler = sampler_of(model, [*train, *heldout], settings.max_tokens, settings.slots)
    judge, judged_by = _judge(settings, spec)
    judged_by = [*judged_by, *_read_by_rewards([*train, *heldout])]
    principles: Sequence[Principle] = ()
    if settings.constitution:
        critic = critic_of(settings, spec, model)
        principles = critic.principles
        judge = with_critic(judge, critic.kept, settings.critique_weight)
    facts = [params_digest(model.params), _deciding(settings, principles), [p.ids for p in train]]
    identity = f"{spec.identity}-{digest_of(facts + judged_by)}"
    watched = {name: rollouts.program(REWARDS[name]) for name in settings.watch}
    course = reinforce.Course(
        spec, settings, model.params, sampler, judge, train, identity, watched
    )
    return course, heldout


def _deciding(settings: PolicyConfig, principles: Sequence[Principle]) -> dict[str, Any]:
    """The settings that decide a run's result; those of a constitution only where there is one."""
    own = ("constitution", "critique_weight")
    aside = {"watch", *(() if principles else own), *(() if settings.slots else ("slots",))}
    found = {k: v for k, v in dataclasses.asdict(settings).items() if k not in aside}
    if principles:
        found["constitution"] = [dataclasses.astuple(one) for one in principles]
    return found


def critic_of(settings: PolicyConfig, spec: RunSpec, model: convert.Model) -> Critic:
    """The folder's model as the critic of its own answers.

    Raises:
      UserError: for a constitution that cannot be read.
    """
    assert model.tokenizer is not None
    params = jax.tree.map(jnp.asarray, model.params)
    speaker = infer.Model(model.config, None, model.tokenizer, model.chat, "the critic")
    codec = Codec(model.tokenizer, model.chat, model.config.seq_len, begins=model.begins)
    principles = constitution.read(settings.constitution)
    return Critic(spec, params, speaker, codec, principles, settings.max_tokens)


def digest_of(facts: Any) -> str:
    """A hash of plain values."""
    return hashlib.sha256(json.dumps(facts, default=list).encode()).hexdigest()[:32]


def _encoded(model: convert.Model, asked: Sequence[read.Example], most: int) -> list[Prompt]:
    assert model.tokenizer is not None
    codec = Codec(model.tokenizer, model.chat, model.config.seq_len, begins=model.begins)
    found = []
    for one in asked:
        ids = tuple(codec.prompt(one.prompt, one.place))
        if not ids or len(ids) + most > model.config.seq_len:
            raise UserError(
                f"{one.place} has {len(ids)} tokens, and with align.max_tokens={most} they must "
                f"be between 1 and the context of {model.config.seq_len}; shorten one of them"
            )
        found.append(Prompt(ids, one.said, one.place))
    return found


def sampler_of(
    model: convert.Model, prompts: Sequence[Prompt], most: int, slots: int = 0
) -> Sampler:
    """What answers these prompts with a model of the folder's kind."""
    policy = infer.Model(model.config, None, model.tokenizer, model.chat, "the policy")
    stops = turn_ends(policy) if model.chat else ()
    width = max(len(prompt.ids) for prompt in prompts) + most
    return Sampler(policy, most, stops, -(-width // 16) * 16, slots)


def _judge(settings: PolicyConfig, spec: RunSpec) -> tuple[Judge, list[Any]]:
    """What judges answers, and what its settings do not say of it: a reward model's parameters."""
    if not settings.reward_folder:
        return rollouts.program(REWARDS[settings.reward]), []
    model, params = reward_model.load(settings.reward_folder)
    return judge_of(dataclasses.replace(spec, model=model.config), params), [params_digest(params)]


def _read_by_rewards(prompts: Sequence[Prompt]) -> list[Any]:
    """What lines say besides their prompts, which rewards read; none where none says anything."""
    found = [{k: v for k, v in prompt.said.items() if k != "prompt"} for prompt in prompts]
    return found if any(found) else []


def judge_of(spec: RunSpec, params: Any) -> Judge:
    """A reward model as a judge."""
    scorer = reward_model.RewardModel(spec, jax.tree.map(jnp.asarray, params))

    def judge(answers: Answers) -> np.ndarray:
        found = scorer(answers.texts)
        check_finite(found, answers.asked)
        return found

    return judge


def measured(
    course: reinforce.Course, params: Any, prompts: Sequence[Prompt], judge: Judge, group: int = 4
) -> dict[str, float]:
    """Mean reward with its standard error over prompts, and the KL from the course's start.

    The first `align.eval_prompts` prompts are answered `group` times each, from a key of their own.
    """
    some = prompts[: course.settings.eval_prompts]
    params, reference = (jax.tree.map(jnp.asarray, x) for x in (params, course.params))
    key = rollouts.round_key(course.spec.seed, 2**31 - 1)
    answers = course.sampler(params, some, group, key)
    found = judge(answers)
    away = rollouts.log_ratios(course.spec, params, reference, answers.rows)
    by_prompt = found.reshape(len(some), group).mean(axis=1)
    spread = by_prompt.std(ddof=1) / np.sqrt(len(some)) if len(some) > 1 else 0.0
    return {
        "reward": float(found.mean()),
        "reward_stderr": float(spread),
        "kl_answer": float(away.sum(axis=1).mean()),
    }


def _hooks(config: Config, course: reinforce.Course, log: Log, stop: Any) -> reinforce.Hooks:
    state = {"printed": 0.0, "saved": time.monotonic()}

    def metrics(step: int, each: dict[str, np.ndarray], whole: dict[str, float]) -> None:
        if each:
            log.metrics(step - course.updates, each)
        log.values(step, whole)
        now = time.monotonic()
        if now - state["printed"] >= config.train.log_seconds or step == course.spec.steps:
            state["printed"] = now
            print(
                f"{_reached(course, step, ended=not each)}: reward "
                f"{whole['align/reward']:.4f}, KL {whole['align/kl_answer']:.3f} nats an answer, "
                f"{whole['align/answer_tokens']:.1f} tokens",
                flush=True,
            )

    def save() -> bool:
        due = time.monotonic() - state["saved"] >= config.train.checkpoint_seconds
        if due:
            state["saved"] = time.monotonic()
        return due

    return reinforce.Hooks(metrics, stop, save)


def _reached(course: reinforce.Course, step: int, *, ended: bool) -> str:
    if ended:  # its last round was answered and not learned from
        return f"ended at align.kl_stop={course.settings.kl_stop:g}"
    return f"round {step // course.updates}/{course.rounds}"


def _headline(course: reinforce.Course) -> str:
    settings, count = course.settings, models.count_params(course.spec.model).total
    return (
        f"{settings.method}: {count:,} parameters, {len(course.prompts):,} prompts, "
        f"{course.rounds} rounds of {settings.prompts} × {settings.group} answers and "
        f"{course.updates} updates"
    )


def _print_result(folder: Path) -> int:
    result = read_json(folder / "result.json")
    print(
        f"done: held-out reward {result['reward']:.4f} ± {result['reward_stderr']:.4f}, KL "
        f"{result['kl_answer']:.3f} nats an answer; the model is {folder / 'model'}"
    )
    return 0

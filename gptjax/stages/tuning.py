"""Tuning of a folder's model on examples, with the machinery of job=train."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from gptjax import convert, models
from gptjax.align import examples as read
from gptjax.align import lora
from gptjax.align.config import FinetuneConfig
from gptjax.align.encoding import Codec
from gptjax.align.methods import METHODS, Start
from gptjax.align.session import Task, TuningSession
from gptjax.config import Config, describe_run, enable_compilation_cache
from gptjax.convert import own_folder
from gptjax.engines import claimed_run, workdir
from gptjax.engines.devices import join_processes, process_index, start_backend
from gptjax.errors import UserError
from gptjax.files import read_json, user_path, write_json
from gptjax.optim import trainable
from gptjax.stages.run_log import Log
from gptjax.stages.tuned_model import keep
from gptjax.train import (
    EXIT_RESUMABLE,
    Diverged,
    Hooks,
    Interrupted,
    RunResult,
    RunSpec,
    make_layout,
    run,
    stop_on_signal,
)
from gptjax.train.watchdog import Watchdog

ADAPTER = "adapter"
"""Where in the workdir a run with finetune.lora.rank keeps what it trained, in PEFT's layout."""


def tune(config: Config, folder: Path) -> int:
    """Tune to the end, from the last checkpoint if there is one; write the model and its score."""
    join_processes(config)
    first = process_index() == 0
    model = convert.load(config.general.model_folder)
    start = start_of(config, model, folder)
    start_backend(config)
    enable_compilation_cache(config)
    task = task_of(config, model, start)
    if first:
        _open(config, folder, task)
    if (folder / "result.json").exists():
        _print_result(read_json(folder / "result.json"), folder)
        return 0
    with claimed_run.claimed(folder, config.sweep.claim_seconds, first=first) as fence:
        return _tune(config, folder, model, start, task, fence)


def _tune(
    config: Config,
    folder: Path,
    model: convert.Model,
    start: Start,
    task: Task,
    fence: claimed_run.Fence,
) -> int:
    """The run itself, as long as it is ours."""
    first = process_index() == 0
    with stop_on_signal() as stop:
        make_layout(config.mesh, start.spec)
        tokens = start.spec.batch_size * start.room
        log = Log(config, folder, start.spec, tokens) if first else None
        report, lora_settings = {}, start.settings.lora

        def finish(params: Any) -> None:
            keep(folder, model, lora.without(params))
            if lora_settings.rank:
                base = str(user_path(config.general.model_folder).absolute())
                lora.save(folder / ADAPTER, start.config, params, lora_settings, base)
            report.update(METHODS[start.settings.method].report(task, start.spec, params))

        hooks = Hooks(stop=stop, finished=finish)
        if log:
            print(_headline(start, task), flush=True)
            hooks = dataclasses.replace(
                hooks,
                progress=log.progress,
                metrics=log.metrics,
                evaluation=log.evaluation,
                rollback=log.rollback,
            )
        watch = Watchdog(config.train.hang_seconds)
        session = TuningSession(
            task, config.train, lambda spec: make_layout(config.mesh, spec), watch
        )
        try:
            result = run(session, start.spec, folder, fence.around(hooks))
        except Interrupted as stopped:
            print(f"{stopped}; the same command continues from here")
            return EXIT_RESUMABLE
        except Diverged as error:
            raise UserError(
                f"{error}; lower optim.learning_rate={start.spec.optim.learning_rate:g}"
            ) from error
        finally:
            watch.close()
            if log:
                log.close()
    if first:
        fence.ask()
        _write_result(folder, start.spec, result, report)
        _print_result(read_json(folder / "result.json"), folder)
    return 0


def start_of(config: Config, model: convert.Model, folder: Path) -> Start:
    """What a run starts from: the folder's model, computed as `config.model` says.

    Raises:
      UserError: for a model that reads no text, or rows longer than its context.
    """
    where = f"config.model_folder={config.general.model_folder}"
    if not isinstance(model.config, models.ModelConfig):
        raise UserError(f"{where} holds a {type(model.config).__name__}, which predicts no text")
    settings: FinetuneConfig = config.own["finetune"]
    if settings.row_tokens > model.config.seq_len:
        raise UserError(
            f"finetune.row_tokens={settings.row_tokens} is longer than the context of {where}, "
            f"{model.config.seq_len}; give that or less"
        )
    how = {name: getattr(config.model, name) for name in ("compute_dtype", "remat", "dropout")}
    architecture = dataclasses.replace(model.config, **how)
    optim = dataclasses.replace(config.optim, frozen=lora.frozen(config.optim, settings.lora))
    tuned = dataclasses.replace(config, optim=optim)
    spec = describe_run(tuned, architecture)
    if not settings.lora.rank and model.recipe:
        raise UserError(
            f"{where} is quantized, and codes of weights are not trained; set "
            "finetune.lora.rank=16 for adapters over them"
        )
    room = settings.row_tokens or architecture.seq_len
    return Start(architecture, model.params, settings, spec, folder, room)


def task_of(config: Config, model: convert.Model, start: Start) -> Task:
    """The examples of `data.path` and what is minimised on them.

    Raises:
      UserError: for a file, line or example that cannot be used.
    """
    settings, method = start.settings, METHODS[start.settings.method]
    if model.tokenizer is None:
        raise UserError(
            f"config.model_folder={config.general.model_folder} has no tokenizer for the examples; "
            "put its file into the folder"
        )
    form, room = settings.chat or model.chat, start.room - method.ends
    codec = Codec(model.tokenizer, form, room, settings.drop_long, model.begins)
    sides = read.split(
        method.read(config.data.path), config.data.heldout_fraction, f"data.path={config.data.path}"
    )
    train, heldout = (method.feed(start, codec.all(side)) for side in sides)
    key = jax.random.key(start.spec.seed)
    return Task(
        lora.attached(start.config, method.params(start), settings.lora, key),
        train,
        heldout,
        method.objective(settings),
        dataclasses.asdict(settings),
    )


def _open(config: Config, folder: Path, task: Task) -> None:
    """The workdir, which must be of this task."""
    workdir.open_workdir(config, folder, fingerprint=task.fingerprint)
    if read_json(folder / workdir.TOKENS)["fingerprint"] != task.fingerprint:
        raise UserError(
            f"--workdir={folder} was made from another model, other examples or other settings of "
            "finetune; choose another --workdir or delete it"
        )


def _headline(start: Start, task: Task) -> str:
    spec, count = start.spec, models.count_params(start.config).total
    epochs = spec.steps * spec.batch_size / task.train.count
    free = sum(leaf.size for leaf in jax.tree.leaves(trainable(task.params, spec.optim.frozen)))
    return (
        f"{start.settings.method}: {count:,} parameters, {free:,} trained, "
        f"{task.train.count:,} rows of examples and "
        f"{task.heldout.count:,} held out, {spec.steps:,} steps of {spec.batch_size} rows "
        f"({epochs:.3g} epochs)"
    )


def _write_result(folder: Path, spec: RunSpec, result: RunResult, report: dict[str, Any]) -> None:
    score = result.evaluation
    found: dict[str, Any] = {
        "loss": score.loss,
        "loss_stderr": None if score.stderr != score.stderr else score.stderr,
        **{name.rpartition("/")[2]: value for name, value in score.metrics.items()},
        **report,
        "steps": spec.steps,
        "history": result.history,
        "params_sha256": result.params_digest,
        "skipped_steps": result.skipped_steps,
    }
    write_json(folder / "result.json", found)
    write_json(folder / "timing.json", result.seconds)


def _print_result(result: dict[str, Any], folder: Path) -> None:
    numbers = {k: v for k, v in result.items() if isinstance(v, float) and k != "loss_stderr"}
    shown = ", ".join(f"{name} {value:.4f}" for name, value in numbers.items())
    print(f"done: held-out {shown}; the model is {folder / own_folder.MODEL}")

"""job=train: train one model with the machinery of a sweep's cells."""

import dataclasses
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from gptjax import models
from gptjax.config import Config, enable_compilation_cache, load_corpus, make_run
from gptjax.convert import own_folder
from gptjax.cost.memory import resolve_remat
from gptjax.data import Corpus
from gptjax.engines import claimed_run, workdir
from gptjax.engines.devices import join_processes, process_index, start_backend
from gptjax.errors import UserError
from gptjax.files import read_json, write_json
from gptjax.job import Job
from gptjax.models.mixers import kernels
from gptjax.parallel import Layout, processes
from gptjax.stages.run_log import Log, flops_per_token
from gptjax.train import (
    EXIT_RESUMABLE,
    Diverged,
    Hooks,
    Interrupted,
    RunResult,
    RunSpec,
    Session,
    batch_warmup,
    make_layout,
    run,
    stop_on_signal,
)
from gptjax.train.evaluate import source_columns
from gptjax.train.mixed_precision import resolve_compute_type
from gptjax.train.watchdog import Watchdog


def check(config: Config) -> None:
    """Refuse a budget of memory that is none, and Weights & Biases where it is not installed."""
    if config.model.remat == "auto" and config.train.memory_gb == 0.0:
        raise UserError(
            "model.remat=auto needs a budget and train.memory_gb=0.0; give train.memory_gb in GiB"
        )
    if config.train.wandb and importlib.util.find_spec("wandb") is None:
        raise UserError(
            "train.wandb=True needs Weights & Biases; pip install 'gptjax[wandb]' or set "
            "train.wandb=false"
        )


def main(config: Config, folder: Path) -> int:
    """Train to the end, from the last checkpoint if there is one; write `result.json`."""
    join_processes(config)
    corpus = load_corpus(config)
    spec = make_run(config, corpus)
    first = process_index() == 0
    if first:
        workdir.open_workdir(config, folder)
    if (folder / "result.json").exists():
        _print_result(read_json(folder / "result.json"), folder)
        return 0
    with claimed_run.claimed(folder, config.sweep.claim_seconds, first=first) as fence:
        status = _train(config, folder, corpus, spec, fence)
    if first and status == 0:
        _print_result(read_json(folder / "result.json"), folder)
    return status


def _train(
    config: Config, folder: Path, corpus: Corpus, spec: RunSpec, fence: claimed_run.Fence
) -> int:
    """The run itself, as long as it is ours."""
    first = process_index() == 0
    if (folder / "result.json").exists():  # by the command whose end was waited for
        return 0
    with stop_on_signal() as stop:
        platform = start_backend(config)
        spec = resolve_compute_type(spec)
        layout = make_layout(config.mesh, spec)
        enable_compilation_cache(config)
        spec = resolve_remat(spec, config.train.memory_gb)
        log = Log(config, folder, spec) if first else None
        keep = functools.partial(_keep, folder)
        hooks = Hooks(stop=stop, finished=keep)
        if log:
            print(_headline(spec, corpus, platform, layout), flush=True)
            hooks = Hooks(log.progress, log.metrics, log.evaluation, stop, log.rollback, keep)
            own_folder.describe_run(folder, spec.model, config.data, corpus)
        watch = Watchdog(config.train.hang_seconds)
        session = Session(corpus, config.train, lambda spec: make_layout(config.mesh, spec), watch)
        try:
            result = run(session, spec, folder, fence.around(hooks))
        except Interrupted as stopped:
            print(f"{stopped}; the same command continues from here")
            return EXIT_RESUMABLE
        except Diverged as error:
            raise UserError(
                f"{error}; lower optim.learning_rate={spec.optim.learning_rate:g} or raise "
                f"optim.warmup_fraction={spec.optim.warmup_fraction:g}"
            ) from error
        finally:
            watch.close()
            if log:
                log.close()
    if first:
        fence.ask()
        _write_result(folder, spec, result, corpus)
    return 0


def _keep(folder: Path, params: Any) -> None:
    """Write the parameters of a run that has ended, gathered from all processes."""
    whole = jax.tree.map(processes.whole, params)
    if processes.is_first():
        own_folder.save_params(folder / own_folder.MODEL, whole)


def _headline(spec: RunSpec, corpus: Corpus, platform: str, layout: Layout | None) -> str:
    count, model = models.count_params(spec.model), spec.model
    flops = spec.tokens * flops_per_token(spec)
    attention = kernels.describe(model, segmented=spec.document_attention)
    gradients = f" ({spec.optim.cost:.3g} gradients a step)" if spec.optim.cost > 1.0 else ""
    updates = batch_warmup.updates(spec)
    more = f" ({updates:,} updates)" if updates > spec.steps else ""
    active = models.count_active_params(model).total
    idle = f", {active:,} of them active" if active < count.total else ""
    return (
        f"{count.total:,} parameters ({count.non_embedding:,} without embeddings{idle}), "
        f"{spec.tokens:,} "
        f"tokens ({corpus.bytes_per_token:.4g} bytes each) in {spec.steps:,} steps{more} of "
        f"{spec.batch_size} × {model.seq_len}, "
        f"{flops:.3g} FLOPs{gradients}, on {_devices(platform, layout)}; "
        f"attention: {attention}, {model.compute_dtype}, remat: {model.remat}"
    )


def _noise_scale(result: RunResult) -> dict[str, float]:
    found = result.noise_scale_tokens
    return {} if found is None else {"noise_scale_tokens": found}


def _rollbacks(result: RunResult) -> dict[str, list]:
    found = [dataclasses.asdict(one) for one in result.rollbacks]
    return {"rollbacks": found} if found else {}


def _devices(platform: str, layout: Layout | None) -> str:
    if layout is None:
        return platform
    sizes = " × ".join(f"{axis} {n}" for axis, n in layout.mesh.shape.items() if n > 1)
    return f"{layout.mesh.size} devices ({platform}): {sizes}"


def _by_source(spec: RunSpec, result: RunResult, corpus: Corpus) -> dict[str, dict[str, float]]:
    found = source_columns(corpus, spec, result.evaluation)
    return {"sources": found} if found else {}


def _write_result(folder: Path, spec: RunSpec, result: RunResult, corpus: Corpus) -> None:
    count = models.count_params(spec.model)
    write_json(
        folder / "result.json",
        {
            "loss": result.evaluation.loss,
            "loss_stderr": result.evaluation.stderr,
            "bits_per_byte": result.evaluation.bits_per_byte,
            "bytes_per_token": corpus.bytes_per_token,
            "tokens": spec.tokens,
            "flops": spec.tokens * flops_per_token(spec),
            "params": dataclasses.asdict(count),
            "history": result.history,
            "curve": {"step": result.curve_steps, "loss": result.curve_losses},
            "params_sha256": result.params_digest,
            "skipped_steps": result.skipped_steps,
            **_rollbacks(result),
            **_noise_scale(result),
            **_by_source(spec, result, corpus),
        },
    )
    write_json(folder / "timing.json", result.seconds)


def _print_result(result: Mapping[str, Any], folder: Path) -> None:
    print(
        f"done: {result['loss']:.4f} ± {result['loss_stderr'] or 0:.4f} nats per token, "
        f"{result['bits_per_byte']:.4f} bits per byte, {result['flops']:.3g} FLOPs; "
        f"{folder / 'result.json'}"
    )


JOB = Job(main, check=check, one_run=True, trains=True, chooses_type=True)

"""job=train: train one model with the machinery of a sweep's cells."""

import dataclasses
import functools
import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gptjax import models, tracking
from gptjax.config import Config, enable_compilation_cache, load_corpus, make_run, to_mapping
from gptjax.convert import own_folder
from gptjax.cost.flops import training_flops_per_token
from gptjax.cost.memory import resolve_remat
from gptjax.data import Corpus
from gptjax.engines import workdir
from gptjax.engines.devices import join_processes, process_index, start_backend
from gptjax.errors import UserError
from gptjax.files import read_json, write_json
from gptjax.job import Job
from gptjax.models.mixers import kernels
from gptjax.parallel import Layout, processes
from gptjax.train import (
    EXIT_RESUMABLE,
    Diverged,
    Evaluation,
    Hooks,
    Interrupted,
    Progress,
    RunResult,
    RunSpec,
    Session,
    batch_warmup,
    make_layout,
    run,
    stop_on_signal,
)
from gptjax.train.loss_spikes import Rollback
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
    with stop_on_signal() as stop:
        platform = start_backend(config)
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
            result = run(session, spec, folder, hooks)
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
    if not first:
        return 0
    _write_result(folder, spec, result, corpus.bytes_per_token)
    _print_result(read_json(folder / "result.json"), folder)
    return 0


def _keep(folder: Path, params: Any) -> None:
    """Write the parameters of a run that has ended, gathered from all processes."""
    whole = jax.tree.map(processes.whole, params)
    if processes.is_first():
        own_folder.save_params(folder / own_folder.MODEL, whole)


class Log:
    """Output of a run: metrics into its file and to further writers, lines on standard output."""

    def __init__(self, config: Config, folder: Path, spec: RunSpec) -> None:
        self._spec = spec
        self._interval = config.train.log_seconds
        self._printed = 0.0
        self._continued = False
        self._file = tracking.MetricsFile(folder / "metrics.jsonl")
        wanted = [name for name in tracking.WRITERS if getattr(config.train, name)]
        self._writers = tracking.open_writers(wanted, folder, to_mapping(config))

    def metrics(self, first: int, values: Mapping[str, np.ndarray]) -> None:
        """Append one line a step."""
        if not self._continued:
            self._file.drop_after(first)  # what the continued run writes again
            self._continued = True
        names = list(values)
        rows = zip(*(values[name] for name in names), strict=True)
        for offset, row in enumerate(rows):
            self._write(first + offset + 1, dict(zip(names, map(float, row), strict=True)))

    def evaluation(self, step: int, score: Evaluation) -> None:
        """Append the held-out score."""
        values = {
            "eval/loss_nats": score.loss,
            "eval/loss_stderr": score.stderr,
            "eval/perplexity": float(np.exp(score.loss)),
            "eval/bits_per_byte": score.bits_per_byte,
        }
        self._write(step, values)
        print(
            f"step {step}: held-out {score.loss:.4f} ± {score.stderr:.4f} nats per token, "
            f"{score.bits_per_byte:.4f} bits per byte",
            flush=True,
        )

    def progress(self, progress: Progress) -> None:
        """Print a line every `train.log_seconds`, and write the speed."""
        tokens = self._spec.batch_size * self._spec.model.seq_len
        per_second = tokens / progress.seconds_per_step
        speed = {
            "perf/tokens_per_s": per_second,
            "perf/flops_per_s": per_second * _flops_per_token(self._spec),
        }
        self._write(progress.step, speed)
        if time.monotonic() - self._printed >= self._interval or progress.step == progress.steps:
            self._printed = time.monotonic()
            print(
                f"step {progress.step}/{progress.steps}: loss {progress.loss:.4f}, gradient norm "
                f"{progress.grad_norm:.3f}, {speed['perf/tokens_per_s']:,.0f} tokens/s, "
                f"{speed['perf/flops_per_s']:.3g} FLOP/s",
                flush=True,
            )

    def rollback(self, rollback: Rollback) -> None:
        """Drop the lines of the steps that are given up, and say why."""
        self._file.drop_after(rollback.start)
        values = {
            "train/spike_step": float(rollback.step),
            "train/skipped_batches": float(rollback.skipped),
        }
        self._write(rollback.start, values)
        print(
            f"step {rollback.step + 1}: the loss is {rollback.loss:.4g}, a spike; going on from "
            f"step {rollback.start} without the next {rollback.skipped} batches",
            flush=True,
        )

    def close(self) -> None:
        """Close the file and the writers."""
        for writer in (self._file, *self._writers):
            writer.close()

    def _write(self, step: int, values: dict[str, float]) -> None:
        for writer in (self._file, *self._writers):
            writer.write(step, values)


def _flops_per_token(spec: RunSpec) -> float:
    return training_flops_per_token(spec.model, spec.optim.cost)


def _headline(spec: RunSpec, corpus: Corpus, platform: str, layout: Layout | None) -> str:
    count, model = models.count_params(spec.model), spec.model
    flops = spec.tokens * _flops_per_token(spec)
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
        f"attention: {attention}, remat: {model.remat}"
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


def _write_result(folder: Path, spec: RunSpec, result: RunResult, bytes_per_token: float) -> None:
    count = models.count_params(spec.model)
    write_json(
        folder / "result.json",
        {
            "loss": result.evaluation.loss,
            "loss_stderr": result.evaluation.stderr,
            "bits_per_byte": result.evaluation.bits_per_byte,
            "bytes_per_token": bytes_per_token,
            "tokens": spec.tokens,
            "flops": spec.tokens * _flops_per_token(spec),
            "params": dataclasses.asdict(count),
            "history": result.history,
            "curve": {"step": result.curve_steps, "loss": result.curve_losses},
            "params_sha256": result.params_digest,
            "skipped_steps": result.skipped_steps,
            **_rollbacks(result),
            **_noise_scale(result),
        },
    )
    write_json(folder / "timing.json", result.seconds)


def _print_result(result: Mapping[str, Any], folder: Path) -> None:
    print(
        f"done: {result['loss']:.4f} ± {result['loss_stderr'] or 0:.4f} nats per token, "
        f"{result['bits_per_byte']:.4f} bits per byte, {result['flops']:.3g} FLOPs; "
        f"{folder / 'result.json'}"
    )


JOB = Job(main, check=check, one_run=True, trains=True)

"""Log of a training run: metrics into its file and further writers, lines on standard output."""

import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gptjax import tracking
from gptjax.config import Config, to_mapping
from gptjax.cost.flops import training_flops_per_token
from gptjax.train import Evaluation, Progress, RunSpec
from gptjax.train.loss_spikes import Rollback


class Log:
    """Output of a run: metrics into its file and to further writers, lines on standard output."""

    def __init__(
        self, config: Config, folder: Path, spec: RunSpec, tokens_per_step: int = 0
    ) -> None:
        """Open the file and the writers; a step has the tokens of its windows by default."""
        self._spec = spec
        self._tokens = tokens_per_step or spec.batch_size * spec.model.seq_len
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
        if math.isnan(score.bits_per_byte):
            return self._objective(step, score)
        values = {
            "eval/loss_nats": score.loss,
            "eval/loss_stderr": score.stderr,
            "eval/perplexity": float(np.exp(score.loss)),
            "eval/bits_per_byte": score.bits_per_byte,
        }
        values |= {f"eval/loss_nats_{name}": loss for name, loss in score.by_source.items()}
        self._write(step, values)
        print(
            f"step {step}: held-out {score.loss:.4f} ± {score.stderr:.4f} nats per token, "
            f"{score.bits_per_byte:.4f} bits per byte"
            + "".join(f", {name} {loss:.4f}" for name, loss in score.by_source.items()),
            flush=True,
        )

    def _objective(self, step: int, score: Evaluation) -> None:
        """The score of another objective than the next token's."""
        values = {"eval/loss": score.loss, "eval/loss_stderr": score.stderr}
        values |= {f"eval/{name.rpartition('/')[2]}": x for name, x in score.metrics.items()}
        values = {name: x for name, x in values.items() if not math.isnan(x)}
        self._write(step, values)
        others = "".join(f", {name.rpartition('/')[2]} {x:.4f}" for name, x in values.items())
        print(f"step {step}: held-out{others[1:]}", flush=True)

    def progress(self, progress: Progress) -> None:
        """Print a line every `train.log_seconds`, and write the speed."""
        per_second = self._tokens / progress.seconds_per_step
        speed = {
            "perf/tokens_per_s": per_second,
            "perf/flops_per_s": per_second * flops_per_token(self._spec),
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

    def values(self, step: int, values: Mapping[str, float]) -> None:
        """Append numbers of a step that are no metrics of its update."""
        self._write(step, dict(values))

    def close(self) -> None:
        """Close the file and the writers."""
        for writer in (self._file, *self._writers):
            writer.close()

    def _write(self, step: int, values: dict[str, float]) -> None:
        for writer in (self._file, *self._writers):
            writer.write(step, values)


def flops_per_token(spec: RunSpec) -> float:
    """FLOPs of a training step over its tokens."""
    return training_flops_per_token(spec.model, spec.optim.cost)

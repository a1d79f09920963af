"""Table of quantization: bits per byte, bytes and tokens per second of each method on one model.

    python benchmarks/quantization.py [--model DIR] [--rounds 5] [--workdir runs/quantization]

Without a folder the small model of experiments/sample.py is trained first, a minute on two cores,
and kept in the workdir. Every method scores the same held-out windows and answers the same prompts
of 64 tokens with 128 more, greedily, alone and in a batch of eight; methods take turns, after a
round that compiles, and medians are printed. GPTQ is calibrated on text of the training side.
"""

import argparse
import dataclasses
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads=2"
)

import numpy as np

from gptjax import config as configs
from gptjax import convert, data, experiment, infer, quant
from gptjax.stages import find_model
from gptjax.stages.saved_model import corpus_for, held_out

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "sample.py"
PROMPT, ANSWER = 64, 128
METHODS = {
    "none": {},
    "affine 8, channel": {"bits": 8, "scales": "channel"},
    "affine 8, channel, W8A8": {"bits": 8, "scales": "channel", "activations": 8},
    "affine 4, groups of 32": {"bits": 4, "group": 32},
    "nf4, groups of 64": {"method": "nf4", "bits": 4, "group": 64},
    "gptq 4, groups of 32": {"method": "gptq", "bits": 4, "group": 32},
    "affine 3, groups of 32": {"bits": 3, "group": 32},
    "gptq 3, groups of 32": {"method": "gptq", "bits": 3, "group": 32},
    "mixed, bytes of affine 4": {"group": 32, "calibration_tokens": 8192},
}
BUDGETS = {"mixed, bytes of affine 4": "affine 4, groups of 32"}
"""Whose bytes a method may take at most."""


def quantized(model, corpus, changes, budget=0):
    """The parameters by a method, within so many bytes; no changes: as they are."""
    if not changes:
        return model.params
    settings = quant.QuantizeConfig(**changes)
    calibrated = quant.METHODS[settings.method].calibrated
    windows = data.calibration_windows(
        corpus.train,
        model.config.seq_len,
        settings.calibration_tokens if calibrated or budget else 0,
        settings.calibration_seed,
    )
    bits = quant.uniform_bits(model.config, settings)
    if budget:
        fixed = quant.ruled_bits(model.config, settings)
        bits = quant.choose_bits(model.config, model.params, settings, fixed, windows, budget)
    return quant.quantize(model.config, model.params, settings, bits, windows).params


def seconds(model, batch, tokens):
    """Of one batch of greedy answers."""
    V = model.config.vocab_size
    prompts = np.random.default_rng(0).integers(0, V - 1, (batch, PROMPT)).tolist()
    bias = dict.fromkeys(model.end_ids, -100.0)
    request = infer.sampling("greedy", max_tokens=tokens, logit_bias=bias)
    started = time.perf_counter()
    for _ in infer.stream(model, prompts, request, chunk=tokens):
        pass
    return time.perf_counter() - started


def measure(config, folder, *, rounds, heldout_tokens, answer=ANSWER, methods=METHODS):
    """The rows of a model's folder."""
    model = convert.load(folder)
    corpus = corpus_for(config, model, "--model")
    made: dict[str, Any] = {}
    for name, changes in methods.items():
        budget = quant.nbytes(made[BUDGETS[name]]) if name in BUDGETS else 0
        made[name] = quantized(model, corpus, changes, budget)
    rows: list[dict[str, Any]] = []
    ready = {}
    for name, params in made.items():
        found = held_out(config, model.config, corpus, params, heldout_tokens)
        ready[name] = infer.prepare(dataclasses.replace(model, params=params), name=name)
        row: dict[str, Any] = {"method": name, "bytes": quant.nbytes(params), "loss": found.loss}
        rows.append(row | {"bits_per_byte": found.bits_per_byte})
    for batch in (1, 8):
        times: dict[str, list] = {name: [] for name in made}
        for number in range(rounds + 1):
            for name in made:
                found = seconds(ready[name], batch, answer)
                if number:
                    times[name].append(found)
        for row in rows:
            middle = statistics.median(times[row["method"]])
            row[f"tokens_per_s_{batch}"] = batch * answer / middle
    return rows


def show(rows):
    """As a table of Markdown."""
    print("| method | bytes | bits per byte | nats added | tokens/s | batch 8 |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['method']} | {row['bytes']:,} | {row['bits_per_byte']:.4f} | "
            f"{row['loss'] - rows[0]['loss']:+.4f} | {row['tokens_per_s_1']:,.0f} | "
            f"{row['tokens_per_s_8']:,.0f} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--heldout_tokens", type=int, default=65536)
    parser.add_argument("--workdir", default="runs/quantization")
    given = parser.parse_args()
    config = configs.make_config(experiment.load(str(EXPERIMENT)))
    folder = given.model
    if not folder:
        find_model.find(config, "", Path(given.workdir))
        folder = Path(given.workdir) / find_model.SMALL
    show(measure(config, folder, rounds=given.rounds, heldout_tokens=given.heldout_tokens))


if __name__ == "__main__":
    main()

"""Decoding speed of GPT-2 small: tokens per second beside `transformers` and the bound of memory.

    python benchmarks/decode.py [--batches 1,8] [--rounds 5] [--compiled]
    python benchmarks/decode.py --alone --weights float32,bfloat16,int8

Random weights of the published shape, a prompt of 64 tokens and 64 more, greedily, on two threads.
Rivals take turns in one run, after a round that compiles; medians are printed. `transformers` has
a static cache, eager or compiled (`--compiled`: torch.compile, minutes); without it installed its
rows are left out. `--weights` has a row for each kind: bfloat16 computes in it too, int8 is kept
with a scale for each output and computed in float32. The bound is the time in which this machine
reads the weights once: of a product of one row with one matrix as large as all of them, measured
in the same run.
"""

import argparse
import dataclasses
import os
import statistics
import time

os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads=2"
)
os.environ.setdefault("OMP_NUM_THREADS", "2")

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import infer, models, quant
from gptjax.infer.generate import Batch
from gptjax.infer.loop import advance

PROMPT, ANSWER = 64, 64


WEIGHTS = {
    "float32": (4, lambda config, params: params),
    "bfloat16": (
        2,
        lambda config, params: jax.tree.map(lambda leaf: leaf.astype("bfloat16"), params),
    ),
    "int8": (1, lambda config, params: in_eight_bits(config, params)),
}
"""Bytes of a weight, and the parameters in such weights, by name."""


def in_eight_bits(config, params):
    """The parameters by round-to-nearest, with a scale for each output."""
    settings = quant.QuantizeConfig(bits=8, scales="channel")
    bits = quant.uniform_bits(config, settings)
    return quant.quantize(config, params, settings, bits, np.zeros((0, 1), np.int32)).params


def ours(weights):
    """batch → seconds of one answer after its prefill, and with it."""
    dtype = "bfloat16" if weights == "bfloat16" else "float32"
    config = dataclasses.replace(models.preset("gpt2"), compute_dtype=dtype)
    params = WEIGHTS[weights][1](config, models.init(config, jax.random.key(0)))
    params = jax.jit(lambda params: models.unstacked(config, params))(params)
    model = infer.for_few_rows(infer.Model(config, params))
    params = model.params
    request = infer.sampling("greedy", max_tokens=ANSWER)

    def run(prompts):
        batch = Batch.of(model, prompts.tolist(), request, None)
        started = time.perf_counter()
        state = jax.block_until_ready(batch.start())
        middle = time.perf_counter()
        state = jax.block_until_ready(advance(batch.plan, params, state, jnp.int32(ANSWER)))
        assert int(state.made_B.min()) == ANSWER
        return time.perf_counter() - started, middle - started

    return run


def theirs(compiled):
    """The same of `transformers`."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    options = {"cache_implementation": "static", "do_sample": False, "pad_token_id": 0}
    if compiled:
        model.forward = torch.compile(model.forward, mode="default", dynamic=False)
    else:
        options["disable_compile"] = True

    def answer(prompts, count):
        started = time.perf_counter()
        ids = torch.tensor(prompts)
        with torch.no_grad():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=count,
                max_new_tokens=count,
                **options,
            )
        assert out.shape[1] == PROMPT + count
        return time.perf_counter() - started

    def run(prompts):
        return answer(prompts, ANSWER), answer(prompts, 1)

    return run


def seconds_of_weights(nbytes):
    """The least time of a product that reads so many bytes once."""
    rows = nbytes // 4 // 768
    w_DF = jnp.ones((768, rows), jnp.float32)
    product = jax.jit(lambda x_D, w_DF: x_D @ w_DF)
    x_D, times = jnp.ones(768), []
    for _ in range(5):
        started = time.perf_counter()
        jax.block_until_ready(product(x_D, w_DF))
        times.append(time.perf_counter() - started)
    return min(times[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--alone", action="store_true", help="without transformers")
    parser.add_argument("--weights", default="float32", help=f"of {', '.join(WEIGHTS)}")
    given = parser.parse_args()
    rivals = {f"gptjax, {name}": ours(name) for name in given.weights.split(",")}
    try:
        if not given.alone:
            rivals["transformers, eager"] = theirs(False)
            if given.compiled:
                rivals["transformers, compiled"] = theirs(True)
    except ImportError:
        print("transformers is not installed; its rows are left out")
    weights = models.count_params(models.preset("gpt2")).total
    bound = seconds_of_weights(4 * weights)
    print(f"float32 weights once: {bound * 1e3:.1f} ms, load {os.getloadavg()[0]:.1f}")
    for size in map(int, given.batches.split(",")):
        prompts = np.random.default_rng(0).integers(0, 50000, (size, PROMPT))
        times: dict[str, list] = {name: [] for name in rivals}
        for number in range(given.rounds + 1):
            for name, run in rivals.items():
                found = run(prompts)
                if number:
                    times[name].append(found)
        for name, found in times.items():
            whole, first = (statistics.median(x) for x in zip(*found, strict=True))
            step = (whole - first) / (ANSWER - 1)
            own = bound * WEIGHTS.get(name.removeprefix("gptjax, "), (4,))[0] / 4
            print(
                f"batch {size}, {name:24} {size * ANSWER / whole:7.1f} tokens/s, first after "
                f"{first * 1e3:6.0f} ms, then {step * 1e3:6.1f} ms a step, "
                f"{own / step:.0%} of the bound",
                flush=True,
            )


if __name__ == "__main__":
    main()

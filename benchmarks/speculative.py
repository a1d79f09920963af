"""Gain of speculative decoding: measured, and predicted from its acceptance and the cost of a pass.

    python benchmarks/speculative.py [--model DIR [--draft DIR] [--prompt TEXT]] [--drafts 2,4]

Without a draft, proposals are looked up in the text. Without a model it is GPT-2 small with random
weights, on which look-up has an easy task: its likeliest tokens soon repeat. One answer at a time,
greedily; plain and speculative decoding take turns after a round that compiles, and medians are
printed, without the time to the first token. The prediction is that of Leviathan et al. (2023):
(1 − a^(n+1))/(1 − a) tokens for the cost of a pass over n + 1 tokens and of n proposals, which are
measured.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads=2"
)

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import infer, models
from gptjax.infer.speculative import expected_tokens

PROMPT = 64


def random_model():
    """GPT-2 small, not trained."""
    config = models.preset("gpt2")
    make = jax.jit(lambda: models.unstacked(config, models.init(config, jax.random.key(0))))
    return infer.for_few_rows(infer.Model(config, make(), name="random"))


def seconds(call):
    """Of a call whose arrays are waited for."""
    started = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - started


def pass_seconds(model, tokens, context, rounds):
    """The median time of a pass over so many tokens, with that much context in the cache."""

    @jax.jit
    def one(params, cache, ids_1T):
        x, cache = models.decode(model.config, params, cache, ids_1T)
        return jnp.argmax(models.logits(model.config, params, x), -1), cache

    cache = models.init_cache(model.config, 1, context)
    ids = jnp.zeros((1, tokens), jnp.int32)
    times = [seconds(lambda: one(model.params, cache, ids)) for _ in range(rounds + 1)]
    return statistics.median(times[1:])


def measure(model, prompt, *, draft, drafts, tokens, rounds):
    """The numbers of so many proposals at a time, as a dict."""
    asked = infer.sampling("greedy", max_tokens=tokens)
    first = infer.sampling("greedy", max_tokens=1)
    times: dict[str, list] = {"plain": [], "speculative": []}
    for number in range(rounds + 1):
        start = seconds(lambda: infer.generate(model, [prompt], first) and None)
        plain = seconds(lambda: infer.generate(model, [prompt], asked) and None)
        began = time.perf_counter()
        answers, gain = infer.speculate(model, [prompt], asked, draft=draft, drafts=drafts)
        found = time.perf_counter() - began
        if number:
            times["plain"].append(plain - start)
            times["speculative"].append(found - start)
    assert len(answers[0].tokens) == tokens
    context = len(model.encode_prompt(prompt) if isinstance(prompt, str) else prompt)
    cost, single = (pass_seconds(model, n, context + tokens, 4 * rounds) for n in (drafts + 1, 1))
    if draft is not None:
        cost += drafts * pass_seconds(draft, 1, context + tokens, 4 * rounds)
    middle = {name: statistics.median(some) for name, some in times.items()}
    return {
        "accepted": gain.accepted,
        "tokens_per_round": gain.tokens_per_round,
        "predicted": expected_tokens(gain.accepted, drafts) * single / cost,
        "by_tokens": gain.tokens_per_round * single / cost,
        "measured": middle["plain"] / middle["speculative"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="")
    parser.add_argument("--draft", default="")
    parser.add_argument("--prompt", default="")
    parser.add_argument("--drafts", default="2,4")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    model = infer.for_few_rows(infer.load(given.model)) if given.model else random_model()
    draft = infer.for_few_rows(infer.load(given.draft)) if given.draft else None
    rng = np.random.default_rng(0)
    prompt = given.prompt or rng.integers(0, model.config.vocab_size - 1, PROMPT).tolist()
    print(f"{model.name}, proposals by {draft.name if draft else 'look-up'}")
    for drafts in map(int, given.drafts.split(",")):
        found = measure(
            model, prompt, draft=draft, drafts=drafts, tokens=given.tokens, rounds=given.rounds
        )
        print(
            f"{drafts} at a time: {found['accepted']:.2f} accepted, "
            f"{found['tokens_per_round']:.2f} tokens a pass; {found['predicted']:.2f} times "
            f"predicted ({found['by_tokens']:.2f} by the tokens of a pass), "
            f"{found['measured']:.2f} measured, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

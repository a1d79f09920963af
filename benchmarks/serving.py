"""Serving under load: continuous against static batches, latencies, memory and overhead.

    python benchmarks/serving.py [--size small|gpt2|toy] [--rounds 1] [--load 4] [--rival]

Random weights; 64 requests with prompts of 16 tokens and answers of 16 to 256 (log-uniform, as
lengths of answers are skewed) that arrive at random (exponential gaps, `--load` times as fast as
eight slots can answer). The same requests, at the same times, go to a batcher of eight slots and to
static batches of eight by the same programs: a static batch takes the first requests that wait and
ends with its longest answer. Printed are

- tokens per second and median wait (from arrival to the end of an answer) of both;
- the time to the first token, and between tokens, at the 50th, 90th and 99th percentile;
- bytes of the caches on the device, by token, beside `models.cache_bytes`;
- time a token takes through the HTTP server, beside the batcher alone, both with eight requests
  (left out by `--rival`).

`--rival` gives the same requests, at the same times, to the continuous batching of `transformers`
(a GPT-2 of the same width, depth and vocabulary; `paged|eager`, which is what it has for a CPU),
with eight requests at once and with all of them, which a batcher of as many slots gets too.

Two threads, greedy answers; everything is compiled by a round that is not counted.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import http.client
import json
import math
import os
import statistics
import threading
import time

os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads=2"
)
os.environ.setdefault("OMP_NUM_THREADS", "2")

import jax
import numpy as np

from gptjax import infer, models
from gptjax.data.tokenizers.byte import ByteTokenizer

PROMPT, SLOTS = 16, 8
PERCENTILES = (50, 90, 99)


@dataclasses.dataclass(frozen=True)
class Size:
    """A model and its requests."""

    config: models.ModelConfig
    requests: int = 64
    shortest: int = 16
    longest: int = 256


def _model(**settings):
    return models.ModelConfig(vocab_size=257, **settings)


SIZES = {
    "gpt2": lambda: Size(dataclasses.replace(models.preset("gpt2"), seq_len=512)),
    "small": lambda: Size(_model(depth=6, width=384, num_heads=6, seq_len=512)),
    "toy": lambda: Size(_model(depth=1, width=16, num_heads=2, seq_len=64), 12, 2, 24),
}


@dataclasses.dataclass(frozen=True)
class Request:
    """When it comes (s), its prompt and the length of its answer."""

    arrives: float
    prompt: tuple[int, ...]
    tokens: int

    @property
    def sampling(self):
        """Greedy, of this length."""
        return infer.sampling("greedy", max_tokens=self.tokens)


@dataclasses.dataclass
class Served:
    """Times of one answer since the start: of its arrival and of each look that found tokens."""

    arrives: float
    looks: list[tuple[float, int]] = dataclasses.field(default_factory=list)

    def see(self, now, tokens):
        """Keep a look that found new ones."""
        if tokens > (self.looks[-1][1] if self.looks else 0):
            self.looks.append((now, tokens))

    @property
    def wait(self):
        """From arrival to the end."""
        return self.looks[-1][0] - self.arrives

    @property
    def first(self):
        """From arrival to the first token."""
        return self.looks[0][0] - self.arrives

    @property
    def gaps(self):
        """Seconds between tokens: those that come in one look share the time since the last."""
        pairs = zip(self.looks, self.looks[1:], strict=False)
        return [(b - a) / (m - n) for (a, n), (b, m) in pairs for _ in range(m - n)]


def made(size):
    """The model of a size as job=serve keeps it; its answers never end by themselves."""
    params = models.unstacked(size.config, models.init(size.config, jax.random.key(0)))
    return infer.for_few_rows(infer.Model(size.config, params, name="benchmark"))


def requests_of(size, seconds, seed=0):
    """Requests that arrive within about so many seconds."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(seconds / size.requests, size.requests))
    spread = math.log(size.longest / size.shortest)
    lengths = size.shortest * np.exp(rng.uniform(0, spread, size.requests))
    below = size.config.vocab_size - 1
    return [
        Request(float(when), tuple(rng.integers(0, below, PROMPT).tolist()), int(n))
        for when, n in zip(arrivals, lengths, strict=True)
    ]


def waited_for(started, when):
    """Sleep until that time since the start."""
    time.sleep(max(0.0, started + when - time.perf_counter()))


def continuous(batcher, requests):
    """Served requests of a batcher that new ones enter at any step."""
    started, todo = time.perf_counter(), [*requests]
    served: list[Served] = []
    numbers: dict[int, Served] = {}
    while todo or batcher.busy:
        now = time.perf_counter() - started
        while todo and todo[0].arrives <= now:
            one = todo.pop(0)
            served.append(Served(one.arrives))
            numbers[batcher.submit(one.prompt, one.sampling)] = served[-1]
        if not batcher.busy:
            waited_for(started, todo[0].arrives)
            continue
        news = batcher.turn()
        now = time.perf_counter() - started
        for number, answer in news.items():
            numbers[number].see(now, len(answer.tokens))
    return served


def static(batcher, requests):
    """The same of batches of as many as there are slots: none enters before all have ended."""
    started, todo = time.perf_counter(), [*requests]
    served: list[Served] = []
    while todo:
        waited_for(started, todo[0].arrives)
        now = time.perf_counter() - started
        batch = [one for one in todo if one.arrives <= now][: batcher.limits.slots]
        todo = todo[len(batch) :]
        places = {batcher.submit(one.prompt, one.sampling): Served(one.arrives) for one in batch}
        while batcher.busy:
            news = batcher.turn()
            now = time.perf_counter() - started
            for number, answer in news.items():
                places[number].see(now, len(answer.tokens))
        served += places.values()
    return served


def rival(size):
    """A GPT-2 of the same width, depth and vocabulary for the batching of `transformers`."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(2)
    torch.manual_seed(0)
    own = size.config
    config = GPT2Config(
        n_embd=own.width,
        n_layer=own.depth,
        n_head=own.num_heads,
        n_positions=own.seq_len,
        vocab_size=own.vocab_size,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="paged|eager",
    )
    return GPT2LMHeadModel(config).eval()


def by_rival(model, requests, at_once):
    """Served requests of `transformers`, of which up to so many are answered at once."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    page = 64
    pages = -(-max(PROMPT + one.tokens for one in requests) // page) + 1
    settings = ContinuousBatchingConfig(
        page_size=page,
        num_blocks=at_once * pages,
        max_requests_per_batch=at_once,
        max_batch_tokens=at_once * PROMPT,
    )
    greedy = GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=1)
    numbers: dict[str, Request] = {}
    served: dict[str, Served] = {}
    with model.continuous_batching_context_manager(
        greedy, continuous_batching_config=settings
    ) as manager:
        started, todo = time.perf_counter(), [*requests]
        while len(served) < len(requests):
            now = time.perf_counter() - started
            while todo and todo[0].arrives <= now:
                one = todo.pop(0)
                number = manager.add_request(
                    [*one.prompt],
                    max_new_tokens=one.tokens,
                    eos_token_id=-1,
                    record_timestamps=True,
                )
                numbers[number] = one
            wait = max(1e-3, started + todo[0].arrives - time.perf_counter()) if todo else 1.0
            found = manager.get_result(timeout=wait)
            if found is None or not found.is_finished():
                continue
            one = numbers[found.request_id]
            assert len(found.generated_tokens) == one.tokens, found.error
            looks = [(when - started, i) for i, when in enumerate(found.timestamps, 1)]
            served[found.request_id] = Served(one.arrives, looks)
    return [*served.values()]


def summary(requests, served):
    """Tokens a second from the first arrival to the end of the last answer, and medians."""
    end = max(one.looks[-1][0] for one in served)
    gaps = [gap for one in served for gap in one.gaps]
    return {
        "tokens_per_s": sum(one.tokens for one in requests) / (end - requests[0].arrives),
        "median_wait": statistics.median(one.wait for one in served),
        "first": [float(np.percentile([one.first for one in served], p)) for p in PERCENTILES],
        "between": [float(np.percentile(gaps, p)) for p in PERCENTILES],
    }


def seconds_a_token(batcher, tokens):
    """Of eight answers by the batcher alone, their prompts included."""
    prompts = [[i + 1] * PROMPT for i in range(SLOTS)]
    bias = dict.fromkeys(batcher.model.end_ids, -100.0)
    started = time.perf_counter()
    batcher.answers(prompts, infer.sampling("greedy", max_tokens=tokens, logit_bias=bias))
    return (time.perf_counter() - started) / tokens


@contextlib.contextmanager
def server(batcher):
    """The port of a server around a batcher."""
    import uvicorn

    from gptjax.infer.server.app import make_app
    from gptjax.infer.service import Service

    service = Service(batcher)
    settings = uvicorn.Config(
        make_app(service), host="127.0.0.1", port=0, log_level="warning", lifespan="off"
    )
    running = uvicorn.Server(settings)
    thread = threading.Thread(target=lambda: asyncio.run(running.serve()), daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    try:
        yield running.servers[0].sockets[0].getsockname()[1]
    finally:
        running.should_exit = True
        thread.join()
        service.close()


def through_server(port, tokens, end):
    """The same through HTTP: eight clients that stream, in threads of this process."""

    def ask(number):
        body = {
            "model": "benchmark",
            "prompt": [number + 1] * PROMPT,
            "max_tokens": tokens,
            "temperature": 0,
            "logit_bias": {str(end): -100},
            "stream": True,
        }
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request(
            "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        reply = connection.getresponse()
        assert reply.status == 200 and reply.read().rstrip().endswith(b"[DONE]")
        connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(SLOTS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - started) / tokens


def overhead(model, size, rounds):
    """(seconds a token of the batcher, through the server): medians of rounds that alternate."""
    limits = infer.Limits(slots=SLOTS, piece=16)
    # A tokenizer of bytes: what the server does with text is a part of its cost.
    spoken = dataclasses.replace(model, tokenizer=_Bytes(size.config.vocab_size))
    alone, served = infer.Batcher(spoken, limits), infer.Batcher(spoken, limits)
    tokens = size.longest // 2
    times: dict[str, list] = {"alone": [], "server": []}
    with server(served) as port:
        for number in range(rounds + 1):
            found = {
                "alone": seconds_a_token(alone, tokens),
                "server": through_server(port, tokens, spoken.end_ids[0]),
            }
            for name in times if number else ():
                times[name].append(found[name])
    return tuple(statistics.median(some) for some in times.values())


class _Bytes(ByteTokenizer):
    """Bytes, where ids beyond them are others' bytes; the last id ends a text."""

    def __init__(self, vocab_size):
        self.vocab_size = vocab_size
        self.end_of_document = vocab_size - 1

    def decode(self, ids):
        return super().decode([i % 256 for i in ids])


def measure(size, *, rounds, load, against=None):
    """All rows as a dict; `against` adds those of a model of `rival`, in place of the server's."""
    model = made(size)
    batcher = infer.Batcher(model, infer.Limits(slots=SLOTS, waiting=size.requests))
    step = min(seconds_a_token(batcher, size.shortest) for _ in range(3))  # the first compiles
    mean = (size.longest - size.shortest) / math.log(size.longest / size.shortest)
    seconds = size.requests * mean * step / SLOTS / load
    requests = requests_of(size, seconds)
    continuous(batcher, [dataclasses.replace(one, arrives=0.0) for one in requests[: 2 * SLOTS]])
    ways = {
        "continuous": functools.partial(continuous, batcher),
        "static": functools.partial(static, batcher),
    }
    if against is not None:
        wide = infer.Batcher(model, infer.Limits(slots=size.requests))
        continuous(wide, [dataclasses.replace(requests[0], arrives=0.0)])  # compiles
        ways[f"continuous, {size.requests} slots"] = functools.partial(continuous, wide)
        for n in (SLOTS, size.requests):
            ways[f"transformers, {n} at once"] = functools.partial(by_rival, against, at_once=n)
    found: dict[str, list] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, serve in ways.items():
            found[name].append(summary(requests, serve(requests)))
    rows = {name: medians(some) for name, some in found.items()}
    cache = jax.tree.leaves(batcher._state.cache.layers)
    nbytes = sum(leaf.nbytes for leaf in cache)
    rows |= {
        "bytes_a_token": nbytes / SLOTS / batcher.length,
        "bytes_by_formula": models.cache_bytes(size.config, batcher.length) / batcher.length,
    }
    if against is not None:
        return rows
    return rows | dict(zip(("alone", "server"), overhead(model, size, max(rounds, 3)), strict=True))


def medians(summaries):
    """The median of each number over rounds."""
    return {
        key: np.median([one[key] for one in summaries], axis=0).tolist() for key in summaries[0]
    }


def show(found):
    """The rows as lines."""
    rows = {name: row for name, row in found.items() if isinstance(row, dict)}
    for name, row in rows.items():
        first, between = (
            ", ".join(f"{1e3 * x:.0f}" for x in row[key]) for key in ("first", "between")
        )
        print(
            f"{name:26} {row['tokens_per_s']:7.1f} tokens/s, median wait "
            f"{row['median_wait']:.2f} s; ms at {PERCENTILES} %: first token {first}, between "
            f"tokens {between}"
        )
    for name, row in rows.items():
        if name != "continuous":
            gain = rows["continuous"]["tokens_per_s"] / row["tokens_per_s"]
            wait = rows["continuous"]["median_wait"] / row["median_wait"]
            print(
                f"continuous: {gain:.2f} times the throughput of {name}, {wait:.2f} times the "
                "median wait"
            )
    print(
        f"caches: {found['bytes_a_token']:,.0f} bytes a token, by the formula "
        f"{found['bytes_by_formula']:,.0f}"
    )
    if "server" not in found:
        return
    share = found["server"] / found["alone"] - 1
    print(
        f"eight requests: {1e3 * found['alone']:.2f} ms a token by the batcher, "
        f"{1e3 * found['server']:.2f} through the server ({share:+.1%})"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="small", choices=SIZES)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--load", type=float, default=4.0, help="arrivals over what can be answered"
    )
    parser.add_argument("--rival", action="store_true", help="beside the batching of transformers")
    given = parser.parse_args()
    size = SIZES[given.size]()
    print(f"{given.size}, load {os.getloadavg()[0]:.1f}")
    against = rival(size) if given.rival else None
    show(measure(size, rounds=given.rounds, load=given.load, against=against))


if __name__ == "__main__":
    main()

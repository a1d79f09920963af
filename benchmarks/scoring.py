"""Items scored a second, beside lm-evaluation-harness's Hugging Face model on the same folder.

    python benchmarks/scoring.py

One random GPT-2 (4 layers, width 256, 8,192 tokens), float32, two threads. Two kinds of items:
single continuations after contexts of their own, and items of HellaSwag's shape, four endings after
one context. Each side scores all items once to compile and warm up, then again by the clock, in
turns; the best of three is printed, of lm-eval that of its best batch size. Needs lm-eval, torch
and transformers.
"""

import argparse
import functools
import os
import tempfile
import time
from pathlib import Path

THREADS = 2
BATCHES = (1, 4, 16, 64)
"""Batch sizes of lm-eval that are tried."""
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))


def folder(place: Path) -> Path:
    """A GPT-2 with the tokenizer of bytes that lm-eval needs."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = pre_tokenizers.ByteLevel.alphabet()
    vocab = {"<|endoftext|>": 0} | {one: i + 1 for i, one in enumerate(sorted(letters))}
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    )
    fast.save_pretrained(place)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=8192,
        n_positions=512,
        n_embd=256,
        n_layer=4,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(place)
    return place


def items(count: int, endings: int, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """(context, continuation) ids of HellaSwag's lengths: about 90 and 25 tokens."""
    import numpy as np

    rng, made = np.random.default_rng(seed), []
    for _ in range(count):
        context = rng.integers(1, 8192, rng.integers(40, 140)).tolist()
        for _ in range(endings):
            made.append((context, rng.integers(1, 8192, rng.integers(10, 40)).tolist()))
    return made


def best_of(repeats: int, *runs) -> list[float]:
    """The shortest time of each, taken in turns."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, mine in zip(runs, times, strict=True):
            started = time.perf_counter()
            run()
            mine.append(time.perf_counter() - started)
    return [min(mine) for mine in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=480)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    import numpy as np
    import torch

    torch.set_num_threads(THREADS)
    from lm_eval.models.huggingface import HFLM

    from gptjax import evals, infer

    with tempfile.TemporaryDirectory() as place:
        path = folder(Path(place))
        theirs = [
            HFLM(pretrained=str(path), device="cpu", dtype="float32", batch_size=n, max_length=512)
            for n in BATCHES
        ]
        ours = infer.load(path)
    for kind, endings in (("single continuations", 1), ("four endings, one context", 4)):
        pairs = items(asked.items // endings, endings)
        requests = [evals.Request(tuple(c), tuple(e)) for c, e in pairs]
        tokens = [(("", ""), c, e) for c, e in pairs]

        def own(requests=requests):
            return [one.total for one in evals.score(ours, requests)]

        def other(model, tokens=tokens):
            return [one[0] for one in model._loglikelihood_tokens(tokens, disable_tqdm=True)]

        others = [functools.partial(other, model) for model in theirs]
        gap = max(float(np.abs(np.array(own()) - np.array(run())).max()) for run in others)
        mine, *each = best_of(asked.repeats, own, *others)
        their = min(each)
        count = len(pairs) / endings
        print(
            f"{kind}: gptjax {count / mine:.1f} items/s, lm-eval's HFLM {count / their:.1f} "
            f"(batches of {BATCHES[each.index(their)]}); "
            f"{their / mine:.2f} times; largest difference {gap:.1e} nats an item",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""Time of a fine-tuning step and of a rollout, beside TRL's trainer and its generation.

    python benchmarks/alignment.py

A GPT-2 (124M parameters, random), float32, two threads. One update of supervised fine-tuning on 4
rows of 256 tokens, of which the last 128 are learned: ours, and TRL's SFTTrainer with AdamW. A
rollout of 64 answers of 64 tokens to prompts of 16, drawn at temperature 1: ours, and transformers'
`generate` with a cache, by which TRL's GRPOTrainer answers where vLLM is not used. Everything is
compiled and warm before the clock starts; both take turns, and medians of seconds and of processor
seconds are printed, of which the latter mean more where other work runs. Needs trl, torch and
transformers; `--size=toy` and `--ours` are for looks at the script itself.
"""

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

THREADS = 2
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))


Spent = tuple[float, float]
"""Seconds, and processor seconds."""


@dataclasses.dataclass(frozen=True)
class Size:
    """Shapes of both parts."""

    depth: int
    width: int
    heads: int
    vocab: int
    rows: int
    tokens: int
    answers: int
    prompt: int
    new: int
    steps: int


SIZES = {
    "gpt2": Size(12, 768, 12, 50257, 4, 256, 64, 16, 64, 2),
    "toy": Size(1, 32, 2, 64, 2, 16, 4, 4, 8, 2),
}


def ours(size: Size) -> Any:
    """The config of the decoder."""
    from gptjax import models

    return dataclasses.replace(
        models.preset("gpt2"),
        depth=size.depth,
        width=size.width,
        num_heads=size.heads,
        vocab_size=size.vocab,
        seq_len=1024,
    )


def examples(size: Size) -> Any:
    """(ids of rows, which of them are learned)."""
    import numpy as np

    ids = np.random.default_rng(0).integers(1, size.vocab, (8 * size.rows, size.tokens))
    return ids.astype(np.int32), np.arange(size.tokens) >= size.tokens // 2


def now() -> tuple[float, float]:
    """The clock, and the processor time of this process."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float], count: int = 1) -> Spent:
    """What each of so many took since then."""
    clock, processor = now()
    return (clock - start[0]) / count, (processor - start[1]) / count


def our_step(size: Size) -> Callable[[], Spent]:
    """An update, of so many in one compiled call."""
    import jax

    from gptjax import models
    from gptjax.align.encoding import Encoded
    from gptjax.align.feeds import ExampleFeed, batch_of
    from gptjax.align.packing import one_by_one
    from gptjax.align.session import Task, TuningSession
    from gptjax.optim import OptimConfig
    from gptjax.train import RunSpec, TrainConfig, make_hyper, next_token

    config = ours(size)
    ids, scored = examples(size)
    feed = ExampleFeed(one_by_one([Encoded(row, scored) for row in ids], size.tokens), batch_of)
    params = jax.device_get(jax.jit(models.init, static_argnums=0)(config, jax.random.key(0)))
    spec = RunSpec(model=config, optim=OptimConfig(), batch_size=size.rows, steps=1000)
    session = TuningSession(Task(params, feed, feed, next_token, {}), TrainConfig())
    kept = [session.init(spec)]

    def run() -> Spent:
        started = now()
        kept[0], metrics = session.advance(spec, kept[0], make_hyper(spec), size.steps)
        jax.block_until_ready(metrics.loss)
        return since(started, size.steps)

    return run


def our_rollout(size: Size) -> Callable[[], Spent]:
    """A rollout."""
    import jax

    from gptjax import infer, models
    from gptjax.align.rollouts import Prompt, Sampler

    config = ours(size)
    params = jax.jit(models.init, static_argnums=0)(config, jax.random.key(0))
    model = infer.Model(config, None)
    sampler = Sampler(model, size.new, (), size.prompt + size.new)
    ids, _ = examples(dataclasses.replace(size, rows=-(-size.answers // 8), tokens=size.prompt))
    prompts = [Prompt(tuple(row.tolist()), {}, "") for row in ids[: size.answers]]

    def run() -> Spent:
        started = now()
        made = sampler(params, prompts, 1, jax.random.key(1))
        assert made.rows.scored_NT.sum() == size.answers * size.new
        return since(started)

    return run


def their_model(size: Size) -> Any:
    """A GPT-2 of transformers."""
    import transformers

    config = transformers.GPT2Config(
        vocab_size=size.vocab,
        n_embd=size.width,
        n_layer=size.depth,
        n_head=size.heads,
        bos_token_id=0,
        eos_token_id=0,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
    )
    return transformers.GPT2LMHeadModel(config)


def their_step(size: Size) -> Callable[[], Spent]:
    """An update by TRL's trainer, from the end of one to that of a later one."""
    import datasets
    import numpy as np
    import tokenizers
    import transformers
    import trl

    ids, scored = examples(size)
    rows = {"input_ids": ids.tolist(), "labels": np.where(scored, ids, -100).tolist()}
    vocab = {str(i): i for i in range(size.vocab)}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="0"))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="0", pad_token="0"
    )
    times: list[tuple[float, float]] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *given: Any, **named: Any) -> None:
            times.append(now())

    def run() -> Spent:
        times.clear()
        with tempfile.TemporaryDirectory() as place:
            settings = trl.SFTConfig(
                output_dir=place,
                per_device_train_batch_size=size.rows,
                max_steps=size.steps + 1,
                max_length=size.tokens,
                use_cpu=True,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                gradient_checkpointing=False,
                bf16=False,
                dataset_kwargs={"skip_prepare_dataset": True},
            )
            trainer = trl.SFTTrainer(
                model=their_model(size),
                args=settings,
                train_dataset=datasets.Dataset.from_dict(rows),
                processing_class=fast,
                callbacks=[Clock()],
            )
            trainer.train()
        clock, processor = (
            (last - first) / (len(times) - 1)
            for first, last in zip(times[0], times[-1], strict=True)
        )
        return clock, processor

    return run


def their_rollout(size: Size) -> Callable[[], Spent]:
    """A rollout by transformers' generation, as TRL's GRPOTrainer calls it."""
    import torch

    model = their_model(size).eval()
    ids, _ = examples(dataclasses.replace(size, rows=-(-size.answers // 8), tokens=size.prompt))
    asked = torch.tensor(ids[: size.answers], dtype=torch.long)

    def run() -> Spent:
        started = now()
        with torch.no_grad():
            model.generate(
                asked,
                attention_mask=torch.ones_like(asked),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                min_new_tokens=size.new,
                max_new_tokens=size.new,
                pad_token_id=0,
            )
        return since(started)

    return run


PARTS: dict[str, tuple[Callable[[Size], Callable[[], Spent]], ...]] = {
    "update": (our_step, their_step),
    "rollout": (our_rollout, their_rollout),
}


def medians(runs: list[Callable[[], Spent]], repeats: int) -> list[Spent]:
    """Medians of each, which take turns after one of each that is not counted."""
    for run in runs:
        run()
    rounds = [[run() for run in runs] for _ in range(repeats)]
    found = []
    for each in zip(*rounds, strict=True):
        clock, processor = (statistics.median(numbers) for numbers in zip(*each, strict=True))
        found.append((clock, processor))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--ours", action="store_true", help="without TRL")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of both")
    parser.add_argument("--part", choices=PARTS, help="this one alone")
    asked = parser.parse_args()
    size = SIZES[asked.size]
    if not asked.ours:
        import torch

        torch.set_num_threads(THREADS)
    for name in [asked.part] if asked.part else PARTS:
        sides = PARTS[name][:1] if asked.ours else PARTS[name]
        found = medians([side(size) for side in sides], asked.repeats)
        for who, (clock, processor) in zip(("gptjax", "TRL"), found, strict=False):
            print(f"{name}, {who}: {clock:.3f} s, processor {processor:.3f} s", flush=True)
        if len(found) > 1:
            ratios = [their / own for own, their in zip(*found, strict=True)]
            print("{}: {:.2f} times, processor {:.2f}".format(name, *ratios), flush=True)


if __name__ == "__main__":
    main()

"""Settings of an evaluation."""

import dataclasses

from gptjax.evals.choices import STYLES
from gptjax.evals.needle import DEPTHS
from gptjax.evals.score import TOKENS
from gptjax.fields import setting


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """What a model is scored on."""

    model: str = setting("", "folder of a model; '': a small one is trained first")
    against: str = setting("", "folder of a second model, for paired differences; '': none")
    tasks: tuple[str, ...] = setting(
        ("perplexity", "arithmetic", "copying", "agreement", "completion"),
        "names of tasks, and paths of .jsonl or .yaml files with items of multiple choice",
    )
    shots: tuple[int, ...] = setting(
        (0,), "solved examples before each item, one round for each number", minimum=0
    )
    style: str = setting(
        "auto",
        "how items become text: choices go on after a space, at once, or by letter (MMLU); auto: "
        "as the task says",
        choices=("auto", *STYLES),
    )
    texts: tuple[str, ...] = setting(
        (),
        "files for perplexity, needle, memorization and ngrams: .jsonl with text and domain, or "
        "plain text named after its domain; (): held-out code of the standard library",
    )
    limit: int = setting(0, "items or texts of a task at most; 0: all", minimum=0)
    count: int = setting(150, "items of a task that is made by rule", minimum=2)
    seed: int = setting(0, "of tasks that are made by rule", minimum=0)
    stride: int = setting(
        0, "tokens that each window of perplexity scores; 0: the context", minimum=0
    )
    prefix: int = setting(32, "memorization: tokens before", minimum=1)
    length: int = setting(16, "memorization: tokens that are compared", minimum=1)
    lengths: tuple[int, ...] = setting(
        (), "needle: tokens of whole texts; (): the context, its half and its quarter", minimum=16
    )
    depths: tuple[float, ...] = setting(
        DEPTHS, "needle: where it lies, 0: at the beginning", minimum=0.0, maximum=1.0
    )
    repeats: int = setting(8, "needle: texts at each length and depth", minimum=1)
    ngram: int = setting(5, "ngrams: tokens of each", minimum=1)
    written: int = setting(8192, "ngrams: most n-grams that the model writes", minimum=16)
    smoothing: float = setting(
        0.5, "ngrams: added to the count of each n-gram in the model's texts", above=0.0
    )
    batch_tokens: int = setting(TOKENS, "tokens of a batch, padding included", minimum=16)

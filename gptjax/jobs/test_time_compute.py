"""job=test_time_compute: several answers to each question, from models of several sizes.

A larger model, or more samples of a smaller one at the same cost N·k: answered for one of k that a
checker finds, for the majority and for the likeliest, each with an interval over questions.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from gptjax import infer, models
from gptjax.config import Config, load_corpus, make_run
from gptjax.data import Corpus
from gptjax.engines.devices import start_backend
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import write_json
from gptjax.identity import digest
from gptjax.job import Job
from gptjax.scaling.laws import repeated_sampling
from gptjax.scaling.laws.repeated_sampling import RepeatedSampling, interval
from gptjax.stages.find_model import trained

BATCH = 1024
DRAWS = 500
"""Draws of k answers from those that were made, for a majority."""
KINDS = {"one": "one of k", "majority": "majority of k", "likeliest": "likeliest of k"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What job=test_time_compute trains and asks."""

    widths: tuple[int, ...] = setting((12, 16, 24, 32, 48), "widths of the models", minimum=2)
    head_width: int = setting(4, "width of a head", minimum=1)
    questions: int = setting(200, "held-out questions", minimum=2)
    samples: int = setting(64, "answers to each", minimum=8)
    temperature: float = setting(1.0, "of the samples", above=0.0)
    resamples: int = setting(200, "resamplings of the questions, for the intervals", minimum=20)
    seed: int = setting(0, "of the samples and resamplings", minimum=0, maximum=2**31 - 1)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What one model answered.

    Attributes:
      params: its parameters without embeddings.
      texts_Qn, right_Qn, scores_Qn: of each answer the text, whether it is right, and Σ log P.
      truth_Q: the right answers.
    """

    params: int
    texts_Qn: list[list[str]]
    right_Qn: np.ndarray
    scores_Qn: np.ndarray
    truth_Q: list[str]

    def shares(self, kind: str, k: int) -> np.ndarray:
        """Of each question the probability that k samples solve it, by a name of KINDS."""
        return np.array([self._share(kind, question, k) for question in range(len(self.truth_Q))])

    def _share(self, kind: str, question: int, k: int) -> float:
        right = self.right_Qn[question]
        if kind == "one":
            return infer.pass_at_k(len(right), int(right.sum()), k)
        if kind == "likeliest":
            return infer.best_right(self.scores_Qn[question].tolist(), right.tolist(), k)
        given = Counter(self.texts_Qn[question])
        truth = [*given].index(self.truth_Q[question]) if right.any() else -1
        return infer.majority_right([*given.values()], truth, k, DRAWS)


def check(config: Config) -> None:
    """Refuse a source whose answers cannot be checked, and widths that make no law."""
    asked: Settings = config.own["test_time_compute"]
    if config.data.source != "arithmetic":
        raise UserError(
            f"data.source={config.data.source!r} has no answers that can be checked; set "
            "data.source=arithmetic"
        )
    if len(set(asked.widths)) < 3:
        raise UserError(
            f"test_time_compute.widths={asked.widths} has too few sizes for a law that predicts "
            "the largest from the others; give three or more"
        )
    odd = [width for width in asked.widths if width % asked.head_width]
    if odd:
        raise UserError(
            f"test_time_compute.widths={asked.widths} has {odd[0]}, no multiple of "
            f"test_time_compute.head_width={asked.head_width}; give multiples"
        )


def main(config: Config, folder: Path) -> int:
    """Train what is missing, ask, fit; writes test_time_compute.json and figures."""
    from gptjax.report import answers as figure  # matplotlib is slow to import

    settings: Settings = config.own["test_time_compute"]
    start_backend(config)
    corpus = load_corpus(config)
    asks = questions(corpus, settings.questions)
    each = [_asked(config, corpus, width, asks, folder) for width in sorted(set(settings.widths))]
    rows = [row for one in each for row in shares_of(one, settings)]
    costs = at_equal_cost(each, settings)
    law, refused = _law(each, settings)
    found = {"values": law.law.values} | dataclasses.asdict(law) if law else {"refused": refused}
    write_json(folder / "test_time_compute.json", found | {"rows": rows, "equal_cost": costs})
    curve = law.law if law else None
    figure.draw(folder, rows, curve, config.report.formats, config.report.dpi)
    _print_rows(rows, costs)
    print("\n".join(_law_lines(law) if law else [f"no law of samples and sizes: {refused}"]))
    print(folder / "test_time_compute.json")
    return 0


def _law(each: Sequence[Asked], settings: Settings) -> tuple[RepeatedSampling | None, str]:
    """The law of samples and sizes, or why there is none."""
    try:
        law = repeated_sampling.fit_repeated_sampling(
            [one.params for one in each],
            np.stack([one.right_Qn for one in each]),
            resamples=settings.resamples,
            seed=settings.seed,
        )
    except UserError as error:
        return None, str(error)
    return law, ""


def questions(corpus: Corpus, most: int) -> list[tuple[str, str]]:
    """(question with its =, right answer) of held-out documents.

    Raises:
      UserError: where there are fewer.
    """
    text = corpus.tokenizer.decode(np.asarray(corpus.heldout)).decode()
    found = [line.partition("=") for line in text.splitlines() if "=" in line]
    if len(found) < most:
        raise UserError(
            f"test_time_compute.questions={most} are more than the {len(found)} held out; raise "
            "data.heldout_fraction or ask fewer"
        )
    return [(f"{question}=", answer) for question, _, answer in found[:most]]


def _asked(
    config: Config, corpus: Corpus, width: int, asks: list[tuple[str, str]], folder: Path
) -> Asked:
    """Train a model of this width if it is not there, and ask it everything."""
    settings: Settings = config.own["test_time_compute"]
    sized = dataclasses.replace(
        config.model, width=width, num_heads=width // settings.head_width, num_kv_heads=0
    )
    run = make_run(dataclasses.replace(config, model=sized), corpus)
    name = f"width-{width}-{digest([run.identity, corpus.fingerprint], 8)}"
    started = time.perf_counter()
    model = infer.load(trained(config, corpus, run, folder / name))
    middle = time.perf_counter()
    answers = _answers(model, asks, settings)
    params = models.count_params(run.model).non_embedding
    asked = Asked(
        params,
        [[answer.text for answer in some] for some in answers],
        np.array(
            [[a.text == ask[1] for a in some] for ask, some in zip(asks, answers, strict=True)]
        ),
        np.array([[sum(answer.logprobs) for answer in some] for some in answers]),
        [answer for _, answer in asks],
    )
    print(
        f"width {width}, {params:,} parameters: trained in {middle - started:.0f} s, asked in "
        f"{time.perf_counter() - middle:.0f} s, {asked.right_Qn.mean():.1%} of answers are right",
        flush=True,
    )
    return asked


def _answers(
    model: infer.Model, asks: Sequence[tuple[str, str]], settings: Settings
) -> list[list[infer.Answer]]:
    """`samples` answers to each question, in batches of one size."""
    import jax

    n = settings.samples
    most = 2 + max(len(answer) for _, answer in asks)
    request = infer.sampling(temperature=settings.temperature, max_tokens=most, stop=("\n",))
    start = model.end_ids[:1]  # as every document of the training windows
    prompts = [[*start, *model.encode(question)] for question, _ in asks for _ in range(n)]
    found: list[infer.Answer] = []
    for first in range(0, len(prompts), BATCH):
        key = jax.random.fold_in(jax.random.key(settings.seed), first)
        some = prompts[first : first + BATCH]
        some += [some[-1]] * (BATCH - len(some) if first else 0)  # one program for all batches
        found += infer.generate(model, some, request, key)
    return [found[i * n : (i + 1) * n] for i in range(len(asks))]


def shares_of(asked: Asked, settings: Settings) -> list[dict[str, Any]]:
    """A row for each number of samples: the share of questions solved by kind, with intervals."""
    rows = []
    for k in repeated_sampling.powers_of_two(settings.samples):
        row: dict[str, Any] = {"params": asked.params, "samples": k}
        for kind in KINDS:
            share, *bounds = interval(asked.shares(kind, k), settings.resamples, settings.seed)
            row |= {kind: share, f"{kind}_interval": bounds}
        rows.append(row)
    return rows


def at_equal_cost(each: Sequence[Asked], settings: Settings) -> list[dict[str, Any]]:
    """Smaller models against the largest at the same N·k, of one and four of its answers.

    A row has the smaller one's samples, both shares, and their difference with its interval over
    questions, which both models share.
    """
    largest, rows = each[-1], []
    for answers in (1, 4):
        for one in each[:-1]:
            k = round(answers * largest.params / one.params)
            if k > settings.samples or k <= answers:
                continue
            for kind in KINDS:
                ours_Q, theirs_Q = one.shares(kind, k), largest.shares(kind, answers)
                gain, low, high = interval(ours_Q - theirs_Q, settings.resamples, settings.seed)
                row = {"kind": kind, "params": one.params, "samples": k, "of_largest": answers}
                shares = {"share": float(ours_Q.mean()), "share_of_largest": float(theirs_Q.mean())}
                rows.append(row | shares | {"gain": gain, "low": low, "high": high})
    return rows


def _print_rows(rows: list[dict[str, Any]], costs: list[dict[str, Any]]) -> None:
    console = Console(width=100)
    table = Table(title="share of held-out questions that are right")
    for name in ("parameters", "samples", *KINDS.values()):
        table.add_column(name, justify="right")
    for row in rows:
        if row["samples"] in (1, 4, 16, rows[-1]["samples"]):
            shares = (_with_interval(row[kind], *row[f"{kind}_interval"]) for kind in KINDS)
            table.add_row(f"{row['params']:,}", str(row["samples"]), *shares)
    console.print(table)
    table = Table(title="at the cost of one and of four answers of the largest: share gained by")
    for name in ("parameters", "samples", "of the largest", *KINDS.values()):
        table.add_column(name, justify="right")
    for place in range(0, len(costs), len(KINDS)):
        some = costs[place : place + len(KINDS)]
        gains = (_with_interval(row["gain"], row["low"], row["high"], "+") for row in some)
        row = some[0]
        names = (f"{row['params']:,}", str(row["samples"]), str(row["of_largest"]))
        table.add_row(*names, *gains)
    console.print(table)


def _law_lines(law: RepeatedSampling) -> list[str]:
    values = ", ".join(
        f"{name} = {value:.3g} [{law.low[name]:.3g}, {law.high[name]:.3g}]"
        for name, value in law.law.values.items()
    )
    errors = (
        f"{form}: off by {one['samples']:.3f} at all samples from a quarter of them, by "
        f"{one['size']:.3f} for the largest model from the others (mean of shares)"
        for form, one in law.errors.items()
    )
    return [f"the law {law.form}: {values}", *errors]


def _with_interval(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


JOB = Job(main, Settings, check, one_run=True, trains=True)

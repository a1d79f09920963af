"""job=finetuning_transfer: what pre-training is worth in tokens of the data that one tunes on.

Hernandez et al. 2021 (arXiv:2102.01293) on the standard library: models of several sizes learn its
prose (docstrings) from several amounts, from scratch and after its code. The effective data
transferred is what a model from scratch would have needed in addition to reach the same loss. Every
run is a folder of the workdir, and a command that was stopped goes on where it was.
"""

import dataclasses
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import convert, models
from gptjax.config import Config, enable_compilation_cache, load_corpus, make_run
from gptjax.data import Corpus
from gptjax.data.sources.stdlib import stdlib
from gptjax.engines.devices import start_backend
from gptjax.engines.workdir import open_workdir
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import read_json, write_json
from gptjax.job import Job
from gptjax.stages.alignment_steps import base, changed, write_lines
from gptjax.stages.transfer_law import write
from gptjax.train import Hooks, RunSpec, Session, run
from gptjax.train.state import state_of

DOCSTRING = re.compile(r'"""(.*?)"""', re.DOTALL)
LEAST = 200
"""Characters of a docstring that counts as prose."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The sizes and amounts of data; `train` describes the pre-training."""

    widths: tuple[int, ...] = setting((16, 32, 64), "model.width of each size", minimum=4)
    scratch_tokens: tuple[int, ...] = setting(
        (1024, 2048, 4096, 8192, 16384, 32768, 65536),
        "tokens that models from scratch learn from",
        minimum=128,
    )
    finetune_tokens: tuple[int, ...] = setting(
        (1024, 2048, 4096, 8192), "tokens that pre-trained models are tuned on", minimum=128
    )
    epochs: int = setting(60, "most passes over those tokens", minimum=1)
    steps: int = setting(600, "most updates of a run", minimum=8)
    evaluations: int = setting(12, "evaluations, of which the best is the early stop", minimum=2)
    target_bytes: int = setting(200_000, "bytes of prose, held-out part included", minimum=2000)
    source_bytes: int = setting(1_500_000, "bytes of code to pre-train on", minimum=2000)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run: a width, tokens of prose, and whether it begins with the code's model."""

    width: int
    tokens: int
    pretrained: bool

    @property
    def name(self) -> str:
        return f"{'tuned' if self.pretrained else 'scratch'}-{self.width}-{self.tokens}"


def check(config: Config) -> None:
    """Refuse a grid from which no law follows."""
    asked: Settings = config.own["finetuning_transfer"]
    for name, least in (("widths", 2), ("finetune_tokens", 2), ("scratch_tokens", 3)):
        values = getattr(asked, name)
        if len(set(values)) < least:
            raise UserError(
                f"finetuning_transfer.{name}={values} are too few for a law; give {least} or more"
            )
    most = int(asked.target_bytes * (1 - config.data.heldout_fraction) * 0.9)
    if max(*asked.scratch_tokens, *asked.finetune_tokens) > most:
        raise UserError(
            f"finetuning_transfer.target_bytes={asked.target_bytes} hold about {most} tokens for "
            f"training, fewer than {max(*asked.scratch_tokens, *asked.finetune_tokens)} of the "
            "largest run; give more bytes or fewer tokens"
        )


def main(config: Config, folder: Path) -> int:
    """Pre-train each size, run every cell, and fit the law through them."""
    asked: Settings = config.own["finetuning_transfer"]
    start_backend(config)
    enable_compilation_cache(config)
    open_workdir(config, folder, fingerprint="written by the job")
    write_texts(config, folder)
    rows = []
    for width in sorted(set(asked.widths)):
        sized = changed(config, model={"width": width})
        place = folder / f"pretrained-{width}"
        base(sized, folder / "code.jsonl", place)
        start = convert.load(place).params
        made = changed(
            sized,
            data={"source": "jsonl", "path": str(folder / "prose.jsonl"), "deduplicate": False},
            train={"evaluations": asked.evaluations},
            optim={"schedule": "constant"},
        )
        corpus = load_corpus(made)
        session = PartialSession(corpus, made.train)
        spec = make_run(made, corpus)
        for cell in cells_of(asked, width):
            rows.append(row_of(session, spec, cell, asked, folder / cell.name, start))
            print(f"{cell.name}: {rows[-1]['loss']:.4f} nats after {rows[-1]['steps']} steps")
    write(config, folder, rows)
    return 0


def cells_of(asked: Settings, width: int) -> Iterator[Cell]:
    """The runs of a width, from scratch first."""
    yield from (Cell(width, tokens, False) for tokens in sorted(set(asked.scratch_tokens)))
    yield from (Cell(width, tokens, True) for tokens in sorted(set(asked.finetune_tokens)))


def write_texts(config: Config, folder: Path) -> None:
    """`prose.jsonl` of docstrings and `code.jsonl` of the modules without them."""
    asked: Settings = config.own["finetuning_transfer"]
    texts = sorted(document.decode() for document in stdlib().read())
    random.Random(config.train.seed).shuffle(texts)
    found = (match for text in texts for match in DOCSTRING.findall(text))
    prose = list(_first((one for one in found if len(one) >= LEAST), asked.target_bytes))
    code = _first((DOCSTRING.sub('""', text) for text in texts), asked.source_bytes)
    write_lines(folder / "prose.jsonl", ({"text": one} for one in prose))
    write_lines(folder / "code.jsonl", ({"text": one} for one in code))


def _first(texts: Iterator[str], most: int) -> Iterator[str]:
    """As many of the texts as are so many bytes, the last one cut off."""
    for text in texts:
        if most <= 0:
            return
        yield text[:most]
        most -= len(text.encode())


class PartialSession(Session):
    """A session whose runs see the first tokens of the corpus alone, in programs that they share.

    The array keeps its length and repeats these tokens, so that nothing is compiled anew for
    another amount.
    """

    def __init__(self, corpus: Corpus, options: Any) -> None:
        super().__init__(corpus, options)
        self._whole = self.fingerprint

    def read_only(self, tokens: int) -> None:
        """Train on so many tokens from now on."""
        whole = np.asarray(self.corpus.train)
        if tokens > len(whole):
            raise UserError(
                f"finetuning_transfer: the prose has {len(whole)} tokens for training, fewer than "
                f"{tokens} of a run; give more finetuning_transfer.target_bytes or fewer tokens"
            )
        self._arrays = jnp.asarray(np.resize(whole[:tokens], whole.shape))
        self.fingerprint = f"{self._whole}-{tokens}"


def row_of(
    session: PartialSession, spec: RunSpec, cell: Cell, asked: Settings, place: Path, start: Any
) -> dict[str, Any]:
    """The loss of a cell at its early stop, trained if it is not there."""
    if (place / "cell.json").exists():
        return dict(read_json(place / "cell.json"))
    session.read_only(cell.tokens)
    each = spec.batch_size * spec.model.seq_len
    steps = min(asked.steps, max(asked.epochs * cell.tokens // each, asked.evaluations))
    timed = dataclasses.replace(spec, steps=steps)

    def begin() -> Any:
        return state_of(timed, jax.tree.map(jnp.array, start))

    stderr_of: dict[int, float] = {}  # of this process; those before a restart are not kept
    hooks = Hooks(evaluation=lambda step, score: stderr_of.update({step: float(score.stderr)}))
    result = run(session, timed, place, hooks, begin if cell.pretrained else None)
    step, loss = min(result.history, key=lambda one: one[1])
    row = {
        "width": cell.width,
        "params": models.count_params(spec.model).total,
        "tokens": cell.tokens,
        "pretrained": int(cell.pretrained),
        "loss": float(loss),
        "steps": int(step),
        "stderr": stderr_of.get(step),
    }
    write_json(place / "cell.json", row)
    return row


JOB = Job(main, settings=Settings, check=check, one_run=True, trains=True)

"""job=memorization: models of several sizes on a text with planted canaries, and what they keep."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.config import Config
from gptjax.data.sources.stdlib import stdlib
from gptjax.data.split import digest, is_heldout
from gptjax.engines.devices import start_backend
from gptjax.errors import UserError
from gptjax.fields import replaced, setting
from gptjax.files import write_atomic, write_json
from gptjax.job import Job

BEFORE = "the code of {name} is "
TEXT = "text"
"""The folder in the workdir with the documents."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """A text of the standard library with planted canaries, and the sizes that read it."""

    widths: tuple[int, ...] = setting((16, 32, 64), "model.width of each size", minimum=2)
    repetitions: tuple[int, ...] = setting(
        (1, 4, 16, 64), "times that a canary stands in the text", minimum=1
    )
    canaries: int = setting(4, "canaries of each number of repetitions", minimum=1)
    digits: int = setting(3, "digits of a canary's secret", minimum=1, maximum=5)
    documents: int = setting(120, "documents that canaries are planted into", minimum=10)
    document_bytes: int = setting(2000, "bytes of a document before", minimum=200)
    seed: int = setting(0, "of names, secrets and places", minimum=0)


@dataclasses.dataclass(frozen=True)
class Canary:
    """A sentence with a secret, and how often it stands in the text."""

    name: str
    secret: str
    repetitions: int

    @property
    def sentence(self) -> str:
        return f"\n{BEFORE.format(name=self.name)}{self.secret}\n"


def check(config: Config) -> None:
    """Refuse a run that reads another text."""
    asked: Settings = config.own["memorization"]
    if not asked.widths or not asked.repetitions:
        raise UserError("memorization.widths and memorization.repetitions must not be empty")


def main(config: Config, folder: Path) -> int:
    """Plant, train each size, measure; writes memorization.json and a figure."""
    from gptjax.report import memorization as page  # matplotlib is slow to import
    from gptjax.stages import find_model

    asked: Settings = config.own["memorization"]
    start_backend(config)
    planted = plant(asked, folder / TEXT, config.data.heldout_fraction)
    data = replaced(config.data, {"source": "text", "path": str(folder / TEXT)})
    rows: list[dict[str, Any]] = []
    for width in asked.widths:
        one = dataclasses.replace(config, data=data, model=replaced(config.model, {"width": width}))
        model = find_model.find(one, "", folder / f"width-{width}")
        rows += [{"width": width, **row} for row in measure(model, planted)]
        print(f"width {width}: {_said([row for row in rows if row['width'] == width])}")
    content = {"candidates": 10**asked.digits, "rows": rows}
    write_json(folder / "memorization.json", content)
    page.draw(folder, rows, asked.digits, config.report.formats, config.report.dpi)
    print(folder / "memorization.json")
    return 0


def plant(asked: Settings, place: Path, heldout: float) -> list[Canary]:
    """Write the documents of the training side with canaries between their lines."""
    rng = random.Random(asked.seed)
    canaries = [
        Canary(
            "".join(rng.choice("bcdfghjklmnpqrstvwxz") for _ in range(5)),
            "".join(rng.choice("0123456789") for _ in range(asked.digits)),
            count,
        )
        for count in asked.repetitions
        for _ in range(asked.canaries)
    ]
    texts = sorted(d.decode() for d in stdlib().read() if len(d) >= asked.document_bytes)
    lines = [
        t[: asked.document_bytes].splitlines()
        for t in rng.sample(texts, min(len(texts), asked.documents))
    ]
    for canary in canaries:
        for _ in range(canary.repetitions):
            document = rng.choice(lines)
            document.insert(rng.randrange(len(document)), canary.sentence.strip())
    place.mkdir(parents=True, exist_ok=True)
    for number, document in enumerate(lines):
        body = "\n".join(document).encode()
        salt = 0
        while is_heldout(digest(salted := body + b"\n" * salt), heldout):
            salt += 1  # a canary's documents are all trained on
        write_atomic(place / f"{number:04}.txt", salted)
    for number in range(8):
        write_atomic(place / f"held-{number}.txt", _held(texts, heldout, number, asked))
    facts = [dataclasses.asdict(canary) for canary in canaries]
    write_atomic(place.parent / "canaries.json", json.dumps(facts, indent=1))
    return canaries


def _held(texts: list[str], heldout: float, number: int, asked: Settings) -> bytes:
    """A document that the split holds out, for the loss."""
    body, salt = texts[number][-asked.document_bytes :].encode("utf-8", "ignore"), 0
    while not is_heldout(digest(salted := body + b"\n" + b" " * salt), heldout):
        salt += 1
    return salted


def measure(model: Any, canaries: list[Canary]) -> list[dict[str, Any]]:
    """Exposure and extraction of each canary."""
    from gptjax import evals

    rows = []
    for canary in canaries:
        before = "\n" + BEFORE.format(name=canary.name)
        bits, rank, _ = evals.exposure(model, before, canary.secret)
        (own,) = evals.score(model, [evals.request_of(model, before, canary.secret)])
        rows.append(
            {
                "repetitions": canary.repetitions,
                "name": canary.name,
                "exposure": bits,
                "rank": rank,
                "extracted": float(own.greedy),
            }
        )
    return rows


def _said(rows: list[dict[str, Any]]) -> str:
    parts = []
    for count in dict.fromkeys(row["repetitions"] for row in rows):
        mine = [row for row in rows if row["repetitions"] == count]
        bits, share = (float(np.mean([row[k] for row in mine])) for k in ("exposure", "extracted"))
        parts.append(f"{count} times: {bits:.1f} bits, {share:.0%} extracted")
    return "; ".join(parts)


JOB = Job(main, Settings, check, one_run=True, trains=True)

"""job=context_extension: a model trained on short texts, read beyond them by every method."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np

from gptjax import ops
from gptjax.config import Config
from gptjax.data.sources.stdlib import stdlib
from gptjax.data.split import digest, is_heldout
from gptjax.engines.devices import start_backend
from gptjax.errors import UserError
from gptjax.evals.needle import FORM, LETTERS, VALUES
from gptjax.evals.tasks.items import HELDOUT as HELD
from gptjax.fields import replaced, setting
from gptjax.files import write_atomic, write_json
from gptjax.job import Job

TEXT = "text"
"""The folder in the workdir with the documents."""
BYTES, MENTIONS = 800, 4
"""Bytes of code in a document, and how often a needle is written."""
NEEDS_FACTORS = ("longrope",)
"""Scalings with a list of factors for one model, which cannot be guessed."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How far beyond its training a model is read."""

    factor: int = setting(4, "longest text over model.seq_len", minimum=2, maximum=64)
    windows: int = setting(48, "held-out texts of that length", minimum=1)
    repeats: int = setting(4, "needles at each length and depth", minimum=1)
    plant: bool = setting(
        True,
        "train on code of the standard library with needles between its bytes, so that finding "
        "them is learnt; false: on config.data",
    )
    documents: int = setting(500, "documents that needles are planted into", minimum=10)
    seed: int = setting(0, "of the planted needles", minimum=0)


def check(config: Config) -> None:
    """Refuse positions of a run that are not rotary: ALiBi is trained beside it."""
    if config.model.positions != "rotary":
        raise UserError(
            f"model.positions={config.model.positions} cannot be extended by job=context_extension;"
            " set rotary, ALiBi is trained beside it"
        )


def main(config: Config, folder: Path) -> int:
    """Train both, measure each method; writes context_extension.json and a figure."""
    from gptjax.report import context_extension as page  # matplotlib is slow to import
    from gptjax.stages import find_model

    asked: Settings = config.own["context_extension"]
    start_backend(config)
    if asked.plant:
        plant(folder / TEXT, asked, config.model.seq_len)
        data = replaced(config.data, {"source": "text", "path": str(folder / TEXT)})
        config = dataclasses.replace(config, data=data)
    rotary = find_model.find(config, "", folder / "rotary")
    other = dataclasses.replace(config, model=replaced(config.model, {"positions": "alibi"}))
    models = {
        **extended(rotary, asked.factor),
        "alibi": _longer(find_model.find(other, "", folder / "alibi"), asked.factor, {}),
    }
    rows = {}
    for name, model in models.items():
        rows[name] = measure(model, asked, config.model.seq_len)
        print(f"{name}: {_said(rows[name])}", flush=True)
    content = {"trained": config.model.seq_len, "methods": rows}
    write_json(folder / "context_extension.json", content)
    page.draw(folder, content, config.report.formats, config.report.dpi)
    print(folder / "context_extension.json")
    return 0


def plant(place: Path, asked: Settings, length: int) -> None:
    """Write documents of code in which a needle stands again and again, at random distances.

    A key has its value for `MENTIONS` mentions, then another key comes, so that the value can be
    read from the text before and from nothing else. Code that evaluations read is left out.
    """
    rng = random.Random(asked.seed)
    code = sorted(d for d in stdlib().read() if len(d) >= BYTES and not is_heldout(digest(d), HELD))
    for number in range(asked.documents):
        text, made = rng.choice(code)[:BYTES].decode("utf-8", "ignore"), []
        while text:
            key = "".join(rng.choice(LETTERS) for _ in range(4))
            line = FORM.format(key=key, value=rng.choice(VALUES))
            for _ in range(MENTIONS):
                gap = rng.randrange(2, max(length - 2 * len(line), 4))
                made += [text[:gap], line]
                text = text[gap:]
        write_atomic(place / f"{number:04}.txt", "".join(made).encode())


def extended(model: Any, factor: int) -> dict[str, Any]:
    """The model by each method of rotary positions."""
    trained = {"rope.trained_len": model.config.seq_len}
    return {
        name: _longer(
            model,
            factor,
            {
                "rope.scaling": name,
                **({} if name == "none" else {"rope.factor": float(factor)}),
                **trained,
            },
        )
        for name in ops.ROPE_SCALINGS
        if name not in NEEDS_FACTORS
    }


def _longer(model: Any, factor: int, changes: dict[str, Any]) -> Any:
    longer = {"seq_len": factor * model.config.seq_len, **changes}
    return dataclasses.replace(model, config=replaced(model.config, longer))


def measure(model: Any, asked: Settings, trained: int) -> dict[str, Any]:
    """Loss by position in bands of half the trained length, and retrieval by depth and length."""
    from gptjax import evals
    from gptjax.evals.tasks import documents_of

    text = "\n".join(document.text for document in documents_of(evals.EvalConfig()))
    ids, longest = model.encode(text), model.config.seq_len
    count = min(asked.windows, len(ids) // longest)
    prefix = model.end_ids[0]
    asked_for = [
        evals.Request((prefix,), tuple(ids[i * longest : (i + 1) * longest])) for i in range(count)
    ]
    nats = -np.stack([one.logprobs for one in evals.score(model, asked_for)])
    bands = nats.reshape(count, -1, trained // 2)
    by_window = bands.mean(axis=2)
    lengths = tuple(trained * 2**n for n in range(8) if 2**n <= longest // trained)
    found = evals.needle(model, text[:50_000], lengths=lengths, repeats=asked.repeats)
    return {
        "position": [trained // 2 * (n + 1) for n in range(bands.shape[1])],
        "loss": by_window.mean(axis=0).tolist(),
        "stderr": (by_window.std(axis=0, ddof=1) / np.sqrt(count)).tolist() if count > 1 else None,
        "needle": found.curve,
    }


def _said(row: dict[str, Any]) -> str:
    pairs = zip(row["position"], row["loss"], strict=True)
    return ", ".join(f"{loss:.3f} to {place}" for place, loss in pairs) + " (nats, tokens)"


JOB = Job(main, Settings, check, one_run=True, trains=True)

"""What cleaning is worth in compute: one sweep on spoilt text, one on what job=clean makes of it.

    python -m gptjax.main --config=experiments/cleaning_sweep.py

No download: prose from the standard library's documentation strings and reference, spoilt on
purpose and the same way every time, as crawls are: copies and near copies, menus and notices
around the text, pages of repeated advertisements and of random characters. Stages of cleaning that
need no extra (repetition, quality, c4, exact, near) make the other text of it. Both sweeps are
scored on a third part of the prose, clean and in neither, and each gets a law; the compute
multiplier says how many times as many FLOPs the spoilt text needs for the same loss.

24 runs of 1.1e12 FLOPs in all: about three minutes on two cores.
"""

import ast
import dataclasses
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from gptjax.config import default_config
from gptjax.data import DataConfig, cache, sources
from gptjax.data.clean.config import CleanConfig
from gptjax.data.clean.pipeline import clean
from gptjax.data.sources import SOURCES, Documents, Generated, Pictured, Source
from gptjax.data.sources.stdlib import stdlib
from gptjax.data.split import digest
from gptjax.files import write_atomic

VERSION = 1
STAGES = ("repetition", "quality", "c4", "exact", "near")
WORDS = 220
"""Of a document of prose, at least."""
REFERENCE = 0.08
"""Part of the documents that only score."""
MENU = "Home | News | Products | Support | Sign in\nYou are here: Home > Articles > Page {}\n"
NOTICE = "\nShare this page\nCookie settings | Terms of use | Contact\nAll rights reserved {}"


def paragraphs() -> Iterator[str]:
    """Sentences of documentation, each paragraph on a line of its own."""
    for code in stdlib().read():
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield from (ast.get_docstring(node) or "").split("\n\n")
    from pydoc_data.topics import topics

    for _, text in sorted(topics.items()):
        yield from text.split("\n\n")


def prose() -> Iterator[str]:
    """Documents of paragraphs that are sentences, each paragraph used once."""
    held: list[str] = []
    seen = set()
    for text in paragraphs():
        line = " ".join(text.split())
        if line in seen or not re.fullmatch(r"[A-Z][^{}<>|]{50,}[.!?]", line):
            continue
        seen.add(line)
        held.append(line)
        if sum(len(one.split()) for one in held) >= WORDS:
            yield "\n".join(held)
            held = []


def is_reference(text: str) -> bool:
    """Whether a document only scores: by its content."""
    return digest(text.encode())[31] < 256 * REFERENCE


def spoilt() -> Iterator[str]:
    """The other documents as a crawl would have them."""
    rng = random.Random(VERSION)
    kept = [text for text in prose() if not is_reference(text)]
    pages = list(kept)
    pages += [rng.choice(kept) for _ in range(len(kept))]  # copies
    pages += [_retold(rng, rng.choice(kept)) for _ in range(len(kept) // 2)]  # near copies
    pages = [_framed(rng, text) for text in pages]
    pages += [_advertisement(rng) for _ in range(len(kept) // 2)]
    pages += [_garbage(rng) for _ in range(len(kept) // 2)]
    rng.shuffle(pages)
    yield from pages


def _retold(rng: random.Random, text: str) -> str:
    words = text.split(" ")
    for _ in range(3):
        words[rng.randrange(len(words))] = rng.choice(("also", "now", "perhaps"))
    return " ".join(words)


def _framed(rng: random.Random, text: str) -> str:
    if rng.random() < 0.4:
        return text
    return MENU.format(rng.randrange(1000)) + text + NOTICE.format(rng.randrange(1990, 2026))


def _advertisement(rng: random.Random) -> str:
    offer = rng.choice(("Buy now and save", "Click here to win", "Limited offer today"))
    return "\n".join([f"{offer} {rng.randrange(10, 99)}% on everything!!!"] * rng.randrange(10, 40))


def _garbage(rng: random.Random) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789#@$%&*     \n"
    return "".join(rng.choices(letters, k=rng.randrange(500, 1500)))


def _folder(config: DataConfig) -> Path:
    """The spoilt text as JSON lines, and the cleaned shards beside it, made once."""
    place = cache.root(config.cache_dir) / f"cleaning_sweep-{VERSION}"
    raw = place / "raw" / "pages.jsonl"
    if not raw.exists():
        raw.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(raw, "".join(json.dumps({"text": text}) + "\n" for text in spoilt()))
    wanted = CleanConfig(input=str(raw), output=str(place / "clean"), stages=STAGES, workers=1)
    clean(wanted, place / "clean", lambda words: None)
    return place


def _lines(name: str):
    def opened(own: None, config: DataConfig, seq_len: int) -> Documents | Pictured | Generated:
        path = str(_folder(config) / name)
        return SOURCES["jsonl"].open(None, dataclasses.replace(config, path=path), seq_len)

    return opened


def _reference(own: None, config: DataConfig, seq_len: int) -> Documents:
    def read() -> Iterator[bytes]:
        return (text.encode() for text in prose() if is_reference(text))

    return Documents(["reference", VERSION, stdlib().stamp], read, "the source reference")


for _name, _open in (
    ("raw", _lines("raw/pages.jsonl")),
    ("clean", _lines("clean/*.jsonl.zst")),
    ("reference", _reference),
):
    if _name not in SOURCES:
        sources.register(Source(_name, _open))


def get_config() -> ConfigDict:
    """Three budgets and four sizes on each text; the loss is that of the reference alone."""
    config = default_config()
    config.experiment = "cleaning_sweep"
    config.job = "compare_sweeps"
    config.data.update(
        sources=(
            "reference: source=reference heldout_fraction=0.9",
            "raw: source=raw deduplicate=false heldout_fraction=0.005",
            "cleaned: source=clean heldout_fraction=0.01",
        ),
        weights=(0.0, 1.0, 0.0),
        targets=(1.0, 0.0, 0.0),
        repeats=(8.0,),
    )
    config.compare.sweeps = (
        "raw text: data.weights=(0,1,0)",
        "cleaned text: data.weights=(0,0,1)",
    )
    config.model.update(
        depth=2,
        seq_len=64,
        norm="rmsnorm",
        positions="rotary",
        mlp="relu",
        use_bias=False,
        init_scale=0.15,
    )
    config.sweep.update(
        budgets=(2e10, 4e10, 8e10),
        widths=(8, 12, 16, 24),
        width_step=4,
        head_width=16,
        rule="demo_trunk",
        part_tokens=512,
    )
    config.train.eval_batch_size = 16
    config.fit.update(approaches=("parametric",), diagnostics=False, holdout_budgets=0)
    return config

"""In which proportions to mix six sources, one of them useless: a law, its optimum, and a check.

    python -m gptjax.main --config=experiments/mixture_sweep.py

No download: the standard library's code and its documentation strings, the licence texts that
Debian keeps on disk (where they are), facts of `zipf-facts` written as text, sums of numbers, and
random letters, from which nothing can be learned. Equal parts and 18 mixtures around them are
trained at two sizes; laws of each source's held-out loss give the best mixture for the mean over
the five useful ones, which is then trained at a size that the laws have not seen.

42 runs, 206 s of processor time (AMD EPYC; seven minutes on two cores that were shared with much
other work). Measured 2026-11-30: facts 36 %, docstrings 28 %, code 17 %, sums 10 %, licences 9 %,
and the letters are called useless; the best mixture gave 2.167 nats at the largest size where equal
parts gave 2.251. The laws ranked the four runs there rightly and were .124 too low: two sizes do
not tell where the gain of a size ends.
"""

import ast
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from gptjax.config import default_config
from gptjax.data import sources
from gptjax.data.sources import SOURCES, Documents, Source
from gptjax.data.sources.stdlib import stdlib
from gptjax.data.sources.zipf_facts import SymbolTokenizer, ZipfFactsConfig, entities, language

LICENCES = Path("/usr/share/common-licenses")
DOCUMENTS = 2000
LINES = 24
FACTS = ZipfFactsConfig(exponent=1.0, entities=512)


def docstrings() -> Iterator[bytes]:
    """The documentation strings of each file of the standard library, one document a file."""
    for code in stdlib().read():
        found = [
            text
            for node in ast.walk(ast.parse(code))
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and (text := ast.get_docstring(node))
        ]
        if found:
            yield "\n\n".join(found).encode("utf-8", "replace")


def facts() -> Iterator[bytes]:
    """Entities with their attributes, a line each, the popular ones more often."""
    known = language(FACTS)
    decode = SymbolTokenizer(FACTS.base, FACTS.attributes).decode
    drawn = entities(known, FACTS.seed, 0, DOCUMENTS * LINES, heldout=False)
    for document in drawn.reshape(DOCUMENTS, LINES):
        yield b"\n".join(decode(known.bodies[who]) for who in document)


def sums() -> Iterator[bytes]:
    """Sums of two numbers below 100."""
    rng = random.Random(1)
    for _ in range(DOCUMENTS):
        pairs = [(rng.randrange(100), rng.randrange(100)) for _ in range(LINES)]
        yield "\n".join(f"{a} + {b} = {a + b}" for a, b in pairs).encode()


def noise() -> Iterator[bytes]:
    """Random letters."""
    rng = random.Random(2)
    for _ in range(DOCUMENTS):
        yield "".join(rng.choices("abcdefghijklmnopqrstuvwxyz ", k=240)).encode()


def _register(name: str, read, stamp) -> None:
    documents = Documents(stamp, read, f"the source {name}")
    if name not in SOURCES:
        sources.register(Source(name, lambda own, config, seq_len: documents))


for made in (facts, sums, noise):
    _register(made.__name__, made, [made.__name__, DOCUMENTS, LINES, 1])
_register("docstrings", docstrings, ["docstrings", stdlib().stamp])

USEFUL = {
    "code": "source=python-stdlib heldout_fraction=0.01",
    "docstrings": "source=docstrings heldout_fraction=0.05",
    "facts": "source=facts heldout_fraction=0.1",
    "sums": "source=sums heldout_fraction=0.04",
}
if LICENCES.is_dir() and sysconfig.get_platform().startswith("linux"):
    USEFUL["licences"] = (
        f"source=text path={LICENCES} text.document_bytes=1500 heldout_fraction=0.1"
    )


def get_config() -> ConfigDict:
    """Equal parts as the prior, and the mean over the useful sources as the target."""
    config = default_config()
    config.experiment = "mixture_sweep"
    config.job = "mixture_sweep"
    named = {**USEFUL, "noise": "source=noise heldout_fraction=0.02"}
    count = len(USEFUL)
    config.data.sources = tuple(f"{label}: {text}" for label, text in named.items())
    config.data.weights = (*(round(1 / (count + 1), 4),) * count, 0.0)
    config.data.weights = (*config.data.weights[:-1], round(1 - sum(config.data.weights), 4))
    config.data.targets = (*(1 / count,) * count, 0.0)
    config.data.repeats = (20.0,)
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
        plan="grid",
        widths=(16, 32, 64),
        tokens=(1e5,),
        width_step=4,
        head_width=16,
        rule="demo_trunk",
        part_tokens=512,
    )
    config.mixture_sweep.update(mixtures=18, checks=2)
    config.train.eval_batch_size = 16
    return config

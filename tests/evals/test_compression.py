"""Compression by a model: restored to the bit, and as long as the model's own code length."""

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import compiled_model
import jax
import numpy as np
import pytest
from scored_model import CONFIG, model

from gptjax import convert, data
from gptjax.errors import UserError
from gptjax.evals import Document, perplexity
from gptjax.evals.arithmetic_coder import Decoder, Encoder, cumulative
from gptjax.evals.compression import compress, decompress, fingerprint
from gptjax.main import main

REPO = Path(__file__).parents[2]


def test_the_coder_gives_symbols_back_at_their_entropy():
    rng = np.random.default_rng(0)
    tables = [cumulative(np.log(rng.dirichlet(np.full(40, 0.1)) + 1e-12)) for _ in range(3000)]
    symbols = [int(np.searchsorted(t, rng.integers(t[-1]), side="right")) - 1 for t in tables]
    encoder = Encoder()
    for table, symbol in zip(tables, symbols, strict=True):
        encoder.put(table, symbol)
    made = encoder.finish()
    ideal = -sum(np.log2((t[s + 1] - t[s]) / t[-1]) for t, s in zip(tables, symbols, strict=True))
    assert ideal <= 8 * len(made) <= ideal + 16
    decoder = Decoder(made)
    assert [decoder.get(table) for table in tables] == symbols


def test_a_file_is_restored_and_takes_the_models_bits():
    content = bytes(np.random.default_rng(1).integers(0, 256, 700, dtype=np.uint8)) + b"text " * 80
    made = compress(model(), content)
    assert decompress(model(), made.data) == content
    assert made.payload_bits <= made.ideal_bits * 1.001 + 16 and made.tokens == len(content)
    asciis = b"text " * 64
    again = compress(model(), asciis)
    pieces = [Document(asciis[i : i + 64].decode()) for i in range(0, len(asciis), 64)]
    bits = perplexity(model(), pieces).metrics["code_length_bits"].value
    assert again.ideal_bits == pytest.approx(bits, rel=1e-5)
    assert decompress(model(), compress(model(), b"").data) == b""


def test_what_cannot_be_restored_is_refused():
    made = compress(model(), b"some text")
    other = dataclasses.replace(model(), params=jax.tree.map(lambda x: x + 1, model().params))
    for data_, one, words in (
        (b"other bytes", model(), "not written by job=compress"),
        (made.data, other, "compressed by another model"),
        (made.data[:-1] + bytes([made.data[-1] ^ 64]), model(), "damaged"),
    ):
        with pytest.raises(UserError, match=words):
            decompress(one, data_)


def test_the_information_of_a_source_without_memory_is_none():
    flat = jax.tree.map(np.zeros_like, model().params)
    text = bytes(np.random.default_rng(2).integers(0, 128, 6000, dtype=np.uint8)).decode()
    found = perplexity(dataclasses.replace(model(), params=flat), [Document(text)])
    assert found.score.value == pytest.approx(np.log(257), abs=1e-4)
    assert found.metrics["mutual_information"].value == pytest.approx(
        np.log(128) - np.log(257), abs=3e-3
    )


def test_a_models_fingerprint_is_that_of_its_names_and_bytes():
    """The same in every process."""
    found = hashlib.sha256(repr(CONFIG).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(model().params):
        found.update(jax.tree_util.keystr(path).encode())
        found.update(np.asarray(leaf).tobytes())
    assert fingerprint(model()) == found.hexdigest()[:16]


def in_another_process(words):
    """python -m pytest -m slow tests/evals/test_compression.py"""
    command = [sys.executable, "-m", "gptjax.main", *words[1:]]
    return subprocess.run(command, cwd=REPO).returncode


@pytest.mark.parametrize("run", [main, pytest.param(in_another_process, marks=pytest.mark.slow)])
def test_the_jobs_restore(tmp_path, capsys, run):
    params = compiled_model.drawn(CONFIG, 3)
    kept = convert.own_folder.KeptTokenizer(data.DataConfig())
    convert.save_model(tmp_path / "model", CONFIG, params, kept)
    source = tmp_path / "file"
    source.write_bytes(b"\x00\xff some bytes" * 9)
    experiment = f"--config={REPO / 'experiments' / 'evaluate.py'}"
    flags = [
        experiment,
        "--config.job=compress",
        f"--config.compress.model={tmp_path / 'model'}",
        f"--config.compress.input={source}",
    ]
    assert main(["gptjax", *flags]) == 0
    assert "xz" in capsys.readouterr().out
    back = [
        experiment,
        "--config.job=decompress",
        f"--config.decompress.model={tmp_path / 'model'}",
        f"--config.decompress.input={source}.gptjax",
        f"--config.decompress.output={tmp_path / 'back'}",
    ]
    assert run(["gptjax", *back]) == 0
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert main(["gptjax", *back]) == 2 and "not there yet" in capsys.readouterr().err
    assert main(["gptjax", *flags[:2]]) == 2 and "names no model" in capsys.readouterr().err

"""job=memorization, job=context_extension: canaries as told, methods by hand, figures."""

import collections
import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from gptjax import ops
from gptjax.data.split import digest, is_heldout
from gptjax.errors import UserError
from gptjax.evals import EvalConfig
from gptjax.evals.tasks import documents_of
from gptjax.experiment import load
from gptjax.jobs import context_extension, memorization
from gptjax.main import main
from gptjax.report import context_extension as extension_page
from gptjax.report import memorization as memorization_page

REPO = Path(__file__).parents[2]
sys.path.insert(0, str(REPO / "tests" / "evals"))

from scored_model import by_whole_pass, model  # noqa: E402

SMALL = memorization.Settings(
    widths=(8,), repetitions=(1, 3), canaries=2, digits=1, documents=12, document_bytes=400
)


def test_canaries_stand_as_often_as_is_told_and_none_is_held_out(tmp_path):
    canaries = memorization.plant(SMALL, tmp_path / "text", 0.1)
    again = memorization.plant(SMALL, tmp_path / "again", 0.1)
    assert canaries == again and [c.repetitions for c in canaries] == [1, 1, 3, 3]
    texts = {path.name: path.read_bytes() for path in (tmp_path / "text").iterdir()}
    for canary in canaries:
        whole = b"\n".join(text for name, text in texts.items() if "held" not in name)
        assert whole.count(canary.sentence.strip().encode()) == canary.repetitions
    for name, text in texts.items():
        assert is_heldout(digest(text), 0.1) == name.startswith("held"), name


def test_exposure_and_extraction_are_measured_and_drawn(tmp_path):
    canaries = [memorization.Canary("abc", "7", 2), memorization.Canary("xyz", "1", 5)]
    rows = memorization.measure(model(), canaries)
    totals = [
        by_whole_pass(b"\nthe code of abc is", f" {digit}".encode()).sum() for digit in range(10)
    ]
    assert rows[0]["rank"] == 1 + sum(total > totals[7] for total in totals)
    assert rows[0]["exposure"] == pytest.approx(np.log2(10 / rows[0]["rank"]))
    named = [{"width": 8, **row} for row in rows]
    (path,) = memorization_page.draw(tmp_path, named, 1, ("png",), 50)
    assert path.exists() and "2 times:" in memorization._said(named)


def test_a_model_is_extended_by_every_method_that_needs_no_list(tmp_path):
    short = dataclasses.replace(
        model(), config=dataclasses.replace(model().config, positions="rotary", seq_len=16)
    )
    found = context_extension.extended(short, 4)
    assert set(found) == set(ops.ROPE_SCALINGS) - {"longrope"}
    for name, one in found.items():
        assert one.config.seq_len == 64 and one.config.rope.trained_len == 16
        assert one.config.rope.factor == (1.0 if name == "none" else 4.0)
        assert one.context == 64
    rows = {
        "none": {
            "position": [8, 16],
            "loss": [3.0, 2.0],
            "needle": {"lengths": [16, 32], "depths": [0.5], "rate": [[0.0, 1.0]]},
        }
    }
    content = {"trained": 8, "methods": rows}
    (path,) = extension_page.draw(tmp_path, content, ("png",), 50)
    assert path.exists() and "2.000 to 16" in context_extension._said(rows["none"])


def test_planted_needles_keep_their_value_and_leave_out_what_is_scored(tmp_path):
    asked = context_extension.Settings(documents=10)
    context_extension.plant(tmp_path, asked, 64)
    texts = [path.read_text() for path in sorted(tmp_path.iterdir())]
    assert len(texts) == 10
    scored = [document.text for document in documents_of(EvalConfig())]
    for text in texts:
        found = re.findall(r"\n([A-Z]{4}) = (\d)\n", text)
        counts = collections.Counter(found)
        assert len(counts) == len(dict(found)) > 1 and set(counts.values()) == {4}
        code = re.sub(r"\n[A-Z]{4} = \d\n", "", text)
        assert len(code.encode()) > 700 and not any(one.startswith(code) for one in scored)


def test_other_positions_cannot_be_extended():
    values = load(str(REPO / "experiments" / "context_extension.py"))
    values["model"]["positions"] = "learned"
    from gptjax.config import make_config

    with pytest.raises(UserError, match="cannot be extended"):
        make_config(values)


def run(tmp_path, name, **settings):
    flags = {
        "data.cache_dir": tmp_path / "cache",
        "train.tokens": 20_000,
        "report.formats": "png",
        **settings,
    }
    flags = [f"--config.{key}={value}" for key, value in flags.items()]
    experiment = f"--config={REPO / 'experiments' / name}.py"
    assert main(["gptjax", experiment, f"--workdir={tmp_path / name}", *flags]) == 0
    return json.loads((tmp_path / name / f"{name}.json").read_text())


@pytest.mark.slow
def test_the_job_trains_sizes_on_the_planted_text(tmp_path):
    """Two sizes for 20,000 tokens: pytest -m slow tests/jobs/test_memorization.py."""
    more = {f"memorization.{k}": v for k, v in dataclasses.asdict(SMALL).items() if k != "widths"}
    more |= {"memorization.repetitions": "1,3", "memorization.widths": "8,16"}
    found = run(tmp_path, "memorization", **{"data.heldout_fraction": 0.1, **more})
    assert len(found["rows"]) == 8 and found["candidates"] == 10


@pytest.mark.slow
def test_the_job_reads_beyond_training(tmp_path):
    """Two models for 20,000 tokens: pytest -m slow tests/jobs/test_memorization.py."""
    small = {"context_extension.windows": 2, "context_extension.repeats": 1, "model.width": 16}
    small["context_extension.plant"] = False
    found = run(tmp_path, "context_extension", **small)
    assert set(found["methods"]) == {*ops.ROPE_SCALINGS, "alibi"} - {"longrope"}
    assert all(len(row["loss"]) == 8 for row in found["methods"].values())

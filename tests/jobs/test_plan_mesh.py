"""job=plan_mesh through configs: choices that a reader can check by hand, and by exhaustion."""

import dataclasses
import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from gptjax import config as configs
from gptjax import experiment, models
from gptjax.config import run_spec
from gptjax.cost.chips import parse_target
from gptjax.cost.flops import training_flops_per_token
from gptjax.cost.roofline import TRAFFIC, estimate
from gptjax.errors import UserError
from gptjax.jobs import plan_mesh
from gptjax.jobs.plan_mesh import fits, search, with_remat
from gptjax.main import main
from gptjax.models.remat import ON_DEVICE
from gptjax.parallel import AXES

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def plan(tmp_path, name, **settings):
    settings = {"plan_mesh.compiled": 0, **settings}
    flags = [f"--{'' if k.startswith('config') else 'config.'}{k}={v}" for k, v in settings.items()]
    path = EXPERIMENTS / f"{name}.py"
    status = main(
        ["gptjax", f"--config={path}", f"--workdir={tmp_path}", "--config.job=plan_mesh", *flags]
    )
    return status, json.loads((tmp_path / "plan_mesh.json").read_text())


def test_what_fits_on_one_chip_gets_data_parallelism(tmp_path, capsys):
    """Everything by hand: 12 bytes a parameter, and one sum of the gradients over four chips.

    The batch is large enough for arithmetic to take longer than memory; with a smaller one, cutting
    the optimizer's state pays.
    """
    settings = {
        "compile.target": "v5e-4",
        "train.batch_size": 64,
        "model.compute_dtype": "bfloat16",
    }
    status, found = plan(tmp_path, "train_gpt2_small", **settings)
    assert status == 0
    cut = {name: size for name, size in found["chosen"].items() if size != 1}
    assert cut == {"data": 4, "remat": "dots"}  # scores of all layers do not fit
    first = found["candidates"][0]
    params = 124_439_808
    assert first["held"]["params"] == 4 * params
    assert first["held"]["opt_state"] == pytest.approx(8 * params, rel=1e-6)
    assert first["held"]["gradients"] == 4 * params
    assert first["seconds"]["network"] == {"data": pytest.approx(2 * 3 / 4 * 4 * params / 200e9)}
    flops = 64 * 1024 * training_flops_per_token(models.preset("gpt2"))
    assert first["seconds"]["ideal"] == pytest.approx(flops / (4 * 197e12))
    said = capsys.readouterr().out
    assert "chosen: --config.mesh.data=4" in said and "these are estimates" in said


def test_what_does_not_is_cut(tmp_path, capsys):
    """12 bytes for each of 1.56 billion parameters are more than a v5e chip has."""
    status, found = plan(tmp_path, "gpt2_xl")
    assert status == 0
    assert found["chosen"]["fsdp"] * found["chosen"]["tensor"] * found["chosen"]["pipe"] > 1
    alone = [one for one in found["candidates"] if one["sizes"]["data"] == 16]
    assert alone and not any(one["fits"] for one in alone)
    assert all("does not fit" in one["why_not"] for one in alone)
    assert "candidates are faster by the estimate and do not fit" in capsys.readouterr().out


def test_what_the_compiler_was_not_asked_about_is_not_refused():
    """Without a word from the compiler nothing fits; with some words, none of these does."""
    chip = SimpleNamespace(memory=16 * 2**30)
    target = SimpleNamespace(name="v5e-16", chip=chip)
    found = [SimpleNamespace(held=SimpleNamespace(total=20 * 2**30))]
    assert plan_mesh._verdict(target, found, [], None).startswith("nothing fits v5e-16: the least")
    said = plan_mesh._verdict(target, found, [SimpleNamespace()] * 3, None)
    assert "none of the 3 that it was asked about fits; set plan_mesh.compiled=12" in said


@pytest.mark.slow
def test_nothing_fits(tmp_path, capsys):
    settings = {"compile.target": "v5e-16", "train.micro_batches": 1}
    status, found = plan(tmp_path, "gpt3_13b", **settings)
    assert status == 1 and found["chosen"] is None
    assert "nothing fits v5e-16" in " ".join(capsys.readouterr().out.split())


def test_the_search_finds_what_exhaustion_finds():
    config = experiment.override(
        experiment.load(str(EXPERIMENTS / "train_gpt2_small.py")),
        [
            ("compile.target", "v5e-8"),
            ("job", "plan_mesh"),
            ("train.batch_size", "64"),
            ("model.vocab_size", "50304"),
        ],
    )
    setup = configs.make_config(config)
    spec, target = run_spec(setup), parse_target("v5e-8")
    flops = training_flops_per_token(spec.model)
    best, count = None, 0
    names = [axis for axis in AXES if axis in TRAFFIC]
    assert {"data", "pipe", "fsdp", "seq", "tensor"} <= set(names)
    for sizes in itertools.product((1, 2, 4, 8), repeat=len(names)):
        if math.prod(sizes) != 8:
            continue
        axes = dict(zip(names, sizes, strict=True))
        mesh = dataclasses.replace(setup.mesh, **axes)
        for remat in ON_DEVICE:
            try:
                one = estimate(with_remat(spec, remat), mesh, 8, target.chip, flops)
            except UserError:
                continue
            count += 1
            if one.held.total <= target.chip.memory and (
                best is None or one.seconds.total < best.seconds.total
            ):
                best = one
    found = search(spec, setup.mesh, 8, target.chip)
    assert len(found) == count > 20
    first = next(one for one in found if fits(one, target.chip))
    assert first.seconds.total == pytest.approx(best.seconds.total, rel=1e-6)


def test_a_target_is_wanted(tmp_path, capsys):
    path = EXPERIMENTS / "train_gpt2_small.py"
    flags = ["--config.job=plan_mesh", f"--workdir={tmp_path}"]
    assert main(["gptjax", f"--config={path}", *flags]) == 2
    assert "compile.target='' names no slice" in capsys.readouterr().err

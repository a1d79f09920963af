"""Folders of earlier versions: their records are found, and missing cells get the same bits."""

import hashlib
import json
import platform
import shutil
from pathlib import Path

import jax
import jaxlib
import pytest
from test_kill import workers_here

from gptjax import config as configs
from gptjax import sweeps
from gptjax.engines import run, workdir
from gptjax.engines.cells import make_cells
from gptjax.errors import UserError
from gptjax.experiment import override
from gptjax.stages.fit import read_laws
from gptjax.sweeps import record_path
from gptjax.train import session

FOLDERS = Path(__file__).parents[1] / "folders"
FLAGS = {
    "data.source": "zipf-facts",
    "data.zipf_facts.tokens": "16384",
    "data.zipf_facts.heldout_tokens": "4096",
    "model.depth": "1",
    "model.seq_len": "32",
    "model.norm": "rmsnorm",
    "model.positions": "rotary",
    "model.mlp": "relu",
    "model.use_bias": "false",
    "model.init_scale": "0.15",
    "optim.schedule": "wsd",
    "optim.learning_rate": "1e-2",
    "optim.warmup_steps": "4",
    "sweep.budgets": "(2.4e8,7.2e8)",
    "sweep.sizes": "6",
    "sweep.widths": "(8,16,24)",
    "sweep.width_step": "4",
    "sweep.head_width": "8",
    "sweep.rule": "fixed",
    "sweep.part_tokens": "512",
    "train.batch_size": "8",
}
"""As the folders were made; what is spelled otherwise today is spelled so here."""


@pytest.fixture
def kept(tmp_path):
    """Copies of a kept folder, and the setup that its flags give today."""

    def copy(name: str):
        folder = tmp_path / name
        shutil.copytree(FOLDERS / name, folder)
        flags = {**FLAGS, "data.cache_dir": str(tmp_path / "cache")}
        return folder, configs.make_config(
            override(configs.default_config().to_dict(), flags.items())
        )

    return copy


def here() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": names[0] if names else "",
    }


UNDONE = {"xla_llvm_disable_expensive_passes": False, "xla_cpu_use_fusion_emitters": True}
"""Options of XLA that the suite changes, at their defaults: the folder's bits are a command's."""


@workers_here()
def test_a_kept_folder_is_continued_bit_for_bit(kept, monkeypatch):
    with monkeypatch.context() as patch:
        patch.delenv("XLA_FLAGS")
        shipped = session._compiler_options() | UNDONE
    monkeypatch.setattr(session, "_compiler_options", lambda: shipped)
    folder, setup = kept("schema_2")
    before = {path.name: path.read_bytes() for path in (folder / "records").iterdir()}
    workdir.open_workdir(setup, folder)
    cells = make_cells(setup, configs.load_corpus(setup))
    left = sweeps.open_cells(folder, cells)
    (expected,) = (folder / "missing").iterdir()
    assert [cell.id for cell in left] == [expected.stem], "cells were renamed"
    assert run.train(setup, folder, cells) == 0
    for name, content in before.items():
        assert (folder / "records" / name).read_bytes() == content
    found, wanted = (
        json.loads(path.read_text()) for path in (record_path(folder, left[0]), expected)
    )
    later = {"schema", "made_by", "sha256"}  # what versions since have added
    if here() == json.loads((folder / "made_by.json").read_text()):
        same = [{k: v for k, v in one.items() if k not in later} for one in (found, wanted)]
        assert same[0] == same[1]
        return
    # Another compiler or processor rounds otherwise; a hundred steps spread that to about 1e-5.
    for name in ("loss", "train_loss", "bits_per_byte"):
        assert found[name] == pytest.approx(wanted[name], rel=1e-3)
    assert found["run"] == wanted["run"] and found["trunk"] == wanted["trunk"]


def test_records_of_version_1_are_found_under_their_names_of_today(kept, capsys):
    folder, setup = kept("schema_1")
    workdir.open_workdir(setup, folder)
    assert "its 1 records are kept" in capsys.readouterr().out
    cells = make_cells(setup, configs.load_corpus(setup))
    (record,) = sweeps.read_records(folder, cells)
    new = FOLDERS / "schema_2" / "records" / f"{record['cell']}.json"
    assert record == json.loads(new.read_text())
    workdir.open_workdir(setup, folder)
    assert capsys.readouterr().out == ""


def test_another_config_is_refused_with_the_name_of_today(kept):
    folder, setup = kept("schema_1")
    asked = configs.make_config({**configs.to_mapping(setup), "model": {"depth": 2}})
    with pytest.raises(UserError, match=r"was made with model\.depth=1, not 2; choose another"):
        workdir.open_workdir(asked, folder)


def test_a_setting_that_changes_digits_alone_is_refused_with_the_reason(kept):
    folder, setup = kept("schema_2")
    train = {**configs.to_mapping(setup)["train"], "eval_batch_size": 7}
    asked = configs.make_config({**configs.to_mapping(setup), "train": train})
    with pytest.raises(
        UserError, match=r"eval_batch_size=32, not 7 \(.*the held-out loss\); choose"
    ):
        workdir.open_workdir(asked, folder)


def test_a_setting_that_is_not_in_the_file_is_the_default(kept):
    folder, setup = kept("schema_2")
    content = json.loads((folder / "config.json").read_text())
    del content["model"]["logit_scale"], content["optim"]["eps"]
    (folder / "config.json").write_text(json.dumps(content))
    workdir.open_workdir(setup, folder)


@pytest.mark.parametrize("damage", [b"{", b"[]", b"", None])
def test_a_damaged_config_is_written_again_by_the_settings_of_the_records(kept, capsys, damage):
    folder, setup = kept("schema_2")
    path = folder / "config.json"
    before = path.read_text()
    path.unlink() if damage is None else path.write_bytes(damage)
    cells = make_cells(setup, configs.load_corpus(setup))
    other = [cell for cell in cells if not record_path(folder, cell).exists()]
    with pytest.raises(UserError, match=r"config.json"):
        workdir.open_workdir(setup, folder, other)
    workdir.open_workdir(setup, folder, cells)
    assert "is damaged or gone and is written again" in capsys.readouterr().out
    found, made = json.loads(path.read_text()), json.loads(before)
    assert {**found["data"], "cache_dir": ""}.items() >= made["data"].items()
    assert found["sweep"].items() >= made["sweep"].items()


def test_an_edited_law_is_refused(tmp_path):
    path = tmp_path / "laws.json"
    path.write_text('{"E": 1.5}')
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "fit.json").write_text(json.dumps({"laws": digest}))
    assert read_laws(path) == {"E": 1.5}
    path.write_text('{"E": 1.4}')
    with pytest.raises(UserError, match=r"laws.json was changed after it was written"):
        read_laws(path)
    (tmp_path / "fit.json").write_text(json.dumps({"tables": "of a version without checksums"}))
    assert read_laws(path) == {"E": 1.4}

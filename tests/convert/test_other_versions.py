"""Folders that other versions of `transformers` save, read by us and compared with their logits.

Each version lies in an environment of its own that has torch (and needs nothing of ours):

    python -m venv OLD && OLD/bin/pip install 'transformers==4.40.2' torch safetensors
    GPTJAX_TRANSFORMERS=OLD/bin/python pytest -m slow -rP tests/convert/test_other_versions.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gptjax import convert

sys.path.insert(0, str(Path(__file__).parent))
import tiny

HERE = Path(__file__).parent
PYTHONS = os.environ.get("GPTJAX_TRANSFORMERS", "").split(":")


def ran_otherwise(folder, version):
    """Whether the version has other logits than those of today, which are the ones to agree with.

    Before 4.48 windows were another length, and without effect in eager attention; before 5 the
    factor of LongRoPE's scores went by `factor`, and DeepSeek-V2 had no mscale.
    """
    said = json.loads((folder / "config.json").read_text())
    scaling = said.get("rope_scaling") or {}
    windowed = version < [4, 48] and said.get("sliding_window") is not None
    longrope = said["model_type"] != "phi3" and scaling.get("rope_type") == "longrope"
    deepseek = said["model_type"] == "deepseek_v2" and "mscale" in scaling
    return windowed or (version < [5, 0] and (longrope or deepseek))


@pytest.mark.slow
@pytest.mark.skipif(PYTHONS == [""], reason="GPTJAX_TRANSFORMERS names no other version's python")
@pytest.mark.parametrize("python", PYTHONS)
def test_folders_of_another_version_are_read_right(python, tmp_path):
    subprocess.run([python, HERE / "their_models.py", tmp_path], check=True)
    pytest.importorskip("transformers")
    then, errors = {}, {}
    for folder in sorted(path for path in tmp_path.iterdir() if path.is_dir()):
        stored = np.load(folder / "logits.npz")
        ours, params = convert.from_huggingface(folder)
        got = tiny.logits(ours, params, stored["tokens"].astype(np.int32))
        then[folder.name] = tiny.error(got, stored["logits"])
        errors[folder.name] = tiny.error(got, tiny.their_logits(folder, stored["tokens"]))
    version = json.loads((tmp_path / "version.json").read_text())
    families = sorted({name.rsplit("-", 1)[0] for name in errors})
    print(f"transformers {version}: {len(errors)} folders of {len(families)} families")
    print(f"largest relative error {max(errors.values()):.1e}: {', '.join(families)}")
    assert not {name: off for name, off in errors.items() if not off < 1e-5}
    wrong = {name for name, off in then.items() if not off < 1e-5}
    print(f"other logits in that version: {', '.join(sorted(wrong)) or 'none'}")
    assert not {name for name in wrong if not ran_otherwise(tmp_path / name, version)}

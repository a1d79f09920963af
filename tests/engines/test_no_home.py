"""HOME unset, and a user without an entry in passwd, as in many containers."""

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

CODE = """
from gptjax.data import cache
from gptjax.engines.cores import private_folder
from gptjax.errors import UserError
print(private_folder())
try:
    cache.root("")
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may run as another user")
@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is not there")
def test_a_user_without_a_home(tmp_path):
    os.chmod(tmp_path, 0o777)
    package = str(Path(__file__).parents[2])
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "GPTJAX_CACHE")}
    environment |= {"PYTHONPATH": package, "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    shared = Path(tempfile.gettempdir())
    for parent in itertools.takewhile(lambda place: place != shared, tmp_path.parents):
        os.chmod(parent, 0o755)

    def as_another(code):
        command = ["setpriv", "--reuid=54321", "--clear-groups", sys.executable, "-c", code]
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=tmp_path
        )

    if as_another("import gptjax.data").returncode:
        pytest.skip("another user cannot read the package or the interpreter")
    done = as_another(CODE)
    assert done.returncode == 0, done.stderr
    folder, sentence = done.stdout.splitlines()
    assert folder == f"{tmp_path}/gptjax-cores-54321"
    assert "needs the home folder of '~'" in sentence
    assert not (tmp_path / "~").exists()

"""The command line at its edges: what is empty, too long, closed, or has no words for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptjax import terminal
from gptjax.engines import cores
from gptjax.errors import UserError
from gptjax.fields import from_text
from gptjax.main import main

REPO = Path(__file__).parents[1]
PLAN = f"--config={REPO / 'experiments' / 'chinchilla_sweep.py'}"
FIT = f"--config={REPO / 'experiments' / 'fit_table.py'}"


def refused(capsys, *flags):
    assert main(["gptjax", *flags]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    return sentence


@pytest.mark.parametrize("flag", ["--workdir=", "--workdir"])
def test_an_empty_workdir_is_no_workdir(capsys, flag):
    """As `--workdir=$UNSET` gives: it would otherwise start in the default folder."""
    assert "--workdir has no value" in refused(capsys, PLAN, flag)


@pytest.mark.parametrize(
    "key", ["train.steps", "optim.learning_rate", "sweep.budgets", "sweep.seeds"]
)
def test_a_number_of_310_digits_is_refused(capsys, key):
    assert f"{key}" in (sentence := refused(capsys, PLAN, f"--config.{key}={'9' * 310}"))
    assert "of 311 digits; give one of at most" in sentence
    from gptjax import config as configs

    section, name = key.split(".")
    value = [10**310] if name in ("budgets", "seeds") else 10**310
    with pytest.raises(UserError, match="give one of at most"):
        configs.make_config({section: {name: value}})


def test_numbers_that_a_type_holds_are_taken():
    assert from_text("train.seed", int, str(2**63 - 1)) == 2**63 - 1
    assert from_text("optim.learning_rate", float, "1e308") == 1e308


@pytest.mark.parametrize(
    "flags",
    [
        (f"--config={'x' * 300}.py",),
        (PLAN, f"--workdir={'x' * 300}"),
        (FIT, f"--config.fit_table.table={'x' * 300}.csv"),
    ],
)
def test_a_name_over_255_bytes_is_refused(capsys, flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sentence = refused(capsys, *flags)
    assert "xxx… is longer than a file's name may be; shorten it" in sentence
    assert len(sentence) < 200


def test_an_experiments_name_is_a_folders(capsys):
    sentence = refused(capsys, PLAN, f"--config.experiment={'x' * 256}")
    assert "config.experiment is a name of 256 bytes" in sentence


PRINTS = """
import sys
from gptjax import job, main
def get_config():
    from gptjax.config import default_config
    return default_config()
from gptjax import terminal
terminal.adapt_streams()
from rich.console import Console
from rich.table import Table
table = Table("a × b", "10¹² – 3")
table.add_row("1.0 ± 0.1", "≤ ∞")
console = Console(width=60)
console.print(table)
print("loss 2.1 ± 0.2 … 10⁻³ → é")
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_can_be_written(encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", PRINTS], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode(encoding)
    if encoding == "ascii":
        assert "loss 2.1 +- 0.2 ... 10^-3 -> ?" in text and "a x b" in text and "10^12 - 3" in text
    if encoding == "utf-8":
        assert "10⁻³ → é" in text


def test_a_variable_that_jax_refuses_is_told():
    done = subprocess.run(
        [sys.executable, "-m", "gptjax.main", PLAN],
        env={**os.environ, "JAX_ENABLE_X64": "perhaps"},
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "JAX refuses a variable of the shell" in done.stderr and "JAX_ENABLE_X64" in done.stderr


@pytest.mark.parametrize("closing", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_closed_stream_is_nowhere(closing):
    command = f"{sys.executable} -m gptjax.main --help {closing}"
    assert subprocess.run(["sh", "-c", command], cwd=REPO, check=False).returncode == 0


def test_a_reader_that_leaves_ends_the_job_quietly():
    script = (
        "import sys, types\n"
        "from gptjax import main\n"
        "def talk(*given):\n"
        "    for line in range(100_000):\n"
        "        print(line)\n"
        "    return 0\n"
        "start = types.SimpleNamespace(run_experiment=talk)\n"
        "sys.modules['gptjax.stages'] = types.SimpleNamespace(start=start)\n"
        "main._import_jax = lambda: None\n"  # its import is most of a process
        f"sys.exit(main.main(['gptjax', {PLAN!r}]))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait() == 141
        assert process.stderr.read() == b""


def test_cores_are_locked_in_a_folder_of_our_own(tmp_path, monkeypatch):
    monkeypatch.setattr(cores.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cores.private_folder().parent == tmp_path / "tmp"
    assert cores.private_folder().stat().st_mode & 0o777 == 0o700
    planted = cores.private_folder()
    planted.rmdir()
    planted.symlink_to(tmp_path)  # as another user of the machine may have made it first
    assert cores.private_folder() == tmp_path / "home" / ".cache" / "gptjax" / "cores"


def test_a_platform_without_its_plugin_is_a_sentence(tmp_path):
    """JAX raises an AssertionError; --config.device=cpu helps, and fits ask for no accelerator."""
    (tmp_path / "runs.csv").write_text("params,tokens,loss\n1e5,1e6,3.0\n")
    environment = {**os.environ, "JAX_PLATFORMS": "cuda"}
    convert = [
        f"--config={REPO / 'experiments' / 'convert_weights.py'}",
        f"--config.convert.folder={tmp_path}",
        f"--workdir={tmp_path / 'run'}",
    ]
    table = [FIT, f"--config.fit_table.table={tmp_path / 'runs.csv'}"]

    jobs = [convert, table, [*convert, "--config.device=cpu"]]
    script = (
        "import sys; from gptjax.main import main\n"
        f"for flags in {jobs!r}: print(main(['gptjax', *flags]), file=sys.stderr)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, cwd=tmp_path, text=True)
    told = done.stderr.splitlines()
    assert told[1::2] == ["2"] * 3, done.stderr
    assert "JAX_PLATFORMS=cuda is not usable here" in told[0]
    assert "JAX_PLATFORMS" not in told[2] + told[4]


def test_what_an_encoding_lacks_has_words():
    terminal.adapt_streams()
    assert "10¹² ≤ 3".encode("ascii", "gptjax") == b"10^12 <= 3"


def test_a_value_that_a_sentence_repeats_cannot_write_to_the_terminal(capsys):
    experiment = Path(__file__).parents[1] / "experiments" / "chinchilla_sweep.py"
    assert main(["gptjax", f"--config={experiment}", "--config.sweep.tasks=a\0b\x1b[31m"]) == 2
    told = capsys.readouterr().err.strip()
    assert told.isprintable() and "\\x00" in told and "\\x1b[31m" in told

"""Paths that users give: home folders, named pipes and devices in the place of files."""

import json
import os
import signal
from pathlib import Path

import pytest

import gptjax
from gptjax import convert
from gptjax.align import constitution
from gptjax.convert.chat_template import format_of
from gptjax.convert.own_folder import KeptTokenizer
from gptjax.data import DataConfig
from gptjax.data.clean import word_list
from gptjax.data.tokenizers import end_of_document
from gptjax.errors import UserError
from gptjax.files import user_path
from gptjax.main import main
from gptjax.scaling import Table
from gptjax.stages.fit import read_laws

FIT_TABLE = Path(__file__).parents[1] / "experiments" / "fit_table.py"
READERS = {
    "laws.json": read_laws,
    "runs.csv": Table.read,
    "config.json": lambda path: convert.load(path.parent),
    "chat_template.jinja": lambda path: format_of(path.parent),
    "tokenizer_config.json": lambda path: end_of_document.find(str(path), "", {}, {}),
    "tokenizer.json": lambda path: KeptTokenizer(DataConfig(tokenizer="bpe"), path).read(),
    "words.txt": lambda path: word_list.read(str(path)),
    "principles.txt": constitution.read,
}


class Hangs(BaseException):
    """Beyond what a reader catches."""


@pytest.fixture
def short():
    """No more than five seconds."""

    def stop(signum, frame):
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", READERS)
def test_a_named_pipe_is_refused_where_a_file_should_be(tmp_path, short, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}.* is (a named pipe|not a file)"):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_pointer_of_git_lfs_is_named(tmp_path, name):
    config = {"model_type": "gpt2", "n_embd": 16, "n_head": 2, "n_layer": 1, "n_positions": 8}
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 32}))
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d\n")
    with pytest.raises(UserError, match=f"{name} is a Git LFS pointer .*: git lfs pull"):
        READERS.get(name, lambda path: convert.load(path.parent))(tmp_path / name)


def test_settings_are_read_alike_in_every_locale(tmp_path, monkeypatch):
    """A config.json is UTF-8, whatever the shell says."""
    content = {"model_type": "gpt2", "_name_or_path": "naïve/東京", "n_embd": 16, "n_head": 2}
    content |= {"n_layer": 1, "n_positions": 8, "vocab_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    plain = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self, encoding=None: plain(self, encoding=encoding or "ascii")
    )
    assert convert.read_config(tmp_path).width == 16


def test_homes_are_found_or_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert user_path("~/runs/a") == tmp_path / "runs" / "a"
    assert user_path("runs/~") == Path("runs/~") and user_path("") == Path()
    with pytest.raises(UserError, match="needs the home folder of '~nobody-here'"):
        user_path("~nobody-here/runs")
    (tmp_path / "~kept").mkdir()  # by a version that took it for a name
    assert user_path("~kept") == Path("~kept")


def test_a_workdir_at_home_is_there_and_makes_no_folder_of_that_name(tmp_path, monkeypatch, capsys):
    """Shells leave the ~ of --workdir=~/runs as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs.csv").write_text("params,tokens\n1e6,1e7\n")
    flags = ["--workdir=~/fitted", "--config.fit_table.table=~/runs.csv"]
    assert main(["gptjax", f"--config={FIT_TABLE}", *flags]) == 2
    assert "loss" in capsys.readouterr().err  # the table was read
    assert not (tmp_path / "~").exists()
    assert main(["gptjax", f"--config={FIT_TABLE}", "--workdir=~nobody-here/fitted", flags[1]]) == 2
    assert "home folder of '~nobody-here'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["loop", "lost", "lost/below"])
def test_a_workdir_behind_a_link_to_nothing_is_refused_before_the_fit(tmp_path, capsys, name):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    (tmp_path / "runs.csv").write_text("no,table\n")
    flags = [f"--workdir={tmp_path / name}", f"--config.fit_table.table={tmp_path / 'runs.csv'}"]
    assert main(["gptjax", f"--config={FIT_TABLE}", *flags]) == 2
    assert "is a link to nothing; give another folder" in capsys.readouterr().err


def test_homes_are_found_in_no_other_way():
    package = Path(gptjax.__file__).parent
    own = {package / "files.py", package / "engines" / "cores.py"}  # cores: none is no error
    others = [path for path in package.rglob("*.py") if "expanduser(" in path.read_text()]
    others = [path for path in others if path not in own]
    assert not others, "use gptjax.files.user_path, which names a home that is not known"

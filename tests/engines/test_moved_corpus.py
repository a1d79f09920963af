"""A folder is continued where its text lies elsewhere: the fingerprint says that it is the same."""

import pytest

from gptjax import config as configs
from gptjax.engines import workdir
from gptjax.errors import UserError


@pytest.fixture
def config_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("\n\n".join(f"{i} and {i + 1}" * 9 for i in range(900)))

    def make(path, **data):
        config = configs.default_config()
        config.data.source, config.data.path = "text", str(path)
        config.data.cache_dir = str(tmp_path / "cache")
        config.data.update(data)
        config.model.seq_len = 16
        return configs.make_config(config)

    return make


def test_another_spelling_and_another_place(tmp_path, config_for):
    folder = tmp_path / "run"
    workdir.open_workdir(config_for("book.txt"), folder)
    workdir.open_workdir(config_for("./book.txt"), folder)
    (tmp_path / "book.txt").rename(tmp_path / "moved.txt")
    workdir.open_workdir(config_for("moved.txt"), folder)
    assert workdir.saved_config(folder).data.path == "moved.txt"  # where workers look


def test_another_text_is_refused(tmp_path, config_for):
    folder = tmp_path / "run"
    workdir.open_workdir(config_for("book.txt"), folder)
    (tmp_path / "other.txt").write_text((tmp_path / "book.txt").read_text() + "\n\nmore\n")
    with pytest.raises(UserError, match=r"was made with data.path=book.txt, not other.txt"):
        workdir.open_workdir(config_for("other.txt"), folder)
    with pytest.raises(UserError, match=r"was made with data.heldout_fraction"):
        workdir.open_workdir(config_for("./book.txt", heldout_fraction=0.3), folder)
    assert workdir.saved_config(folder).data.path == "book.txt"
    (folder / workdir.TOKENS).unlink()  # as earlier versions left it
    with pytest.raises(UserError, match=r"was made with data.path=book.txt, not ./book.txt"):
        workdir.open_workdir(config_for("./book.txt"), folder)

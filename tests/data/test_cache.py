"""The cache is whole or absent: concurrent builds, killed builds, damaged files, full disks."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gptjax.data import cache, load
from gptjax.errors import UserError

STAMP = {"what": "numbers", "count": 5}


def build(folder):
    np.save(folder / "numbers.npy", np.arange(5))
    return {"sum": 10}


@pytest.fixture
def builds():
    """A build function that counts its calls."""

    def counted(folder):
        counted.calls += 1
        return build(folder)

    counted.calls = 0
    return counted


def test_built_once(tmp_path, builds):
    for _ in range(3):
        place, meta = cache.folder(tmp_path, "name", STAMP, builds)
    assert meta == {"sum": 10}
    assert np.load(place / "numbers.npy").tolist() == [0, 1, 2, 3, 4]
    assert builds.calls == 1
    assert os.listdir(tmp_path) == [place.name]


def test_other_stamp_is_another_folder(tmp_path, builds):
    one, _ = cache.folder(tmp_path, "name", STAMP, builds)
    two, _ = cache.folder(tmp_path, "name", STAMP | {"count": 6}, builds)
    assert one != two
    assert builds.calls == 2


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def replace(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: flip(place / "numbers.npy", -3),
        lambda place: flip(place / "numbers.npy", 0),
        lambda place: os.truncate(place / "numbers.npy", 100),
        lambda place: (place / "numbers.npy").unlink(),
        lambda place: (place / "meta.json").unlink(),
        lambda place: (place / "meta.json").write_text('{"schema": 1'),
        lambda place: (place / "meta.json").write_text("[]"),
        lambda place: flip(place / "meta.json", 3),
        lambda place: replace(place / "meta.json", '"count": 5', '"count": 6'),
        lambda place: (shutil.rmtree(place), place.write_text("a file in the way")),
        lambda place: (shutil.rmtree(place), place.mkdir()),
    ],
)
def test_damage_is_found_and_built_again(tmp_path, builds, damage):
    place, _ = cache.folder(tmp_path, "name", STAMP, builds)
    damage(place)
    again, meta = cache.folder(tmp_path, "name", STAMP, builds)
    assert builds.calls == 2
    assert (again, meta) == (place, {"sum": 10})
    assert np.load(place / "numbers.npy").tolist() == [0, 1, 2, 3, 4]
    assert os.listdir(tmp_path) == [place.name]


def test_failed_build_leaves_nothing(tmp_path):
    def fails(folder):
        build(folder)
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        cache.folder(tmp_path, "name", STAMP, fails)
    assert os.listdir(tmp_path) == []


def test_another_process_may_win(tmp_path, builds, monkeypatch):
    """While we build and are stuck, somebody else puts the folder there: ours is removed."""
    monkeypatch.setattr(cache, "WAIT_SECONDS", 0.2)

    def slow(folder):
        theirs, _ = cache.folder(tmp_path, "name", STAMP, builds)
        files.append((theirs / "numbers.npy").stat().st_ino)
        return build(folder)

    files = []
    place, meta = cache.folder(tmp_path, "name", STAMP, slow)
    assert [(place / "numbers.npy").stat().st_ino] == files
    assert meta == {"sum": 10}
    assert builds.calls == 1
    assert os.listdir(tmp_path) == [place.name]


def test_old_leftovers_are_swept_and_young_ones_kept(tmp_path):
    for name, age in ((".old.tmp", 2 * cache.STALE_SECONDS), (".young.tmp", 60)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    cache.folder(tmp_path, "name", STAMP, build)
    assert (tmp_path / ".young.tmp").exists()
    assert not (tmp_path / ".old.tmp").exists()


LOAD = """
import sys
from gptjax.data import DataConfig, load
corpus = load(DataConfig(source="text", path=sys.argv[1], cache_dir=sys.argv[2],
                         heldout_fraction=0.2), seq_len=32)
print(corpus.fingerprint, int(corpus.train.sum()), flush=True)
"""


def start(texts, folder):
    command = [sys.executable, "-c", LOAD, str(texts), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_several_processes_at_once(tmp_path, texts, config):
    running = [start(texts, tmp_path / "cache") for _ in range(3)]
    printed = {process.communicate()[0] for process in running}
    corpus = load(config(source="text", path=str(texts), heldout_fraction=0.2), seq_len=32)
    assert printed == {f"{corpus.fingerprint} {int(corpus.train.sum())}\n"}
    assert len(os.listdir(tmp_path / "cache")) == 1


KILLED = """
import os, signal, sys
import numpy as np
from pathlib import Path
from gptjax.data import cache
def build(folder):
    np.save(folder / "numbers.npy", np.arange(5))
    if sys.argv[2] == "build":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"sum": 10}
if sys.argv[2] == "rename":
    cache._put = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
cache.folder(Path(sys.argv[1]), "name", {"what": "numbers", "count": 5}, build)
"""


@pytest.mark.parametrize("moment", ["build", "rename"])
def test_killed_build_is_never_loaded(tmp_path, builds, moment):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), moment])
    assert done.returncode == -signal.SIGKILL
    assert [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
    _, meta = cache.folder(tmp_path, "name", STAMP, builds)
    assert builds.calls == 1
    assert meta == {"sum": 10}


def test_file_size_limit_is_a_user_error(tmp_path, texts, config):
    """A real failure of write(2), as on a full disk; nothing half-written stays."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    wanted = config(source="text", path=str(texts), heldout_fraction=0.2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"data.cache_dir=.* cannot be written: .*; free some"):
            load(wanted, seq_len=32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path / "cache") == []
    assert load(wanted, seq_len=32).vocab_size == 257


def test_no_space_left(tmp_path, monkeypatch):
    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"No space left on device; free some space"):
        cache.folder(tmp_path, "name", STAMP, full)
    assert os.listdir(tmp_path) == []


def test_file_where_the_cache_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"data.cache_dir=.*file.* cannot be written"):
            cache.folder(place, "name", STAMP, build)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("GPTJAX_CACHE", str(tmp_path))
    assert cache.root("") == tmp_path
    assert cache.root("~/x") == tmp_path.home() / "x"
    monkeypatch.delenv("GPTJAX_CACHE")
    assert cache.root("").parts[-2:] == (".cache", "gptjax")


def test_no_home_folder(monkeypatch):
    """HOME unset and a user without an entry in passwd: no folder named ~ is made."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.delenv("GPTJAX_CACHE", raising=False)
    with pytest.raises(
        UserError, match=r"needs the home folder of '~'.*, as data.cache_dir or GPTJAX_CACHE"
    ):
        cache.root("")
    assert cache.root("/some/where").parts[-1] == "where"


def test_every_block_is_checked(tmp_path):
    """One flipped bit anywhere in a file of many blocks."""

    def large(folder):
        (folder / "large.bin").write_bytes(os.urandom(70 * cache.BLOCK + 5))
        return {}

    place, _ = cache.folder(tmp_path, "name", STAMP, large)
    for block in (0, 1, 33, 68, 69, 70):
        flip(place / "large.bin", block * cache.BLOCK + 3)
        assert cache.read(place, STAMP) is None
        flip(place / "large.bin", block * cache.BLOCK + 3)
        assert cache.read(place, STAMP) == {}


def test_others_wait_for_the_builder(tmp_path, builds):
    """A thread that asks meanwhile gets the builder's folder and builds nothing."""

    def slow(folder):
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(cache.folder, tmp_path, "name", STAMP, builds)
            time.sleep(0.5)
            assert not waiting.done()
            late.append(waiting)
            pool.shutdown(wait=False)
        return build(folder)

    late = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThreadPoolExecutor, "__exit__", lambda *_: None)
        place, _ = cache.folder(tmp_path, "name", STAMP, slow)
    assert late[0].result(timeout=20)[0] == place
    assert builds.calls == 0


def test_a_folder_that_is_renamed_between_two_looks_is_asked_for_again(
    tmp_path, builds, monkeypatch
):
    """`mkdir` sees the builder's folder, and it is gone at the next question."""
    mkdir, seen = os.mkdir, []

    def late(path, *rest):
        seen.append(str(path).endswith(".partial.tmp"))
        if seen[-1] and sum(seen) == 1:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        mkdir(path, *rest)

    monkeypatch.setattr(os, "mkdir", late)
    assert cache.folder(tmp_path, "name", STAMP, builds)[1] == {"sum": 10}
    assert sum(seen) > 1


def test_a_file_system_without_locks(tmp_path, builds, monkeypatch):
    def refuses(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(cache.fcntl, "flock", refuses)
    assert cache.folder(tmp_path, "name", STAMP, builds)[1] == {"sum": 10}

"""Damaged checkpoints are found, set aside and named; an earlier one or the beginning is taken."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.errors import UserError
from gptjax.train import Checkpointer, OtherRun, Superseded, TrainState
from gptjax.train.checksums import sha256 as checksum


def state(step: int) -> TrainState:
    """Numbers that no compression makes small, so that there are bits to flip."""
    params = {"w": jax.random.normal(jax.random.key(step), (64, 64))}
    moments = {"m": jnp.full((3,), step, jnp.bfloat16)}
    return TrainState(params, moments, jnp.int32(step), jnp.zeros(4))


def saved(place: Path, *steps: int, **options) -> Path:
    directory = place / "cell" / "checkpoints"
    checkpoints = Checkpointer(directory, "one", keep_last=2, keep_best=True, **options)
    for step in steps:
        checkpoints.save(state(step), wait=True)
    checkpoints.close()
    return directory


def restored(directory: Path, like: TrainState | None = None) -> TrainState | None:
    checkpoints = Checkpointer(directory, "one", keep_last=2, keep_best=True)
    try:
        return checkpoints.restore(like or state(0))
    finally:
        checkpoints.close()


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def largest(folder: Path) -> Path:
    return max(files(folder), key=lambda path: path.stat().st_size)


def flip(path: Path, share: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 1
    path.write_bytes(content)


def other_numbers(step: Path) -> None:
    """Whole files of a state that was not saved: what a flipped bit in memory leaves."""
    checkpoints = Checkpointer(step.parents[2] / "b", "one", keep_last=1, keep_best=False)
    checkpoints.save(state(77), step=int(step.name), wait=True)
    checkpoints.close()
    shutil.rmtree(step)
    shutil.copytree(step.parents[2] / "b" / "last" / step.name, step)


DAMAGE = {
    "a flipped bit": lambda step: flip(largest(step)),
    "other numbers": other_numbers,
    "a truncated file": lambda step: largest(step).write_bytes(largest(step).read_bytes()[:99]),
    "an empty file": lambda step: largest(step).write_bytes(b""),
    "a missing file": lambda step: largest(step).unlink(),
    "metadata": lambda step: [path.write_bytes(b"{") for path in step.rglob("*META*")],
    "all files gone": lambda step: [path.unlink() for path in files(step)],
    "a changed checksum": lambda step: (
        step.parents[1] / "sha256" / f"last-{step.name}.json"
    ).write_text('"00"'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, capsys, damage):
    directory = saved(tmp_path, 10, 20)
    DAMAGE[damage](directory / "last" / "20")
    found = restored(directory)
    assert found is not None and checksum(found) == checksum(state(10))
    assert not (directory / "last" / "20").exists()
    message = capsys.readouterr().err
    if damage != "all files gone":  # Orbax takes that for a save that was cut off
        assert "last/20 is damaged" in message and len(list((tmp_path / "cell/damaged").iterdir()))


def test_a_single_damaged_checkpoint_leaves_the_beginning(tmp_path, capsys):
    directory = saved(tmp_path, 10)
    flip(largest(directory / "last"))
    assert restored(directory) is None
    assert "from its beginning" in capsys.readouterr().err
    again = saved(tmp_path, 10)  # the same step may be saved again
    assert checksum(restored(again)) == checksum(state(10))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe"])
def test_a_damaged_owner_is_set_aside(tmp_path, capsys, content):
    directory = saved(tmp_path, 10)
    (directory / "run.json").write_bytes(content)
    assert restored(directory) is None
    assert "is damaged" in capsys.readouterr().err


def test_every_bit_counts(tmp_path):
    """A flip anywhere in the file of numbers is found, by the store or by the checksum."""
    directory = saved(tmp_path, 10)
    for number, share in enumerate(np.linspace(0.01, 0.99, 12)):
        place = tmp_path / str(number) / "checkpoints"
        shutil.copytree(directory, place)
        flip(largest(place / "last"), share)
        found = restored(place)
        assert found is None or checksum(found) == checksum(state(10))


def test_another_run_is_refused(tmp_path):
    directory = saved(tmp_path, 10)
    (directory / "run.json").write_text(json.dumps({"identity": "two"}))
    with pytest.raises(OtherRun, match="a checkpoint of another run"):
        restored(directory)
    assert issubclass(OtherRun, UserError)


def test_a_checkpoint_of_a_version_without_checksums_is_read(tmp_path):
    directory = saved(tmp_path, 10)
    shutil.rmtree(directory / "sha256")
    assert checksum(restored(directory)) == checksum(state(10))


def test_checksums_of_deleted_checkpoints_go(tmp_path):
    directory = saved(tmp_path, 10, 20, 30, 40)
    assert len(files(directory / "sha256")) <= 3


def test_nothing_is_saved_by_one_who_lost_the_run(tmp_path):
    def lost() -> None:
        raise Superseded("another worker has taken over")

    with pytest.raises(Superseded):
        saved(tmp_path, 10, before_save=lost)
    assert not (tmp_path / "cell").exists()

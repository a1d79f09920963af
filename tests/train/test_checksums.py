"""Checksums of states: alike on any mesh, unlike after any change."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gptjax.train import checksums


def state():
    rng = np.random.default_rng(0)
    return {
        "w": rng.normal(size=(8, 6)).astype(np.float32),
        "half": rng.normal(size=(4, 2, 3)).astype(ml_dtypes.bfloat16),
        "flags": np.array([True, False, True, True]),
        "step": np.int32(7),
    }


def placed(found, devices, spec):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("fsdp",))
    specs = {"w": spec, "half": PartitionSpec("fsdp"), "flags": PartitionSpec()}
    return {
        name: jax.device_put(
            value,
            NamedSharding(
                mesh, specs.get(name, PartitionSpec()) if value.ndim else PartitionSpec()
            ),
        )
        for name, value in found.items()
    }


def test_sums_do_not_depend_on_the_mesh():
    whole = checksums.sums(jax.tree.map(jnp.asarray, state()))
    assert whole.startswith(checksums.SUMS)
    for spec in (PartitionSpec("fsdp"), PartitionSpec(None, "fsdp"), PartitionSpec()):
        assert checksums.sums(placed(state(), 2, spec)) == whole
    assert checksums.sums(placed(state(), 4, PartitionSpec("fsdp"))) == whole


def flipped(found, name, bit):
    bits = found[name].view(np.uint8).copy()
    bits.reshape(-1)[bit // 8] ^= 1 << bit % 8
    return {**found, name: bits.view(found[name].dtype).reshape(found[name].shape)}


def exchanged(found):
    other = found["w"].copy()
    other[[0, 1]] = other[[1, 0]]
    return {**found, "w": other}


CHANGES = {
    "a bit": lambda found: flipped(found, "w", 333),
    "a bit of half": lambda found: flipped(found, "half", 5),
    "two rows": exchanged,
    "the step": lambda found: {**found, "step": np.int32(8)},
    "the shape": lambda found: {**found, "w": found["w"].reshape(6, 8)},
    "a name": lambda found: {**{k: v for k, v in found.items() if k != "w"}, "v": found["w"]},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", [checksums.sums, checksums.sha256])
def test_any_change_is_found(change, kind):
    before = kind(jax.tree.map(jnp.asarray, state()))
    after = jax.tree.map(jnp.asarray, CHANGES[change](state()))
    assert kind(after) != before
    assert not checksums.agrees(after, before)
    assert checksums.agrees(jax.tree.map(jnp.asarray, state()), before)


BOTH = """
import sys
import jax
sys.path.insert(0, sys.argv[3])
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from test_checksums import placed, state
from jax.sharding import PartitionSpec
from gptjax.train import checksums
found = placed(state(), 2, PartitionSpec("fsdp"))
assert not found["w"].is_fully_addressable
print(checksums.sha256(found))
print(checksums.agrees(found, checksums.sha256(found)), checksums.agrees(found, "0" * 64))
"""


@pytest.mark.slow
def test_two_processes_gather_what_one_saved():
    """Each has half of the numbers, and both get the SHA-256 of one process that has them all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    environment["XLA_FLAGS"] = ""
    both = [
        subprocess.Popen(
            [sys.executable, "-c", BOTH, place, str(number), str(Path(__file__).parent)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in both]
    whole = checksums.sha256(jax.tree.map(jnp.asarray, state()))
    assert all(text.endswith(f"{whole}\nTrue False\n") for text in said), said

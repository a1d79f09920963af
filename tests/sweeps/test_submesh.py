"""How many devices a run gets."""

import dataclasses
from types import SimpleNamespace

from gptjax.cost import memory
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.parallel import MeshConfig
from gptjax.sweeps import SweepConfig, devices_for, session_on, sizes_of
from gptjax.sweeps.bundles import Bundle
from gptjax.sweeps.plan import Cell
from gptjax.train import RunSpec, TrainConfig

MODEL = ModelConfig(depth=2, width=64, num_heads=4, seq_len=64, vocab_size=256)
RUN = RunSpec(model=MODEL, optim=OptimConfig(), batch_size=8, steps=10)


def held(size):
    return memory.estimate_bytes(RUN, MeshConfig(data=1, fsdp=size), size).total


def test_a_run_gets_the_fewest_devices_that_hold_it():
    needed = held(1)
    assert needed > held(2) > held(4) > held(8) > needed / 8  # what a layer needs is gathered
    assert devices_for(RUN, needed, 8) == 1
    assert devices_for(RUN, 0.99 * needed, 8) == 2
    assert devices_for(RUN, held(4), 8) == 4
    assert devices_for(RUN, 0.99 * held(4), 8) == 8
    assert devices_for(RUN, needed / 100, 8) == 8  # too small even so: the most there are
    assert devices_for(RUN, needed / 100, 6) == 4  # a power of two
    assert devices_for(dataclasses.replace(RUN, batch_size=6), needed / 100, 8) == 2  # 6 / 4


def test_a_stack_stays_on_one_device_and_a_cpu_says_no_limit():
    class Device:
        def memory_stats(self):
            return None

    class Small:
        def memory_stats(self):
            return {"bytes_limit": held(1)}

    one = Bundle("one", (Cell(run=RUN, corpus="c", budget=0.0),))
    stack = dataclasses.replace(one, cells=one.cells * 3, stacked=True)
    assert sizes_of(SweepConfig(), [Device()] * 8)(one) == 1
    size = sizes_of(SweepConfig(), [Small()] * 8)
    assert (size(one), size(stack)) == (2, 1)  # four fifths of what is there
    exact = SweepConfig(device_gb=held(1) / 2**30)
    assert sizes_of(exact, [Device()] * 8)(one) == 1
    tight = SweepConfig(device_gb=held(8) / 2**30)
    assert sizes_of(tight, [Device()] * 8)(one) == 8


def test_runs_of_a_sweep_in_parts_share_programs():
    corpus = SimpleNamespace(fingerprint="c", train_pictures=None)
    for tokens in (0, 512):
        session = session_on(corpus, SweepConfig(part_tokens=tokens), TrainConfig(), [None])
        assert session.shares_programs == (tokens > 0)

"""The processor as the kernel describes it, and the number type that is chosen by it."""

import dataclasses

import pytest

from gptjax import config as configs
from gptjax import processor
from gptjax.errors import UserError
from gptjax.models import ModelConfig
from gptjax.ops import backend
from gptjax.optim import OptimConfig
from gptjax.train.config import RunSpec
from gptjax.train.mixed_precision import resolve_compute_type

KERNEL = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8488C
flags\t\t: fpu avx avx2 avx512f avx512_bf16 amx_bf16 amx_tile

processor\t: 1
model name\t: another
flags\t\t: fpu
"""


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Writes what the kernel says of the processor."""

    def say(text):
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
        processor.description.cache_clear()

    yield say
    monkeypatch.undo()
    processor.description.cache_clear()


def test_the_processor_has_a_name(kernel, monkeypatch):
    monkeypatch.setattr(processor.os, "cpu_count", lambda: 2)
    kernel(KERNEL)
    assert processor.description() == "Intel(R) Xeon(R) Platinum 8488C (AMX), 2 cores"
    kernel("nothing of the kind")
    assert processor.description() == "unknown processor, 2 cores"
    monkeypatch.setattr(processor, "CPUINFO", processor.CPUINFO.parent / "not there")
    assert processor.flags() == frozenset()


def auto(width):
    spec = RunSpec(ModelConfig(width=width, compute_dtype="auto"), OptimConfig(), 4, 8)
    return resolve_compute_type(spec)


def test_auto_is_bfloat16_only_where_it_pays(kernel, monkeypatch):
    """By the flags alone: a run that is started again has the type that it had."""
    kernel(KERNEL)
    assert auto(256).model.compute_dtype == "bfloat16"
    assert auto(128).model.compute_dtype == "float32"
    kernel(KERNEL.replace("amx_bf16", ""))  # AVX-512's bfloat16 loses to float32
    assert auto(1024).model.compute_dtype == "float32"
    with backend.programs_for("gpu"):
        assert auto(64).model.compute_dtype == "bfloat16"


def test_the_chosen_type_is_in_the_identity_of_a_run(kernel):
    kernel(KERNEL)
    named = ModelConfig(width=256, compute_dtype="bfloat16")
    assert auto(256).identity == dataclasses.replace(auto(256), model=named).identity


def test_only_a_run_of_its_own_may_choose():
    """The cells of a sweep are trained by many machines, and are functions of their settings."""
    with pytest.raises(UserError, match=r"name a type, for example model\.compute_dtype=bfloat16"):
        configs.make_config({"job": "sweep", "model": {"compute_dtype": "auto"}})
    made = configs.make_config(
        {"job": "train", "train": {"steps": 1}, "model": {"compute_dtype": "auto"}}
    )
    assert made.model.compute_dtype == "auto"

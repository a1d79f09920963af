"""The benchmark of quantized models, at toy size."""

import importlib.util
import sys
from pathlib import Path

import jax
import pytest

from gptjax import config as configs
from gptjax import convert, experiment, models
from gptjax.data import DataConfig

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def table():
    spec = importlib.util.spec_from_file_location(
        "benchmark_of_quantization", REPO / "benchmarks" / "quantization.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_rows_of_a_toy(table, tmp_path, capsys):
    """Fewer bytes by a method, the same text scored, all of them timed."""
    config = models.ModelConfig(vocab_size=257, depth=1, width=16, num_heads=2, seq_len=96)
    tokenizer = convert.own_folder.KeptTokenizer(DataConfig())
    params = models.init(config, jax.random.key(0))
    convert.save_model(tmp_path / "model", config, params, tokenizer)
    (tmp_path / "text").mkdir()
    for i in range(8):
        (tmp_path / "text" / f"{i}.txt").write_text(f"text number {i} " * 40)
    made = experiment.load(str(table.EXPERIMENT))
    made["data"].update(source="text", path=str(tmp_path / "text"), heldout_fraction=0.3)
    made["data"]["cache_dir"] = str(tmp_path / "cache")
    names = ("none", "affine 4, groups of 32", "mixed, bytes of affine 4")
    methods = {name: table.METHODS[name] for name in names}
    methods[names[2]] = methods[names[2]] | {"calibration_tokens": 96}
    plain, small, mixed = table.measure(
        configs.make_config(made),
        tmp_path / "model",
        rounds=1,
        heldout_tokens=96,
        answer=4,
        methods=methods,
    )
    assert plain["bytes"] == 4 * models.count_params(config).total
    assert mixed["bytes"] <= small["bytes"] < plain["bytes"] / 2
    assert 0.0 < abs(small["loss"] - plain["loss"]) < 0.05
    assert min(plain["tokens_per_s_1"], small["tokens_per_s_8"]) > 0
    table.show([plain, small])
    assert capsys.readouterr().out.count("| none |") == 1


def test_every_method_has_settings_that_exist(table):
    for changes in table.METHODS.values():
        method = table.quant.METHODS[table.quant.QuantizeConfig(**changes).method]
        assert changes.get("bits", 8) in method.bits or not changes

"""Low-rank adapters: PEFT's logits and files, a base that keeps its bits, quantized bases."""

import dataclasses
import json
import shutil
from pathlib import Path

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from aligned import CONFIG, GPT2, LLAMA, NEOX, finetune
from safetensors.numpy import load_file, save_file

from gptjax import convert, data, quant
from gptjax.align import lora
from gptjax.align.lora import LoraConfig
from gptjax.convert import peft
from gptjax.convert.own_folder import KeptTokenizer
from gptjax.errors import UserError
from gptjax.models.low_rank import LowRank
from gptjax.models.product import product
from gptjax.optim import OptimConfig, trainable

GOLDEN = json.loads((Path(__file__).parent / "peft_golden.json").read_text())
JOINED = GOLDEN["joined"]
LORA = ("--config.finetune.lora.rank=2", "--config.finetune.lora.targets=blocks/")


def theirs(folder, golden=GOLDEN):
    """PEFT's adapter as it was saved."""
    folder.mkdir()
    (folder / peft.CONFIG).write_text(json.dumps(golden["config"]))
    tensors = {name: np.array(x, np.float32) for name, x in golden["tensors"].items()}
    save_file(tensors, folder / peft.WEIGHTS)
    return folder


@pytest.fixture(scope="module")
def llama():
    return compiled_model.init(LLAMA, jax.random.key(0))


logits_of = compiled_model.apply


def fresh(config, settings, key):
    """A model with adapters as they are at first, but for matrices B that are not zero."""
    params = lora.attached(config, compiled_model.init(config, key), settings, key)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x + 0.1 if "lora_b" in jax.tree_util.keystr(path) else x, params
    )


def test_an_adapter_of_peft_gives_its_logits_merged_or_not_and_is_written_as_it_was(
    llama, tmp_path
):
    folder = theirs(tmp_path / "theirs")
    settings = LoraConfig(rank=2, alpha=6.0, adapter=str(folder))
    params = lora.attached(LLAMA, llama, settings, jax.random.key(1))
    ids = jnp.arange(3, 11)[None]
    for found in (params, lora.without(params), peft.merged(llama, read(folder))):
        logits = logits_of(LLAMA, found, ids)[0, :, :40]
        np.testing.assert_allclose(logits, GOLDEN["logits"], atol=2e-4)
    lora.save(tmp_path / "ours", LLAMA, params, settings, "somewhere")
    ours = load_file(tmp_path / "ours" / peft.WEIGHTS)
    assert ours.keys() == GOLDEN["tensors"].keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, np.array(GOLDEN["tensors"][name], np.float32))
    said = json.loads((tmp_path / "ours" / peft.CONFIG).read_text())
    for name in ("peft_type", "r", "lora_alpha", "bias", "use_rslora"):
        assert said[name] == GOLDEN["config"].get(name, said[name])
    assert set(said["target_modules"]) == set(GOLDEN["config"]["target_modules"])


@pytest.mark.parametrize("config", [NEOX, GPT2], ids=["neox", "gpt2"])
def test_leaves_that_a_family_joins_become_one_module_of_the_same_function(config, tmp_path):
    """GPT-NeoX and GPT-2 have query, key and value as one tensor."""
    settings, key = LoraConfig(rank=2, targets=("blocks/",)), jax.random.key(0)
    params = fresh(config, settings, key)
    lora.save(tmp_path, config, params, settings, "")
    said = json.loads((tmp_path / peft.CONFIG).read_text())
    assert list(said["rank_pattern"].values()) == [6]
    found = peft.read_adapter(tmp_path, config)
    assert len(found.matrices) == 6
    for name in ("query", "key", "value"):
        leaf = params["blocks"]["attention"][name]
        a_LIR, b_LRO = found.matrices[f"blocks/attention/{name}"]
        np.testing.assert_array_equal(leaf.lora_a, a_LIR)
        np.testing.assert_array_equal(leaf.lora_b, b_LRO)


@pytest.mark.parametrize("name", sorted(JOINED))
def test_an_adapter_of_joined_modules_with_its_own_ranks_gives_pefts_logits(name, tmp_path):
    """`c_attn` has rank 4 and alpha 3 by patterns, and one layer alone is adapted at `c_proj`."""
    config, ids = {"gpt2": GPT2, "neox": NEOX}[name], jnp.arange(3, 11)[None]
    adapter = peft.read_adapter(theirs(tmp_path / "theirs", JOINED[name]), config)
    base = compiled_model.init(config, jax.random.key(0))
    logits = logits_of(config, peft.merged(base, adapter), ids)[0, :, :40]
    np.testing.assert_allclose(logits, JOINED[name]["logits"], atol=2e-4)
    peft.write_adapter(tmp_path / "ours", config, adapter)
    again = peft.merged(base, peft.read_adapter(tmp_path / "ours", config))
    np.testing.assert_allclose(logits_of(config, again, ids)[0, :, :40], logits, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("init_lora_weights", "pissa_niter_4", "changes the base too"),
        ("alora_invocation_tokens", [3], "alora_invocation_tokens"),
        ("layer_replication", [[0, 2]], "layer_replication"),
        ("lora_alpha", -1, "above 0"),
        ("rank_pattern", {"q_proj": 0}, "above 0"),
        ("alpha_pattern", {"(": 2}, "pattern"),
        ("rank_pattern", [1], "no object"),
    ],
)
def test_what_an_adapter_says_and_is_not_read_is_refused(key, value, words, tmp_path):
    said = {"config": GOLDEN["config"] | {key: value}, "tensors": GOLDEN["tensors"]}
    with pytest.raises(UserError, match=words):
        read(theirs(tmp_path / "theirs", said))


def read(folder):
    return peft.read_adapter(folder, LLAMA)


def test_nothing_is_added_at_the_start_and_only_thin_matrices_are_trained(llama):
    settings = LoraConfig(rank=3, targets=("blocks/",))
    params = lora.attached(LLAMA, llama, settings, jax.random.key(1))
    ids = jnp.arange(3, 11)[None]
    np.testing.assert_array_equal(logits_of(LLAMA, params, ids), logits_of(LLAMA, llama, ids))
    free = trainable(params, lora.frozen(OptimConfig(), settings))
    sizes = sum(leaf.size for leaf in jax.tree.leaves(free))
    inside = [m for m in quant.matrices(LLAMA) if m.layered]
    assert len(inside) == 14
    assert sizes == sum(3 * (np.prod(m.inputs) + np.prod(m.outputs)) for m in inside)


@pytest.mark.parametrize("shape", [(4, 2, 3), (2, 4, 3)])
def test_a_product_is_that_of_the_sum(shape):
    key = iter(jax.random.split(jax.random.key(0), 4))
    base, x = (jax.random.normal(next(key), size) for size in (shape, (5, *shape[:-1])))
    inputs = 2 if shape[0] == 2 else 1
    x = x if inputs == 2 else x[..., 0]
    I = int(np.prod(shape[:inputs]))
    a, b = jax.random.normal(next(key), (I, 2)), jax.random.normal(next(key), (2, 24 // I))
    leaf = LowRank(base, a, b, 0.7)
    whole = base + 0.7 * (a @ b).reshape(shape)
    np.testing.assert_allclose(
        product(x, leaf, inputs=inputs),
        product(x, whole, inputs=inputs),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_run_trains_adapters_that_merge_into_its_model(base, pairs, tmp_path):
    assert finetune(base, pairs, tmp_path / "run", *LORA) == 0
    run, before = convert.load(tmp_path / "run"), convert.load(base)
    adapter = peft.read_adapter(tmp_path / "run" / "adapter", CONFIG)
    assert adapter.base == str(base) and len(adapter.matrices) == 6
    merged = convert.load(tmp_path / "run" / "adapter")
    for path in ("attention", "mlp"):
        for name, leaf in merged.params["blocks"][path].items():
            np.testing.assert_allclose(leaf, run.params["blocks"][path][name], atol=1e-6)
            assert np.any(leaf != before.params["blocks"][path][name])
    np.testing.assert_array_equal(run.params["embed"]["tokens"], before.params["embed"]["tokens"])


@pytest.mark.slow
def test_an_adapter_goes_on_in_sixteen_bits(base, pairs, tmp_path):
    """python -m pytest -m slow tests/align/test_lora.py"""
    assert finetune(base, pairs, tmp_path / "run", *LORA) == 0
    more = (
        *LORA,
        "--config.train.param_dtype=bfloat16",
        f"--config.finetune.lora.adapter={tmp_path / 'run' / 'adapter'}",
    )
    assert finetune(base, pairs, tmp_path / "more", *more, "--config.train.steps=1") == 0


def test_a_quantized_base_keeps_its_bits_under_its_adapters(base, pairs, tmp_path):
    """QLoRA: NF4 with double quantization below, gradients through the dequantised base."""
    plain = convert.load(base)
    settings = quant.QuantizeConfig(method="nf4", bits=4)
    bits = quant.uniform_bits(CONFIG, settings)
    made = quantized(plain.params, settings, bits)
    kept = KeptTokenizer(data.DataConfig())
    convert.save_model(tmp_path / "nf4", CONFIG, made, kept, "", {"method": "nf4"})
    before = load_bytes(tmp_path / "nf4")
    assert finetune(tmp_path / "nf4", pairs, tmp_path / "run", *LORA) == 0
    assert load_bytes(tmp_path / "nf4") == before
    adapter = peft.read_adapter(tmp_path / "run" / "adapter", CONFIG)
    whole = peft.merged(jax.jit(quant.dequantized)(made), adapter)
    run = convert.load(tmp_path / "run")
    for a, b in zip(jax.tree.leaves(run.params), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    with pytest.raises(UserError, match="have no room"):
        convert.load(tmp_path / "run" / "adapter")


def quantized(params, settings, bits):
    """The parameters of `quant.quantize`."""
    params = jax.tree.map(jnp.asarray, params)
    return jax.jit(lambda params: quant.quantize(CONFIG, params, settings, bits).params)(params)


def load_bytes(folder):
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def test_a_quantized_base_is_not_trained_itself(base, pairs, tmp_path, capsys):
    flags = ("--config.quantize.method=nf4",)
    model = convert.load(base)
    settings = quant.QuantizeConfig(method="nf4", bits=4)
    made = quantized(model.params, settings, quant.uniform_bits(CONFIG, settings))
    convert.save_model(tmp_path / "q", CONFIG, made, model.kept, "", {"method": "nf4"})
    assert finetune(tmp_path / "q", pairs, tmp_path / "run", *flags) == 2
    assert "set finetune.lora.rank=16" in capsys.readouterr().err


def test_wrong_adapters_are_refused_in_a_sentence(llama, tmp_path):
    folder = theirs(tmp_path / "theirs")
    with pytest.raises(UserError, match="another base"):
        peft.read_adapter(folder, dataclasses.replace(LLAMA, mlp_width=32))
    with pytest.raises(UserError, match="which its target_modules name"):
        peft.read_adapter(folder, dataclasses.replace(LLAMA, depth=3))
    with pytest.raises(UserError, match="has rank 2 and alpha 6"):
        lora.attached(LLAMA, llama, LoraConfig(rank=4, adapter=str(folder)), jax.random.key(0))
    with pytest.raises(UserError, match="its matrices are"):
        lora.attached(LLAMA, llama, LoraConfig(rank=4, targets=("q_proj",)), jax.random.key(0))
    with pytest.raises(UserError, match="no folder here"):
        convert.load(folder)
    shutil.copytree(folder, tmp_path / "dora")
    said = GOLDEN["config"] | {"use_dora": True}
    (tmp_path / "dora" / peft.CONFIG).write_text(json.dumps(said))
    with pytest.raises(UserError, match="use_dora"):
        peft.read_adapter(tmp_path / "dora", LLAMA)
    tensors = safetensors.numpy.load_file(folder / peft.WEIGHTS)
    headless = {name.replace(".model.model.", ".model."): x for name, x in tensors.items()}
    safetensors.numpy.save_file(headless, folder / peft.WEIGHTS)
    said = {**GOLDEN["config"], "task_type": "FEATURE_EXTRACTION"}
    del said["base_model_name_or_path"]
    (folder / peft.CONFIG).write_text(json.dumps(said))
    with pytest.raises(UserError, match="FEATURE_EXTRACTION is that of another head"):
        peft.read_adapter(folder, LLAMA)
    with pytest.raises(UserError, match="base_model_name_or_path='', which is no folder here"):
        convert.load(folder)

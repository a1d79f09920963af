"""Released config.json files, and attributes as the classes of `transformers` read them."""

import ast
import importlib
import inspect
import json
import sys
from pathlib import Path

import pytest
from flat_settings import changed

from gptjax import convert, models
from gptjax.convert.config_json import FAMILIES, LOADING, canonical, read_attributes
from gptjax.convert.rotary import BASE, FRACTION, SCALING, TRAINED_LEN
from gptjax.errors import UserError
from gptjax.fields import flat

sys.path.insert(0, str(Path(__file__).parent))
import released


@pytest.mark.parametrize("name", released.PRESETS)
def test_a_released_file_is_its_preset(name):
    _, read = read_attributes(released.LEFTOVERS | released.PRESETS[name])
    assert read == canonical(changed(models.preset(name), preset=""))


@pytest.mark.parametrize("name", released.OTHERS)
def test_other_released_files_are_read(name):
    attributes, wanted = released.OTHERS[name]
    found = flat(read_attributes(released.LEFTOVERS | attributes)[1])
    assert {key: found[key] for key in wanted} == wanted


LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 64,
    "max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0}
MISTRAL = LLAMA | {"model_type": "mistral", "num_key_value_heads": 4}
NEOX = LLAMA | {"model_type": "gpt_neox"}
PHI3 = LLAMA | {"model_type": "phi3"}
PAIRS = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [
        (LLAMA | {"rope_scaling": YARN}, {TRAINED_LEN: 64}),
        (LLAMA | {"rope_scaling": YARN, "original_max_position_embeddings": 16}, {TRAINED_LEN: 16}),
        (
            LLAMA
            | {
                "rope_scaling": YARN | {"original_max_position_embeddings": 8},
                "original_max_position_embeddings": 16,
            },
            {TRAINED_LEN: 16},
        ),
        (
            LLAMA | {"rope_scaling": {"rope_type": "dynamic", "factor": 3.0, "original": 1}},
            {TRAINED_LEN: 64},
        ),
        (
            LLAMA | {"rope_scaling": YARN, "rope_parameters": {"rope_theta": 7.0}},
            {SCALING: "yarn", BASE: 10000.0},
        ),
        (LLAMA | {"rope_theta": 5.0, "rope_parameters": {"rope_theta": 7.0}}, {BASE: 7.0}),
        (LLAMA | {"partial_rotary_factor": 0.5}, {FRACTION: 1.0}),
        (PHI3 | {"partial_rotary_factor": 0.5}, {FRACTION: 0.5}),
        (
            PHI3 | {"rope_scaling": {"type": "yarn", **PAIRS}},
            {SCALING: "longrope", TRAINED_LEN: 4096},
        ),
        (NEOX | {"rotary_pct": 0.5, "partial_rotary_factor": 1.0}, {FRACTION: 0.5}),
        (
            MISTRAL | {"layer_types": ["full_attention", "sliding_attention"]},
            {"window": 4096, "layer_pattern": ("global", "local")},
        ),
        (LLAMA | {"attention_bias": True}, {"use_bias": True, "bias_places": ("qkv", "out")}),
        (LLAMA | {"mlp_bias": True}, {"use_bias": True, "bias_places": ("mlp",)}),
        (NEOX | {"attention_bias": False}, {"bias_places": ("mlp", "norm")}),
        (MISTRAL | {"sliding_window": None}, {"window": 0}),
        (LLAMA | {"hidden_act": "gelu_new"}, {"mlp": "geglu_tanh"}),
    ],
)
def test_attributes_are_read_as_transformers_does(attributes, wanted):
    found = flat(read_attributes(attributes)[1])
    assert {key: found[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rope_scaling": YARN, "partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "without factor"),
        ({"rope_scaling": YARN | {"truncate": False}}, "truncate=false"),
        ({"rope_scaling": {"rope_type": "mrope"}}, "built are default, linear"),
        ({"rope_parameters": {"full_attention": {}}}, "one setting for all layers"),
        ({"rope_scaling": YARN | {"attention_factor": 0.0}}, "attention_factor=0.0"),
        ({"hidden_act": "gelu_10"}, "built are silu, swish, gelu"),
        ({"quantization_config": {"quant_method": "fp8"}}, "the weights are quantized"),
        ({"num_hidden_layers": "2"}, "give a whole number"),
        ({"num_hidden_layers": 10**12}, "give a whole number"),
        ({"attention_bias": "yes"}, "attention_bias='yes'; give true or false"),
        ({"hidden_size": None}, "model.width=None"),
    ],
)
def test_what_is_not_built_is_refused_without_a_hint(changes, sentence):
    with pytest.raises(UserError, match=sentence) as told:
        read_attributes(LLAMA | changes)
    assert "did you mean" not in str(told.value)


def test_a_window_that_is_named_and_not_given_is_refused():
    sliding = {"model_type": "qwen2", "layer_types": ["sliding_attention", "full_attention"]}
    with pytest.raises(UserError, match="sliding_window=None"):
        read_attributes(LLAMA | sliding | {"use_sliding_window": False})


# Read by the classes for training, caches, outputs and speed.
NO_LOGITS = {
    "_attn_implementation",
    "attention_dropout",
    "attn_pdrop",
    "embd_pdrop",
    "hidden_dropout",
    "initializer_range",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "reorder_and_upcast_attn",
    "rescale_prenorm_residual",
    "resid_pdrop",
    "residual_in_fp32",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "use_associative_scan",
    "use_cache",
    "use_mambapy",
    *(f"time_step_{name}" for name in ("floor", "init_scheme", "max", "min", "scale")),
}
LAYER_NAMES = {
    "every": {"sliding_window"},
    "every_4096": {"sliding_window"},
    "alternate": {"sliding_window", "layer_types"},
    "above": {"sliding_window", "layer_types"},
    "named": {"sliding_window", "layer_types"},
}
# Read by a name that our table derives, or has a part of.
DERIVED = {
    "gpt_neox": {"head_dim"},
    "mamba": {"intermediate_size", "layer_types"},
    "mpt": {"attn_config"},
    "deepseek_v2": {"head_dim"},
}


def names_of(family):
    """Every attribute that our table of a family knows."""
    named = {row.theirs for row in family.attributes} | family.only.keys() | LOADING.keys()
    named |= set(family.biases.switches) if family.biases else set()
    named |= {alias for alias, name in family.aliases.items() if name in named}
    named |= LAYER_NAMES.get(family.layers, set()) | DERIVED.get(family.model_type, set())
    if family.rope:
        named |= {"rope_parameters"}
        named |= {"original_max_position_embeddings"} if family.rope.original else set()
    return named


def reads(module, root):
    """Attributes of `config` and `self.config` in the classes and functions that `root` uses."""
    parts = {
        node.name: node
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    todo, seen, found = [root], set(), set()
    while todo:
        name = todo.pop()
        if name in seen or name not in parts:
            continue
        seen.add(name)
        for node in ast.walk(parts[name]):
            if isinstance(node, ast.Name):
                todo.append(node.id)
            if isinstance(node, ast.Attribute) and _is_config(node.value):
                found.add(node.attr)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
                "getattr",
                "hasattr",
            ):
                what, which = node.args[:2]
                if _is_config(what) and isinstance(which, ast.Constant):
                    found.add(which.value)
    return found


def _is_config(node):
    return getattr(node, "id", "") == "config" or getattr(node, "attr", "") == "config"


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"phi3small"}))
def test_the_table_knows_what_the_class_reads(name):
    """A new attribute of a class fails here until the table says what it is."""
    pytest.importorskip("transformers")
    family = FAMILIES[name]
    place = {"openai-gpt": "openai"}.get(name, name)
    module = importlib.import_module(f"transformers.models.{place}.modeling_{place}")
    assert reads(module, family.architecture) - NO_LOGITS - names_of(family) == set()


@pytest.mark.parametrize(
    "name", ["qwen2_moe", "gemma3", "deepseek_v3", "gpt_oss", "cohere2", "phi"]
)
def test_no_hint_leads_to_another_model(name, tmp_path):
    """The family next by spelling computes another function."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": name}))
    with pytest.raises(UserError, match=f"model_type='{name}'.* it reads gpt2, ") as told:
        convert.read_config(tmp_path)
    assert "did you mean" not in str(told.value)

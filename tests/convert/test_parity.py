"""Parity with `transformers`: stored logits always, the library itself where it is installed."""

import functools
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from flat_settings import changed

from gptjax import convert, models
from gptjax.convert.config_json import canonical, read_attributes, write_attributes

sys.path.insert(0, str(Path(__file__).parent))
import tiny

# Logits at stored places by transformers 5.23.0 and torch 2.13.0: tests/convert/tiny.py.
GOLDEN = json.loads(tiny.GOLDEN.read_text())
# Relative; the two agree to 1.4e-6, and the smallest mistake below moves the logits by 4.8e-5.
TOLERANCE = 1e-5


@functools.cache
def places(name, **changes):
    config = tiny.MODELS[name][1]
    params = tiny.parameters(config)
    other = changed(config, **changes)
    return tiny.stored_places(tiny.logits(other, params, tiny.tokens()))


@pytest.mark.parametrize("name", tiny.MODELS)
def test_logits_equal_the_stored_ones(name):
    assert tiny.error(places(name), np.array(GOLDEN[name][:3])) < TOLERANCE


@pytest.mark.parametrize("name", tiny.MODELS)
def test_logits_equal_transformers(name):
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    config = tiny.MODELS[name][1]
    got = tiny.logits(config, tiny.parameters(config), tiny.tokens())
    assert tiny.error(got, tiny.reference(name)) < TOLERANCE


# Scaled by the longest text of a batch, in `transformers` and here.
OF_THE_BATCH = ("dynamic", "longrope")


def slow_but_for(names):
    """All tiny models; those that are not named only with `-m slow`."""
    return [n if n in names else pytest.param(n, marks=pytest.mark.slow) for n in tiny.MODELS]


@pytest.mark.parametrize("name", slow_but_for((*OF_THE_BATCH, "gpt2", "mixtral")))
def test_logits_of_a_shorter_text_equal_the_stored_ones(name):
    config = tiny.MODELS[name][1]
    got = tiny.logits(config, tiny.parameters(config), tiny.short())[0, -1, :5]
    assert tiny.error(got, np.array(GOLDEN[name][3])) < TOLERANCE


@pytest.mark.parametrize("name", [name for name in tiny.MODELS if name not in OF_THE_BATCH])
def test_logits_of_texts_of_unequal_length_equal_transformers(name):
    """A text alone here; beside a longer one there, padded and masked."""
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    config = tiny.MODELS[name][1]
    got = tiny.logits(config, tiny.parameters(config), tiny.short())[0]
    assert tiny.error(got, tiny.reference(name, *tiny.padded())[1, :7]) < TOLERANCE


WRONG = [
    ("gpt1", {"mlp": "gelu"}),
    ("gpt2", {"norm_eps": 1e-3}),
    ("gpt2", {"mlp": "gelu"}),
    ("gpt2-gelu", {"mlp": "gelu_tanh"}),
    ("gpt2-relu", {"mlp": "silu"}),
    ("gpt2", {"norm": "rmsnorm"}),
    ("gpt2", {"norm_place": "post"}),
    ("gpt2", {"positions": "none"}),
    ("gpt2", {"use_bias": False}),
    ("gpt2", {"bias_places": ("qkv", "out", "mlp")}),
    ("gpt2", {"bias_places": ("out", "mlp", "norm")}),
    ("gpt2", {"bias_places": ("qkv", "mlp", "norm")}),
    ("llama", {"rope_base": 600.0}),
    ("llama", {"rope_layout": "interleaved"}),
    ("llama", {"rope_fraction": 0.5}),
    ("llama", {"norm": "layernorm"}),
    ("llama", {"norm_plus_one": True}),
    ("llama", {"mlp": "geglu"}),
    ("llama-geglu", {"mlp": "geglu_tanh"}),
    ("llama", {"attention_scale": 0.4}),
    ("linear", {"rope_scaling": "none"}),
    ("linear", {"rope_factor": 3.9}),
    ("dynamic", {"rope_scaling": "ntk"}),
    ("dynamic", {"rope_trained_len": 6}),
    ("yarn", {"rope_attention_factor": 1.0}),
    ("yarn", {"rope_scaling": "linear"}),
    ("yarn", {"rope_slow": 0.2}),
    ("yarn-mscale", {"rope_mscale": 0.0}),
    ("llama3", {"rope_slow": 0.4}),
    ("llama3", {"rope_scaling": "linear"}),
    ("longrope", {"rope_attention_factor": 1.0}),
    ("longrope", {"rope_trained_len": 12}),
    ("longrope-short", {"rope_trained_len": 11}),
    ("mistral", {"window": 5}),
    ("mistral", {"window": 3}),
    ("mistral", {"layer_pattern": ("global",), "window": 0}),
    ("qwen2", {"use_bias": False}),
    ("qwen2", {"layer_pattern": ("local", "global")}),
    ("qwen3", {"qk_norm": "none"}),
    ("gemma2", {"attention_soft_cap": 0.0}),
    ("gemma2", {"logit_soft_cap": 0.0}),
    ("gemma2", {"norm_plus_one": False}),
    ("gemma2", {"embedding_scale": 1.0}),
    ("gemma2", {"attention_scale": 0.0}),
    ("gemma2", {"layer_pattern": ("global", "local")}),
    ("gemma2", {"mlp": "geglu"}),
    ("cohere", {"rope_layout": "half"}),
    ("cohere", {"logit_scale": 1.0}),
    ("cohere", {"qk_norm": "none"}),
    ("granite", {"residual_scale": 1.0}),
    ("gpt_neox", {"rope_fraction": 1.0}),
    ("gpt_neox", {"block": "sequential"}),
    ("mpt", {"positions": "none"}),
    ("mixtral", {"router": "softmax"}),
    ("mixtral", {"experts_per_token": 1}),
    ("mixtral", {"window": 5}),
    ("deepseek2", {"router": "renormalised"}),
    ("deepseek2", {"router_scale": 1.0}),
    ("deepseek2", {"router_groups": 1, "router_top_groups": 1}),
    ("deepseek2", {"router_top_groups": 3}),
    ("deepseek2", {"rope_layout": "half"}),
    ("deepseek2", {"rope_mscale_all_dim": 0.0}),
    ("deepseek2", {"norm_eps": 1e-3}),
    ("deepseek2-lite", {"experts_per_token": 3}),
    ("deepseek2-lite", {"attention_scale": 6**-0.5}),
    ("mamba", {"norm_eps": 1e-2}),
    ("mamba", {"norm": "layernorm"}),
]


# Seen by stored logits that do not change, the mistakes stay seen: the digest holds them, and the
# mistakes that move the logits least are tried each time. After a new golden.json: -m slow.
SEEN_WITH = "1714c307dd701fe2af542e8f308068935780f3ef2537e692964575f0dfd4aa52"
SMALLEST = (
    ("gpt1", {"mlp": "gelu"}),
    ("gpt2", {"mlp": "gelu"}),
    ("gpt2-gelu", {"mlp": "gelu_tanh"}),
)
QUICK = [pytest.param(*one, marks=() if one in SMALLEST else pytest.mark.slow) for one in WRONG]


def test_the_stored_logits_are_those_that_saw_every_mistake():
    assert hashlib.sha256(tiny.GOLDEN.read_bytes()).hexdigest() == SEEN_WITH, (
        "run `pytest -m slow tests/convert/test_parity.py`, then write the new digest here"
    )


@pytest.mark.parametrize(("name", "wrong"), QUICK)
def test_a_wrong_detail_is_seen(name, wrong):
    """The parity test would fail, several times over, for each of these mistakes."""
    assert tiny.error(places(name, **wrong), np.array(GOLDEN[name][:3])) > 4 * TOLERANCE


@pytest.mark.parametrize(("one", "two"), [("gate", "up"), ("query", "key")])
def test_swapped_matrices_are_seen(one, two):
    config = tiny.llama(num_kv_heads=4)
    params = tiny.parameters(config)
    right = tiny.logits(config, params, tiny.tokens())
    part = "mlp" if one == "gate" else "attention"
    leaves = dict(params["blocks"][part])
    leaves[one], leaves[two] = leaves[two], leaves[one]
    swapped = {**params, "blocks": {**params["blocks"], part: leaves}}
    assert tiny.error(tiny.logits(config, swapped, tiny.tokens()), right) > 1e-2


@pytest.mark.parametrize("name", sorted(set(models.PRESETS) - {"phi3-small"}))
def test_presets_are_the_models_of_transformers(name):
    """The preset's config.json makes a model of as many parameters there, and reads back."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = models.preset(name)
    attributes = write_attributes(convert.family_of(config), config)
    training = {"balance_loss": 0.0, "balance_over": "batch"}  # no part of a config.json
    resolved = canonical(changed(config, preset="", **training))
    assert read_attributes(attributes)[1] == resolved
    wanted = transformers.AutoConfig.for_model(**attributes)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(wanted)
    sizes = {id(leaf): leaf.numel() for leaf in model.parameters()}
    assert sum(sizes.values()) == models.count_params(config).total

"""Leaves in place of arrays: every product takes them, and gives the program of the array."""

import dataclasses
import functools
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flat_settings import changed

import gptjax
from gptjax import models
from gptjax.models.product import dense, multiply_ragged
from gptjax.models.vision import image_text, tiled, vit

sys.path.insert(0, str(Path(__file__).parent))
import tiled_reference
import vision_reference
from test_decoder import GPT, HYBRID, VARIANTS

EXPERTS = {"mlp_pattern": ("experts",), "num_experts": 3, "use_bias": False}
CASES = {
    **{
        name: VARIANTS[name]
        for name in (
            "gpt2",
            "alibi, sinks, gate, window",
            "experts, shared ones, groups, a dense layer first",
            "latent attention",
            HYBRID,
        )
    },
    "summaries": {"layer_pattern": ("linformer",), "sparse_summary": 3, "sparse_block": 4},
    "an untied head": {"tied_head": False},
    "one scan": {"layers": "scan"},
    "slots of experts": {**EXPERTS, "capacity_factor": 1.5, "mlp": "swiglu"},
    "noise of the router": {**EXPERTS, "router_noise": True},
    "mamba with biases": {"layer_pattern": ("ssm",), "ssm_rank": 2},
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Same:
    """An array by another name, with the one rule that a kind of leaf must have."""

    values: jax.Array


@dense.register
def _(leaf: Same, dtype: Any) -> jax.Array:
    return leaf.values


@dataclasses.dataclass(frozen=True)
class Ruleless:
    """A pytree without a rule."""

    values: jax.Array


jax.tree_util.register_dataclass(Ruleless)


def program(apply, params, *inputs):
    """What is computed, as text, but for the addresses of functions in it."""
    return re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(apply)(params, *inputs)))


def same_program(apply, params, *inputs, only=lambda path: True):
    """Whether leaves give the program of arrays: all of them, or those whose path is wanted."""

    def wrapped(path, leaf):
        return Same(leaf) if only(jax.tree_util.keystr(path)) else leaf

    leaves = jax.tree_util.tree_map_with_path(wrapped, params)
    return program(apply, params, *inputs) == program(apply, leaves, *inputs)


def shapes(init, config):
    return jax.eval_shape(lambda key: init(config, key), jax.random.key(0))


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_of_a_decoder_may_be_a_leaf(name):
    config = changed(GPT, **CASES[name])
    params, tokens = shapes(models.init, config), jnp.zeros((2, 12), jnp.int32)
    apply = models.features if name == "an untied head" else models.apply
    assert same_program(lambda params: apply(config, params, tokens), params)


TOWER = r"patch'|pooler'|head'|kernel|blocks|cross|'(local|global)'|extra"


@pytest.mark.parametrize("name", ["pooled", "classes", "projected", "tiled"])
def test_every_product_of_a_vision_model_takes_leaves(name):
    apply, params, inputs = vision_model(name)
    wanted = re.compile(TOWER)
    assert same_program(apply, params, *inputs, only=lambda path: wanted.search(path) is not None)


def vision_model(name):
    if name == "tiled":
        return tiled_model()
    tower = vision_reference.VISION
    image = (tower.image_size, tower.image_size, tower.channels)
    if name == "projected":
        config = vision_reference.PROJECTED
        tokens = jax.ShapeDtypeStruct((2, 6), jnp.int32)
        images = jax.ShapeDtypeStruct((2, 1, *image), jnp.float32)
        run = functools.partial(image_text.apply_projected, config)
        return run, shapes(image_text.init_projected, config), (tokens, images)
    config = dataclasses.replace(tower, pooler=True, num_classes=3)
    run = functools.partial(vit.pool_images if name == "pooled" else vit.classify_images, config)
    images = jax.ShapeDtypeStruct((2, *image), jnp.float32)
    return run, shapes(vit.init_vision, config), (images,)


def tiled_model():
    config, tower = tiled_reference.TILED, tiled_reference.TILED.vision
    image = (tower.max_tiles, tower.image_size, tower.image_size, tower.channels)
    tokens = jax.ShapeDtypeStruct((2, 6), jnp.int32)
    images = jax.ShapeDtypeStruct((2, 1, *image), jnp.float32)
    ratios = jax.ShapeDtypeStruct((2, 1), jnp.int32)
    run = functools.partial(tiled.apply_tiled, config)
    return run, shapes(tiled.init_tiled, config), (tokens, images, ratios)


def test_a_leaf_without_a_rule_is_named():
    with pytest.raises(TypeError, match="Ruleless has no rule"):
        multiply_ragged(Ruleless(jnp.ones((2, 3, 4))), jnp.ones((5, 3)), jnp.array([2, 3]))


def test_products_of_parameters_are_in_one_file():
    """No module of models/ multiplies, transposes or looks up a parameter by itself.

    Kinds of leaves have their own arrays in hand: the exempted files are the rules of such.
    """
    room = Path(gptjax.__file__).parent / "models"
    raw = re.compile(r"ops\.(linear|ragged_product|slot_product)\(|\bw_[A-Z]+\.(T|reshape)")
    found = {
        f"{path.relative_to(room)}: {line.strip()}"
        for path in room.rglob("*.py")
        for line in path.read_text().splitlines()
        if raw.search(line) and path.name not in ("product.py", "quantized.py", "output_first.py")
    }
    assert not found

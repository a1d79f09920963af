"""Pictures as a setting: three joins, exact counts, decoding from caches, closed gates."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import models
from gptjax.convert.tensor_map import shapes_of
from gptjax.errors import UserError
from gptjax.fields import replaced
from gptjax.parallel.hlo import product_flops

JOINS = [name for name in models.JOINS if name]
TEXT = models.ModelConfig(vocab_size=30, depth=2, width=16, num_heads=2, seq_len=12, mlp_width=24)
TOWER = {
    "vision.image_size": 8,
    "vision.patch_size": 4,
    "vision.tower_width": 12,
    "vision.tower_depth": 1,
    "vision.tower_heads": 2,
    "vision.every": 1,
}
TOKENS = np.random.default_rng(0).integers(0, 30, (2, 12))
PICTURES = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)


def config_of(join):
    return replaced(TEXT, {**TOWER, "vision.join": join})


@functools.cache
def tried(join):
    """Everything that is computed of a join, in one program for open and closed gates."""
    config = config_of(join)
    P = models.picture_places(config)

    gated = join in ("gated", "tiled")

    def all_of(params, tokens, pictures):
        seen = models.see(config, params, pictures)
        cache = models.init_cache(config, 2, 12)
        cache = models.Cache(cache.layers, cache.tokens_B, seen)
        x, cache = models.decode(config, params, cache, tokens[:, :11], fresh=True)
        y, cache = models.decode(config, params, cache, tokens[:, 11:])
        twice, all_pictures = np.tile(tokens, (2, 1)), jnp.concatenate([pictures, 255 - pictures])
        full, other = jnp.split(models.apply(config, params, twice, pictures_BYXC=all_pictures), 2)
        return {
            "full": full,
            "other": other,
            "text": models.apply(config, params, tokens) if gated else None,
            "cached": models.logits(config, params, jnp.concatenate([x, y], axis=1)),
        }

    params, run = parameters(config), jax.jit(lambda params: all_of(params, TOKENS, PICTURES))
    closed = run(with_gates(params, 0.0)) if gated else None
    opened = run(with_gates(params, 0.6) if gated else params)
    return SimpleNamespace(config=config, params=params, closed=closed, opened=opened, places=P)


def parameters(config):
    """Every leaf random, matrices of a tenth."""
    rng = np.random.default_rng(2)

    def draw(path, leaf):
        centre = 1.0 if "scale" in jax.tree_util.keystr(path[-1:]) else 0.0
        return jnp.asarray(centre + 0.1 * rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(models.init, config))


def with_gates(params, value):
    """Those of the joins; the tower's own stay as they are."""
    cross = params["vision"]["cross"]
    gates = {name: jnp.full_like(cross[name], value) for name in ("attention_gate", "mlp_gate")}
    return {**params, "vision": {**params["vision"], "cross": cross | gates}}


def apart(a, b):
    return float(np.max(np.abs(np.asarray(a) - np.asarray(b))))


MOST = [pytest.param(join, marks=pytest.mark.slow if join == "gated" else ()) for join in JOINS]
"""Tiles have gates too."""


@pytest.mark.parametrize("join", MOST)
def test_decoding_from_caches_is_the_full_forward_pass(join):
    found = tried(join).opened
    assert apart(found["full"], found["cached"]) < 1e-5


@pytest.mark.parametrize("join", MOST)
def test_the_picture_is_seen(join):
    found, P = tried(join).opened, tried(join).places
    assert apart(found["full"][:, P:], found["other"][:, P:]) > 1e-4


@pytest.mark.parametrize("join", [pytest.param("gated", marks=pytest.mark.slow), "tiled"])
def test_a_closed_gate_is_the_text_model(join):
    closed = tried(join).closed
    assert apart(closed["full"], closed["text"]) == 0.0


def test_only_the_first_places_are_the_pictures():
    """The ids there are not read: text behind them is what it was."""
    one = tried("projected")
    assert one.places == 4
    other = TOKENS.copy()
    other[:, :4] = (other[:, :4] + 1) % 30
    apply = jax.jit(
        lambda tokens: models.apply(one.config, one.params, tokens, pictures_BYXC=PICTURES)
    )
    assert apart(apply(other), one.opened["full"]) < 1e-6
    other[:, 4] = (other[:, 4] + 1) % 30
    assert apart(apply(other)[:, 4], one.opened["full"][:, 4]) > 1e-3


@pytest.mark.parametrize("join", JOINS)
def test_counts_are_the_sizes_of_the_parameters(join):
    more = {"num_kv_heads": 1, "norm": "rmsnorm", "mlp": "swiglu", "depth": 3, "vision.every": 2}
    config = replaced(config_of(join), more)
    sizes = [leaf.size for leaf in jax.tree.leaves(shapes_of(models.init, config))]
    count, text = models.count_params(config), models.count_params(replaced(TEXT, more))
    assert count.total == sum(sizes)
    assert count.non_embedding - text.non_embedding == count.total - text.total > 0


@pytest.mark.parametrize("join", JOINS)
def test_flops_are_the_products_of_the_compiled_program(join):
    config = replaced(config_of(join), {"attention_impl": "dense", "layers": "unroll"})
    params = shapes_of(models.init, config)

    def logits(params, tokens, pictures):
        return models.apply(config, params, tokens, pictures_BYXC=pictures)

    text = jax.jit(logits).lower(params, TOKENS[:1], PICTURES[:1]).compile().as_text()
    counted = models.forward_flops(config) * config.seq_len
    # The class token needs no patch matrix, and a scan's body stands once in the program.
    assert counted == pytest.approx(product_flops(text), rel=0.02)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vision.patch_size": 3}, "image_size=8 is not a multiple of patch_size=3"),
        ({"vision.patch_size": 2}, "16 of the model.seq_len=12 positions"),
    ],
)
def test_towers_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        models.validate(replaced(config_of("projected"), changes))

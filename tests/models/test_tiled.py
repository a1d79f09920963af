"""Llama 3.2 Vision: parity with `transformers`, wrong details, closed gates, who sees what."""

import dataclasses
import functools
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import models, ops
from gptjax.errors import UserError
from gptjax.models.vision import cross_attention, tile_encoder

sys.path.insert(0, str(Path(__file__).parent))
import tiled_reference as reference

# By transformers 5.23.0 and torch 2.13.0: tests/models/tiled_reference.py prints them.
GOLDEN = {
    "tower": [
        [-3.49513, -2.83598, -4.79351, -8.4137, 4.24553, -2.79046, -1.62622, 5.77375],
        [-6.33059, -2.10544, -1.95538, -6.88735, 4.10548, -2.02497, -4.02491, 13.76479],
        [-7.45358, -1.20517, -2.99427, -10.1645, 3.17618, -6.13288, -3.63246, 3.74008],
        [-2.44342, -1.88737, -1.61971, -12.81453, 6.46958, -6.30974, -3.57847, 4.42816],
        [-6.53554, -0.96149, -1.35281, -9.74093, 8.40712, -6.81514, -4.67431, 4.45918],
    ],
    "text": [
        [-0.09305, -0.84849, -0.2073, 0.98719, -1.49051],
        [-0.53131, -0.87069, -0.23314, -1.28507, -2.99725],
        [-1.15674, -2.45511, -0.77584, 0.87953, 0.13896],
        [-1.07286, -0.88652, -0.53406, 0.10155, -0.77845],
    ],
    "text alone": [
        [-3.23645, -1.67679, -2.01125, -1.31443, -2.07489],
        [0.62419, 1.34582, -0.22567, -0.4586, -2.49311],
    ],
    "model": [
        [-0.10202, -0.41505, 0.16931, -1.64478, -2.05526],
        [0.07318, -0.4658, 0.3097, -1.28995, -2.00875],
        [-0.37922, -0.12667, 0.10846, -1.63159, -1.90672],
        [0.3961, -0.90009, 0.56514, -1.23265, -1.61393],
        [-0.35686, -0.42492, 0.17523, -1.46, -1.54976],
    ],
}
TOLERANCE = 1e-5  # relative; the two agree to 2.0e-6
GATES = ("attention_gate", "mlp_gate")
LANGUAGE, VISION = reference.TILED.language, reference.TILED.vision
outputs = functools.cache(reference.ours)
parameters = functools.cache(reference.parameters)


@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_equal_the_stored_ones(name):
    assert off(name, outputs()[name]) < TOLERANCE


def test_outputs_equal_transformers():
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    errors = {name: reference.error(outputs()[name], x) for name, x in reference.theirs().items()}
    assert max(errors.values()) < TOLERANCE, errors


def off(name, output):
    """How far an output is from the stored numbers."""
    return reference.error(reference.PLACES[name](output), np.array(GOLDEN[name]))


def changed(params, **leaves):
    """The parameters with some leaves of the first level replaced; a__b is one of the second."""
    params = dict(params)
    for name, leaf in leaves.items():
        first, _, second = name.partition("__")
        params[first] = {**params[first], second: leaf} if second else leaf
    return params


def opened():
    vision = parameters()["vision"]
    gates = {name: np.full_like(vision["global"][name], 20.0) for name in GATES}
    return changed(vision, **{"global": {**vision["global"], **gates}})


def swapped():
    vision = parameters()["vision"]
    return changed(vision, first_tiles=vision["last_tiles"], last_tiles=vision["first_tiles"])


def whole_positions():
    vision = parameters()["vision"]
    share = 1.0 - np.tanh(vision["position_gate"])
    return changed(vision, positions=vision["positions"] / share)


WRONG_PARAMETERS = {
    "global layers without gates": opened,
    "tile embeddings before and after swapped": swapped,
    "positions without their share of the gate": whole_positions,
    "no tile embedding after the local layers": lambda: changed(
        parameters()["vision"], last_tiles__gate=np.float32(0.0)
    ),
}


@pytest.mark.parametrize("wrong", WRONG_PARAMETERS)
def test_a_wrong_use_of_parameters_is_seen(wrong):
    assert off("tower", reference.tower(VISION, WRONG_PARAMETERS[wrong]())) > 4 * TOLERANCE


def test_features_in_another_order_are_seen():
    """Those of the layers that are read stand number by number, not layer by layer."""
    last, read = np.split(outputs()["tower"], [VISION.width], axis=-1)
    read = np.moveaxis(read.reshape(*read.shape[:-1], VISION.width, 2), -1, -2)
    wrong = np.concatenate([last, read.reshape(*last.shape[:-1], -1)], axis=-1)
    assert off("tower", wrong) > 4 * TOLERANCE


WRONG_TOWERS = {
    "padding seen by nobody": lambda patch: patch.setattr(
        tile_encoder, "_visible", real_only(tile_encoder._visible)
    ),
    "no padding": lambda patch: patch.setattr(tile_encoder, "MULTIPLE", 1),
    "outer norms with the layers' epsilon": lambda patch: patch.setattr(
        tile_encoder, "OUTER_EPS", 1e-3
    ),
    "tanh for exact GELU": lambda patch: patch.setitem(
        ops.FEED_FORWARD, "gelu", ops.FEED_FORWARD["gelu_tanh"]
    ),
}


def real_only(visible):
    """Nothing attends to padding, which attends to everything."""

    def wrong(config, ratios_B, M):
        visible_BTT = visible(config, ratios_B, M)
        return jnp.broadcast_to(visible_BTT.all(axis=1)[:, None], visible_BTT.shape)

    return wrong


SLOW = ("no padding", "outer norms with the layers' epsilon", "tanh for exact GELU")
SOME_TOWERS = [pytest.param(x, marks=[pytest.mark.slow] * (x in SLOW)) for x in WRONG_TOWERS]


@pytest.mark.parametrize("wrong", SOME_TOWERS)
def test_a_wrong_tower_is_seen(wrong, monkeypatch):
    right = parameters()["vision"]
    WRONG_TOWERS[wrong](monkeypatch)
    fresh = dataclasses.replace(VISION, init_scale=1.0 + len(wrong))  # is compiled again
    assert off("tower", reference.tower(fresh, right)) > 4 * TOLERANCE


def test_other_layers_that_are_read_are_seen():
    wrong = dataclasses.replace(VISION, read_layers=(0, 1))
    assert off("tower", reference.tower(wrong, parameters()["vision"])) > 4 * TOLERANCE


def without_tanh(self, name, h_BTD):
    return cross_attention.parameter(self, name, (), (), jax.nn.initializers.zeros) * h_BTD


WRONG_TEXTS = {
    "gates without tanh": lambda patch: patch.setattr(
        cross_attention.GatedBlock, "_gated", without_tanh
    ),
    "keys not normed": lambda patch: patch.setattr(
        cross_attention.ShownAttention,
        "_head_norm",
        but_for_keys(cross_attention.ShownAttention._head_norm),
    ),
}


def but_for_keys(norm):
    def wrong(self, x_BTNH, name, axis):
        return x_BTNH if name == "key_norm_scale" else norm(self, x_BTNH, name, axis)

    return wrong


@pytest.mark.parametrize("wrong", WRONG_TEXTS)
def test_a_wrong_text_is_seen(wrong, monkeypatch):
    right = parameters()["language"]
    WRONG_TEXTS[wrong](monkeypatch)
    text = dataclasses.replace(LANGUAGE.text, init_scale=1.0 + len(wrong))  # is compiled again
    fresh = dataclasses.replace(LANGUAGE, text=text)
    assert off("text", reference.text(fresh, right)) > 4 * TOLERANCE


@pytest.mark.parametrize(
    "change",
    [{"unshown": "none"}, pytest.param({"cross_layers": (1, 3)}, marks=pytest.mark.slow)],
)
def test_wrong_settings_are_seen(change):
    wrong = dataclasses.replace(LANGUAGE, **change)
    assert off("text", reference.text(wrong, parameters()["language"])) > 4 * TOLERANCE


def test_tokens_that_are_shown_nothing():
    """With unshown="none" they are those of the text model until a layer shows them others."""
    one = dataclasses.replace(LANGUAGE, unshown="none")
    found = reference.text(one, parameters()["language"])
    alone = reference.text_alone(LANGUAGE, parameters()["language"])[:2]
    np.testing.assert_allclose(found[0, :2], alone[0, :2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[1, :5], alone[1, :5], rtol=1e-5, atol=1e-5)
    assert np.abs(found[0, 2:] - alone[0, 2:]).max(axis=-1).min() > 1e-3
    assert np.abs(outputs()["text"][0, :2] - alone[0, :2]).max() > 1e-3


def test_closed_gates_and_no_image_leave_the_text_model():
    params = parameters()
    words = np.minimum(reference.tokens(), 12)
    apply = jax.jit(functools.partial(models.apply, LANGUAGE.text))
    wanted = np.asarray(apply(params["language"]["text"], words))
    alone = reference.compiled(models.apply_cross_text, LANGUAGE)(params["language"], words)
    np.testing.assert_array_equal(alone, wanted)
    gates = {name: np.zeros(2, np.float32) for name in GATES}
    closed = {**params["language"]["cross"], **gates}
    closed = {**params, "language": {**params["language"], "cross": closed}}
    alone = reference.text_alone(LANGUAGE, params["language"])
    found = reference.model(reference.TILED, closed)
    np.testing.assert_allclose(found, alone, rtol=1e-6, atol=1e-6)
    assert np.abs(outputs()["model"] - alone).max() > 0.1


def test_gates_begin_closed():
    @jax.jit
    def gates(key):
        params = models.init_tiled(reference.TILED, key)
        stack, tower = params["language"]["cross"], params["vision"]
        assert not set(tower["local"]) & set(GATES)
        closed = [stack[name] for name in GATES]
        tiles = [tower[f"{at}_tiles"]["gate"] for at in ("first", "last")]
        return closed, [*tiles, tower["position_gate"]], [tower["global"][x] for x in GATES]

    closed, tiles, opened = gates(jax.random.key(0))
    assert not np.any(closed) and not np.any(tiles)
    np.testing.assert_allclose(opened, math.pi / 4, rtol=1e-6)


def test_a_token_sees_the_tiles_of_its_image():
    """What is moved by a change of one tile, or of padding beside it."""
    params, apply = parameters(), reference.compiled(models.apply_tiled, reference.TILED)

    def moved(row, image, tile):
        changed = reference.tiles()
        changed[row, image, tile] += 1.0
        logits = apply(params, reference.tokens(), changed, reference.RATIOS)
        return (np.abs(np.asarray(logits) - outputs()["model"]).max(axis=-1) > 1e-6).tolist()

    nobody = [[False] * 12] * 3
    assert moved(0, 0, 1) == [[True] * 12, [False] * 12, [False] * 12]  # through unshown ones too
    assert moved(1, 0, 0) == [[False] * 12, [True] * 12, [False] * 12]
    assert moved(1, 2, 0) == nobody  # no image


def test_images_that_follow_each_other_are_seen_together():
    here = reference.tokens()[:1] == reference.IMAGE
    seen = np.asarray(models.images_shown(jnp.asarray(here), 3))[0].astype(int).tolist()
    assert seen == [[0] * 3] * 2 + [[1, 0, 0]] * 4 + [[0, 1, 0]] + [[0, 1, 1]] * 5


@pytest.mark.slow
def test_gradients_reach_every_leaf():
    def loss(params):
        logits = models.apply_tiled(
            reference.TILED, params, reference.tokens(), reference.tiles(), reference.RATIOS
        )
        return jnp.mean(jnp.square(logits))

    slope = jax.jit(jax.grad(loss))(parameters())
    paths = jax.tree_util.tree_leaves_with_path(slope)
    without = [jax.tree_util.keystr(path) for path, leaf in paths if not np.any(leaf)]
    assert without == []
    assert all(np.all(np.isfinite(leaf)) for _, leaf in paths)


@pytest.mark.slow
def test_bfloat16_is_near():
    text = dataclasses.replace(LANGUAGE.text, compute_dtype="bfloat16")
    vision = dataclasses.replace(VISION, compute_dtype="bfloat16")
    language = dataclasses.replace(LANGUAGE, text=text)
    narrow = dataclasses.replace(reference.TILED, language=language, vision=vision)
    tiles = reference.tiles().reshape(9, 3, 6, 6, 3)
    encode = functools.partial(models.encode_tiles, vision)
    features = jax.eval_shape(encode, parameters()["vision"], tiles, reference.RATIOS.reshape(-1))
    assert features.dtype == jnp.bfloat16
    logits = reference.model(narrow, parameters())
    assert logits.dtype == np.float32
    assert 1e-4 < reference.error(logits, outputs()["model"]) < 0.03


def test_counts_are_those_of_the_parameters():
    shapes = jax.eval_shape(
        functools.partial(models.init_tiled, reference.TILED), jax.random.key(0)
    )
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert models.count_tiled(reference.TILED).total == total


def tile_config(**changes):
    return lambda: models.count_tiles(dataclasses.replace(VISION, **changes))


def cross_config(**changes):
    return lambda: models.count_cross_text(dataclasses.replace(LANGUAGE, **changes))


def applied(tokens=None, tiles=None, ratios=None, **changes):
    config = dataclasses.replace(reference.TILED, **changes)
    given = [reference.tokens(), reference.tiles(), reference.RATIOS]
    for i, other in enumerate((tokens, tiles, ratios)):
        given[i] = given[i] if other is None else other
    return lambda: models.apply_tiled(config, {"vision": {}}, *given)


REFUSED = [
    (tile_config(patch_size=4), "image_size=6 is not a multiple of patch_size=4; try image_size=8"),
    (tile_config(num_heads=5), "width=12 is not a multiple of num_heads=5; try width=10"),
    (tile_config(global_depth=0), "global_depth=0 must be at least 1"),
    (tile_config(read_layers=(0, 3)), "read_layers has 3; choose among 0 to 2"),
    (tile_config(ratios=((2, 2),)), "ratios has 2 x 2 tiles for max_tiles=3"),
    (cross_config(cross_layers=(4, 1)), "are not ascending numbers of the 5 layers"),
    (cross_config(cross_layers=(1, 5)), "give some of 0 to 4"),
    (cross_config(extra_tokens=-1), "extra_tokens=-1 must be at least 0"),
    (cross_config(unshown="some"), "unshown='some' is not known"),
    (
        lambda: models.count_tiled(dataclasses.replace(reference.TILED, image_token=21)),
        "image_token=21 is none of the 21 tokens",
    ),
    (applied(tokens=np.full((3, 12), 14)), "has 12 image tokens .image_token=14. for 3 images"),
    (applied(ratios=reference.RATIOS + 1), "a ratio of 4 is not one of the 3; choose 0 to 3"),
    (applied(tiles=reference.tiles()[0]), "give .batch, images, tiles, rows, columns, channels."),
    (applied(tiles=reference.tiles()[:, :, :2]), "do not fit 9 ratios and max_tiles=3"),
]


@pytest.mark.parametrize(("call", "sentence"), REFUSED)
def test_what_does_not_fit_is_refused(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()

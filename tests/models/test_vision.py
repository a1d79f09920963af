"""Vision: parity with `transformers`, closed gates, what sees which image, gradients, sizes."""

import functools
import math
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flat_settings import changed

from gptjax import models, ops
from gptjax.errors import UserError

sys.path.insert(0, str(Path(__file__).parent))
import reference
import vision_reference as vision

# By transformers 5.23.0 and torch 2.13.0: tests/models/vision_reference.py prints them.
GOLDEN = {
    "classes": [
        [3.0695, -0.06027, -3.90609, -5.36154, 0.92363],
        [3.35483, 0.17297, -3.53871, -5.19392, 0.75308],
    ],
    "features": [
        [-5.08486, -0.28575, 7.90479, -11.72237],
        [-2.81207, 2.83261, 4.66008, -9.58699],
        [-6.87531, -0.57611, 2.70491, -8.97528],
    ],
    "projected": [
        [-1.55155, 2.30324, 0.34658, -0.70164, -2.07601],
        [-0.13563, 0.42963, 1.62189, -0.93591, 1.09669],
        [-2.01634, -2.21007, 1.7361, 0.449, 2.28905],
    ],
    "gated": [
        [-1.80115, -2.25057, 1.86942, 4.73852],
        [2.12071, 2.05378, -0.37201, 6.27292],
        [1.08104, -1.01108, 2.15083, -1.75265],
    ],
}
TOLERANCE = 1e-5  # relative; the two agree to 1.2e-6
HYBRID = changed(
    vision.TEXT,
    depth=3,
    layer_pattern=("local",),
    window=1,
    mlp_pattern=("dense", "experts"),
    num_experts=3,
    experts_per_token=2,
)
MIXED = models.GatedVision(HYBRID, vision.VISION, vision.IMAGE, every=2)
GATES = ("attention_gate", "mlp_gate")
MARKED = np.where(np.isin(np.arange(24), (2, 15)), vision.IMAGE, np.full((2, 24), 3, np.int32))
outputs = functools.cache(vision.ours)


@functools.cache
def with_parameters(config):
    """The config's parameters, and its compiled logits."""
    apply = models.apply_gated if isinstance(config, models.GatedVision) else models.apply_projected
    init = models.init_gated if isinstance(config, models.GatedVision) else models.init_projected
    return vision.parameters(init, config), jax.jit(functools.partial(apply, config))


def with_gates(params, value):
    gates = {name: np.full_like(params["cross"][name], value) for name in GATES}
    return {**params, "cross": {**params["cross"], **gates}}


@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_equal_the_stored_ones(name):
    assert vision.error(vision.some(outputs())[name], np.array(GOLDEN[name])) < TOLERANCE


def test_outputs_equal_transformers():
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    errors = {name: vision.error(outputs()[name], x) for name, x in vision.theirs().items()}
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("wrong", ["tanh for exact GELU", "epsilon", "columns before rows"])
def test_a_wrong_detail_is_seen(wrong, monkeypatch):
    """The stored features would catch each of these mistakes."""
    norm_eps = 1e-3 if wrong == "epsilon" else vision.VISION.norm_eps
    config = changed(vision.VISION, norm_eps=norm_eps)
    images = vision.images().reshape(4, 6, 6, 3)
    if wrong == "tanh for exact GELU":
        monkeypatch.setitem(ops.FEED_FORWARD, "gelu", ops.FEED_FORWARD["gelu_tanh"])
    if wrong == "columns before rows":
        images = np.swapaxes(images, 1, 2)
    off = vision.some({**outputs(), "features": vision.features(config, images)})["features"]
    assert vision.error(off, np.array(GOLDEN["features"])) > 4 * TOLERANCE


def test_closed_gates_leave_the_text_model():
    """Layers of two structures, cross-attention before the first and the third."""
    params, apply = with_parameters(MIXED)
    text = MIXED.text
    assert params["cross"]["mlp_gate"].shape == (2,)
    wanted = jax.jit(functools.partial(models.apply, text))(params["text"], MARKED)
    closed = apply(with_gates(params, 0.0), MARKED, vision.images())
    np.testing.assert_allclose(closed, wanted, rtol=1e-6, atol=1e-6)
    assert np.abs(apply(params, MARKED, vision.images()) - wanted).max() > 0.1


def test_gates_begin_closed():
    init = jax.jit(lambda key: models.init_gated(vision.GATED, key)["cross"]["attention_norm"])
    gates = jax.jit(lambda key: [models.init_gated(vision.GATED, key)["cross"][x] for x in GATES])
    assert not np.any(gates(jax.random.key(0)))
    assert np.all(init(jax.random.key(0))["scale"] == 1.0)


def test_a_token_sees_the_last_image_before_it():
    """Of other tokens it sees nothing, with a window of one."""
    params, apply = with_parameters(MIXED)
    before = apply(params, MARKED, vision.images())
    for image, seen in ((0, range(2, 15)), (1, range(15, 24))):
        changed = vision.images()
        changed[0, image] += 1.0
        moved = np.abs(np.asarray(apply(params, MARKED, changed) - before)).max(axis=2) > 1e-6
        assert moved.tolist() == [[i in seen for i in range(24)], [False] * 24]


def test_patches_stand_for_tokens():
    """A projection that gives a token's embedding is that token, with its learned positions."""
    text = changed(reference.GPT2, depth=1, seq_len=24, embedding_scale=0.0)
    config = models.ProjectedVision(text, vision.VISION, vision.IMAGE, projector_layers=1)
    params, apply = with_parameters(config)
    (matrix,) = params["projector"]
    row = params["text"]["embed"]["tokens"][4] * np.float32(math.sqrt(text.width))
    params = {**params, "projector": [{"kernel": 0.0 * matrix["kernel"], "bias": row}]}
    words = np.where(vision.tokens() == vision.IMAGE, 4, vision.tokens())
    wanted = jax.jit(functools.partial(models.apply, text))(params["text"], words)
    got = apply(params, vision.tokens(), vision.images())
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_documents_do_not_see_each_others_images():
    params, apply = with_parameters(vision.PROJECTED)
    ids = np.repeat([[0] * 12 + [1] * 12], 2, axis=0)
    words = vision.tokens()[:1].repeat(2, axis=0)
    images = vision.images()[:1].repeat(2, axis=0)
    images[1, 0] += 1.0
    logits = np.asarray(apply(params, words, images, segment_ids_BT=ids))
    assert np.abs(logits[0, 2:12] - logits[1, 2:12]).min(axis=-1).max() > 1e-3
    np.testing.assert_array_equal(logits[0, 12:], logits[1, 12:])


def shallow(config, depth, **changes):
    """One layer of text, and so many of vision."""
    text = changed(config.text, depth=1, **changes)
    vision = changed(config.vision, depth=depth)
    return changed(config, text=text, vision=vision)


@functools.cache
def norms_of_gradients(config):
    """parameters -> by path the norm of a gradient."""
    apply = models.apply_gated if isinstance(config, models.GatedVision) else models.apply_projected

    words = MARKED if isinstance(config, models.GatedVision) else vision.tokens()

    def loss(params):
        return jnp.mean(jnp.square(apply(config, params, words, vision.images())))

    slope = jax.jit(jax.grad(loss))

    def norms(params):
        paths = jax.tree_util.tree_leaves_with_path(slope(params))
        return {jax.tree_util.keystr(path): float(np.linalg.norm(leaf)) for path, leaf in paths}

    return norms


def test_gradients_reach_the_tower_through_tokens():
    config = shallow(vision.PROJECTED, 2)
    found = norms_of_gradients(config)(with_parameters(config)[0])
    without = {name for name, norm in found.items() if norm == 0.0}
    # The head and the final norm are not passed by the features of the last layer but one.
    unused = {f"['vision']['{name}']" for name in ("head", "head_bias")}
    unused |= {f"['vision']['final_norm']['{name}']" for name in ("scale", "bias")}
    assert without == unused


def test_gradients_reach_the_tower_through_open_gates():
    config = shallow(vision.GATED, 1, remat="block")
    params = with_parameters(config)[0]
    unused = {f"['vision']['{name}']" for name in ("head", "head_bias")}
    found = norms_of_gradients(config)(params)
    assert {name for name, norm in found.items() if norm == 0.0} == unused
    closed = norms_of_gradients(config)(with_gates(params, 0.0))
    assert all(closed[f"['cross']['{name}']"] > 0.0 for name in GATES)
    tower = [norm for name, norm in closed.items() if "vision" in name]
    assert tower and not any(tower)


@pytest.mark.parametrize(("classes", "count"), [(1000, 86_567_656), (0, 85_798_656)])
def test_vit_base_has_its_published_size(classes, count):
    """590,592 patches + 768 class + 197·768 positions + 12·7,087,872 + 1,536, + 769,000 head."""
    config = models.VisionConfig(num_classes=classes)
    shapes = jax.eval_shape(functools.partial(models.init_vision, config), jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.slow
def test_bfloat16_is_near():
    config = changed(vision.VISION, compute_dtype="bfloat16")
    params = vision.parameters(models.init_vision, config)
    images = vision.images().reshape(4, 6, 6, 3)
    encode = functools.partial(models.encode_images, config)
    assert jax.eval_shape(encode, params, images).dtype == jnp.bfloat16
    classes = jax.jit(functools.partial(models.classify_images, config))(params, images)
    assert classes.dtype == jnp.float32
    assert 1e-4 < vision.error(np.asarray(classes), outputs()["classes"]) < 0.03


def encode(layer=None, **changes):
    config = changed(vision.VISION, **changes)
    shapes = functools.partial(models.init_vision, config)
    params = jax.eval_shape(shapes, jax.random.key(0))
    encode = functools.partial(models.encode_images, config, layer=layer)
    return jax.eval_shape(encode, params, jnp.zeros((1, 6, 6, 3)))


def join(tokens, **changes):
    config = changed(vision.PROJECTED, **changes)
    jax.eval_shape(functools.partial(models.init_projected, config), jax.random.key(0))
    return models.apply_projected(config, {}, tokens, vision.images())


REFUSED = [
    (lambda: encode(patch_size=4), "image_size=6 is not a multiple of patch_size=4; try "),
    (lambda: encode(num_heads=5), "width=12 is not a multiple of num_heads=5; try width=10"),
    (lambda: encode(patch_size=0), "patch_size=0 must be at least 1"),
    (lambda: encode(image_size=8), "do not fit image_size=8 and channels=3; give .batch, 8, 8, 3"),
    (lambda: encode(layer=4), "layer=4 is not one of the 3; choose 0 to 3"),
    (lambda: join(np.full((2, 4), 10)), "has 4 image tokens .image_token=10. for 2 images of 9"),
    (lambda: join(np.full((2, 27), 10)), "has 27 image tokens"),
    (lambda: join(vision.tokens(), image_token=11), "image_token=11 is no token of text.vocab"),
    (lambda: join(vision.tokens(), projector_layers=0), "projector_layers=0 must be at least 1"),
    (
        lambda: models.init_gated(changed(vision.GATED, every=0), jax.random.key(0)),
        "every=0 must be at least 1",
    ),
    (
        lambda: models.project_images(vision.PROJECTED, {"vision": {}}, vision.images()[0]),
        "give .batch, images, rows, columns, channels",
    ),
    (
        lambda: models.classify_images(models.VisionConfig(), {}, vision.images()[0]),
        "num_classes=0 leaves the vision transformer without a head",
    ),
]


@pytest.mark.parametrize(("call", "sentence"), REFUSED)
def test_what_does_not_fit_is_refused(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()


def test_the_example_of_the_page_runs():
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n((?:(?!```).)*ProjectedVision.*?)```", page, re.S)
    found = {}

    def run():  # traced, not compiled
        exec(compile(example, "docs/models.md", "exec"), found)
        return [found[f"{name}_logits"] for name in ("projected", "gated", "tiled")]

    assert [x.shape for x in jax.eval_shape(run)] == [(1, 8, 100), (1, 8, 100), (1, 4, 100)]

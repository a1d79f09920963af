"""Whole models in few bits: the same as with the numbers their leaves stand for, in any shape."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flat_settings import changed

from gptjax import convert, models, quant
from gptjax.convert.quantized_leaves import by_leaf
from gptjax.errors import UserError
from gptjax.models.layer_stack import ByLayer
from gptjax.models.product import dense
from gptjax.models.quantized import Affine, is_quantized
from gptjax.quant import QuantizeConfig, matrices, quantize, uniform_bits

SMALL = models.ModelConfig(vocab_size=23, depth=2, width=24, num_heads=2, seq_len=12)
TOKENS = np.random.default_rng(2).integers(0, 23, (24, 12), np.int32)
KINDS = {
    "tied": {},
    "untied": {"tied_head": False, "positions": "rotary", "norm": "rmsnorm", "mlp": "swiglu"},
    "latent": {"positions": "rotary", "kv_rank": 8, "rope_dim": 4, "norm": "rmsnorm"}
    | {"use_bias": False},
    "experts": {"mlp_pattern": ("dense", "experts"), "num_experts": 3, "use_bias": False},
    "mamba": {"layer_pattern": ("ssm", "global"), "positions": "none", "mlp": "swiglu"},
}
METHODS = {
    "int8": {"scales": "channel"},
    "tensor": {"scales": "tensor"},
    "int3": {"bits": 3, "group": 8},
    "nf4": {"method": "nf4", "bits": 4},
    "mixed": {"rules": ("blocks/0/=16", "attention=4", "mlp=32")},
}


def model(**changes):
    config = changed(SMALL, **changes)
    return config, drawn(config)


@functools.cache
def drawn(config):
    """Parameters by NumPy; nothing of an initialiser is compiled."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        centre = np.float32(path[-1].key.endswith("scale"))
        return centre + np.float32(0.1) * rng.standard_normal(leaf.shape, np.float32)

    shapes = convert.tensor_map.shapes_of(models.init, config)
    return jax.tree_util.tree_map_with_path(draw, shapes)


def made(config, params, tokens=None, **settings):
    settings = QuantizeConfig(**settings)
    if tokens is None and settings.method != "gptq":
        assert params is drawn(config)
        return rounded(config, settings)
    return quantize(config, params, settings, uniform_bits(config, settings), tokens)


@functools.cache
def rounded(config, settings):
    """`quantize` as one program: each operation on each shape is else one of its own."""
    rows = []

    @jax.jit
    def leaves(params):
        found = quantize(config, params, settings, uniform_bits(config, settings))
        rows.extend(found.rows)
        return found.params

    return quant.Quantized(leaves(drawn(config)), tuple(rows), 0)


def plain(params):
    """The tree with the numbers that its leaves stand for."""

    def array(leaf):
        if isinstance(leaf, ByLayer):
            return jnp.stack([array(layer) for layer in leaf.layers])
        return dense(leaf, jnp.float32).astype(jnp.float32)

    def is_leaf(leaf):
        return is_quantized(leaf) or isinstance(leaf, ByLayer)

    return jax.tree.map(array, params, is_leaf=is_leaf)


@functools.partial(jax.jit, static_argnums=0)
def logits(config, params):
    return models.apply(config, params, TOKENS)


@functools.partial(jax.jit, static_argnums=0)
def both(config, small):
    """Logits by the leaves, and by the numbers that they stand for."""
    return logits(config, small), logits(config, plain(small))


def slow_but_for(names, quick):
    """All names; those that are not quick only with `-m slow`."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize("kind", slow_but_for(KINDS, ("untied", "experts")))
@pytest.mark.parametrize("method", slow_but_for(("int8", "mixed"), ("mixed",)))
def test_logits_are_those_of_the_numbers(kind, method):
    config, params = model(**KINDS[kind])
    small = made(config, params, **METHODS[method]).params
    np.testing.assert_allclose(*both(config, small), atol=2e-4)


QUICK = (("int3", "scan"), ("nf4", "unroll"))


@pytest.mark.parametrize(
    ("method", "layers"),
    [
        pytest.param(*one, marks=[] if one in QUICK else pytest.mark.slow)
        for one in itertools.product(METHODS, ("scan", "unroll"))
    ],
)
def test_stacks_are_scanned_and_unrolled(method, layers):
    config, params = model(layers=layers)
    small = made(config, params, **METHODS[method]).params
    np.testing.assert_allclose(*both(config, small), atol=2e-4)


def test_every_product_of_a_block_is_found():
    config = changed(SMALL, **KINDS["untied"])
    found = {matrix.inner for matrix in matrices(config) if matrix.layered}
    names = {"attention/query", "attention/key", "attention/value", "attention/out"}
    assert found == names | {"mlp/up", "mlp/gate", "mlp/down"}
    out = next(one for one in matrices(config) if one.name == "blocks/1/attention/out")
    assert (out.inputs, out.outputs, out.slice) == ((2, 12), (24,), 1)
    names = [matrix.name for matrix in matrices(changed(SMALL, **KINDS["mamba"]))]
    assert "blocks/0/ssm/in" in names and not any("conv" in name for name in names)
    experts = [
        one for one in matrices(changed(SMALL, **KINDS["experts"])) if "experts_up" in one.name
    ]
    assert [(one.lead, one.inputs, one.calibrated) for one in experts] == [((3,), (24,), False)]


def test_bytes_are_those_of_the_codes_and_scales():
    config, params = model()
    found = made(config, params, bits=4, group=8)
    row = next(row for row in found.rows if row.name == "blocks/0/mlp/up")
    assert (row.weights, row.nbytes) == (24 * 96, 24 * 96 // 2 + 3 * 96 * 5)
    assert quant.nbytes(found.params) < quant.nbytes(params) / 2.5


def test_activations_in_eight_bits_are_near():
    config, params = model()
    whole = np.asarray(logits(config, params))
    near = np.asarray(logits(config, made(config, params, activations=8).params))
    weights_alone = np.asarray(logits(config, made(config, params).params))
    assert not np.array_equal(near, weights_alone)
    assert np.std(near - whole) < 0.03 * np.std(whole)


@pytest.mark.parametrize("bits", [3, 4])
def test_gptq_is_nearer_than_nearest_on_every_matrix(bits, compiled_rounding):
    config, params = model()
    found = made(config, params, TOKENS, method="gptq", bits=bits, group=8)
    rows = [row for row in found.rows if row.error is not None]
    assert len(rows) == 12 and all(row.error < row.nearest for row in rows)
    assert found.tokens == TOKENS.size


def test_calibration_sees_every_token_once_whatever_the_batch(compiled_rounding):
    """Not what was asked for, but what went through the products."""
    config, params = model()
    found = made(config, params, TOKENS[:11], method="gptq", bits=4, group=8)
    assert found.tokens == 11 * 12


def test_gptq_without_text_is_refused(compiled_rounding):
    config, params = model()
    for nothing in (None, np.zeros((0, 12), np.int32)):
        with pytest.raises(UserError, match="has seen no calibration text"):
            made(config, params, nothing, method="gptq", bits=4, group=8)


def test_a_quantized_model_is_refused():
    config, params = model()
    small = made(config, params).params
    settings = QuantizeConfig()
    with pytest.raises(UserError, match=r"quantized already \(blocks/.* is affine\)"):
        quantize(config, small, settings, uniform_bits(config, settings))


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ("mlp/down", "is not EXPRESSION=BITS"),
        ("mlp/down=9", "is not EXPRESSION=BITS"),
        ("mlp/(=8", "is no regular expression"),
        ("mlp/side=8", "no matrix of the model matches"),
    ],
)
def test_wrong_rules_are_refused(rule, sentence):
    config, _ = model()
    with pytest.raises(UserError, match=sentence):
        uniform_bits(config, QuantizeConfig(rules=(rule,)))


def test_the_first_rule_counts():
    config, _ = model()
    found = uniform_bits(config, QuantizeConfig(rules=("blocks/1/.*down=3", "down=6", "^embed=32")))
    assert found["blocks/0/mlp/down"] == 6 and found["blocks/1/mlp/down"] == 3
    assert found["embed/tokens"] == 32 and found["blocks/0/mlp/up"] == 8


@pytest.mark.parametrize("method", slow_but_for(METHODS, ("nf4", "mixed")))
def test_saved_and_loaded(tmp_path, method):
    config, params = model(**KINDS["untied"])
    small = made(config, params, **METHODS[method]).params
    convert.save_model(tmp_path / "model", config, small, recipe={"method": method})
    loaded = convert.load(tmp_path / "model")
    assert loaded.recipe == {"method": method} and loaded.config == config
    ours, theirs = jax.tree.leaves(small), jax.tree.leaves(loaded.params)
    assert jax.tree.structure(small) == jax.tree.structure(loaded.params)
    assert all(
        np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(ours, theirs, strict=True)
    )


DAMAGE = {
    "checksum": lambda leaf: leaf.update(sha256="0" * 64),
    "bits": lambda leaf: leaf.update(bits=4),
    "kind": lambda leaf: leaf.update(kind="int1"),
    "inputs": lambda leaf: leaf.update(inputs=[23]),
    "nothing": lambda leaf: leaf.clear(),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_told_in_a_sentence(tmp_path, name):
    config, params = model()
    convert.save_model(tmp_path / "model", config, made(config, params).params)
    path = tmp_path / "model" / "model.json"
    said = json.loads(path.read_text())
    DAMAGE[name](said["quantized"]["leaves"]["blocks/mlp/up"])
    path.write_text(json.dumps(said))
    with pytest.raises(UserError, match=r"blocks/mlp/up .*quantize the model again"):
        convert.load(tmp_path / "model")


def test_transformers_get_no_codes(tmp_path):
    config, params = model()
    small = made(config, params).params
    with pytest.raises(UserError, match="convert the one that it was made from"):
        convert.to_huggingface(config, small, tmp_path)


def test_a_gradient_goes_through_to_the_input():
    """As QLoRA wants it: the leaf is a constant, its input is not."""
    config, params = model()
    leaf = made(config, params).params["blocks"]["mlp"]["up"]
    x = np.random.default_rng(0).standard_normal((3, 24), np.float32)

    @jax.jit
    def grad_and_matrix(leaf, x):
        one = dataclasses.replace(leaf, **{name: getattr(leaf, name)[0] for name in Affine.arrays})
        grad = jax.grad(lambda x: jnp.sum(models.product.product(x, one) ** 2))(x)
        return grad, dense(one, jnp.float32)

    grad, w = map(np.asarray, grad_and_matrix(leaf, x))
    np.testing.assert_allclose(grad, 2 * (x @ w) @ w.T, rtol=1e-4, atol=1e-5)


def test_paths_of_leaves_are_those_of_the_parameters():
    config, params = model()
    assert by_leaf(made(config, params).params).keys() == by_leaf(params).keys()

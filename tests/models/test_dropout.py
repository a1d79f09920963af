"""Dropout: masks by hand, the places of GPT-2, and the same masks however blocks are run."""

import functools
import json
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flat_settings import changed

from gptjax import convert, models, ops
from gptjax.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "convert"))
import tiny

SEEDS = np.array([5, 6], np.uint32)
RATES = {"dropout_embedding": 0.25, "dropout_attention": 0.3, "dropout_residual": 0.4}


def dropping(config=tiny.GPT2, **changes):
    rates = {
        "dropout.embedding": 0.25,
        "dropout.attention": 0.3,
        "dropout.residual": 0.4,
        **{
            key.replace("dropout_", "dropout."): changes.pop(key) for key in RATES if key in changes
        },
    }
    return changed(config, **rates, **changes)


def parameters(config):
    return tiny.parameters(config)


@functools.partial(jax.jit, static_argnums=0)
def forward(config, params, tokens, seeds):
    return models.forward(config, params, tokens, seeds_B=seeds)[0]


def logits(config, params, seeds=SEEDS):
    return np.asarray(forward(config, params, tiny.tokens(), seeds))


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradients(config, params):
    def loss(params):
        return jnp.mean(jnp.square(forward(config, params, tiny.tokens(), SEEDS)))

    return jax.value_and_grad(loss)(params)


def test_a_share_is_zero_and_the_rest_is_scaled():
    x = np.linspace(1.0, 2.0, 2 * 50 * 40, dtype=np.float32).reshape(2, 50, 40)
    drop = jax.jit(ops.dropout, static_argnames=("rate", "place"))
    y = np.asarray(drop(x, SEEDS, rate=0.2, place=1))
    np.testing.assert_allclose(y[y != 0], x[y != 0] / 0.8, rtol=1e-6)
    share = (y == 0).mean()  # of 4,000 independent ones: a standard error of 0.0063
    assert abs(share - 0.2) < 0.025
    assert not np.array_equal(y[0] == 0, y[1] == 0)
    alone = drop(x[1:], SEEDS[1:], rate=0.2, place=1)
    assert np.array_equal(y[1:], alone)  # by the sequence's seed, whatever is beside it
    other = np.asarray(drop(x, SEEDS, rate=0.2, place=2))
    assert not np.array_equal(y == 0, other == 0)


def test_attention_drops_weights():
    """Each query's output is the sum over the weights that stay, over 1 − rate."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 6, 2, 4), np.float32) for _ in range(3))
    attend = jax.jit(functools.partial(ops.masked_attention, dropout=0.3))
    got = attend(q, k, v, seeds_B=SEEDS)
    scores = np.einsum("btnh,bsnh->bnts", q, k) / 2
    scores = np.where(np.tri(6, dtype=bool), scores, -np.inf)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    ones = np.ones((2, 2, 1, 6, 6), np.float32)
    drop = jax.jit(functools.partial(ops.dropout, rate=0.3, place=1 << 16))
    mask = np.asarray(drop(ones, SEEDS))[:, :, 0]
    wanted = np.einsum("bnts,bsnh->btnh", weights * mask, v)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"layers": "scan"}, marks=SLOW),
        pytest.param({"layers": "scan", "remat": "block"}, marks=SLOW),
        {"layers": "scan", "remat": "sqrt"},
        pytest.param({"layers": "unroll", "remat": "dots"}, marks=SLOW),
    ],
    ids=str,
)
def test_masks_are_the_same_however_blocks_are_run(changes):
    plain = dropping(layers="unroll")
    params = parameters(plain)
    one, two = (loss_and_gradients(c, params) for c in (plain, changed(plain, **changes)))
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(one))
    for a, b in zip(*map(jax.tree.leaves, (one, two)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5 * largest)


def test_places_have_masks_of_their_own():
    config = dropping(depth=1)
    params = parameters(config)
    found = [logits(config, params)]
    for name in RATES:
        found.append(logits(dropping(depth=1, **{name: 0.0}), params))
    found.append(logits(config, params, SEEDS + 2))
    for i, one in enumerate(found):
        assert all(tiny.error(one, other) > 1e-2 for other in found[i + 1 :])


def test_nothing_is_dropped_outside_of_training():
    config = dropping()
    params = parameters(config)
    plain = tiny.logits(tiny.GPT2, params, tiny.tokens())
    assert np.array_equal(tiny.logits(config, params, tiny.tokens()), plain)
    np.testing.assert_allclose(logits(config, params, None), plain, rtol=1e-4, atol=1e-4)


# Masks of each layer, by model: of the weights of attention, and of what sublayers add. Each order
# of norms and sublayers, latent attention, experts, and a state-space model.
MASKS = {"llama": 3, "cohere": 2, "gemma2": 3, "gpt1": 3, "deepseek2-lite": 3, "mamba": 1}


@pytest.mark.parametrize("name", MASKS)
def test_every_block_drops_at_its_places(name, monkeypatch):
    config = dropping(tiny.MODELS[name][1], layers="unroll")
    drop, places = ops.dropout, []

    def seen(x, seeds_B, *, rate, place):
        places.append(place)
        return drop(x, seeds_B, rate=rate, place=place)

    monkeypatch.setattr(ops, "dropout", seen)
    monkeypatch.setattr(sys.modules["gptjax.ops.masked_attention"], "drop", seen)
    run = functools.partial(models.forward, config)
    jax.eval_shape(run, parameters(config), tiny.tokens(), seeds_B=SEEDS)
    assert len(places) == 1 + MASKS[name] * config.depth
    assert len(set(places)) == 1 + MASKS[name]


@pytest.mark.parametrize(
    "name", [name if name == "cohere" else pytest.param(name, marks=SLOW) for name in MASKS]
)
def test_every_block_drops(name):
    config = dropping(tiny.MODELS[name][1])
    params = parameters(config)
    plain = np.array(json.loads(tiny.GOLDEN.read_text())[name][:3])  # the model's own, by parity
    got = logits(config, params)
    assert np.isfinite(got).all() and tiny.error(tiny.stored_places(got), plain) > 1e-2
    assert np.array_equal(got, logits(config, params))


@pytest.mark.parametrize("kind", ["strided", "fixed", "linformer", "performer", "reformer"])
def test_kinds_without_weights_to_drop_are_refused(kind):
    config = changed(tiny.GPT2, **{"layer_pattern": (kind,), "dropout.attention": 0.1})
    with pytest.raises(UserError, match=r"model\.dropout\.attention=0\.1 is not built for"):
        models.validate(config)


def test_blocks_of_scores_are_refused():
    config = dropping(attention_impl="blockwise")
    with pytest.raises(UserError, match=r"blockwise has no model\.dropout\.attention=0\.3"):
        models.validate(config)


def test_the_places_are_those_of_transformers(monkeypatch):
    """GPT-2 there in training, each of its masks replaced by ours, in the order of its calls."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = dropping()
    params = parameters(config)
    B, T, D, N = 2, 12, config.width, config.num_heads

    def mask(seeds, shape, rate, place):
        ones = jnp.ones((B, *shape), jnp.float32)
        return np.asarray(ops.dropout(ones, jnp.asarray(seeds), rate=rate, place=place))

    masks = [mask(SEEDS, (T, D), 0.25, (1 << 31) - 1)]
    for layer in range(config.depth):
        keys = [jax.random.fold_in(jax.random.key(seed), layer) for seed in SEEDS]
        seeds = np.array([jax.random.bits(key) for key in keys])
        masks.append(mask(seeds, (N, 1, T, T), 0.3, 1 << 16)[:, :, 0])
        masks.append(mask(seeds, (T, D), 0.4, 1))
        masks.append(mask(seeds, (T, D), 0.4, 2))
    called = iter(masks)

    def ours(x, p=0.5, training=True, inplace=False):
        return x * torch.tensor(next(called))

    with tempfile.TemporaryDirectory() as folder:
        convert.to_huggingface(config, params, folder, model_type="gpt2")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
    monkeypatch.setattr(torch.nn.functional, "dropout", ours)
    with torch.no_grad():
        theirs = model.train()(torch.tensor(tiny.tokens(), dtype=torch.long), use_cache=False)
    assert next(called, None) is None
    assert tiny.error(logits(config, params), theirs.logits.numpy()) < 1e-5

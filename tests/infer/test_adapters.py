"""Adapters by name in one batch: each answer is that of the adapter merged and alone."""

import dataclasses
import functools

import compiled_model
import jax
import numpy as np
import pytest

from gptjax import fields, infer, models
from gptjax.convert import peft
from gptjax.data.tokenizers.byte import ByteTokenizer
from gptjax.errors import UserError
from gptjax.infer.adapters import read_adapters
from gptjax.infer.batching import Batcher
from gptjax.infer.searches import SearchConfig, search
from gptjax.quant import matrices

CONFIG = models.ModelConfig(
    vocab_size=257, depth=2, width=16, num_heads=2, seq_len=64, init_scale=0.5
)
UP = "blocks/attention/kv_up"
PROMPT = "a prompt of two pieces, which is the same for all of them"[:40]
TARGETS = {"one": ("attention/query", "mlp/up"), "two": ("attention/out",)}


def adapter(name, rank):
    """Thin matrices that change an answer."""
    rng, shapes = np.random.default_rng(rank), {}
    shapes = {"attention/query": (16, 16), "attention/out": (16, 16), "mlp/up": (16, 64)}
    found = {}
    for path in TARGETS[name]:
        inputs, outputs = shapes[path]
        a, b = rng.normal(size=(2, inputs, rank)), rng.normal(size=(2, rank, outputs))
        found[f"blocks/{path}"] = a.astype(np.float32), b.astype(np.float32)
    return peft.Adapter(rank, 0.3 * rank, found)


@functools.cache
def params():
    return compiled_model.fresh(CONFIG, 3)


def model_of(tree):
    return infer.Model(CONFIG, models.unstacked(CONFIG, tree), ByteTokenizer(), name="tiny")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("adapters")
    for name, rank in (("one", 2), ("two", 3)):
        peft.write_adapter(place / name, CONFIG, adapter(name, rank))
    return {name: place / name for name in ("one", "two")}


@pytest.fixture(scope="module")
def model(folders):
    return infer.with_adapters(model_of(params()), folders)


def requests(max_tokens=6):
    return [
        dataclasses.replace(infer.sampling("greedy", max_tokens=max_tokens), adapter=name)
        for name in ("one", "", "two", "one")
    ]


@pytest.fixture(scope="module")
def merged():
    """The answers of each adapter merged into the base, alone."""
    found = {}
    for name, rank in (("one", 2), ("two", 3), ("", 0)):
        tree = peft.merged(params(), adapter(name, rank)) if name else params()
        (found[name],) = infer.generate(model_of(tree), [PROMPT], requests()[1])
    assert len({answer.tokens for answer in found.values()}) == 3
    return found


def check(answers, merged):
    for request, answer in zip(requests(), answers, strict=True):
        assert answer.tokens == merged[request.adapter].tokens
        np.testing.assert_allclose(answer.logprobs, merged[request.adapter].logprobs, atol=2e-4)


def test_one_batch_has_a_row_for_each_adapter_and_for_none(model, merged):
    check(infer.generate(model, [PROMPT] * 4, requests()), merged)


def test_slots_of_several_adapters_run_together_and_share_no_prefix_of_another(model, merged):
    batcher = Batcher(model, infer.Limits(slots=3, piece=16, steps=3, logprobs=0))
    check(batcher.answers([PROMPT] * 4, requests()), merged)
    assert batcher.shared_tokens == 32  # of the second "one" alone


def test_what_cannot_be_is_one_sentence(model, folders, tmp_path):
    strange = dataclasses.replace(requests()[0], adapter="ones")
    with pytest.raises(UserError, match="the adapter 'ones' is not known; did you mean"):
        infer.generate(model, [PROMPT], strange)
    with pytest.raises(UserError, match=r"sampling\.adapter=one is not followed by a beam search"):
        search(model, [PROMPT], requests()[:1], jax.random.key(0), SearchConfig(kind="beam"))
    with pytest.raises(UserError, match="holds no adapter"):
        infer.with_adapters(model_of(params()), {"x": tmp_path})
    with pytest.raises(UserError, match="'tiny' has the name of the base"):
        infer.with_adapters(model_of(params()), {"tiny": folders["one"]})


def test_a_matrix_that_is_no_product_of_rows_is_refused(tmp_path):
    """Latent attention multiplies its up-projection into the queries as it decodes."""
    changes = {
        "mixer.latent.kv_rank": 8,
        "mixer.latent.rope_dim": 4,
        "positions": "rotary",
        "norm": "rmsnorm",
        "use_bias": False,
    }
    config = fields.replaced(dataclasses.replace(CONFIG, depth=1), changes)
    (up,) = (one for one in matrices(config) if one.path == UP)
    a, b = np.ones((1, *up.inputs, 1)), np.ones((1, 1, int(np.prod(up.outputs))))
    peft.write_adapter(tmp_path, config, peft.Adapter(1, 1.0, {UP: (a, b)}))
    params = jax.eval_shape(
        lambda: models.unstacked(config, models.init(config, jax.random.key(0)))
    )
    with pytest.raises(UserError, match="the adapters up change a matrix that cannot be chosen"):
        infer.with_adapters(infer.Model(config, params), {"up": tmp_path})


def test_an_adapter_of_what_is_no_matrix_is_refused_by_name(tmp_path):
    """Of a bias it was left out without a word."""
    path = "blocks/mlp/up_bias"
    pair = np.ones((CONFIG.depth, 1, 1)), np.ones((CONFIG.depth, 1, 4 * CONFIG.width))
    peft.write_adapter(tmp_path, CONFIG, peft.Adapter(1, 1.0, {path: pair}))
    with pytest.raises(UserError, match=f"adapts {path}, which is no matrix that can be chosen"):
        read_adapters(CONFIG, {"blocks": ({},) * CONFIG.depth}, {"x": tmp_path})

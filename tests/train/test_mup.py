"""Width transfer: what changes with the width, and a coordinate check that is flat with it only."""

import dataclasses
import math

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.errors import UserError
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig, validate
from gptjax.optim.path_rules import learning_rate_factors
from gptjax.train import RunSpec, make_hyper, transfer_width
from gptjax.train.feed import next_token_batch
from gptjax.train.mup import coordinate_check

BASE = 64
PLAIN = OptimConfig(
    learning_rate=4e-3, schedule="constant", base_width=BASE, base_head_dim=16, weight_decay=0.0
)


def shape(width: int) -> ModelConfig:
    """Four heads at every width, so that heads grow too."""
    return ModelConfig(
        depth=2,
        layers="scan",
        width=width,
        num_heads=4,
        seq_len=16,
        vocab_size=32,
        positions="rotary",
        norm="rmsnorm",
        mlp="relu",
        use_bias=False,
        init_scale=0.1,
    )


def moved(width: int, transfer: str) -> dict[str, float]:
    """The coordinate check after four steps on the same tokens at every width."""
    optim = dataclasses.replace(PLAIN, width_transfer=transfer)
    model, optim = transfer_width(shape(width), optim)
    spec = RunSpec(model=model, optim=optim, batch_size=8, steps=100)
    tokens = np.random.default_rng(0).integers(0, 32, (8, 17))
    batch = next_token_batch(spec, jnp.asarray(tokens[:, :-1]), jnp.asarray(tokens[:, 1:]), -1)
    start = state = compiled_model.init_state(spec, 0)
    step = compiled_model.train_step(spec)
    for _ in range(4):
        state, _ = step(state, batch, make_hyper(spec))
    return coordinate_check(model, start.params, state.params, batch.inputs_BT)


def exponents(transfer: str, widths: tuple[int, ...]) -> dict[str, float]:
    """b of size ∝ width^b for each coordinate."""
    rows = [moved(width, transfer) for width in widths]
    logs = np.log(widths)
    return {name: np.polyfit(logs, np.log([row[name] for row in rows]), 1)[0] for name in rows[0]}


@pytest.mark.slow
def test_coordinates_are_flat_up_to_a_width_of_512():
    flat = exponents("mup", (64, 128, 256, 512))
    assert max(map(abs, flat.values())) < 0.2, flat


@pytest.mark.slow
def test_coordinates_are_flat_with_transfer_and_grow_without():
    flat = exponents("mup", (64, 256))
    assert max(map(abs, flat.values())) < 0.2, flat
    steep = exponents("none", (64, 256))
    assert abs(steep["embedding"]) < 0.2  # Adam moves each embedding as far at any width
    for name in ("block 0", "block 1", "logits"):
        assert steep[name] > 0.4, steep


def test_coordinates_are_root_mean_square_changes():
    """Of an embedding that moved by .5 everywhere, and of logits that are doubled."""
    model = dataclasses.replace(shape(16), depth=1)
    params = compiled_model.fresh(model)
    tokens = np.arange(32).reshape(2, 16)
    moved = {**params, "embed": {"tokens": params["embed"]["tokens"] + np.float32(0.5)}}
    found = coordinate_check(model, params, moved, tokens)
    assert list(found) == ["embedding", "block 0", "logits"]
    assert found["embedding"] == pytest.approx(0.5, rel=1e-5)
    assert found["block 0"] > 0 and found["logits"] > 0
    logits = np.asarray(compiled_model.apply(model, params, tokens))
    moved = {**params, "final_norm": {"scale": 2 * params["final_norm"]["scale"]}}
    found = coordinate_check(model, params, moved, tokens)
    assert found["embedding"] == found["block 0"] == 0
    assert found["logits"] == pytest.approx(np.sqrt(np.mean(np.square(logits))), rel=1e-5)


def test_table_8_by_hand():
    """At four times the base width, heads twice as wide as the base's."""
    optim = OptimConfig(width_transfer="mup", base_width=64, base_head_dim=32)
    model = ModelConfig(width=256, num_heads=4, vocab_size=32, init_scale=0.08, logit_scale=2.0)
    found, changed = transfer_width(model, optim)
    assert found.init_scale == 0.08 and found.hidden_init_scale == pytest.approx(0.04)
    assert found.logit_scale == pytest.approx(0.5)
    assert found.attention_scale == pytest.approx(math.sqrt(32) / 64)  # ∝ 1/head_dim
    params = compiled_model.init(found, jax.random.key(0))
    factors = learning_rate_factors(params, changed.multipliers)
    block = factors["blocks"]
    assert block["attention"]["query"] == block["mlp"]["down"] == 0.25
    assert block["attention"]["query_bias"] == block["mlp_norm"]["scale"] == 1.0
    assert factors["embed"]["tokens"] == 1.0
    assert np.std(params["blocks"]["mlp"]["up"]) == pytest.approx(0.04, rel=0.02)
    assert np.std(params["embed"]["tokens"]) == pytest.approx(0.08, rel=0.05)


def test_at_the_base_width_nothing_changes():
    optim = OptimConfig(width_transfer="mup", base_width=64, base_head_dim=16)
    model, changed = transfer_width(shape(64), optim)
    assert dataclasses.replace(model, hidden_init_scale=0.0) == shape(64)
    assert model.hidden_init_scale == shape(64).init_scale
    assert changed.multipliers[0].endswith("=1.0")


def test_without_it_nothing_changes():
    assert transfer_width(shape(512), PLAIN) == (shape(512), PLAIN)


def test_optimizers_it_does_not_hold_for_are_refused():
    with pytest.raises(UserError, match=r"optim\.name=sgd"):
        validate(OptimConfig(name="sgd", width_transfer="mup"))


def test_models_it_has_no_rules_for_are_refused():
    mixed = dataclasses.replace(shape(64), layer_pattern=("global", "ssm"))
    with pytest.raises(UserError, match="width_transfer=none"):
        transfer_width(mixed, dataclasses.replace(PLAIN, width_transfer="mup"))

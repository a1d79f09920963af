"""Random models both ways: ours written and run by `transformers`, theirs saved and run by us.

Needs the extra `parity`; a few draws always, hundreds with `-m slow`, in chunks that print what was
written and what refused:

    pytest -m slow -rP tests/convert/test_random_models.py -k three_hundred
    pytest -m slow -rP tests/convert/test_random_models.py -k twenty
"""

import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from flat_settings import changed

from gptjax import convert
from gptjax.convert.config_json import write_attributes
from gptjax.errors import UserError
from gptjax.fields import flat, leaves, make, nested
from gptjax.models import ModelConfig, validate

sys.path.insert(0, str(Path(__file__).parent))
import their_models
import tiny
from their_models import THEIRS

TOLERANCE = 1e-5
# Settings that change shapes too much for twelve tokens, or nothing that is compared.
FIXED = {"family", "preset", "vocab_size", "depth", "compute_dtype", "remat", "layers", "width"}
FIXED |= {"dropout.embedding", "dropout.attention", "dropout.residual"}
FIXED |= {"init_scale", "hidden_init_scale", "attention_impl", "mixer.ssm.scan"}
# Numbers to draw from where a setting has no choices, by the end of its name.
NUMBERS = {
    "num_heads": (2, 4),
    "num_kv_heads": (0, 1, 2),
    "head_dim": (0, 4, 6, 8),
    "mlp_width": (0, 20),
    "seq_len": (5, 12, 64),
    "norm_eps": (1e-6, 1e-5, 1e-3),
    "window": (0, 4),
    "base": (500.0, 10_000.0),
    "fraction": (0.5, 1.0),
    "factor": (1.0, 2.5),
    "trained_len": (0, 5),
    "slow": (0.5, 1.0),
    "fast": (2.0, 32.0),
    "mscale": (0.0, 0.7),
    "mscale_all_dim": (0.0, 0.4),
    "scale": (0.0, 0.3, 1.0),
    "cap": (0.0, 2.0),
    "experts.count": (0, 4),
    "per_token": (1, 2),
    "shared": (0, 1),
    "dense_layers": (0, 1),
    "rank": (0, 6),
    "mlp_limit": (0.0, 1.0),
    "state": (5,),
    "conv": (3,),
}


def value_of(leaf, rng):
    """A random value of a setting, or None to leave it."""
    if leaf.hint is bool:
        return rng.random() < 0.5
    choices = tuple(leaf.field.metadata.get("choices") or ())
    if choices and "tuple" in str(leaf.hint):
        return tuple(rng.choices(choices, k=rng.randint(1, 2)))
    if choices:
        return rng.choice(choices)
    end = max((name for name in NUMBERS if leaf.key.endswith(name)), key=len, default=None)
    return None if end is None else rng.choice(NUMBERS[end])


def our_draw(seed):
    """A valid config: a tiny model of a family with up to four settings drawn anew."""
    rng = random.Random(seed)
    free = [leaf for leaf in leaves(ModelConfig) if leaf.key not in FIXED]
    while True:
        _, config = tiny.MODELS[rng.choice(sorted(tiny.MODELS))]
        changes = {leaf.key: value_of(leaf, rng) for leaf in rng.sample(free, rng.randint(0, 4))}
        changes = {key: value for key, value in changes.items() if value is not None}
        try:
            config = make(ModelConfig, nested({**flat(config), **changes}), "model")
            validate(config)
            return config
        except UserError:
            continue


def exported_error(config, model_type):
    """The relative error of logits, or None where the writing was refused."""
    with tempfile.TemporaryDirectory() as folder:
        params = tiny.parameters(config)
        try:
            convert.to_huggingface(config, params, folder, model_type=model_type)
        except UserError:
            return None
        batch = (
            tiny.tokens()[:, : config.seq_len] if config.positions == "learned" else tiny.tokens()
        )
        if config.positions == "alibi":
            batch = batch[:, : config.seq_len]
        got = tiny.logits(config, params, batch)
        read, again = convert.from_huggingface(folder)
        assert tiny.error(tiny.logits(read, again, batch), got) < TOLERANCE
        return tiny.error(got, tiny.their_logits(folder, batch))


def check_exports(seeds):
    """How many were written; each of them equal in `transformers`. Every seed is tried."""
    errors = {seed: exported_error(our_draw(seed), "") for seed in seeds}
    written = {seed: off for seed, off in errors.items() if off is not None}
    worst = max(written.values(), default=0.0)
    print(
        f"exports {seeds.start}-{seeds.stop - 1}: {len(written)} written, "
        f"{len(errors) - len(written)} refused, largest relative error {worst:.1e}"
    )
    wrong = {seed: (off, our_draw(seed)) for seed, off in written.items() if not off < TOLERANCE}
    assert not wrong
    return len(written)


def test_ours_are_written_right_or_refused():
    pytest.importorskip("transformers")
    assert check_exports(range(5)) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(12))
def test_three_hundred_of_ours_are_written_right_or_refused(chunk):
    pytest.importorskip("transformers")
    assert check_exports(range(25 * chunk, 25 * (chunk + 1))) >= 5


def imported_error(model_type, seed):
    """The relative error of our logits on a folder of a random model that `transformers` saved."""
    with tempfile.TemporaryDirectory() as folder:
        their_models.save(model_type, THEIRS[model_type](random.Random(seed)), seed, folder)
        said = json.loads((Path(folder) / "config.json").read_text())
        ours, params = convert.from_huggingface(folder)
        got = tiny.logits(ours, params, tiny.tokens())
        off = tiny.error(got, tiny.their_logits(folder, tiny.tokens()))
    assert np.isfinite(off), (model_type, seed, said)
    return off


@pytest.mark.parametrize("model_type", THEIRS)
def test_theirs_are_read_right(model_type):
    pytest.importorskip("transformers")
    assert imported_error(model_type, 0) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("model_type", THEIRS)
def test_twenty_of_theirs_are_read_right(model_type):
    pytest.importorskip("transformers")
    errors = {seed: imported_error(model_type, seed) for seed in range(1, 21)}
    print(f"{model_type}: {len(errors)} read, largest relative error {max(errors.values()):.1e}")
    assert not {seed: off for seed, off in errors.items() if not off < TOLERANCE}


def test_every_family_of_transformers_is_drawn():
    assert set(THEIRS) == set(convert.FAMILIES) - {"phi3small"}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {"rope_layout": "interleaved"}),
        ("llama", {"rope_fraction": 0.5}),
        ("mistral", {"rope_fraction": 0.5}),
        ("cohere", {"rope_layout": "half"}),
        ("gemma2", {"attention_scale": 0.3}),
        ("deepseek2-lite", {"attention_scale": 6**-0.5}),
        ("gpt2", {"attention_scale": 0.4}),
        ("llama", {"use_bias": True, "bias_places": ("qkv",)}),
        ("phi3", {"rope_scaling": "linear", "rope_factor": 2.0}),
    ],
)
def test_a_setting_that_a_family_cannot_say_is_refused(name, changes):
    """Each of these was written as another function."""
    model_type, config = tiny.MODELS[name]
    with pytest.raises(UserError, match="cannot be written"):
        write_attributes(convert.FAMILIES[model_type], changed(config, **changes))


def test_latent_attention_without_shared_experts_is_refused():
    _, config = tiny.MODELS["deepseek2-lite"]
    with pytest.raises(UserError, match="at least one shared expert"):
        write_attributes(convert.FAMILIES["deepseek_v2"], changed(config, shared_experts=0))


def test_another_family_that_can_say_it_is_chosen():
    half = changed(tiny.LLAMA, rope_fraction=0.5)
    assert convert.family_of(half).model_type == "phi3"

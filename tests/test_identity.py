"""Identities of cells and runs: new, renamed and nested settings change none of them.

After a setting was added, or a default changed by the rules in `gptjax/identity.py`:

    python tests/test_identity.py
"""

import dataclasses
import json
from pathlib import Path

import pytest

from gptjax import identity
from gptjax.config import Config, make_config
from gptjax.errors import UserError
from gptjax.fields import section, setting
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.sweeps import Cell
from gptjax.train import RunSpec, TrainConfig

DEFAULTS = Path(__file__).with_name("golden_defaults.json")


def changed(owner, **values):
    """The dataclass with settings under their canonical keys, wherever they are declared today."""
    root = getattr(owner, "IDENTITY_ROOT", "")
    known = {leaf.key: leaf for leaf in identity.leaves(type(owner))}
    for name, value in values.items():
        leaf = known[f"{root}.{name}" if root else name]
        owner = replaced(owner, leaf.path, leaf.today(value))
    return owner


def replaced(owner, path, value):
    if len(path) > 1:
        value = replaced(getattr(owner, path[0]), path[1:], value)
    elif isinstance(getattr(owner, path[0]), tuple):
        value = tuple(value)
    return dataclasses.replace(owner, **{path[0]: value})


SMALL = changed(ModelConfig(), depth=1, width=16, num_heads=2, seq_len=32, vocab_size=257)
LLAMA = changed(
    ModelConfig(),
    depth=2,
    width=64,
    num_heads=4,
    num_kv_heads=2,
    mlp_width=172,
    seq_len=128,
    vocab_size=1000,
    norm="rmsnorm",
    positions="rotary",
    mlp="swiglu",
    use_bias=False,
    tied_head=False,
)
MODELS = {
    "small": SMALL,
    "llama": LLAMA,
    "yarn": changed(LLAMA, rope_scaling="yarn", rope_factor=4.0, rope_trained_len=32),
    "mamba": changed(SMALL, layer_pattern=["ssm"], ssm_state=8, ssm_rank=2),
    "reformer": changed(SMALL, layer_pattern=["global", "reformer"], lsh_rounds=2, lsh_chunk=16),
    "experts": changed(SMALL, mlp_pattern=["experts"], num_experts=4, balance_loss=0.01),
}
OPTIMS = {
    "adamw": OptimConfig(),
    "wsd": changed(OptimConfig(), schedule="wsd", warmup_steps=20, learning_rate=0.01),
    "muon": changed(OptimConfig(), name="muon", ema_decay=0.99, no_decay=["norm"]),
    "adam8bit": changed(
        OptimConfig(), name="adam8bit", state_rounding="stochastic", width_transfer="mup"
    ),
}
RUNS = {
    "small": ("small", "adamw", {}, "f52a000a6d286766"),
    "seed": ("small", "adamw", {"seed": 3}, "43587ef970e0c6fd"),
    "wsd": ("small", "wsd", {"seed": 1}, "1ee3626cc02850ca"),
    "llama": ("llama", "muon", {"micro_batches": 2, "z_loss": 1e-4}, "f9f401f6f320fd8e"),
    "yarn": ("yarn", "adamw", {"document_attention": True}, "2603ed7eb385fc02"),
    "mamba": ("mamba", "adam8bit", {"param_dtype": "bfloat16"}, "4761b672cd142588"),
    "reformer": ("reformer", "wsd", {"mask_end_of_document": True}, "63a8c7436470b4fe"),
    "experts": (
        "experts",
        "adamw",
        {"batch_doublings": 2, "batch_warmup_tokens": 512},
        "2428f1d7803307f3",
    ),
    "rollbacks": ("small", "muon", {"rollbacks": 2, "spike_nats": 0.5}, "a925ed0a744b37fe"),
    "smoothed": ("llama", "wsd", {"label_smoothing": 0.1, "loss_chunk": 64}, "b95528b93f292215"),
}
TRUNKS = {
    "wsd": "baeb7bc12a961dfa",
    "reformer": "c9a1b8bdf7f31073",
    "smoothed": "75f5a44fd69c2c99",
    "small": "",
}


def run(name: str) -> RunSpec:
    model, optim, others, _ = RUNS[name]
    spec = RunSpec(model=MODELS[model], optim=OPTIMS[optim], batch_size=8, steps=100)
    return changed(spec, **others)


def full_defaults() -> dict:
    """Canonical key → first default, of a config and of a run."""
    found = {}
    for cls in (Config, RunSpec):
        for leaf in identity.leaves(cls):
            if leaf.first is not identity.REQUIRED:
                found.setdefault(leaf.key, leaf.first)
    return found


@pytest.mark.parametrize("name", RUNS)
def test_cells_keep_their_names(name):
    spec = run(name)
    found = Cell(run=spec, corpus="corpus", budget=1e9).id
    assert found == RUNS[name][3], (
        f"the identity of {name} became {found}, from {spec.canonical}: every folder would be "
        "orphaned; see the rules in gptjax/identity.py"
    )


@pytest.mark.parametrize("name", TRUNKS)
def test_trunks_keep_their_names(name):
    assert run(name).trunk == TRUNKS[name]


def test_a_changed_default_is_noticed():
    golden, found = json.loads(DEFAULTS.read_text()), full_defaults()
    for key, value in golden.items():
        assert key in found, f"{key} is gone: give the setting that took its place identity={key!r}"
        assert found[key] == value, (
            f"the default of {key} was {value} and is {found[key]}: raise identity.SCHEMA and "
            f"enter identity.CHANGED[{identity.SCHEMA + 1}][{key!r}] = {value!r}"
        )
    new = sorted(found.keys() - golden.keys())
    assert not new, f"settings without an entry: {new}; run python tests/test_identity.py"


def test_settings_of_other_jobs_are_left_out_of_old_folders():
    """A folder of a version that counted them to the config is read as if they were not there."""
    saved = identity.saved(make_config({}))
    old = {**saved, "convert.folder": "llama", "flops": 1e20}
    assert identity.restored(Config, old, "old") == identity.restored(Config, saved, "saved")


def test_a_run_and_its_section_agree():
    section = {leaf.key: leaf for leaf in identity.leaves(TrainConfig)}
    for leaf in identity.leaves(RunSpec):
        name = leaf.key.removeprefix("train.")
        if name in section and leaf.default is not identity.REQUIRED:
            assert leaf.default == section[name].default, name


# The rules, on a config in four versions.


@dataclasses.dataclass(frozen=True)
class First:
    depth: int = setting(2, "layers")
    ssm_state: int = setting(16, "states")
    kind: str = setting("adam", "optimizer")
    places: tuple[str, ...] = setting(("qkv", "mlp"), "where")


@dataclasses.dataclass(frozen=True)
class Mamba:
    state: int = setting(16, "states", was="ssm_state")
    taps: int = setting(4, "new with the nesting", was="ssm_taps")


@dataclasses.dataclass(frozen=True)
class Mixers:
    ssm: Mamba = section(Mamba, "of Mamba")


RENAMED = {"adam_w": "adam", "attention": "qkv"}


@dataclasses.dataclass(frozen=True)
class Second:
    layers: int = setting(2, "renamed", was="depth")
    mixer: Mixers = section(Mixers, "of each mixer")
    kind: str = setting("adam_w", "a value is renamed", was_values=RENAMED)
    places: tuple[str, ...] = setting(("attention", "mlp"), "values", was_values=RENAMED)
    added: float = setting(0.0, "new")


def second(depth=2, state=16, **others):
    return Second(layers=depth, mixer=Mixers(Mamba(state=state)), **others)


def test_defaults_are_left_out():
    assert identity.canonical(First()) == {}
    assert identity.canonical(First(places=("mlp",))) == {"places": ["mlp"]}


@pytest.mark.parametrize("values", [{}, {"depth": 3}, {"state": 8}, {"depth": 1, "state": 4}])
def test_renamed_nested_and_new_settings_keep_identities(values):
    before = First(
        values.get("depth", 2), values.get("state", 16), kind="adam", places=("mlp", "qkv")
    )
    after = second(**values, kind="adam_w", places=("mlp", "attention"))
    assert identity.canonical(before) == identity.canonical(after)
    assert identity.digest(before) == identity.digest(after)


def test_a_new_setting_counts_once_it_is_set():
    assert identity.digest(second(added=1.0)) != identity.digest(second())


def test_a_folder_of_an_earlier_spelling_is_read():
    found = identity.restored(Second, identity.saved(First(depth=5, ssm_state=8)), "config.json")
    assert found == {
        "layers": 5,
        "mixer": {"ssm": {"state": 8, "taps": 4}},
        "kind": "adam_w",
        "places": ["attention", "mlp"],
        "added": 0.0,
    }


def test_what_is_saved_is_read_back():
    one = second(depth=7, added=2.5)
    found = identity.restored(Second, identity.saved(one), "config.json")
    assert found["layers"] == 7 and found["added"] == 2.5


def test_a_changed_default_keeps_identities_and_old_folders(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Third:
        depth: int = setting(4, "was 2")

    monkeypatch.setitem(identity.CHANGED, 3, {"depth": 2})
    monkeypatch.setattr(identity, "SCHEMA", 3)
    assert identity.canonical(Third(depth=2)) == {}
    assert identity.canonical(Third()) == {"depth": 4}
    assert identity.restored(Third, {"schema": 2}, "config.json") == {"depth": 2}
    assert identity.restored(Third, {"schema": 3}, "config.json") == {"depth": 4}


def test_two_settings_with_one_key_are_refused():
    @dataclasses.dataclass(frozen=True)
    class Twice:
        a: int = setting(1, "one")
        b: int = setting(1, "the other", was="a")

    with pytest.raises(AssertionError, match="one identity"):
        identity.canonical(Twice())


def test_newer_and_unknown_are_refused_in_a_sentence():
    with pytest.raises(UserError, match="a newer gptjax"):
        identity.restored(First, {"schema": 99}, "config.json")
    with pytest.raises(UserError, match="has the setting depht, which this"):
        identity.restored(First, {"depht": 3}, "config.json")


if __name__ == "__main__":
    old = json.loads(DEFAULTS.read_text()) if DEFAULTS.exists() else {}
    DEFAULTS.write_text(json.dumps({**full_defaults(), **old}, indent=1, sort_keys=True) + "\n")

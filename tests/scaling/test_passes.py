"""Which tokens a table counts: of every pass, of one epoch, or of one device."""

import numpy as np
import pytest

from gptjax import scaling
from gptjax.errors import UserError

SIZE, DATA = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 4e10, 4)))
EPOCHS = np.resize([2.0, 4.0, 8.0], 16)
LOSS = 1.7 + 400 * SIZE**-0.34 + 1200 * DATA**-0.36
BATCH = 2.0**19


def tokens_of(**columns):
    """(what the fit takes for tokens, its sentences) of a table without a setting for them."""
    options = columns.pop("options", {})
    runs = scaling.prepare(
        {"params": SIZE, "loss": LOSS, **columns}, scaling.FitConfig(resamples=0, **options)
    )
    return runs.tokens, runs.warnings


ONE_EPOCH = {
    "flops": {"flops": 6.3 * SIZE * DATA},
    "steps of tokens": {"steps": DATA / BATCH, "batch_tokens": np.full(16, BATCH)},
    "steps of sequences": {
        "config/max_steps": DATA / BATCH,
        "config/batch_size": np.full(16, 256.0),
        "config/seq_len": np.full(16, 2048.0),
    },
    "batches of a device": {
        "max_steps": DATA / BATCH,
        "per_device_train_batch_size": np.full(16, 32.0),
        "max_seq_length": np.full(16, 2048.0),
        "world_size": np.full(16, 8.0),
    },
    "accumulated batches": {
        "max_steps": DATA / BATCH,
        "batch_tokens": np.full(16, BATCH / 8),
        "gradient_accumulation_steps": np.full(16, 8.0),
    },
}


@pytest.mark.parametrize("evidence", ONE_EPOCH.values(), ids=ONE_EPOCH)
@pytest.mark.parametrize("epochs", [EPOCHS, np.full(16, 4.0)], ids=["several", "the same"])
def test_tokens_of_one_epoch_are_told_by_what_was_spent(evidence, epochs):
    found, said = tokens_of(tokens=DATA / epochs, epochs=epochs, **evidence)
    np.testing.assert_allclose(found, DATA)
    assert any("D = tokens times epochs is used" in line for line in said), said
    found, said = tokens_of(tokens=DATA, num_train_epochs=epochs, **evidence)
    np.testing.assert_allclose(found, DATA)
    assert not any("epochs" in line for line in said), said


def test_unique_tokens_tell_too():
    found, _ = tokens_of(tokens=DATA, unique_tokens=DATA / EPOCHS, epochs=EPOCHS)
    np.testing.assert_allclose(found, DATA)


def test_recomputed_activations_are_not_taken_for_epochs():
    with pytest.raises(UserError, match="tokens_convention=seen"):
        tokens_of(tokens=DATA, flops=8.0 * SIZE * DATA, epochs=np.full(16, 1.33))
    found, _ = tokens_of(tokens=DATA, flops=6.0 * SIZE * DATA, epochs=np.full(16, 1.33))
    np.testing.assert_allclose(found, DATA)


@pytest.mark.parametrize("name", ["epochs", "epoch", "config/num_train_epochs", "maxEpochs"])
def test_tokens_that_may_be_of_one_epoch_are_asked_for(name):
    with pytest.raises(UserError, match=r"tokens_convention=seen .* or one_epoch"):
        tokens_of(tokens=DATA, **{name: np.full(16, 4.0)})


def test_a_setting_says_which_they_are():
    table = {"tokens": DATA / EPOCHS, "epochs": EPOCHS}
    found, _ = tokens_of(**table, options={"tokens_convention": "one_epoch"})
    np.testing.assert_allclose(found, DATA)
    found, _ = tokens_of(**table, options={"tokens_convention": "seen"})
    np.testing.assert_allclose(found, DATA / EPOCHS)
    with pytest.raises(UserError, match="has no column of epochs"):
        tokens_of(tokens=DATA, options={"tokens_convention": "one_epoch"})
    with pytest.raises(UserError, match="row 3: epochs is not above zero"):
        tokens_of(
            tokens=DATA,
            epochs=np.where(np.arange(16) == 2, np.nan, 2.0),
            options={"tokens_convention": "one_epoch"},
        )


@pytest.mark.parametrize("name", ["warmup_epochs", "best_epoch", "tokens_per_epoch", "Epoch time"])
def test_other_columns_of_epochs_are_none(name):
    np.testing.assert_allclose(tokens_of(tokens=DATA, **{name: np.full(16, 4.0)})[0], DATA)


def test_one_epoch_or_less_asks_nothing():
    shares = np.linspace(0.1, 1.0, 16)
    np.testing.assert_allclose(tokens_of(tokens=DATA, epoch=shares)[0], DATA)


def test_a_curve_counts_every_pass():
    points = np.array([0.25, 0.5, 1.0])
    curve = {
        "run": np.repeat([f"r{i}" for i in range(16)], 3),
        "params": np.repeat(SIZE, 3),
        "tokens": (DATA[:, None] * points).ravel(),
        "epoch": np.tile([1.0, 2.0, 4.0], 16),
        "loss": (LOSS[:, None] * (1.5 - 0.5 * points)).ravel(),
    }
    runs = scaling.prepare(curve, scaling.FitConfig(resamples=0))
    np.testing.assert_allclose(runs.tokens, DATA)


def test_tokens_of_one_device_are_refused():
    gpus = np.resize([8.0, 16.0], 16)
    flops = 6.2 * SIZE * DATA
    with pytest.raises(UserError, match="FLOPs are 6 N D times num_gpus"):
        tokens_of(tokens=DATA / gpus, flops=flops, num_gpus=gpus)
    np.testing.assert_allclose(tokens_of(tokens=DATA, flops=flops, num_gpus=gpus)[0], DATA)


def test_steps_and_batches_in_the_place_of_tokens_are_named():
    steps = {"steps": DATA / BATCH, "batch_size": np.full(16, 256.0)}
    with pytest.raises(UserError, match=r"tokens = steps times batch_size$"):
        tokens_of(**steps)
    with pytest.raises(UserError, match="times seq_len if a batch is counted in sequences"):
        tokens_of(**steps, seq_len=np.full(16, 2048.0))

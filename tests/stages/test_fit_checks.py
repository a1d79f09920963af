"""What a fit will refuse is refused before a cell is trained."""

import pytest

from gptjax.errors import UserError
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.scaling import FitConfig
from gptjax.stages.fit_checks import check_fit
from gptjax.sweeps import SweepConfig, make_plan
from gptjax.train import TrainConfig


@pytest.fixture(scope="module")
def cells():
    sweep = SweepConfig(
        plan="grid", widths=(16, 32), tokens=(2e4, 4e4), rule="fixed", head_width=16
    )
    model = ModelConfig(depth=1, width=16, num_heads=1, seq_len=32, vocab_size=257)
    return make_plan(sweep, model, OptimConfig(), TrainConfig(batch_size=4), "corpus")


WRONG = {
    "form": ({"forms": ("chinchila",)}, "fit.forms has 'chinchila', which is no law form; did you"),
    "compared form": ({"compare": ("kaplan",)}, "fit.compare has 'kaplan', which is no law form"),
    "column": ({"column_params": "N"}, "fit.column_params=N is no column of the runs of a sweep"),
    "group": ({"column_group": "truck"}, "fit.column_group=truck is no column .* mean trunk"),
    "setting": ({"settings": ("learning_rat",)}, "fit.settings=learning_rat .* learning_rate"),
    "condition": ({"where": "width"}, "where='width' is not column=value"),
    "its column": ({"where": "wdth=16"}, "runs.csv has no column wdth; did you mean width"),
    "its value": ({"where": "width>many"}, "'many' is not a number"),
    "nothing left": ({"where": "width=17"}, "matches no row"),
}


@pytest.mark.parametrize("name", WRONG)
def test_refused(cells, name):
    settings, words = WRONG[name]
    with pytest.raises(UserError, match=words):
        check_fit(FitConfig(**settings), cells)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"where": "width=16"},
        {"where": "loss<3,width=16"},
        {"column_params": "params_total", "settings": ("learning_rate",)},
        {"forms": ("kaplan_nd",), "column_group": "trunk"},
    ],
)
def test_taken(cells, settings):
    check_fit(FitConfig(**settings), cells)

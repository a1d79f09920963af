"""Scaling laws from tables of runs: counting, fitting, intervals, predictions.

Numbers in, numbers out: nothing here knows who trained the runs. `fit` fits one law to a CSV,
`fit_laws` makes everything that a report shows.
"""

from gptjax.scaling.approaches.emergence import Emergence, judge_threshold
from gptjax.scaling.approaches.settings import Best, SettingLaw, best_settings, setting_law
from gptjax.scaling.config import FitConfig
from gptjax.scaling.fit.bootstrap import Interval
from gptjax.scaling.fit.certificate import Certificate
from gptjax.scaling.fit.fit import fit
from gptjax.scaling.fit.optimum import inference_optimum
from gptjax.scaling.fit.outputs import fit_outputs
from gptjax.scaling.fit.profile import Profile
from gptjax.scaling.fit.result import Fit, Optimum
from gptjax.scaling.forms import FORMS, form_named, register
from gptjax.scaling.forms.annealing import annealing_columns, multi_power_columns
from gptjax.scaling.forms.form import (
    Form,
    Parameter,
    amplitude,
    exp,
    exponent,
    free,
    log,
    minimum,
    positive,
    power,
)
from gptjax.scaling.forms.kaplan import kaplan_allocation
from gptjax.scaling.laws.chain import Chain, chain
from gptjax.scaling.laws.design import Plan, first_plan, run_next
from gptjax.scaling.laws.fit_laws import fit_laws
from gptjax.scaling.laws.predict import predict_loss, predict_saved
from gptjax.scaling.laws.saved import Laws
from gptjax.scaling.tables.runs import Runs, prepare
from gptjax.scaling.tables.table import Table

__all__ = [
    "FORMS",
    "Best",
    "Certificate",
    "Chain",
    "Emergence",
    "Fit",
    "FitConfig",
    "Form",
    "Interval",
    "Laws",
    "Optimum",
    "Parameter",
    "Plan",
    "Profile",
    "Runs",
    "SettingLaw",
    "Table",
    "amplitude",
    "annealing_columns",
    "best_settings",
    "chain",
    "exp",
    "exponent",
    "first_plan",
    "fit",
    "fit_laws",
    "fit_outputs",
    "form_named",
    "free",
    "inference_optimum",
    "judge_threshold",
    "kaplan_allocation",
    "log",
    "minimum",
    "multi_power_columns",
    "positive",
    "power",
    "predict_loss",
    "predict_saved",
    "prepare",
    "register",
    "run_next",
    "setting_law",
]

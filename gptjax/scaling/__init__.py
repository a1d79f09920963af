"""Scaling laws from tables of runs: counting, fitting, intervals, predictions.

Numbers in, numbers out: nothing here knows who trained the runs. `fit` fits one law to a CSV,
`fit_laws` makes everything that a report shows.
"""

from gptjax.scaling.annealing import annealing_columns, multi_power_columns
from gptjax.scaling.bootstrap import Interval
from gptjax.scaling.config import FitConfig
from gptjax.scaling.design import Plan, first_plan, run_next
from gptjax.scaling.emergence import Emergence, judge_threshold
from gptjax.scaling.fit import Certificate, Fit, Optimum, fit
from gptjax.scaling.forms import Form, Parameter, amplitude, exponent, free, positive, power
from gptjax.scaling.hyperparameters import Best, SettingLaw, best_settings, setting_law
from gptjax.scaling.laws import fit_laws
from gptjax.scaling.optimum import inference_optimum
from gptjax.scaling.papers import kaplan_allocation
from gptjax.scaling.profile import Profile
from gptjax.scaling.registry import FORMS, form_named
from gptjax.scaling.runs import Runs, prepare
from gptjax.scaling.saved import predict_saved
from gptjax.scaling.table import Table

__all__ = [
    "FORMS",
    "Best",
    "Certificate",
    "Emergence",
    "Fit",
    "FitConfig",
    "Form",
    "Interval",
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
    "exponent",
    "first_plan",
    "fit",
    "fit_laws",
    "form_named",
    "free",
    "inference_optimum",
    "judge_threshold",
    "kaplan_allocation",
    "multi_power_columns",
    "positive",
    "power",
    "predict_saved",
    "prepare",
    "run_next",
    "setting_law",
]

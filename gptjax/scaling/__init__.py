"""Scaling laws from tables of runs: counting, fitting, intervals, predictions.

Numbers in, numbers out: nothing here knows who trained the runs. `fit` fits one law to a CSV,
`fit_laws` makes everything that a report shows.
"""

from gptjax.scaling.bootstrap import Interval
from gptjax.scaling.config import FitConfig
from gptjax.scaling.design import Plan, first_plan, run_next
from gptjax.scaling.fit import Certificate, Fit, Optimum, fit
from gptjax.scaling.forms import Form, Parameter, amplitude, exponent, free, positive, power
from gptjax.scaling.laws import fit_laws
from gptjax.scaling.optimum import inference_optimum
from gptjax.scaling.papers import annealing_columns, kaplan_allocation
from gptjax.scaling.registry import FORMS, form_named
from gptjax.scaling.runs import Runs, prepare
from gptjax.scaling.saved import predict_saved
from gptjax.scaling.table import Table

__all__ = [
    "FORMS",
    "Certificate",
    "Fit",
    "FitConfig",
    "Form",
    "Interval",
    "Optimum",
    "Parameter",
    "Plan",
    "Runs",
    "Table",
    "amplitude",
    "annealing_columns",
    "exponent",
    "first_plan",
    "fit",
    "fit_laws",
    "form_named",
    "free",
    "inference_optimum",
    "kaplan_allocation",
    "positive",
    "power",
    "predict_saved",
    "prepare",
    "run_next",
]

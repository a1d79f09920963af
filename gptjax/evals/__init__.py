"""Evaluation: scores of a model on texts and tasks, by log-probabilities of given tokens.

>>> from gptjax import evals
>>> evals.paired([1, 1, 0, 1], [0, 1, 0, 0]).value
0.5
"""

from gptjax.evals.calibration import (
    calibration,
    cross_tempered,
    fit_temperature,
    reliability,
    tempered,
)
from gptjax.evals.choices import Item
from gptjax.evals.config import EvalConfig
from gptjax.evals.memorization import exposure, memorization
from gptjax.evals.needle import needle
from gptjax.evals.perplexity import Document, perplexity
from gptjax.evals.result import Result
from gptjax.evals.score import Request, Scored, score
from gptjax.evals.statistics import Difference, Mean, mean, paired
from gptjax.evals.tasks import TASKS, Task, evaluate, register
from gptjax.evals.text import request_of, windows

__all__ = [
    "TASKS",
    "Difference",
    "Document",
    "EvalConfig",
    "Item",
    "Mean",
    "Request",
    "Result",
    "Scored",
    "Task",
    "calibration",
    "cross_tempered",
    "evaluate",
    "exposure",
    "fit_temperature",
    "mean",
    "memorization",
    "needle",
    "paired",
    "perplexity",
    "register",
    "reliability",
    "request_of",
    "score",
    "tempered",
    "windows",
]

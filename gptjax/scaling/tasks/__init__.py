"""Task forecasts: the score of a larger model from scores of smaller ones, or a refusal."""

from gptjax.scaling.tasks.forecast import Forecast, TaskForecast, forecast
from gptjax.scaling.tasks.laws import LAWS, TaskLaw
from gptjax.scaling.tasks.table import CHANCE, Scores, read_scores

__all__ = [
    "CHANCE",
    "LAWS",
    "Forecast",
    "Scores",
    "TaskForecast",
    "TaskLaw",
    "forecast",
    "read_scores",
]

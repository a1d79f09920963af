"""Figures and the HTML report, drawn from records and laws; never trains."""

from gptjax.report.answer import answer, answer_table
from gptjax.report.config import ReportConfig
from gptjax.report.html import build

__all__ = ["ReportConfig", "answer", "answer_table", "build"]

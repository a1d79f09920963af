"""Figures and the HTML report, drawn from records and laws; never trains."""

from typing import TYPE_CHECKING, Any

from gptjax.report.answer import answer, answer_table, print_answer
from gptjax.report.config import ReportConfig

if TYPE_CHECKING:
    from gptjax.report.html import build

__all__ = ["ReportConfig", "answer", "answer_table", "build", "print_answer"]


def __getattr__(name: str) -> Any:
    """Matplotlib is loaded when something is drawn: configs and workers need none of it."""
    if name == "build":
        from gptjax.report.html import build

        return build
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

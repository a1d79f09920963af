"""The page template: parts of a report as HTML, all from `page.html`."""

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from gptjax.report import svg
from gptjax.report.style import Palette


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading; it is left away where `content` is empty."""

    title: str
    content: str
    name: str = ""

    @property
    def tag(self) -> str:
        return self.name or re.sub(r"\W+", "-", self.title.lower())


def markup(text: str) -> Markup:
    """Plain words as HTML: escaped, `**bold**`, exponents after ^ raised.

    >>> print(markup("a < **b**, N^0.34"))
    a &lt; <b>b</b>, N<sup>0.34</sup>
    """
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(text))
    return Markup(re.sub(r"\^([−\-]?[\d.]*\d)", r"<sup>\1</sup>", text))


@functools.cache
def _macros() -> Any:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gptjax.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["markup"] = markup
    return environment.get_template("page.html").module


def render(part: str, **values: Any) -> str:
    """One macro of the template with its arguments."""
    return str(getattr(_macros(), part)(**values))


def page(
    title: str,
    *,
    kicker: str,
    facts: Sequence[str],
    colours: Palette,
    sections: Iterable[Section],
    footer: str,
    script: str = "",
) -> str:
    """A whole self-contained page; `footer` is HTML, `script` the name of a file beside this."""
    return render(
        "page",
        title=title,
        kicker=kicker,
        facts=facts,
        css=stylesheet(colours),
        sections=list(sections),
        footer=footer,
        script=_resource(script) if script else "",
    )


def stylesheet(colours: Palette) -> str:
    """The page's CSS, with the colours of budgets, or of whatever else is told apart."""
    text = _resource("page.css")
    text = text.replace("/*LIGHT*/", svg.css_variables(colours, dark=False))
    return text.replace("/*DARK*/", svg.css_variables(colours, dark=True))


def _resource(name: str) -> str:
    return (resources.files("gptjax.report") / name).read_text(encoding="utf-8")

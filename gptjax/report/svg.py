"""A figure as an SVG element that lives inside a page."""

import io
import re
from collections.abc import Mapping
from html import escape

from matplotlib.figure import Figure

from gptjax.report.config import FORMATS
from gptjax.report.style import ROLES, Palette, drawing


def inline_svg(
    figure: Figure, name: str, label: str, colours: Palette, hover: Mapping[str, tuple[str, str]]
) -> str:
    """`figure` as an SVG element for a page: colours by role, ids unique, runs that answer.

    Args:
      name: prefix of every id in this figure.
      label: what a screen reader says.
      hover: gid of an artist to (cell, text shown when pointed at).
    """
    buffer = io.StringIO()
    with drawing():
        figure.savefig(buffer, format="svg", metadata=FORMATS["svg"], transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = _round_paths(svg)
    svg = _prefix_ids(svg, name)
    svg = _role_colours(svg, colours)
    svg = re.sub(r"'?DejaVu Sans'?(, sans-serif)?", "var(--font)", svg)
    svg = _add_hover(svg, name, hover)
    view = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg class="plot" role="img" aria-label="{escape(label)}" {view[0] if view else ""}>'
    return re.sub(r"<svg[^>]*>", head, svg, count=1)


def _round_paths(svg: str) -> str:
    """Two decimals are a hundredth of a point; matplotlib writes six."""

    def shorten(match: re.Match[str]) -> str:
        text = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", match[0])
        return " ".join(text.split())

    svg = re.sub(r"<use [^>]*>", shorten, svg)
    return re.sub(r' d="[^"]*"', lambda m: " " + shorten(m), svg)


def _prefix_ids(svg: str, name: str) -> str:
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    return re.sub(r'xlink:href="#', f'href="#{name}-', svg)


def _role_colours(svg: str, colours: Palette) -> str:
    variables = {light: f"var(--{role})" for role, (light, _) in ROLES.items()}
    variables.update({light: f"var(--b{i})" for i, light in enumerate(colours.light)})
    return re.sub(
        r"(fill|stroke): (#[0-9a-f]{6})\b",
        lambda m: f"{m[1]}: {variables.get(m[2], m[2])}",
        svg,
    )


def _add_hover(svg: str, name: str, hover: Mapping[str, tuple[str, str]]) -> str:
    def decorate(match: re.Match[str]) -> str:
        cell, text = hover.get(match[1], ("", ""))
        if not text:
            return match[0]
        head = f'<g id="{name}-{match[1]}" class="run" data-cell="{escape(cell)}">'
        return f"{head}<title>{escape(text)}</title>"

    return re.sub(rf'<g id="{re.escape(name)}-([^"]+)">', decorate, svg)


def css_variables(colours: Palette, dark: bool) -> str:
    """The CSS declarations of every role, for one of the two schemes."""
    pairs = [(role, both[dark]) for role, both in ROLES.items()]
    pairs += [(f"b{i}", c) for i, c in enumerate(colours.dark if dark else colours.light)]
    return "".join(f"--{key}:{value};" for key, value in pairs)

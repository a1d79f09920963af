"""A figure as an SVG element that lives inside a page."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gptjax.report.config import FORMATS
from gptjax.report.style import ROLES, Palette, drawing

JOINED = ","
"""Between the identifiers of the points that one artist draws."""


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
    seen = _seen(figure)
    with drawing():
        figure.savefig(buffer, format="svg", metadata=FORMATS["svg"], transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = _round_paths(svg)
    svg = _prefix_ids(svg, name)
    svg = _role_colours(svg, colours)
    svg = re.sub(r"'?DejaVu Sans'?(, sans-serif)?", "var(--font)", svg)
    svg = _add_hover(_parted(svg, name, seen), name, hover)
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


def _seen(figure: Figure) -> dict[str, list[str]]:
    """The points of each artist of several that lie on the figure: the file has these alone.

    Every second of an artist's places is a point (`figures._points`).
    """
    found: dict[str, list[str]] = {}
    for line in figure.findobj(Line2D):
        joined = str(line.get_gid() or "")
        names = joined.split(JOINED)
        if len(names) > 1:
            places = line.get_transform().transform(np.asarray(line.get_xydata())[::2])
            inside = np.all((places >= figure.bbox.min) & (places <= figure.bbox.max), axis=1)
            found[joined] = [name for name, kept in zip(names, inside, strict=True) if kept]
    return found


def _parted(svg: str, name: str, seen: Mapping[str, Sequence[str]]) -> str:
    """Each point of an artist of several in a group of its own, so that each answers alone."""
    for joined, names in seen.items():
        head = f'<g id="{name}-{joined}">'
        before, found, after = svg.partition(head)
        ids = iter(names)

        def alone(match: re.Match[str], ids: Iterator[str] = ids) -> str:
            return f'<g id="{name}-{next(ids)}">{match[0]}</g>'

        after = re.sub(r"<use [^>]*/>", alone, after, count=len(names)) if names else after
        svg = before + found.replace(f' id="{name}-{joined}"', "") + after
    return svg


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

"""The report of a cleaning: what each stage dropped, with reasons, examples and histograms."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from gptjax.files import write_atomic
from gptjax.report import style
from gptjax.report.figure_block import figure_block
from gptjax.report.numbers import count_text
from gptjax.report.tables import table
from gptjax.report.template import Section, page

REASONS = 10
"""Reasons of a stage that are listed."""
SOURCES = 50
UNITS = ("documents", "bytes", "words", "tokens")
"""The last where `clean.tokenizer_path` is given."""


def build(folder: Path, result: Mapping[str, Any]) -> Path:
    """Write `folder/report.html` from the content of clean.json, and return its path."""
    colours = style.palette(1)
    figures = _waterfall(result) + _lengths(result)
    content = page(
        f"Cleaning of {result['input']}",
        kicker="gptjax cleaning report",
        facts=[
            f"{result['read']['documents']:,} documents read",
            f"{result['written']['documents']:,} written",
            f"{result['broken']['count']:,} broken records left out",
        ],
        colours=colours,
        sections=[
            Section("What is left", _stages(result) + f'<div class="figures">{figures}</div>'),
            Section("Reasons", _reasons(result)),
            Section("Counted", _counts(result)),
            Section("Sources", _sources(result)),
            Section("Broken records", _broken(result)),
            Section("Examples", _examples(result)),
        ],
        footer="Every number on this page is in <code>clean.json</code>. Personal data are masked "
        "in examples, whether a stage masks them in the shards or not.",
    )
    path = folder / "report.html"
    write_atomic(path, content.encode("utf-8", "replace"))
    return path


def _stages(result: Mapping[str, Any]) -> str:
    """Documents, bytes, words and tokens after each stage."""
    left = dict(result["read"])
    units = [unit for unit in UNITS if unit in left]
    rows = [["read", *(f"{left[unit]:,}" for unit in units), "", ""]]
    for stage in result["stages"]:
        left = {unit: left[unit] - stage[unit] for unit in units}
        share = stage["documents"] / max(result["read"]["documents"], 1)
        numbers = [f"{left[unit]:,}" for unit in units]
        rows.append([escape(stage["stage"]), *numbers, f"{stage['documents']:,}", f"{share:.1%}"])
    written = [f"{result['written'][unit]:,}" for unit in units]
    rows.append(["written", *written, "", ""])
    return table(
        "After each stage",
        ["stage", *units, "dropped", "of all"],
        rows,
        note="Bytes, words and tokens are those that were read; what is written may be shorter, as "
        "stages take lines, spans and personal data out of a text.",
        text_columns=(0,),
    )


def _reasons(result: Mapping[str, Any]) -> str:
    rows = []
    for stage in result["stages"]:
        ordered = sorted(stage["reasons"].items(), key=lambda one: (-one[1], one[0]))
        rows += [[escape(stage["stage"]), escape(why), f"{n:,}"] for why, n in ordered[:REASONS]]
    return table("Commonest reasons", ["stage", "reason", "documents"], rows, text_columns=(0, 1))


def _counts(result: Mapping[str, Any]) -> str:
    rows = [
        [escape(stage), escape(kind), f"{number:,}"]
        for stage, counts in result["counts"].items()
        for kind, number in counts.items()
    ]
    return table(
        "Found by stages",
        ["stage", "kind", "count"],
        rows,
        note="Languages of documents that were kept, and personal data that were masked, by kind.",
        text_columns=(0, 1),
    )


def _sources(result: Mapping[str, Any]) -> str:
    ordered = sorted(result["sources"].items(), key=lambda one: (-one[1]["read"], one[0]))
    rows = [
        [escape(name), f"{one['read']:,}", f"{one['duplicates']:,}", f"{one['kept']:,}"]
        for name, one in ordered[:SOURCES]
    ]
    return table("By source", ["source", "read", "duplicates", "kept"], rows, text_columns=(0,))


def _broken(result: Mapping[str, Any]) -> str:
    rows = [[escape(place)] for place in result["broken"]["places"]]
    return table("The first of them", ["record"], rows, text_columns=(0,))


def _examples(result: Mapping[str, Any]) -> str:
    found = []
    order = [*(stage["stage"] for stage in result["stages"]), "kept"]
    for name in order:
        rows = [
            [escape(str(id_)), escape(why), escape(text)]
            for _, _, id_, why, text in result["examples"].get(name, ())
        ]
        caption = "Kept" if name == "kept" else f"Dropped by {name}"
        found.append(table(caption, ["id", "reason", "text"], rows, text_columns=(0, 1, 2)))
    return "".join(found)


def _waterfall(result: Mapping[str, Any]) -> str:
    names, left = ["read"], [result["read"]["documents"]]
    for stage in result["stages"]:
        names.append(stage["stage"])
        left.append(left[-1] - stage["documents"])
    figure, ax = style.new_figure()
    with style.drawing():
        ax.barh(range(len(names)), left[::-1], color=style.ACCENT, height=0.7)
        ax.set_yticks(range(len(names)), names[::-1])
        ax.set_xlabel("documents left")
    return _drawn(figure, "waterfall", "What each stage leaves", "Documents after each stage.")


def _lengths(result: Mapping[str, Any]) -> str:
    figure, ax = style.new_figure()
    with style.drawing():
        for name, colour in (("before", style.MUTED), ("after", style.ACCENT)):
            counts = {int(size): n for size, n in result["lengths"][name].items()}
            sizes = range(min(counts, default=0), max(counts, default=0) + 1)
            ax.step(sizes, [counts.get(s, 0) for s in sizes], where="mid", color=colour, label=name)
        ticks = [int(tick) for tick in ax.get_xticks() if tick >= 0 and tick == int(tick)]
        ax.set_xticks(ticks, [count_text(2.0**tick) for tick in ticks])
        ax.set_xlabel("bytes of a document (up to)")
        ax.set_ylabel("documents")
        ax.legend()
    return _drawn(figure, "lengths", "Lengths before and after", "In powers of two.")


def _drawn(figure: Any, name: str, claim: str, caption: str) -> str:
    style.settle(figure)
    return figure_block(figure, name, claim, style.palette(1), caption=caption)

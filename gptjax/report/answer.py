"""The answer as text for the terminal: the verdict, a small table, every note."""

import io

from rich.console import Console
from rich.table import Table

from gptjax.report import words
from gptjax.report.numbers import count_text, power_text
from gptjax.report.view import (
    Json,
    bounded,
    exponents,
    law_label,
    number,
    other_laws,
    part,
    real,
    unit_of_loss,
)
from gptjax.scaling.laws.saved import Laws
from gptjax.scaling.laws.verdict import completed


def answer_table(laws: Laws | Json) -> Table:
    """The exponents, the law's parameters and the predictions with their intervals."""
    laws = Laws.of(laws)
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column()
    for name, (a, b) in exponents(laws).items():
        table.add_row(
            f"N ∝ C^a, D ∝ C^b, {law_label(name)}",
            f"a = {words.with_interval(a, words.three)}",
            f"b = {words.with_interval(b, words.three)}",
        )
    law = part(laws.law("chinchilla_parametric"), "params")
    if law:
        found = {key: words.with_interval(number(law, key)) for key in law}
        rows = [
            (f"E = {found.get('E', '–')}", ""),
            (f"A = {found.get('A', '–')}", f"α = {found.get('alpha', '–')}"),
            (f"B = {found.get('B', '–')}", f"β = {found.get('beta', '–')}"),
        ]
        for i, (left, right) in enumerate(rows):
            label = "L(N, D) = E + A/N^α + B/D^β" if i == 0 else ""
            table.add_row(label, left, right, unit_of_loss(laws) if i == 0 else "")
    for name, entry in other_laws(laws).items():
        for i, key in enumerate(part(entry, "params")):
            label = law_label(name) if i == 0 else ""
            table.add_row(label, f"{key} = {words.with_interval(number(entry['params'], key))}")
    for entry in laws.prediction:
        params, tokens, loss = (bounded(entry, key) for key in ("params", "tokens", "loss"))
        table.add_row(
            f"C = {power_text(real(entry.get('flops')))}, {law_label(str(entry.get('law')))}",
            f"N = {words.with_interval(params, count_text)}",
            f"D = {words.with_interval(tokens, count_text)}",
            f"L = {words.with_interval(loss)}",
        )
    return table


def print_answer(laws: Laws | Json, console: Console) -> None:
    """The verdict, the numbers, and every note."""
    laws = completed(Laws.of(laws))

    def say(line: str) -> None:
        console.print(line.replace("**", ""), markup=False, highlight=False)

    say(f"Verdict: {(laws.verdict or {}).get('sentence')}")
    table = answer_table(laws)
    if table.row_count:
        console.print(table)
    else:
        say(words.lead(laws))
    joint = (words.threshold(laws), *words.settings(laws), *words.joint(laws))
    for line in (*joint, words.verdict(laws)[0]):
        if line:
            say(line)
    for line in laws.notes:
        say(f"Note: {line}")


def answer(laws: Laws | Json, width: int = 120) -> str:
    """The answer as text, as a terminal of this width shows it."""
    out = io.StringIO()
    print_answer(
        laws, Console(file=out, width=width, color_system=None, highlight=False, emoji=False)
    )
    return out.getvalue()

"""Law of transfer from the losses of a run: effective data, fit, laws.json, figure and page."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptjax import scaling
from gptjax.config import Config
from gptjax.errors import UserError
from gptjax.files import write_json
from gptjax.scaling.forms.transfer import EFFECTIVE_DATA, effective_data
from gptjax.scaling.laws import describe
from gptjax.scaling.laws.fit_laws import plain

Row = Mapping[str, Any]


def write(config: Config, folder: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """Write runs.csv, transfer.csv, laws.json, figures and report.html; print the law."""
    from gptjax.report import transfer as page  # matplotlib is slow to import

    scaling.Table.from_records(rows).to_csv(folder / "runs.csv")
    points, left_out = transferred(rows)
    if points:
        scaling.Table.from_records(points).to_csv(folder / "transfer.csv")
    law = fitted(config, points)
    content = content_of(config, law, left_out)
    write_json(folder / "laws.json", content)
    page.build(folder, rows, points, law, content, config.report.formats, config.report.dpi)
    for line in content["notes"]:
        print(line)
    print(folder / "report.html")
    return content


def transferred(rows: Sequence[Row]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """(D_T of every tuned run, those without one and why): D_T = D_E − D_F.

    D_E is where the runs from scratch of that size reach the loss of the tuned run.
    """
    points: list[dict[str, Any]] = []
    left_out: list[dict[str, str]] = []
    for row in (row for row in rows if row["pretrained"]):
        scratch = [r for r in rows if not r["pretrained"] and r["params"] == row["params"]]
        reached = effective_data(
            [r["tokens"] for r in scratch], [r["loss"] for r in scratch], row["loss"]
        )
        cell = f"{row['params']} parameters, {row['tokens']} tokens"
        if np.isnan(reached):
            beyond = row["loss"] < min(r["loss"] for r in scratch)
            reason = f"its loss is {'below' if beyond else 'above'} every one from scratch"
            left_out.append({"cell": cell, "reason": reason})
        elif reached <= row["tokens"]:
            left_out.append({"cell": cell, "reason": "nothing was transferred: D_E ≤ D_F"})
        else:
            found = {"effective": reached, "transferred": reached - row["tokens"]}
            points.append({"cell": cell, **row, **found})
    return points, left_out


def fitted(config: Config, points: Sequence[Row]) -> scaling.Fit:
    """The law through the points, by least squares of logarithms.

    Raises:
      UserError: for too few points.
    """
    least = len(EFFECTIVE_DATA.parameters) + 1
    if len(points) < least:
        raise UserError(
            f"{len(points)} tuned runs have a loss between those from scratch, and the law needs "
            f"{least}; give more of finetuning_transfer.finetune_tokens, or larger "
            "finetuning_transfer.scratch_tokens"
        )
    table = {
        name: [row[name] for row in points] for name in ("cell", "params", "tokens", "transferred")
    }
    settings = dataclasses.replace(
        config.fit,
        loss_kind="squares_log",
        weights="none",
        column_params="params",
        column_loss="transferred",
        check_units=False,
    )
    return scaling.fit(table, EFFECTIVE_DATA, config=settings)


def content_of(
    config: Config, law: scaling.Fit, left_out: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """The content of laws.json: plain types."""
    k, alpha, beta = (law.params[name] for name in ("k", "alpha", "beta"))
    scatter = float(np.std(law.residuals))
    sentence = (
        f"D_T = {k.value:.3g} D_F^{alpha.value:.2f} N^{beta.value:.2f}: "
        f"α [{alpha.low:.2f}, {alpha.high:.2f}], β [{beta.low:.2f}, {beta.high:.2f}]; "
        f"{len(law.runs)} runs lie within a factor of {np.exp(scatter):.2f} of it (one standard "
        "deviation)"
    )
    found = scaling.Laws(
        notes=[sentence, *(f"{one['cell']}: left out, {one['reason']}" for one in left_out)],
        settings=dataclasses.asdict(config.own["finetuning_transfer"]),
        conventions={
            "params": "all parameters",
            "tokens": "tokens of prose that are tuned on, D_F",
            "early_stop": "the lowest held-out loss of a run",
        },
        left_out=list(left_out),
        laws={EFFECTIVE_DATA.name: describe.law(law, law.runs, np.ones(1))},
    )
    return dict(plain(found.to_json()))

"""job=evaluate: scores of a model on texts and tasks, with error bars, beside a second model's."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gptjax.config import Config, enable_compilation_cache
from gptjax.engines.devices import start_backend
from gptjax.errors import UserError
from gptjax.evals.config import EvalConfig
from gptjax.files import write_json
from gptjax.job import Job
from gptjax.scaling.laws.fit_laws import plain


def check(config: Config) -> None:
    """Refuse unknown tasks and files that are not there."""
    from gptjax.evals import tasks

    asked: EvalConfig = config.own["evaluate"]
    if not asked.tasks or not asked.shots:
        raise UserError(f"evaluate.tasks={asked.tasks} with shots={asked.shots} asks for nothing")
    tasks.find_all(asked.tasks)
    if asked.texts:
        tasks.documents_of(asked)


def main(config: Config, folder: Path) -> int:
    """Write scores.json, figures and report.html; print the table."""
    from gptjax import evals, infer
    from gptjax.evals.tasks import with_facts
    from gptjax.report import scores as page  # matplotlib is slow to import
    from gptjax.stages import find_model

    asked: EvalConfig = config.own["evaluate"]
    start_backend(config)
    enable_compilation_cache(config)
    model = find_model.find(config, asked.model, folder)
    known = with_facts(config.data)
    results = evals.evaluate(model, asked, known=known)
    content: dict[str, Any] = {"model": model.name, "tasks": [described(r) for r in results]}
    if asked.against:
        other = infer.load(asked.against)
        content["against"] = {"model": other.name, "differences": []}
        for mine, theirs in zip(results, evals.evaluate(other, asked, known=known), strict=True):
            content["against"]["differences"].append(difference(mine, theirs))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "scores.json", content)
    page.build(folder, content, config.report.formats, config.report.dpi)
    _print(content, folder)
    return 0


def described(result: Any) -> dict[str, Any]:
    """A task's part of scores.json: plain types, NaN as None, calibration where choices are."""
    from gptjax import evals

    found = plain(dataclasses.asdict(result))
    rows = result.items
    if rows and "probabilities" in rows[0]:
        chances = [row["probabilities"] for row in rows]
        answers = [row["answer"] for row in rows]
        logs = [row["logprobs"] for row in rows]
        t = evals.fit_temperature(logs, answers)
        after = evals.calibration(evals.cross_tempered(logs, answers), answers)
        found["calibration"] = plain(dataclasses.asdict(evals.calibration(chances, answers)))
        found["calibration"] |= {"temperature": t, "ece_tempered": after.ece}
    return found


def difference(mine: Any, theirs: Any) -> dict[str, Any]:
    """The paired difference of a task's headline between two models, first minus second."""
    from gptjax import evals

    if mine.headline not in PAIRED:
        return {"task": mine.task, "reason": f"its {mine.headline} is not a mean over items"}
    metric, value, weight = PAIRED[mine.headline]
    if not mine.items or list(map(_asked, mine.items)) != list(map(_asked, theirs.items)):
        return {"task": mine.task, "reason": "their contexts hold different items"}
    first, second = ([value(row) for row in one.items] for one in (mine, theirs))
    weights = [weight(row) for row in mine.items]
    documents = [row.get("document") or f"\n{i}" for i, row in enumerate(mine.items)]
    made = plain(dataclasses.asdict(evals.paired(first, second, documents, weights)))
    return {"task": mine.task, "metric": metric, **made}


def _asked(row: dict[str, Any]) -> tuple[Any, ...]:
    """What tells an item from others."""
    return tuple(row.get(name) for name in ("question", "choices", "document", "text", "length"))


def _once(row: dict[str, Any]) -> float:
    return 1.0


PAIRED: dict[str, Any] = {
    "acc": ("acc", lambda row: float(row["pick"] == row["answer"]), _once),
    "nats_per_token": (
        "bits_per_byte",
        lambda row: row["nats"] / math.log(2),
        lambda row: row["bytes"],
    ),
    "retrieved": ("retrieved", lambda row: row["right"], _once),
    "extracted": ("extracted", lambda row: row["extracted"], _once),
}
"""(metric, an item's sum, its weight) that stand for each headline in paired differences.

Tokens of two tokenizers are not the same, so texts are compared by their bytes.
"""


def _print(content: dict[str, Any], folder: Path) -> None:
    table = Table(title=escape(content["model"]))
    for name in ("task", "metric", "value", "± by item", "± by document", "guess", "items"):
        table.add_column(name)
    for task in content["tasks"]:
        for name, one in task["metrics"].items():
            if "/" not in name:
                compared = name.startswith("acc") or name == task["headline"]
                guess = task["baselines"].get("chance") if compared else None
                numbers = [one["value"], one["stderr"], one["stderr_by_document"], guess]
                table.add_row(escape(task["task"]), name, *map(_number, numbers), str(one["count"]))
    console = Console(width=120)
    console.print(table, markup=False)
    for task in content["tasks"]:
        for note in task["notes"]:
            console.print(f"{task['task']}: {note}", markup=False)
    for one in content.get("against", {}).get("differences", []):
        if "reason" in one:
            console.print(f"{one['task']}: no difference, since {one['reason']}", markup=False)
        else:
            ends = f"[{_number(one['low'])}, {_number(one['high'])}]"
            said = f"{one['task']}: {one['metric']} differs by {one['value']:.4f} {ends}"
            console.print(said, markup=False)
    console.print(str(folder / "scores.json"), highlight=False)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


JOB = Job(main, EvalConfig, check, trains=True)

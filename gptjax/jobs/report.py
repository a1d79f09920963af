"""job=report: draw the report again from runs.csv, curves.csv and laws.json."""

from pathlib import Path

from gptjax import scaling
from gptjax.config import Config
from gptjax.errors import UserError
from gptjax.job import Job
from gptjax.stages import fit


def main(config: Config, folder: Path) -> int:
    """Rebuild the figures and the page; nothing is trained and nothing is fitted."""
    for name in ("runs.csv", "laws.json"):
        if not (folder / name).exists():
            raise UserError(f"--workdir={folder} has no {name}; run job=sweep or job=fit first")
    runs = scaling.Table.read(folder / "runs.csv")
    curves_path = folder / "curves.csv"
    curves = scaling.Table.read(curves_path) if curves_path.exists() else None
    fit.show(config, folder, runs, curves, fit.read_laws(folder / "laws.json"))
    return 0


JOB = Job(main)

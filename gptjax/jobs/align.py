"""job=align: policy optimisation of a folder's model by a program or a reward model."""

from gptjax.align.policy import PolicyConfig
from gptjax.config import Config
from gptjax.errors import UserError
from gptjax.job import Job
from gptjax.parallel import resolve
from gptjax.stages.reinforcing import reinforce_folder


def check(config: Config) -> None:
    """Refuse a run without a model or prompts, and more devices than one."""
    if not config.general.model_folder:
        raise UserError(
            "config.model_folder='' names no model to align; give --config.model_folder=DIR"
        )
    if not config.data.path:
        raise UserError(
            "data.path='' names no prompts; give --config.data.path=FILE with lines such as "
            '{"prompt": "…", "answer": "…"}'
        )
    if any(size > 1 for size in resolve(config.mesh, 1).values()):
        raise UserError("job=align runs on one device; set the sizes of mesh to 1")


JOB = Job(reinforce_folder, settings=PolicyConfig, check=check, one_run=True, trains=True)
"""Answers and updates take turns on one device."""

"""job=finetune: tune the model of a folder on examples, with the machinery of job=train."""

from gptjax.align import examples as read
from gptjax.align.config import FinetuneConfig
from gptjax.align.preferences import LOSSES, DpoConfig
from gptjax.config import Config
from gptjax.errors import UserError
from gptjax.job import Job
from gptjax.stages.tuning import tune


def check(config: Config) -> None:
    """Refuse a run without a model or without examples."""
    if not config.general.model_folder:
        raise UserError(
            "config.model_folder='' names no model to tune; give --config.model_folder=DIR, a run "
            "of job=train, a folder that job=convert made, or one of Hugging Face's"
        )
    if not config.data.path:
        raise UserError(
            "data.path='' names no examples; give --config.data.path=FILE with lines such as "
            f"{read.ANSWERED}"
        )
    dpo: DpoConfig = config.own["finetune"].dpo
    if dpo.smoothing and not LOSSES[dpo.loss].smooths:
        raise UserError(
            f"finetune.dpo.smoothing={dpo.smoothing} is for losses of log σ, and "
            f"finetune.dpo.loss={dpo.loss} is none; set finetune.dpo.smoothing=0, or loss=sigmoid"
        )


JOB = Job(tune, settings=FinetuneConfig, check=check, one_run=True, trains=True)

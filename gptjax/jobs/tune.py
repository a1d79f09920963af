"""job=tune: find the best learning rate of small sizes, and the law that a sweep follows."""

from pathlib import Path

from gptjax.config import Config, load_corpus
from gptjax.job import Job
from gptjax.stages.tune import find


def main(config: Config, folder: Path) -> int:
    """Tune, print what was found and how a sweep takes it."""
    tuned = find(config, folder, load_corpus(config))
    if isinstance(tuned, int):
        return tuned
    sweep, optim = tuned.applied(config.sweep, config.optim)
    print(
        "as settings: "
        f"--config.sweep.learning_rate_scale={sweep.learning_rate_scale:g} "
        f"--config.sweep.learning_rate_exponent={sweep.learning_rate_exponent:g} "
        f"--config.sweep.learning_rate_params={sweep.learning_rate_params:g} "
        f"--config.sweep.batch_scale={sweep.batch_scale:g} --config.optim.b2={optim.b2:g}"
    )
    return 0


JOB = Job(main, many_runs=True, trains=True)

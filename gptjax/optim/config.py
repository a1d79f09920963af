"""The `optim` section of a config."""

import dataclasses

from gptjax.fields import setting

OPTIMIZERS = ("adamw",)
SCHEDULES = ("cosine", "wsd", "linear", "constant", "inverse_sqrt")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Optimizer and learning-rate schedule of one run."""

    name: str = setting("adamw", "optimizer", choices=OPTIMIZERS)
    learning_rate: float = setting(
        3e-3, "peak learning rate; a sweep sets it by sweep.rule", above=0.0
    )
    schedule: str = setting("cosine", "shape of the learning rate over the run", choices=SCHEDULES)
    warmup_fraction: float = setting(
        0.02, "share of the steps with linear warm-up", minimum=0.0, below=1.0
    )
    final_fraction: float = setting(
        0.1, "learning rate of the last step over the peak (cosine, wsd, linear)",
        minimum=0.0, maximum=1.0,
    )
    decay_fraction: float = setting(
        0.2, "share of the steps in the final decay of wsd", above=0.0, maximum=1.0
    )
    b1: float = setting(0.9, "decay of the first moment", minimum=0.0, below=1.0)
    b2: float = setting(0.95, "decay of the second moment", minimum=0.0, below=1.0)
    eps: float = setting(1e-8, "added to the root of the second moment", above=0.0)
    weight_decay: float = setting(
        0.1, "decoupled weight decay, multiplied by the learning rate", minimum=0.0
    )
    no_decay: tuple[str, ...] = setting(
        (r"norm", r"bias", r"embed", r"scale"),
        "regular expressions over parameter paths that are not decayed",
    )
    clip_norm: float = setting(1.0, "global gradient norm is clipped to this; 0 = off", minimum=0.0)

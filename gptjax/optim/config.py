"""Settings of the `optim` section: optimizer, schedule, clipping, averages."""

import dataclasses

from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.optim.path_rules import check_expressions, parse_multipliers
from gptjax.optim.registry import OPTIMIZERS, SCHEDULES

ROUNDINGS = ("nearest", "stochastic")
TRANSFERS = ("none", "mup")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Optimizer and learning-rate schedule of one run. `validate` checks fields together."""

    name: str = setting("adamw", "optimizer", choices=OPTIMIZERS)
    learning_rate: float = setting(
        3e-3, "peak learning rate; a sweep sets it by sweep.rule", above=0.0
    )
    schedule: str = setting("cosine", "shape of the learning rate over the run", choices=SCHEDULES)
    warmup_fraction: float = setting(
        0.02, "share of the steps with linear warm-up", minimum=0.0, below=1.0
    )
    warmup_steps: int = setting(
        0,
        "steps of linear warm-up, independent of the length of the run; 0 = warmup_fraction",
        minimum=0,
    )
    final_fraction: float = setting(
        0.1,
        "learning rate of the last step as a share of the peak (cosine, wsd, linear)",
        minimum=0.0,
        maximum=1.0,
    )
    decay_fraction: float = setting(
        0.2, "share of the steps in the final decay of wsd", above=0.0, maximum=1.0
    )
    b1: float = setting(
        0.9,
        "decay of the first moment; momentum of sgd and muon; interpolation of schedule_free",
        minimum=0.0,
        below=1.0,
    )
    b2: float = setting(0.95, "decay of the second moment", minimum=0.0, below=1.0)
    eps: float = setting(1e-8, "added to the root of the second moment", above=0.0)
    weight_decay: float = setting(
        0.1, "decoupled weight decay, multiplied by the learning rate", minimum=0.0
    )
    no_decay: tuple[str, ...] = setting(
        (r"norm", r"bias", r"embed", r"scale"),
        "regular expressions over parameter paths without weight decay",
    )
    frozen: tuple[str, ...] = setting(
        (),
        "regular expressions over parameter paths that are not trained: they keep their bits and "
        "have no optimizer state",
    )
    multipliers: tuple[str, ...] = setting(
        (),
        "learning-rate multipliers as EXPRESSION=FACTOR over parameter paths; where several match, "
        "their factors are multiplied; 'EXPRESSION=FACTOR FACTOR …' has one for each layer",
    )
    clip_norm: float = setting(
        1.0, "limit of the global gradient norm (clipping); 0 = off", minimum=0.0
    )
    skip_not_finite: int = setting(
        0,
        "consecutive steps that are skipped because their gradient is not finite before the run "
        "ends; 0 = off",
        minimum=0,
    )
    ema_decay: float = setting(
        0.0,
        "decay of an exponential moving average of the weights, which is then evaluated; 0 = off",
        minimum=0.0,
        below=1.0,
    )
    sam_rho: float = setting(
        0.0, "radius of sharpness-aware minimisation, over any optimizer; 0 = off", minimum=0.0
    )
    sam_adaptive: bool = setting(False, "measure sam_rho relative to the size of each weight")
    adversarial_epsilon: float = setting(
        0.0, "norm of an adversarial shift of each sequence's embeddings; 0 = off", minimum=0.0
    )
    full_precision: tuple[str, ...] = setting(
        (r"embed",), "regular expressions over parameter paths whose adam8bit state stays float32"
    )
    state_rounding: str = setting(
        "nearest", "how adam8bit rounds its moments to 8 bits", choices=ROUNDINGS
    )
    width_transfer: str = setting(
        "none",
        "mup: initial scales, learning rates and multipliers follow width / optim.base_width",
        choices=TRANSFERS,
    )
    base_width: int = setting(128, "width at which the settings were tuned (mup)", minimum=1)
    base_head_dim: int = setting(
        0, "head width at base_width (mup); 0 = the same at every width", minimum=0
    )

    @property
    def cost(self) -> float:
        """FLOPs of a step over those of one gradient.

        Sharpness-aware minimisation takes two gradients. An adversarial shift costs another forward
        pass and a backward pass without the gradients of the weights, two thirds of a gradient.
        """
        adversarial = 5 / 3 if self.adversarial_epsilon > 0.0 else 1.0
        return (2.0 if self.sam_rho > 0.0 else 1.0) * adversarial


def validate(config: OptimConfig) -> None:
    """Check the fields against each other.

    Raises:
      UserError: naming the field, its value and the repair.
    """
    check_expressions("optim.no_decay", config.no_decay)
    check_expressions("optim.full_precision", config.full_precision)
    check_expressions("optim.frozen", config.frozen)
    parse_multipliers(config.multipliers)
    optimizer = OPTIMIZERS[config.name]
    optimizer.check(config)
    if config.width_transfer == "mup" and not optimizer.own_size:
        kin = ", ".join(name for name, one in OPTIMIZERS.items() if one.own_size)
        raise UserError(
            f"optim.width_transfer=mup holds for Adam and its kin, not for optim.name="
            f"{config.name}; choose one of {kin}"
        )
    if config.sam_adaptive and config.sam_rho == 0.0:
        raise UserError(
            "optim.sam_adaptive=True changes nothing while optim.sam_rho=0.0; set a radius, for "
            "example optim.sam_rho=0.5"
        )

"""Settings of the `train` section, and the specification of one run."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from gptjax.data.mixture import reads_of
from gptjax.fields import setting
from gptjax.identity import canonical, digest
from gptjax.models.config import ModelConfig
from gptjax.optim import OptimConfig, shared_steps


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How runs are trained; in a sweep, batch size, steps and learning rate come from its rules."""

    batch_size: int = setting(32, "sequences in a batch", minimum=1)
    steps: int = setting(0, "updates of the run; 0 = from train.tokens", minimum=0)
    tokens: int = setting(0, "tokens of the run, used when train.steps is 0", minimum=0)
    seed: int = setting(0, "seed of initialisation and data order", minimum=0, maximum=2**31 - 1)
    micro_batches: int = setting(
        1, "micro-batches of a batch, computed one after another to save memory", minimum=1
    )
    batch_doublings: int = setting(
        0,
        "times that the batch size doubles during its warm-up; 0 = no batch-size warm-up",
        minimum=0,
        maximum=16,
    )
    batch_warmup_tokens: int = setting(
        0, "tokens of the batch-size warm-up, with equally many updates of each size", minimum=0
    )
    memory_gb: float = setting(
        0.0, "GiB that a training step may hold, for model.remat=auto", minimum=0.0
    )
    param_dtype: str = setting(
        "float32",
        "type in which parameters are stored; bfloat16 ones are rounded stochastically after each "
        "update",
        choices=("float32", "bfloat16"),
    )
    loss_scale: float = setting(
        65536.0, "initial loss scale for model.compute_dtype=float16", above=0.0
    )
    loss_scale_interval: int = setting(
        2000, "steps without overflow after which the loss scale doubles", minimum=1
    )
    loss_chunk: int = setting(
        0, "tokens whose logits are computed at once; 0 = those of a whole micro-batch", minimum=0
    )
    z_loss: float = setting(
        0.0, "weight of (log Z)² in the training loss (PaLM: 1e-4)", minimum=0.0
    )
    label_smoothing: float = setting(
        0.0, "share of each target spread over the vocabulary in training", minimum=0.0, below=1.0
    )
    noise_scale: bool = setting(
        False, "estimate the gradient noise scale from the micro-batches (at least two)"
    )
    rollbacks: int = setting(
        0,
        "rollbacks of a run: after a loss spike it returns to an earlier state and skips "
        "the batches around it; 0 = a loss that is not finite ends the run",
        minimum=0,
        maximum=64,
    )
    rollback_steps: int = setting(
        100,
        "steps between the states that a rollback may return to, and its shortest way back",
        minimum=1,
    )
    rollback_skip: int = setting(
        200, "batches that a rollback skips after the spike, besides those before it", minimum=0
    )
    spike_nats: float = setting(
        1.0,
        "rise of the loss above its mean over 100 steps that counts as a spike, nats per token; "
        "0 = only a loss that is not finite",
        minimum=0.0,
    )
    document_attention: bool = setting(False, "attention does not cross document boundaries")
    feed: str = setting(
        "auto",
        "where batches are gathered: on the device, or by a host loader if tokens do not fit",
        choices=("auto", "device", "host"),
    )
    device_data_gb: float = setting(
        1.0, "largest token array, in GiB, that feed=auto keeps on the device", above=0.0
    )
    evaluations: int = setting(
        1, "evaluations on the held-out part, evenly spaced, the last at the end", minimum=1
    )
    eval_batch_size: int = setting(
        32,
        "sequences evaluated at once; another number changes the last digits of the held-out loss",
        minimum=1,
    )
    checkpoint_seconds: float = setting(
        60.0, "seconds between checkpoints; saving does not change any result", minimum=0.0
    )
    hang_seconds: float = setting(
        0.0,
        "seconds without progress after which the train job reports where it hangs and exits with "
        "status 75; set it above the time of a step, an evaluation and a checkpoint; 0 = never",
        minimum=0.0,
    )
    keep_last: int = setting(1, "most recent checkpoints that are kept", minimum=1)
    keep_best: bool = setting(False, "also keep the checkpoint with the lowest held-out loss")
    log_seconds: float = setting(10.0, "seconds between log lines of the train job", above=0.0)
    tensorboard: bool = setting(False, "write TensorBoard files under the run's folder")
    wandb: bool = setting(False, "log to Weights & Biases (extra gptjax[wandb])")


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """Everything that determines the result of one run on a given corpus.

    The fields that only decide how it is executed (checkpoints, logging) are not here, because they
    do not change a single bit of the result; nor is the evaluation batch, which changes no
    parameter, and of the held-out loss the last digits.
    """

    IDENTITY_ROOT: ClassVar[str] = "train"

    model: ModelConfig = dataclasses.field(metadata={"identity": ".model"})
    optim: OptimConfig = dataclasses.field(metadata={"identity": ".optim"})
    batch_size: int
    steps: int
    seed: int = 0
    micro_batches: int = 1
    batch_doublings: int = 0
    batch_warmup_tokens: int = 0
    document_attention: bool = False
    mask_end_of_document: bool = False
    param_dtype: str = "float32"
    loss_scale: float = 65536.0
    loss_scale_interval: int = 2000
    loss_chunk: int = 0
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    noise_scale: bool = False
    rollbacks: int = 0
    rollback_steps: int = 100
    rollback_skip: int = 200
    spike_nats: float = 1.0
    source_weights: tuple[float, ...] = dataclasses.field(
        default=(), metadata={"identity": ".data.weights"}
    )
    weight_phases: tuple[float, ...] = dataclasses.field(
        default=(), metadata={"identity": ".data.phases"}
    )

    @classmethod
    def of(cls, train: TrainConfig, **others: Any) -> "RunSpec":
        """The spec whose settings of the same name are those of `train`, but for `others`."""
        names = {f.name for f in dataclasses.fields(cls)} & {
            f.name for f in dataclasses.fields(TrainConfig)
        }
        return cls(**{**{name: getattr(train, name) for name in names}, **others})

    @property
    def tokens(self) -> int:
        """Tokens that the run is trained on, repeats counted."""
        return self.steps * self.batch_size * self.model.seq_len

    @property
    def reads(self) -> np.ndarray:
        """Windows that the run reads of each source of a mixture."""
        return reads_of(self.source_weights, self.weight_phases, self.steps, self.batch_size)

    @property
    def canonical(self) -> dict[str, Any]:
        """The settings that differ from their defaults, under keys that never change."""
        return canonical(self)

    @property
    def identity(self) -> str:
        """Hash of the canonical form."""
        return digest(self)

    @property
    def shared_steps(self) -> int:
        """Updates at the beginning in which runs of this trunk agree bit for bit."""
        return 0 if self.weight_phases else shared_steps(self.optim, self.steps)

    @property
    def trunk(self) -> str:
        """What runs that differ only in their length have in common; '' where they share nothing.

        It needs a schedule that does not look ahead (wsd, constant, inverse_sqrt) and a warm-up in
        steps; and weights of sources that do not change with the length.
        """
        return digest(dataclasses.replace(self, steps=1)) if self.shared_steps else ""

    @property
    def program(self) -> "RunSpec":
        """The same spec with every traced number set to a constant: specs that agree here share
        one compiled program, and can be stacked."""
        decay = 1.0 if self.optim.weight_decay > 0.0 else 0.0
        warmup = min(1, self.optim.warmup_steps)
        optim = dataclasses.replace(
            self.optim, learning_rate=1.0, weight_decay=decay, warmup_steps=warmup
        )
        model = dataclasses.replace(self.model, init_scale=1.0, hidden_init_scale=0.0)
        weights, phases = ((0.0,) * len(x) for x in (self.source_weights, self.weight_phases))
        return dataclasses.replace(
            self,
            model=model,
            optim=optim,
            steps=1,
            seed=0,
            source_weights=weights,
            weight_phases=phases,
        )

    @property
    def layout(self) -> "RunSpec":
        """The same with the batch set to a constant too: specs that agree here share the program
        for evaluation."""
        return dataclasses.replace(
            self.program,
            batch_size=1,
            micro_batches=1,
            batch_doublings=0,
            batch_warmup_tokens=0,
            source_weights=(),
            weight_phases=(),
        )

    @property
    def origin(self) -> "RunSpec":
        """What the initial state is a function of, with the seed set to a constant."""
        return dataclasses.replace(self.layout, model=self.model)

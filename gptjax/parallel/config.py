"""The `mesh` section of a config."""

import dataclasses

from gptjax.fields import setting
from gptjax.parallel.context import CONTEXTS
from gptjax.parallel.schedules import ORDERS


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How a run is laid over devices; no setting here changes a result beyond rounding."""

    data: int = setting(-1, "copies of the model, each with its share of the batch; -1: the rest")
    fsdp: int = setting(1, "devices over which the batch and, by mesh.zero, the state are sharded")
    tensor: int = setting(1, "devices over which heads, feed-forward and vocabulary are sharded")
    pipe: int = setting(
        1,
        "pipeline stages that the layers are split into; train.micro_batches pass them one by one",
    )
    seq: int = setting(1, "devices over which the tokens of a sequence are sharded")
    context: str = setting(
        "ring",
        "attention across mesh.seq: a ring of keys and values, or tokens exchanged for heads",
        choices=CONTEXTS,
    )
    expert: int = setting(
        1,
        "devices over which experts and the batch are sharded; tokens go to their experts",
    )
    schedule: str = setting(
        "1f1b",
        "order of forward and backward passes over the stages",
        choices=ORDERS,
    )
    pipe_chunks: int = setting(
        2, "chunks of layers on each stage, for mesh.schedule=interleaved", minimum=2
    )
    zero: int = setting(
        3,
        "arrays that fsdp shards: 0 the batch alone, 1 optimizer state, 2 gradients too, 3 "
        "parameters too",
        choices=(0, 1, 2, 3),
    )
    sequence_parallel: bool = setting(
        False, "mesh.tensor also shards norms and residual stream, along the sequence"
    )

    @property
    def chunks(self) -> int:
        """Parts of the layers on each stage."""
        return self.pipe_chunks if self.schedule == "interleaved" else 1

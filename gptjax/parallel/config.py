"""The `mesh` section of a config."""

import dataclasses

from gptjax.fields import setting


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How a run is laid over devices; no setting here changes a result beyond rounding."""

    data: int = setting(-1, "copies of the model, each with its share of the batch; -1: the rest")
    fsdp: int = setting(1, "parts that the batch and, by mesh.zero, the state are cut into")
    tensor: int = setting(1, "parts that heads, feed-forward and vocabulary are cut into")
    pipe: int = setting(
        1, "stages that the layers are cut into; train.micro_batches go through them one by one"
    )
    seq: int = setting(1, "parts that the tokens of a sequence are cut into")
    context: str = setting(
        "ring",
        "attention across mesh.seq: keys and values go around, or tokens are exchanged for heads",
        choices=("ring", "all_to_all"),
    )
    expert: int = setting(
        1, "parts that experts are cut into, and the batch with them; tokens go to their experts"
    )
    schedule: str = setting(
        "1f1b",
        "order of forward and backward passes over the stages",
        choices=("gpipe", "1f1b", "interleaved"),
    )
    pipe_chunks: int = setting(2, "parts of the layers on each stage, for interleaved", minimum=2)
    zero: int = setting(
        3,
        "what fsdp cuts: 0 nothing but the batch, 1 optimizer state, 2 gradients too, 3 parameters "
        "too",
        choices=(0, 1, 2, 3),
    )
    sequence_parallel: bool = setting(
        False, "tensor also cuts norms and residual stream, along the sequence"
    )

    @property
    def chunks(self) -> int:
        """Parts of the layers on each stage."""
        return self.pipe_chunks if self.schedule == "interleaved" else 1

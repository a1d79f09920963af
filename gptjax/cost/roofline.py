"""Time of a training step on a mesh that is not there, from shapes alone.

FLOPs and bytes are counted from the sizes of matrix products, memory by `cost/memory.py`, traffic
by the ring algorithms. Times are those of a machine that reaches its published rates, with
arithmetic and memory hiding each other and nothing hiding the network. The compiler's own count is
`cost/compiled.py`.
"""

import dataclasses
import math
from collections.abc import Mapping

from gptjax.cost.chips import Chip
from gptjax.cost.memory import Bytes, Shape, State, held_by, per_token, state_bytes
from gptjax.parallel import MeshConfig
from gptjax.train.config import RunSpec
from gptjax.train.layout import check_mesh


@dataclasses.dataclass(frozen=True)
class Seconds:
    """Where the time of a step goes at published rates.

    Attributes:
      ideal: the counted FLOPs alone, on all devices.
      compute: with what is computed again and a pipeline's bubble.
      memory: reading and writing the device's memory.
      network: sending, by mesh axis.
    """

    ideal: float
    compute: float
    memory: float
    network: Mapping[str, float]

    @property
    def total(self) -> float:
        """A step: arithmetic and memory hide each other, nothing hides the network."""
        return max(self.compute, self.memory) + math.fsum(self.network.values())

    @property
    def utilization(self) -> float:
        """Model FLOPs utilisation (MFU)."""
        return self.ideal / self.total


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A run on a mesh.

    Attributes:
      sizes: of the mesh's axes.
      remat: `model.remat`.
      held: bytes on one device.
      seconds: of one step.
    """

    sizes: Mapping[str, int]
    remat: str
    held: Bytes
    seconds: Seconds


def estimate(
    spec: RunSpec, config: MeshConfig, devices: int, chip: Chip, flops_per_token: float
) -> Estimate:
    """Memory and time of a step of `spec` on so many chips.

    Args:
      flops_per_token: training FLOPs of one token, nothing counted twice.

    Raises:
      UserError: when the mesh does not divide the model, the batch or the devices.
    """
    sizes = check_mesh(config, spec, devices)
    shape = Shape(spec, config, sizes)
    state = state_bytes(spec, shape.layout)
    held = held_by(shape, state, chip.platform)
    seconds = _seconds(shape, state, chip, flops_per_token)
    return Estimate(sizes, spec.model.remat, held, seconds)


def _seconds(shape: Shape, state: State, chip: Chip, flops_per_token: float) -> Seconds:
    spec = shape.spec
    total = spec.batch_size * spec.model.seq_len * flops_per_token
    devices = math.prod(shape.sizes.values())
    ideal = total / (devices * chip.flops)
    head = 6 * spec.model.width * spec.model.vocab_size / flops_per_token
    repeated = ideal * (1 + shape.again * (1 - head) / 3)
    bubble = shape.schedule.bubble if shape.axis("pipe") > 1 else 0.0
    network = {
        axis: sent / chip.rate((axis,), shape.sizes) for axis, sent in _sent(shape).items() if sent
    }
    passes, update = _moved(shape, state)
    memory = (passes / (1 - bubble) + update) / chip.memory_rate
    return Seconds(ideal, repeated / (1 - bubble), memory, network)


def _moved(shape: Shape, state: State) -> tuple[float, float]:
    """Bytes between a device and its memory in the passes of a step, and in its update.

    Weights are read by each pass of each micro-batch and their gradient is added to; each kept or
    computed number is written once and read once, in the forward pass and for its gradient; the
    optimizer reads and writes the state.
    """
    blocks, rest = shape.params
    every, _, _ = per_token(shape)
    passes = 2 + shape.again
    weights = (blocks * passes + 2 * rest) * shape.width + 2 * state.gradients
    activations = 2 * (2 + shape.again) * shape.tokens * shape.layers * every * shape.width
    logits = 4 * 4 * shape.tokens * shape.spec.model.vocab_size / shape.axis("tensor")
    optimizer = 2 * (state.params + state.opt_state) + state.gradients
    return shape.spec.micro_batches * (weights + activations + logits), optimizer


def _sent(shape: Shape) -> dict[str, float]:
    """Bytes that a device sends in a step, by axis; each axis counts alone."""
    return {axis: shape.spec.micro_batches * sent(shape) for axis, sent in TRAFFIC.items()}


def _around(parts: int) -> float:
    """Share of an array that a device sends so that all have gathered it, or scattered its sum."""
    return (parts - 1) / parts


def _over_data(shape: Shape) -> float:
    """The sum of the gradients, of what other axes leave on the device."""
    cut = shape.axis("fsdp") if shape.config.zero >= 2 else 1
    return 2 * _around(shape.axis("data")) * 4 * sum(shape.params) / cut


def _over_fsdp(shape: Shape) -> float:
    """Gradients summed; parameters gathered for each pass (zero 3) or once after the update."""
    share, params = _around(shape.axis("fsdp")), sum(shape.params)
    gradients = (1 if shape.config.zero >= 2 else 2) * 4 * params
    if shape.config.zero >= 3:
        gathers = 2 * shape.width * params
    else:
        gathers = 4 * params * (shape.config.zero > 0) / shape.spec.micro_batches
    return share * (gradients + gathers)


def _over_tensor(shape: Shape) -> float:
    """Megatron's all-reduces: two a block and pass; one for the embedding and one for the head."""
    times = shape.layers * 2 * (2 + shape.again) + 2
    stream = shape.tokens * shape.spec.model.width * shape.width
    return times * 2 * _around(shape.axis("tensor")) * stream


def _over_seq(shape: Shape) -> float:
    """The sum of the gradients, and what attention needs of other devices' tokens.

    Around a ring keys and values pass every device in a forward pass, and with their gradients in a
    backward pass; all_to_all sends queries, keys, values and outputs in each.
    """
    model, parts = shape.spec.model, shape.axis("seq")
    cut = shape.axis("fsdp") if shape.config.zero >= 2 else 1
    gradients = 2 * _around(parts) * 4 * sum(shape.params) / cut
    keys = 2 * model.kv_heads * model.head_width / shape.axis("tensor")
    queries = 2 * model.num_heads * model.head_width / shape.axis("tensor")
    around = (parts - 1) * keys * (3 + shape.again)
    exchanged = _around(parts) * (keys + queries) * (2 + shape.again)
    sent = around if shape.config.context == "ring" else exchanged
    return gradients + shape.layers * shape.tokens * shape.width * sent


def _over_pipe(shape: Shape) -> float:
    """The stream forward and its gradient back, between the parts of the layers."""
    stream = shape.tokens * shape.spec.model.width * shape.width
    return 2 * shape.config.chunks * stream * (shape.axis("pipe") > 1)


TRAFFIC = {
    "data": _over_data,
    "fsdp": _over_fsdp,
    "tensor": _over_tensor,
    "pipe": _over_pipe,
    "seq": _over_seq,
}
"""Bytes that an axis sends for one micro-batch; an axis without an entry is not searched."""

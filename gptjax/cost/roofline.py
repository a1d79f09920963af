"""What a step would need and take on a mesh that is not there, from shapes alone.

Bytes of the state are exact, because the rules that lay a run's arrays are asked. The rest is
counted from the sizes of matrix products: activations as Korthikanti et al. 2022 (arXiv:2205.05198)
count them, with what this model's block has; traffic by the ring algorithms. Times are those of a
machine that reaches its published rates, with arithmetic and memory hiding each other and nothing
hiding the network. The compiler's own count is `cost/compiled.py`.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import models, ops
from gptjax.cost.chips import Chip
from gptjax.parallel import Layout, MeshConfig, abstract_mesh
from gptjax.train.config import RunSpec
from gptjax.train.layout import check_mesh, state_shardings
from gptjax.train.state import TrainState, init_state

FORWARD_AGAIN = {"none": 0.0, "block": 1.0, "sqrt": 2.0}
"""Forward passes over the blocks that the backward pass does again, by `model.remat`; the policies
that are not here compute the scores of attention again."""


@dataclasses.dataclass(frozen=True)
class Bytes:
    """What one device holds in a step.

    Attributes:
      params, opt_state: of the state, exact.
      gradients: as mesh.zero lays them; with micro-batches those of one lie beside the sum.
      gathered: parameters of the layer at work, where mesh.zero cuts them.
      activations: kept for the backward pass, and those of the block at work.
      head: logits with their gradient.
    """

    params: float
    opt_state: float
    gradients: float
    gathered: float
    activations: float
    head: float

    @property
    def total(self) -> float:
        """The sum."""
        return math.fsum(dataclasses.astuple(self))


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
    """What a step of `spec` needs and takes on so many chips.

    Args:
      flops_per_token: training FLOPs of one token, nothing counted twice.

    Raises:
      UserError: when the mesh does not divide the model, the batch or the devices.
    """
    sizes = check_mesh(config, spec, devices)
    shape = _Shape(spec, config, sizes)
    layout = Layout(abstract_mesh(sizes), config, models.logical_axes(spec.model))
    state = state_bytes(spec, layout)
    held = _bytes(shape, state)
    seconds = _seconds(shape, state, chip, flops_per_token)
    return Estimate(sizes, spec.model.remat, held, seconds)


@dataclasses.dataclass(frozen=True)
class State:
    """Bytes on one device: what the rules give each part of a state."""

    params: int
    opt_state: int
    gradients: int


def state_bytes(spec: RunSpec, layout: Layout) -> State:
    """Exact bytes of a run's state on one device of a layout."""
    state = _abstract_state(spec.layout)
    shardings = state_shardings(layout, state)
    wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), state.params)
    return State(
        _held(state.params, shardings.params),
        _held(state.opt_state, shardings.opt_state),
        _held(wide, layout.gradients(wide)),
    )


@functools.lru_cache(maxsize=8)
def _abstract_state(spec: RunSpec) -> TrainState:
    return jax.eval_shape(lambda: init_state(spec, jax.random.key(0)))


def _held(tree: Any, shardings: Any) -> int:
    def one(leaf: Any, sharding: Any) -> int:
        return math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return sum(jax.tree.leaves(jax.tree.map(one, tree, shardings)))


@dataclasses.dataclass(frozen=True)
class _Shape:
    """Sizes of one micro-batch on one device."""

    spec: RunSpec
    config: MeshConfig
    sizes: Mapping[str, int]

    def axis(self, name: str) -> int:
        return self.sizes.get(name, 1)

    @property
    def tokens(self) -> float:
        cut = self.spec.micro_batches * math.prod(
            self.axis(name) for name in ("data", "fsdp", "expert", "seq")
        )
        return self.spec.batch_size * self.spec.model.seq_len / cut

    @property
    def width(self) -> int:
        """Bytes of an activation."""
        return jnp.dtype(self.spec.model.compute_dtype).itemsize

    @property
    def layers(self) -> float:
        return self.spec.model.depth / self.axis("pipe")

    @property
    def in_flight(self) -> int:
        """Micro-batches whose activations a stage holds at one time."""
        if self.axis("pipe") == 1:
            return 1
        return self.schedule.held

    @property
    def schedule(self) -> Any:
        layout = Layout(abstract_mesh(self.sizes), self.config, None)
        return layout.schedule(self.spec.micro_batches)

    @property
    def again(self) -> float:
        """Forward passes over the blocks that are done again; a pipeline's stage does one."""
        model = self.spec.model
        scores = 4 * model.seq_len * model.num_heads * model.head_width
        products = 2 * models.count_params(model).non_embedding / model.depth
        share = scores / (scores + products)
        return FORWARD_AGAIN.get(model.remat, share) + (self.axis("pipe") > 1)

    @property
    def params(self) -> tuple[float, float]:
        """(of the blocks, of embedding and head), on one device where nothing is cut by fsdp."""
        count = models.count_params(self.spec.model)
        rest = count.total - count.non_embedding
        tensor = self.axis("tensor") * self.axis("expert")
        return count.non_embedding / (tensor * self.axis("pipe")), rest / self.axis("tensor")


def _per_token(shape: _Shape) -> tuple[float, float, float]:
    """Elements of one token in a block: (all, products with parameters, the stream).

    Norms and the stream are cut by tensor where `mesh.sequence_parallel` says so.
    """
    model, tensor = shape.spec.model, shape.axis("tensor")
    D, F = model.width, model.hidden_width
    gated = ops.FEED_FORWARD[model.mlp][1]
    heads = (model.num_heads + 2 * model.kv_heads) * model.head_width
    mixed = model.num_heads * model.head_width
    stream = D / (tensor if shape.config.sequence_parallel else 1)
    inside = (heads + mixed + (4 if gated else 2) * F) / tensor
    products = (heads + (2 if gated else 1) * F) / tensor
    return 4 * stream + inside, 2 * stream + products, stream


def _kept(shape: _Shape) -> float:
    """Elements of a token that are kept for the backward pass, over all layers of a stage."""
    every, products, stream = _per_token(shape)
    layers = shape.layers
    return {
        "none": layers * every,
        "dots": layers * (products + stream),
        "offload": layers * stream,
        "block": layers * stream,
        "sqrt": 2 * math.sqrt(layers) * stream,
    }[shape.spec.model.remat]


def _bytes(shape: _Shape, state: State) -> Bytes:
    spec, tokens = shape.spec, shape.tokens
    every, _, stream = _per_token(shape)
    blocks, rest = shape.params
    gathered = 0.0
    if shape.config.zero >= 3 and shape.axis("fsdp") > 1:
        # Two layers: one at work and one on its way; the embedding stays for the head.
        gathered = shape.width * (2 * blocks / shape.layers + rest)
    arrived = shape.in_flight * stream * (shape.axis("pipe") > 1)
    chunk = spec.loss_chunk or tokens
    logits = min(tokens, chunk) * spec.model.vocab_size / shape.axis("tensor")
    sums = 2 if spec.micro_batches > 1 else 1
    return Bytes(
        params=state.params,
        opt_state=state.opt_state,
        gradients=sums * state.gradients,
        gathered=gathered,
        activations=tokens * shape.width * (arrived + _kept(shape) + 2 * every),
        head=2 * 4 * logits,
    )


def _seconds(shape: _Shape, state: State, chip: Chip, flops_per_token: float) -> Seconds:
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


def _moved(shape: _Shape, state: State) -> tuple[float, float]:
    """Bytes between a device and its memory in the passes of a step, and in its update.

    Weights are read by each pass of each micro-batch and their gradient is added to; each kept or
    computed number is written once and read once, in the forward pass and for its gradient; the
    optimizer reads and writes the state.
    """
    blocks, rest = shape.params
    every, _, _ = _per_token(shape)
    passes = 2 + shape.again
    weights = (blocks * passes + 2 * rest) * shape.width + 2 * state.gradients
    activations = 2 * (2 + shape.again) * shape.tokens * shape.layers * every * shape.width
    logits = 4 * 4 * shape.tokens * shape.spec.model.vocab_size / shape.axis("tensor")
    optimizer = 2 * (state.params + state.opt_state) + state.gradients
    return shape.spec.micro_batches * (weights + activations + logits), optimizer


def _sent(shape: _Shape) -> dict[str, float]:
    """Bytes that a device sends in a step, by axis; each axis counts alone."""
    return {axis: shape.spec.micro_batches * sent(shape) for axis, sent in TRAFFIC.items()}


def _around(parts: int) -> float:
    """Share of an array that a device sends so that all have gathered it, or scattered its sum."""
    return (parts - 1) / parts


def _over_data(shape: _Shape) -> float:
    """The sum of the gradients, of what other axes leave on the device."""
    cut = shape.axis("fsdp") if shape.config.zero >= 2 else 1
    return 2 * _around(shape.axis("data")) * 4 * sum(shape.params) / cut


def _over_fsdp(shape: _Shape) -> float:
    """Gradients summed; parameters gathered for each pass (zero 3) or once after the update."""
    share, params = _around(shape.axis("fsdp")), sum(shape.params)
    gradients = (1 if shape.config.zero >= 2 else 2) * 4 * params
    if shape.config.zero >= 3:
        gathers = 2 * shape.width * params
    else:
        gathers = 4 * params * (shape.config.zero > 0) / shape.spec.micro_batches
    return share * (gradients + gathers)


def _over_tensor(shape: _Shape) -> float:
    """Megatron's all-reduces: two a block and pass; one for the embedding and one for the head."""
    times = shape.layers * 2 * (2 + shape.again) + 2
    stream = shape.tokens * shape.spec.model.width * shape.width
    return times * 2 * _around(shape.axis("tensor")) * stream


def _over_seq(shape: _Shape) -> float:
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


def _over_pipe(shape: _Shape) -> float:
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
"""What an axis sends for one micro-batch; an axis without an entry is not searched."""

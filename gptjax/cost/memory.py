"""Memory of a training step on one device: estimated from shapes, or counted by the compiler.

Bytes of the state are exact, because the rules that lay a run's arrays are asked. Activations are
counted as Korthikanti et al. 2022 (arXiv:2205.05198, section 4.1) count them, with what this
model's blocks have and what `model.remat` keeps of it; a mixer and a feed-forward say what they
hold besides (scores, states, experts). The mesh planner, the bundles of a sweep and the devices of
a cell read this one estimate; `tests/cost/test_memory.py` has it beside the compiler's count.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import models, ops
from gptjax.errors import UserError
from gptjax.models import Layer
from gptjax.models.mixers import kernels
from gptjax.models.remat import ON_DEVICE, POLICIES, Policy
from gptjax.parallel import Layout, MeshConfig, abstract_mesh
from gptjax.train import (
    RunSpec,
    init_state,
    make_hyper,
    make_train_step,
    next_token,
    next_token_batch,
    state_shardings,
)
from gptjax.train.layout import check_mesh
from gptjax.train.pictured import picture_shapes
from gptjax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Bytes:
    """Bytes on one device during a step.

    Attributes:
      params, opt_state: of the state, exact.
      gradients: as mesh.zero lays them; with micro-batches those of one lie beside the sum.
      gathered: parameters of the layer at work, where mesh.zero cuts them.
      activations: kept for the backward pass, and those of the block at work with the gradients
        of its parameters, which lie beside the sum until they are in it.
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


ONE_DEVICE = MeshConfig()


def estimate_bytes(
    spec: RunSpec, config: MeshConfig = ONE_DEVICE, devices: int = 1, platform: str = "cpu"
) -> Bytes:
    """Bytes on each of so many devices during a step of `spec`.

    Args:
      platform: 'cpu', 'gpu' or 'tpu', whose kernels of attention are counted. A CPU's hold the
        most, and every process of a sweep counts them, so that all see the same bundles.

    Raises:
      UserError: when the mesh does not divide the model, the batch or the devices.
    """
    shape = Shape(spec, config, check_mesh(config, spec, devices))
    return held_by(shape, state_bytes(spec, shape.layout), platform)


def held_by(shape: "Shape", state: "State", platform: str) -> Bytes:
    """The same, where the state's bytes are known."""
    spec, tokens = shape.spec, shape.tokens
    every, products, stream = per_token(shape)
    blocks, rest = shape.params
    gathered = 0.0
    if shape.config.zero >= 3 and shape.axis("fsdp") > 1:
        # Two layers: one at work and one on its way; the embedding stays for the head.
        gathered = shape.width * (2 * blocks / shape.layers + rest)
    arrived = shape.in_flight * stream * (shape.axis("pipe") > 1)
    kept = shape.policy.kept(shape.layers, every, products + stream, stream)
    chunk = spec.loss_chunk or tokens
    logits = min(tokens, chunk) * spec.model.vocab_size / shape.axis("tensor")
    logits *= 1 if spec.model.softmaxes == 1 else 1 + spec.model.softmaxes
    sums = 2 if spec.micro_batches > 1 else 1
    activations = shape.width * (arrived + kept + 2 * every) + _held_inside(shape, platform)
    one_layer = math.ceil(4 * blocks / shape.layers)
    return Bytes(
        params=state.params,
        opt_state=state.opt_state,
        gradients=sums * state.gradients,
        gathered=gathered,
        activations=tokens * activations + one_layer + _held_by_pictures(shape),
        head=2 * 4 * logits,
    )


def _held_by_pictures(shape: "Shape") -> float:
    """Bytes of the vision tower's blocks and of cross-attention, where there are pictures."""
    model, vision = shape.spec.model, shape.spec.model.vision
    if not vision.join:
        return 0.0
    vectors = (vision.image_size // vision.patch_size) ** 2 + 8
    wide = vision.tower_mlp_width or 4 * vision.tower_width
    block = 8 * vision.tower_width + 4 * wide + 4 * vision.tower_heads * vectors
    tower = (vision.tower_depth + vision.global_depth) * vectors * block
    cross = 0.0
    if not models.picture_places(model):
        every, _, _ = per_token(shape)
        blocks = -(-model.depth // vision.every)
        cross = blocks * model.seq_len * (2 * every + 4 * model.num_heads * vectors)
    return shape.width * shape.tokens / model.seq_len * (tower + cross)


def _held_inside(shape: "Shape", platform: str) -> float:
    """Bytes of one token that mixers and feed-forwards hold besides what every block has.

    In every layer at once where nothing is computed again, else in the one at work. `held` counts
    bytes of 16-bit activations.
    """
    held = [
        _inside_layer(shape.spec, layer, platform) for layer in shape.spec.model.layers_of_depth
    ]
    at_once = sum(held) / shape.axis("pipe") if shape.policy.again == 0 else max(held)
    return shape.width / 2 * at_once / shape.axis("tensor")


def _inside_layer(spec: RunSpec, layer: Layer, platform: str) -> float:
    model, segmented = spec.model, spec.document_attention
    mixer, mlp = models.mixer_of(model, layer.mixer), models.MLPS[layer.mlp].held(model)
    if mixer.shares_kernels:
        kernel = kernels.attention_kernel(model, layer.mixer, segmented=segmented, backend=platform)
        if kernel in kernels.FUSED:
            return mlp
    return mixer.held(model, segmented) + mlp


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
class Shape:
    """Sizes of one micro-batch on one device."""

    spec: RunSpec
    config: MeshConfig
    sizes: Mapping[str, int]

    @property
    def layout(self) -> Layout:
        """The mesh, without devices."""
        axes = models.logical_axes(self.spec.model)
        return Layout(abstract_mesh(self.sizes), self.config, axes)

    @property
    def policy(self) -> Policy:
        """Rematerialisation; until `auto` is resolved, nothing is computed again."""
        name = self.spec.model.remat
        return POLICIES["none" if name == "auto" else name]

    def axis(self, name: str) -> int:
        """Devices along a mesh axis."""
        return self.sizes.get(name, 1)

    @property
    def tokens(self) -> float:
        """Tokens of one micro-batch on one device."""
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
        """Layers of one stage."""
        return self.spec.model.depth / self.axis("pipe")

    @property
    def in_flight(self) -> int:
        """Micro-batches whose activations a stage holds at one time."""
        if self.axis("pipe") == 1:
            return 1
        return self.schedule.held

    @property
    def schedule(self) -> Any:
        """The pipeline's."""
        layout = Layout(abstract_mesh(self.sizes), self.config, None)
        return layout.schedule(self.spec.micro_batches)

    @property
    def again(self) -> float:
        """Forward passes over the blocks that are done again; a pipeline's stage does one."""
        model = self.spec.model
        scores = 4 * model.seq_len * model.num_heads * model.head_width
        products = 2 * models.count_params(model).non_embedding / model.depth
        again = self.policy.again
        share = scores / (scores + products) if again is None else again
        return share + (self.axis("pipe") > 1)

    @property
    def params(self) -> tuple[float, float]:
        """(of the blocks, of embedding and head), on one device where nothing is cut by fsdp."""
        count = models.count_params(self.spec.model)
        rest = count.total - count.non_embedding
        tensor = self.axis("tensor") * self.axis("expert")
        return count.non_embedding / (tensor * self.axis("pipe")), rest / self.axis("tensor")


def per_token(shape: Shape) -> tuple[float, float, float]:
    """Elements of one token in a block: (all, products with parameters, the residual
    stream).

    Norms and the residual stream are cut by tensor where `mesh.sequence_parallel` says so.
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


def compiled_bytes(spec: RunSpec) -> tuple[int, int]:
    """(all bytes that a compiled step holds, those of them that are temporary)."""
    state = jax.eval_shape(lambda key: init_state(spec, key), jax.random.key(0))
    shape = (spec.batch_size, spec.model.seq_len)
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32)
    batch = jax.eval_shape(lambda tokens: next_token_batch(spec, tokens, tokens, 0), tokens)
    batch = dataclasses.replace(batch, pictures_BYXC=picture_shapes(spec))
    hyper = jax.eval_shape(lambda: make_hyper(spec))
    step = jax.jit(make_train_step(spec, next_token(spec)), donate_argnums=0)
    found: Any = step.lower(state, batch, hyper).compile().memory_analysis()
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return held + found.temp_size_in_bytes, found.temp_size_in_bytes


def resolve_remat(spec: RunSpec, budget_gb: float) -> RunSpec:
    """The spec with `model.remat=auto` replaced by the cheapest policy that fits the budget.

    The chosen policy is part of the spec, hence of the run's identity.

    Raises:
      UserError: where none fits.
    """
    if spec.model.remat != "auto":
        return spec
    needed: dict[str, int] = {}
    for policy in ON_DEVICE:
        model = dataclasses.replace(spec.model, remat=policy)
        resolved = dataclasses.replace(spec, model=model)
        needed[policy] = compiled_bytes(resolved)[0]
        if needed[policy] <= budget_gb * 2**30:
            return resolved
    least = min(needed, key=lambda policy: needed[policy])
    raise UserError(
        f"train.memory_gb={budget_gb:g} is too little for a step: it needs "
        f"{needed[least] / 2**30:.3g} GiB with model.remat={least}; raise train.micro_batches="
        f"{spec.micro_batches} or train.memory_gb"
    )

"""Compiled training steps: memory, traffic and FLOPs by the compiler of an accelerator.

The accelerator need not be there. Memory is the compiler's own count; FLOPs are counted by matrix
product, because the compiler counts the body of a loop over layers once.
"""

import dataclasses
import functools
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gptjax.accelerators import ACCELERATORS
from gptjax.cost.chips import Target
from gptjax.cost.flops import training_flops_per_token
from gptjax.cost.roofline import Estimate, estimate
from gptjax.errors import UserError
from gptjax.models.mixers import kernels
from gptjax.parallel import Collective, Layout, collectives
from gptjax.parallel.hlo import product_flops
from gptjax.train import (
    RunSpec,
    init_state,
    make_hyper,
    make_train_step,
    next_token,
    next_token_batch,
    state_shardings,
)
from gptjax.train.pictured import picture_shapes
from gptjax.train.state import state_of

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Cost:
    """Needs of a step on one device of a slice.

    Attributes:
      params, opt_state: bytes of the state that live on one device, counted from the shardings.
      arguments, temporary: bytes by the compiler's count; temporary is activations, gradients and
        what is gathered. Both 0 where the program did not fit.
      needed: bytes in all, by the compiler.
      flops: of one step on all devices, by matrix product.
      traffic: collectives of one step.
      products: FLOPs of the matrix products in one device's program, those computed again too;
        None where the compiler has written them as something else, as a TPU's does.
    """

    params: int
    opt_state: int
    arguments: int
    temporary: int
    needed: int
    flops: float
    traffic: tuple[Collective, ...] = ()
    products: float | None = None


def topology_devices(target: Target, spec: RunSpec) -> Sequence[Any]:
    """Descriptions of the devices of a target on which `spec` is to be compiled.

    Raises:
      UserError: without its compiler, or where that needs a GPU for the run's attention.
    """
    kind = ACCELERATORS[target.chip.platform]
    if not kind.compiles:
        raise UserError(
            f"compile.target={target.name} needs the {kind.vendor} compiler; pip install "
            f"'gptjax[{kind.extra}]' (no {kind.vendor} is needed)"
        )
    if target.chip.platform == "gpu":
        # Programs are tuned by running them, which nothing here can.
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"
    kinds = [kind for kind in spec.model.layer_pattern if kind != "ssm"]
    used = {
        kernels.attention_kernel(
            spec.model, kind, segmented=spec.document_attention, backend=target.chip.platform
        )
        for kind in kinds
    }
    if "cudnn" in used:
        raise UserError(
            f"compile.target={target.name} cannot be compiled for without a GPU with attention by "
            "cuDNN; set model.attention_impl=blockwise"
        )
    for name, value in {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}.items():
        os.environ.setdefault(name, value)
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    options: dict[str, Any] = {"chip_config_name": target.chip.mode}
    platform = target.chip.platform
    if platform == "gpu":
        platform, options = "cuda", {"topology": target.topology, "target_config": target.chip.mode}
    return topologies.get_topology_desc(target.topology, platform=platform, **options).devices


def compile_step(spec: RunSpec, layout: Layout, params: Any = None) -> Cost:
    """Compile one step for the layout's devices and read what it needs.

    Args:
      params: shapes of the parameters where they are not those of `models.init`: a quantized base,
        adapters.
    """
    import jax

    state, shardings = abstract_state(spec, layout, params)
    step = make_train_step(spec.program, next_token(spec.program), layout)

    def one_step(state: Any, windows: Any, pictures_BYXC: Any, hyper: Any) -> Any:
        inputs_BT, targets_BT = windows
        batch = next_token_batch(spec, inputs_BT, targets_BT, 0)
        return step(state, dataclasses.replace(batch, pictures_BYXC=pictures_BYXC), hyper)

    shape = (spec.batch_size, spec.model.seq_len)
    tokens = jax.ShapeDtypeStruct(shape, "int32", sharding=layout.batch)
    pictures = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout.batch),
        picture_shapes(spec),
    )
    hyper = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout.replicated),
        jax.eval_shape(lambda: make_hyper(spec)),
    )
    program = jax.jit(one_step, donate_argnums=0, out_shardings=(shardings, layout.replicated))
    params, opt_state = _bytes_per_device(state.params), _bytes_per_device(state.opt_state)
    flops = (
        spec.batch_size * spec.model.seq_len * training_flops_per_token(spec.model, spec.optim.cost)
    )
    with layout.context():
        lowered = program.lower(state, (tokens, tokens), pictures, hyper)
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            return Cost(params, opt_state, 0, 0, _needed(str(error)), flops)
    memory: Any = compiled.memory_analysis()
    text = compiled.as_text() or ""
    traffic = tuple(collectives(text, layout.mesh.shape))
    arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    needed = arguments + temporary
    products = product_flops(text) or None
    return Cost(params, opt_state, arguments, temporary, needed, flops, traffic, products)


def abstract_state(spec: RunSpec, layout: Layout, params: Any = None) -> tuple[Any, Any]:
    """Shapes of a run's state with their shardings, and these shardings."""
    import jax

    if params is None:
        state = jax.eval_shape(lambda: init_state(spec, jax.random.key(0)))
    else:
        state = jax.eval_shape(functools.partial(state_of, spec), params)
    shardings = state_shardings(layout, state)
    placed = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings
    )
    return placed, shardings


def _bytes_per_device(tree: Any) -> int:
    import jax
    import numpy as np

    def one(leaf: Any) -> int:
        return int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize

    return sum(one(leaf) for leaf in jax.tree.leaves(tree))


def _needed(message: str) -> int:
    """The bytes that a program asked for, from the compiler's refusal.

    Raises:
      UserError: when the compiler refused for another reason.
    """
    found = re.search(r"Used ([0-9.]+)([KMGT])i?B? of", message) or re.search(
        r"[Tt]otal hbm usage >= ([0-9.]+)([KMGT])", message
    )
    if "RESOURCE_EXHAUSTED" not in message or not found:
        first = message.strip().splitlines()[0][:300]
        raise UserError(f"the compiler refused this step ({first}); try another mesh")
    return int(float(found[1]) * 1024 ** ("KMGT".index(found[2]) + 1))


def guess_of(spec: RunSpec, layout: Layout, target: Target) -> Estimate:
    """The same step estimated from shapes."""
    flops = training_flops_per_token(spec.model, spec.optim.cost)
    return estimate(spec, layout.config, target.devices, target.chip, flops)


def network_seconds(cost: Cost, sizes: Mapping[str, int], target: Target) -> float:
    """Seconds in which a device sends what a step's collectives send, at the published rates."""
    return math.fsum(one.sent / target.chip.rate(one.axes, sizes) for one in cost.traffic)

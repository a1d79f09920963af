"""Low-rank adaptation (LoRA, QLoRA): thin matrices beside a base that keeps its bits.

The base may be float32, bfloat16 or quantized: a leaf is a leaf, and `optim.frozen` leaves out
everything but the thin matrices, so that gradients and optimizer state exist for these alone.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.convert import peft
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import user_path
from gptjax.models import ModelConfig
from gptjax.models.layer_stack import ByLayer
from gptjax.models.low_rank import LowRank, is_low_rank
from gptjax.models.product import dense
from gptjax.models.quantized import is_quantized
from gptjax.optim import OptimConfig
from gptjax.optim.path_rules import check_expressions, matches
from gptjax.quant import Matrix, matrices
from gptjax.quant.matrices import inside

Params = Any
NAMES = ("lora_a", "lora_b")
FREE = r"^(?!.*/lora_[ab]$)(?!reward_head$)"
"""Every path but those of the thin matrices, and of a new head."""


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters."""

    rank: int = setting(0, "lora: rank of the adapters; 0: none, all weights are tuned", minimum=0)
    alpha: float = setting(16.0, "lora: what is added is multiplied by alpha / rank", above=0.0)
    targets: tuple[str, ...] = setting(
        ("attention/(query|value)$",),
        "lora: regular expressions over the paths of matrices; blocks/ for those of all layers",
    )
    adapter: str = setting("", "lora: folder of a PEFT adapter to begin with; empty: a new one")


def frozen(optim: OptimConfig, settings: LoraConfig) -> tuple[str, ...]:
    """What is not trained: what `optim.frozen` says, and with adapters all else too."""
    return (*optim.frozen, FREE) if settings.rank else optim.frozen


def attached(config: ModelConfig, params: Params, settings: LoraConfig, key: jax.Array) -> Params:
    """The parameters with `LowRank` leaves at the targets.

    A is drawn as PEFT draws it, U(−1/√I, 1/√I), and B is zero, so that nothing is added at first.

    Raises:
      UserError: for targets that match no matrix, and an adapter of another base.
    """
    if not settings.rank:
        return params
    if settings.adapter:
        return _read(config, params, settings)
    check_expressions("finetune.lora.targets", settings.targets)
    stacks = _stacks(config)
    wanted = [path for path in stacks if matches(settings.targets, path)]
    if not wanted:
        raise UserError(
            f"finetune.lora.targets={settings.targets} match no matrix of the model; its matrices "
            f"are {', '.join(stacks)}"
        )
    experts = [path for path in wanted if stacks[path][0].lead]
    if experts:
        raise UserError(
            f"finetune.lora.targets={settings.targets} match {experts[0]}, matrices of experts, "
            "for which PEFT's files have no place; name others"
        )
    for number, path in enumerate(wanted):
        a, b = _fresh(stacks[path], settings.rank, jax.random.fold_in(key, number))
        params = _with(params, path, a, b, settings.alpha / settings.rank)
    return params


def _read(config: ModelConfig, params: Params, settings: LoraConfig) -> Params:
    found = peft.read_adapter(user_path(settings.adapter), config)
    if (found.rank, found.alpha) != (settings.rank, settings.alpha):
        raise UserError(
            f"finetune.lora.adapter={settings.adapter} has rank {found.rank} and alpha "
            f"{found.alpha:g}; set finetune.lora.rank={found.rank} and "
            f"finetune.lora.alpha={found.alpha:g}"
        )
    for path, (a, b) in found.matrices.items():
        params = _with(params, path, a, b, found.scale)
    return params


def _stacks(config: ModelConfig) -> dict[str, list[Matrix]]:
    """The matrices inside layers, by the path of the leaf that holds them."""
    found: dict[str, list[Matrix]] = {}
    for matrix in matrices(config):
        if matrix.layered:
            found.setdefault(matrix.path, []).append(matrix)
    return found


def _fresh(stack: list[Matrix], rank: int, key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """(A_LIR, B_LRO)."""
    L = len(stack)
    I, O = math.prod(stack[0].inputs), math.prod(stack[0].outputs)
    a = jax.random.uniform(key, (L, I, rank), minval=-1.0, maxval=1.0) / math.sqrt(I)
    return np.asarray(a), np.zeros((L, rank, O), np.float32)


def _with(params: Params, path: str, a: Any, b: Any, scale: float) -> Params:
    base = inside(params, path)
    if isinstance(base, ByLayer):
        leaf: Any = ByLayer(
            tuple(LowRank(*one, scale) for one in zip(base.layers, a, b, strict=True))
        )
    else:
        leaf = LowRank(base, a, b, scale)
    return inside(params, path, leaf)


def without(params: Params) -> Params:
    """The parameters as arrays, adapters merged: W0 + (α/R)·A·B in float32.

    A quantized base is dequantised: its codes have no room for the sum, and rounding it again would
    lose what was tuned.
    """
    if not any(_adapters(params)):
        return params
    whole = lambda leaf: is_low_rank(leaf) or is_quantized(leaf) or isinstance(leaf, ByLayer)  # noqa: E731
    return jax.tree.map(_array, params, is_leaf=whole)


def _array(leaf: Any) -> Any:
    if isinstance(leaf, ByLayer):
        return jnp.stack([_array(layer) for layer in leaf.layers])
    return dense(leaf, jnp.float32)


def _adapters(params: Params) -> Iterator[tuple[str, list[LowRank]]]:
    """(path, the adapters there, one or one for each layer)."""
    stop = lambda leaf: is_low_rank(leaf) or isinstance(leaf, ByLayer)  # noqa: E731
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params, is_leaf=stop):
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        layers = leaf.layers if isinstance(leaf, ByLayer) else (leaf,)
        if is_low_rank(layers[0]):
            yield path, list(layers)


def save(
    folder: Path, config: ModelConfig, params: Params, settings: LoraConfig, base: str
) -> None:
    """Write the adapters in PEFT's layout.

    Args:
      base: the folder of the model that they belong to.
    """
    found = {}
    for path, layers in _adapters(params):
        sides = ([np.asarray(getattr(x, name), np.float32) for x in layers] for name in NAMES)
        a, b = (np.stack(side) if side[0].ndim == 2 else side[0] for side in sides)
        found[path] = (a, b)
    peft.write_adapter(folder, config, peft.Adapter(settings.rank, settings.alpha, found, base))

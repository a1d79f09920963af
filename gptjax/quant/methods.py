"""Methods of quantization: how the codes of one matrix are found."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import ops
from gptjax.models.quantized import Affine, NormalFloat
from gptjax.quant.gptq import gptq
from gptjax.quant.matrices import Matrix

SCALES = ("tensor", "channel", "group")
"""What shares a scale and a zero point."""

KEPT: dict[int, Any] = {16: jnp.bfloat16, 32: jnp.float32}
"""Types of matrices that are not quantized, by their bits."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to quantize.

    Attributes:
      bits: that it can do.
      make: (w [*lead, I, O], matrix, bits, settings, Hessian or None) → leaf.
      calibrated: whether it wants the Hessian of the inputs.
    """

    bits: tuple[int, ...]
    make: Callable[..., Any]
    calibrated: bool = False


def group_of(settings: Any, inputs: int) -> int:
    """Inputs that share a scale."""
    return min(settings.group, inputs) if settings.scales == "group" else inputs


def make_affine(w: jax.Array, matrix: Matrix, bits: int, settings: Any, hessian: Any) -> Affine:
    """Round to nearest."""
    group, whole = group_of(settings, w.shape[-2]), settings.scales == "tensor"
    w_GSO = ops.in_groups(w, group)
    scale, zero = ops.affine_grid(w_GSO, bits, whole=whole)
    codes = ops.to_codes(w_GSO, scale, zero, bits)
    rows = codes.reshape(*w.shape[:-2], -1, w.shape[-1])
    return _affine(rows, scale, zero, matrix, bits, group, settings.activations)


def make_gptq(w: jax.Array, matrix: Matrix, bits: int, settings: Any, hessian: Any) -> Affine:
    """GPTQ where there is a Hessian (experts, embedding and head have none), else to nearest."""
    if hessian is None:
        return make_affine(w, matrix, bits, settings, None)
    group = group_of(settings, w.shape[-2])
    codes, scale, zero = gptq(
        np.asarray(w),
        hessian,
        bits=bits,
        group=group,
        whole=settings.scales == "tensor",
        damping=settings.damping,
        by_activation=settings.activation_order,
    )
    return _affine(codes, scale, zero, matrix, bits, group, settings.activations)


def make_nf4(w: jax.Array, matrix: Matrix, bits: int, settings: Any, hessian: Any) -> NormalFloat:
    """QLoRA's storage."""
    flat = jnp.swapaxes(w, -1, -2).reshape(*w.shape[:-2], -1)
    packed, absmax = ops.quantize_nf4(flat)
    return NormalFloat(packed, *ops.quantize_absmax(absmax), matrix.inputs, matrix.outputs)


def _affine(
    codes_RO: jax.Array,
    scale: jax.Array,
    zero: jax.Array,
    matrix: Matrix,
    bits: int,
    group: int,
    activations: int,
) -> Affine:
    packed = ops.pack_codes(codes_RO, bits)
    return Affine(packed, scale, zero, bits, group, matrix.inputs, matrix.outputs, activations)


_ANY = tuple(ops.BITS)

METHODS: dict[str, Method] = {
    "affine": Method(_ANY, make_affine),
    "gptq": Method(_ANY, make_gptq, calibrated=True),
    "nf4": Method((4,), make_nf4),
}
"""The choices of `quantize.method`."""


def leaf_of(
    method: str, w: jax.Array, matrix: Matrix, bits: int, settings: Any, hessian: Any
) -> Any:
    """The leaf of a matrix in so many bits: by the method if it has them, else to nearest.

    Args:
      w: [*lead, *inputs, *outputs].
    """
    if bits in KEPT:
        return w.astype(KEPT[bits])
    flat = w.reshape(*matrix.lead, int(np.prod(matrix.inputs)), int(np.prod(matrix.outputs)))
    make = METHODS[method].make if bits in METHODS[method].bits else make_affine
    return make(flat, matrix, bits, settings, hessian)

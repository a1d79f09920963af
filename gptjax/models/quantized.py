"""Quantized parameters: small pytrees in the place of arrays, which `product` understands.

A leaf describes one matrix of a layer, [inputs, outputs], and its arrays may have axes in front
(layers, experts), so that stacks of layers are scanned and unrolled as those of arrays are.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.models.product import dense, multiply, product, rows, transposed


def _static(**options: Any) -> Any:
    """A field that is no array."""
    return dataclasses.field(metadata={"static": True}, **options)


class _Matrix:
    """What the leaves of this file have in common; a dataclass below gives the fields."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    transposed: bool
    arrays: ClassVar[tuple[str, ...]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that it stands for."""
        lead = self.lead
        ends = (self.outputs, self.inputs) if self.transposed else (self.inputs, self.outputs)
        return (*lead, *ends[0], *ends[1])

    @property
    def lead(self) -> tuple[int, ...]:
        """Axes in front of the matrix."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(getattr(self, name).nbytes for name in self.arrays)

    @property
    def settings(self) -> dict[str, Any]:
        """The fields that are no arrays, as a file keeps them."""
        fields = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        return {name: getattr(self, name) for name in fields if name not in self.arrays}

    def values_IO(self) -> jax.Array:
        """The matrix, [*lead, I, O] float32."""
        raise NotImplementedError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Affine(_Matrix):
    """(code − zero)·scale, a scale and a zero point for each group of inputs of an output.

    Attributes:
      packed: uint8, the codes as `ops.pack_codes` lays them out: [*lead, I·bits/8, O].
      scale: [*lead, G, P], P = O, or G = P = 1 for one scale of all.
      zero: uint8, the same shape.
      bits: of a code.
      group: inputs of a group.
      activations: 8: the inputs are quantized too, each token by its largest magnitude, and
        integers are multiplied; 0: they are not.
    """

    packed: jax.Array
    scale: jax.Array
    zero: jax.Array
    bits: int = _static()
    group: int = _static()
    inputs: tuple[int, ...] = _static()
    outputs: tuple[int, ...] = _static()
    activations: int = _static()
    transposed: bool = _static(default=False)

    arrays: ClassVar[tuple[str, ...]] = ("packed", "scale", "zero")

    @property
    def lead(self) -> tuple[int, ...]:
        return self.packed.shape[:-2]

    def codes_GSO(self) -> jax.Array:
        """uint8, the rows after the last input included."""
        codes = ops.unpack_codes(self.packed, self.bits)
        return codes.reshape(*self.lead, -1, self.group, codes.shape[-1])

    def values_IO(self) -> jax.Array:
        w_GSO = ops.from_codes(self.codes_GSO(), self.scale, self.zero)
        w_IO = w_GSO.reshape(*self.lead, -1, w_GSO.shape[-1])
        return w_IO[..., : math.prod(self.inputs), :]

    def columns_In(self, index_n: jax.Array) -> jax.Array:
        """Some outputs of the matrix, without decoding the others."""

        own = self.scale.shape[-1] == self.packed.shape[-1]
        names = self.arrays if own else ("packed",)
        some = {name: getattr(self, name)[..., index_n] for name in names}
        return dataclasses.replace(self, **some, outputs=index_n.shape).values_IO()

    @staticmethod
    def shapes(settings: dict[str, Any], lead: tuple[int, ...], stored: Any) -> dict[str, Any]:
        """Shapes of the arrays of a leaf with these settings, of which `stored` may choose."""
        I, O = math.prod(settings["inputs"]), math.prod(settings["outputs"])
        rows = ops.padded_inputs(I, settings["group"])
        grid = (*lead, rows // settings["group"], O)
        if stored["scale"] == (*lead, 1, 1):
            grid = (*lead, 1, 1)
        return {
            "packed": (*lead, rows * settings["bits"] // 8, O),
            "scale": grid,
            "zero": grid,
        }


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NormalFloat(_Matrix):
    """NF4 with double quantization (QLoRA, section 3), stored as bitsandbytes stores it.

    The blocks run along the inputs of one output after another: the order of a Linear's weight in
    PyTorch.

    Attributes:
      packed: uint8, two codes a byte: [*lead, ⌈I·O/2⌉].
      absmax: uint8, codes of the blocks' largest magnitudes less their mean: [*lead, b].
      nested: float32, the scale of each 256 of them.
      offset: float32, their mean: [*lead].
    """

    packed: jax.Array
    absmax: jax.Array
    nested: jax.Array
    offset: jax.Array
    inputs: tuple[int, ...] = _static()
    outputs: tuple[int, ...] = _static()
    transposed: bool = _static(default=False)

    arrays: ClassVar[tuple[str, ...]] = ("packed", "absmax", "nested", "offset")

    @property
    def lead(self) -> tuple[int, ...]:
        return self.packed.shape[:-1]

    def values_IO(self) -> jax.Array:
        I, O = math.prod(self.inputs), math.prod(self.outputs)
        absmax = ops.dequantize_absmax(self.absmax, self.nested, self.offset)
        w_n = ops.dequantize_nf4(self.packed, absmax, I * O)
        return jnp.swapaxes(w_n.reshape(*self.lead, O, I), -1, -2)

    def columns_In(self, index_n: jax.Array) -> jax.Array:
        """Some outputs of the matrix; a block may hold several, so all are decoded."""
        return self.values_IO()[..., index_n]

    @staticmethod
    def shapes(settings: dict[str, Any], lead: tuple[int, ...], stored: Any) -> dict[str, Any]:
        """Shapes of the arrays of a leaf with these settings."""
        count = math.prod(settings["inputs"]) * math.prod(settings["outputs"])
        blocks = -(-count // 64)
        return {
            "packed": (*lead, -(-count // 2)),
            "absmax": (*lead, blocks),
            "nested": (*lead, -(-blocks // 256)),
            "offset": lead,
        }


LEAVES: dict[str, type] = {"affine": Affine, "nf4": NormalFloat}
"""The kinds of quantized leaves, by the names that files keep."""


def kind_of_leaf(leaf: Any) -> str:
    """Its name in LEAVES, or "" for an array."""
    return next((name for name, cls in LEAVES.items() if isinstance(leaf, cls)), "")


def is_quantized(leaf: Any) -> bool:
    """Whether it is a leaf of this file."""
    return isinstance(leaf, _Matrix)


def _dense(leaf: Any, dtype: Any) -> jax.Array:
    w_IO = leaf.values_IO().astype(dtype)
    if leaf.transposed:
        w_IO = jnp.swapaxes(w_IO, -1, -2)
    return w_IO.reshape(leaf.shape)


def _multiply(leaf: Affine, x: jax.Array, bias: Any, inputs: int, dtype: Any) -> jax.Array:
    if not leaf.activations:
        return product(x, _dense(leaf, x.dtype), bias, inputs=inputs, dtype=dtype)
    assert inputs == len(leaf.inputs) and not leaf.transposed, "a product over the other axes"
    x_TI = x.reshape(*x.shape[:-inputs], math.prod(leaf.inputs))
    y_TO = ops.integer_product(x_TI, leaf.codes_GSO(), leaf.scale, leaf.zero)
    y = y_TO.reshape(*x.shape[:-inputs], *leaf.outputs).astype(dtype or x.dtype)
    return y if bias is None else y + bias.astype(y.dtype)


def _rows(leaf: Any, index: jax.Array, dtype: Any) -> jax.Array:
    assert leaf.transposed, "a table has its rows first"
    w_In = leaf.columns_In(index.reshape(-1))
    return w_In.T.reshape(*index.shape, -1).astype(dtype)


def _transposed(leaf: Any) -> Any:
    return dataclasses.replace(leaf, transposed=not leaf.transposed)


for _cls in LEAVES.values():
    dense.register(_cls, _dense)
    rows.register(_cls, _rows)
    transposed.register(_cls, _transposed)
multiply.register(Affine, _multiply)

"""The types of a family's table, and the rows that many families share."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

GATED = {"silu": "swiglu", "gelu": "geglu", "gelu_pytorch_tanh": "geglu_tanh", "relu": "reglu"}
PLAIN = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
}


@dataclasses.dataclass(frozen=True)
class Attribute:
    """One attribute of config.json and the field of ModelConfig that it is.

    Attributes:
      theirs, ours: the names.
      default: what the family takes where the attribute is missing; REQUIRED: none.
      read: their value -> ours; a mapping or a function.
      write: our value -> theirs; for a mapping its inverse.
    """

    theirs: str
    ours: str
    default: Any
    read: Mapping[Any, Any] | Callable[[Any], Any] = lambda value: value
    write: Callable[[Any], Any] = lambda value: value


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of theirs and the leaves of ours that it holds, side by side.

    Attributes:
      name: with {i} for the layer and {e} for the expert.
      leaves: paths; their last axes are concatenated in this order.
      transposed: theirs is [out, in], as PyTorch's Linear keeps it.
      inputs: leading axes of our leaf that are the matrix's inputs.
      by_head: theirs has the leaves of one head together (GPT-NeoX), of a key head with those of
        its queries (Phi-3-small).
      by_column: theirs has one column of each leaf in turn (Phi-3-small).
      squeezed: theirs has an axis of length one in its middle (convolutions by channel).
      leading: how many axes of length one theirs begins with.
      patch: theirs is a convolution over square patches with this side, and ours the matrix on
        their pixels, row by row, channels last; 0: it is not.
      flat: theirs has all axes of ours but the first as one.
      below: theirs has the leaves' rows one below the other.
    """

    name: str
    leaves: tuple[str, ...]
    transposed: bool = True
    inputs: int = 1
    by_head: bool = False
    by_column: bool = False
    squeezed: bool = False
    leading: int = 0
    patch: int = 0
    flat: bool = False
    below: bool = False


@dataclasses.dataclass(frozen=True)
class Family:
    """How one model type of `transformers` is written.

    Attributes:
      architecture: the class that loads it, for config.json.
      prefix: of every tensor but the head; some published files leave it out.
      attributes: what varies.
      always: the fields of ModelConfig that make the family.
      only: attributes that must have these values, which are also their defaults.
      rope, rope_names: whether it has rotary positions, and the attributes of their base and of
        the share of a head that turns; rope_base, rope_fraction: both where nothing is said.
      layers: how it says which layers are local: a name of LAYERS in `attributes`.
      tensors: outside and inside the layers.
      head: name of the output matrix, where it is not tied.
      ignored: tensors of published files that are no weights, as regular expressions.
      unused: fields of ModelConfig that mean nothing here.
      silent: attributes that are said twice, or only matter before training.
      prepare: their attributes to plainer ones, before the table is read.
      finish: the inverse, after the table is written.
    """

    model_type: str
    architecture: str
    prefix: str
    attributes: tuple[Attribute, ...]
    always: Mapping[str, Any]
    tensors: tuple[Tensor, ...]
    only: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rope: bool = False
    rope_base: float = 1e4
    rope_names: tuple[str, str] = ("rope_theta", "partial_rotary_factor")
    rope_fraction: float = 1.0
    layers: str = "global"
    head: str = "lm_head.weight"
    ignored: tuple[str, ...] = (r"rotary_emb\.inv_freq$",)
    unused: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = lambda attributes: attributes
    finish: Callable[[dict[str, Any]], dict[str, Any]] = lambda attributes: attributes


REQUIRED = object()


def sizes(**names: str) -> tuple[Attribute, ...]:
    return tuple(Attribute(theirs, ours, REQUIRED) for ours, theirs in names.items())


def replaced(attributes: tuple[Attribute, ...], *changed: Attribute) -> tuple[Attribute, ...]:
    """The table with some rows replaced, by their field, and the others added."""
    fields = {row.ours for row in changed}
    return (*(row for row in attributes if row.ours not in fields), *changed)


def without(attributes: tuple[Attribute, ...], *fields: str) -> tuple[Attribute, ...]:
    return tuple(row for row in attributes if row.ours not in fields)


def norm(theirs: str, ours: str, *, bias: bool = False) -> tuple[Tensor, ...]:
    """The rows of a norm's scale, and of its bias."""
    weight = Tensor(f"{theirs}.weight", (f"{ours}/scale",), transposed=False)
    both = (weight, Tensor(f"{theirs}.bias", (f"{ours}/bias",), transposed=False))
    return both if bias else (weight,)


def linear(
    theirs: str, *leaves: str, bias: bool = False, inputs: int = 1, **options: Any
) -> tuple[Tensor, ...]:
    """The rows of a matrix that holds leaves side by side, and of its bias."""
    weight = Tensor(f"{theirs}.weight", leaves, inputs=inputs, **options)
    if not bias:
        return (weight,)
    names = tuple(f"{leaf}_bias" for leaf in leaves)
    together = {name: options.get(name, False) for name in ("by_head", "by_column")}
    return (weight, Tensor(f"{theirs}.bias", names, transposed=False, inputs=0, **together))


def separate_attention(at: str, *, bias: bool = False, out: str = "o_proj") -> tuple[Tensor, ...]:
    return (
        *linear(f"{at}.q_proj", "attention/query", bias=bias),
        *linear(f"{at}.k_proj", "attention/key", bias=bias),
        *linear(f"{at}.v_proj", "attention/value", bias=bias),
        *linear(f"{at}.{out}", "attention/out", inputs=2),
    )

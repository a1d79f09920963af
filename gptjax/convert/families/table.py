"""The types of a family's table, and the rows that many families share."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

# `transformers` has several names for one function; the first is written.
_TANH = ("gelu_pytorch_tanh", "gelu_fast", "gelu_accurate", "gelu_python_tanh")
PLAIN = {
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    **dict.fromkeys(("gelu_new", *_TANH), "gelu_tanh"),
    "relu": "relu",
    "quick_gelu": "quick_gelu",
    **dict.fromkeys(("silu", "swish"), "silu"),
}
GATED = {
    **dict.fromkeys(("silu", "swish"), "swiglu"),
    **dict.fromkeys(("gelu", "gelu_python"), "geglu"),
    **dict.fromkeys((*_TANH, "gelu_new"), "geglu_tanh"),
    "relu": "reglu",
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
class Rope:
    """How a class of `transformers` reads rotary positions.

    Attributes:
      base_name, base: the attribute of the base outside of `rope_parameters`, and its default.
      fraction_name, fraction: the same of the share of a head that is rotated.
      partial: whether the class rotates a share; the others read it from no attribute.
      kinds: values of `rope_type` that it runs; renamed: those that it takes for others.
      original: default of `original_max_position_embeddings` where it is an attribute of the class.
      also: names in `rope_parameters` that the model reads besides, for every kind of scaling.
    """

    base_name: str = "rope_theta"
    base: float = 1e4
    fraction_name: str = "partial_rotary_factor"
    fraction: float = 1.0
    partial: bool = False
    kinds: tuple[str, ...] = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    original: int | None = None
    also: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Biases:
    """Where a family has biases.

    Attributes:
      switches: attribute → (its default, the elements of `bias_places` that it switches).
      always: elements that no attribute switches.
    """

    switches: "Switches"
    always: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Family:
    """How one model type of `transformers` is written.

    Attributes:
      architecture: the class that loads it, for config.json.
      prefix: of every tensor but the head; some published files leave it out.
      attributes: what varies.
      always: the fields of ModelConfig that make the family.
      only: attributes that the class reads and that must have these values, their defaults.
      aliases: the class's `attribute_map`: other names of attributes.
      rope: its rotary positions, if it has them.
      biases: its attributes of biases, if it has any.
      layers: how it says which layers are local: a name of LAYERS in `layer_types`.
      tensors: outside and inside the layers.
      head: name of the output matrix, where it is not tied.
      ignored: tensors of published files that are no weights, as regular expressions.
      unused: fields of ModelConfig that mean nothing here.
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
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rope: Rope | None = None
    biases: Biases | None = None
    layers: str = "global"
    head: str = "lm_head.weight"
    ignored: tuple[str, ...] = (r"rotary_emb\.inv_freq$",)
    unused: tuple[str, ...] = ()
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = lambda attributes: attributes
    finish: Callable[[dict[str, Any]], dict[str, Any]] = lambda attributes: attributes


REQUIRED = object()


def sizes(**names: str) -> tuple[Attribute, ...]:
    return tuple(Attribute(theirs, ours, REQUIRED) for ours, theirs in names.items())


def with_rows(attributes: tuple[Attribute, ...], *changed: Attribute) -> tuple[Attribute, ...]:
    """The table with some rows with_rows, by their field, and the others added."""
    fields = {row.ours for row in changed}
    return (*(row for row in attributes if row.ours not in fields), *changed)


def without(attributes: tuple[Attribute, ...], *fields: str) -> tuple[Attribute, ...]:
    return tuple(row for row in attributes if row.ours not in fields)


def norm(theirs: str, ours: str, *, bias: bool = False) -> tuple[Tensor, ...]:
    """The rows of a norm's scale, and of its bias."""
    weight = Tensor(f"{theirs}.weight", (f"{ours}/scale",), transposed=False)
    both = (weight, Tensor(f"{theirs}.bias", (f"{ours}/bias",), transposed=False))
    return both if bias else (weight,)


Switches = dict[str, tuple[bool, tuple[str, ...]]]
ATTENTION_BIAS: Switches = {"attention_bias": (False, ("qkv", "out"))}
MLP_BIAS: Switches = {"mlp_bias": (False, ("mlp",))}


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


def separate_attention(
    at: str, *, bias: bool = False, out_bias: bool = False, out: str = "o_proj"
) -> tuple[Tensor, ...]:
    return (
        *linear(f"{at}.q_proj", "attention/query", bias=bias),
        *linear(f"{at}.k_proj", "attention/key", bias=bias),
        *linear(f"{at}.v_proj", "attention/value", bias=bias),
        *linear(f"{at}.{out}", "attention/out", inputs=2, bias=out_bias),
    )

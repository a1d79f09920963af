"""The decoder's settings: every published variant is a value of one of these fields."""

import dataclasses

from gptjax.errors import UserError
from gptjax.fields import setting


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer. `validate` checks what one field cannot know of another."""

    family: str = setting("decoder", "the kind of model", choices=("decoder",))
    preset: str = setting("", "a published model whose values replace the defaults below")
    vocab_size: int = setting(0, "number of tokens; 0: the tokenizer's", minimum=0)
    depth: int = setting(4, "number of blocks", minimum=1)
    width: int = setting(128, "width of the residual stream", minimum=1)
    num_heads: int = setting(4, "query heads", minimum=1)
    num_kv_heads: int = setting(0, "key and value heads; 0: as many as queries", minimum=0)
    head_dim: int = setting(0, "width of a head; 0: width / num_heads", minimum=0)
    mlp_width: int = setting(0, "hidden width of the feed-forward; 0: 4 x width", minimum=0)
    seq_len: int = setting(128, "context in tokens", minimum=1)
    norm: str = setting("layernorm", "normalisation", choices=("layernorm", "rmsnorm"))
    norm_place: str = setting("pre", "norm before or after each sublayer", choices=("pre", "post"))
    norm_eps: float = setting(1e-5, "added to the variance", above=0.0)
    positions: str = setting(
        "learned",
        "how a token knows where it is",
        choices=("learned", "sinusoidal", "rotary", "none"),
    )
    rope_base: float = setting(10_000.0, "base of the rotary wavelengths", above=1.0)
    mlp: str = setting(
        "gelu_tanh",
        "feed-forward kind; the last two are gated and have three matrices",
        choices=("gelu", "gelu_tanh", "relu", "swiglu", "geglu"),
    )
    use_bias: bool = setting(True, "biases in projections and in LayerNorm")
    tied_head: bool = setting(True, "the head is the token embedding, transposed")
    init_scale: float = setting(0.02, "standard deviation of the initial weights", above=0.0)
    layers: str = setting(
        "auto",
        "one compiled block scanned over depth, or all blocks unrolled; the numbers are the same",
        choices=("auto", "scan", "unroll"),
    )
    compute_dtype: str = setting(
        "float32", "type of activations; parameters stay float32", choices=("float32", "bfloat16")
    )
    remat: str = setting(
        "none",
        "recompute each block in the backward pass to save memory",
        choices=("none", "block"),
    )

    @property
    def kv_heads(self) -> int:
        """Key and value heads after the default."""
        return self.num_kv_heads or self.num_heads

    @property
    def head_width(self) -> int:
        """Width of one head after the default."""
        return self.head_dim or self.width // self.num_heads

    @property
    def hidden_width(self) -> int:
        """Hidden width of the feed-forward after the default."""
        return self.mlp_width or 4 * self.width


def validate(config: ModelConfig) -> None:
    """Check the fields against each other.

    Raises:
      UserError: naming the field, its value and the repair.
    """
    if config.vocab_size == 0:
        raise UserError("model.vocab_size=0 is not filled in; give the tokenizer's vocabulary size")
    if not config.head_dim and config.width % config.num_heads:
        tries = _divisors_near(config.width, config.num_heads)
        raise UserError(
            f"model.width={config.width} is not a multiple of model.num_heads="
            f"{config.num_heads}; try num_heads={tries}, or set model.head_dim"
        )
    if config.num_heads % config.kv_heads:
        tries = _divisors_near(config.num_heads, config.kv_heads)
        raise UserError(
            f"model.num_heads={config.num_heads} is not a multiple of model.num_kv_heads="
            f"{config.kv_heads}; try num_kv_heads={tries}"
        )
    if config.positions == "rotary" and config.head_width % 2:
        raise UserError(
            f"model.head_dim={config.head_width} is odd, and rotary positions turn pairs; "
            f"set model.head_dim={config.head_width + 1}"
        )
    if config.positions == "sinusoidal" and config.width % 2:
        raise UserError(
            f"model.width={config.width} is odd, and sinusoidal positions come in pairs; "
            f"set model.width={config.width + 1}"
        )


def _divisors_near(number: int, wanted: int) -> str:
    """The divisors of `number` just below and above `wanted`, as words."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    below = [d for d in divisors if d < wanted][-1:]
    above = [d for d in divisors if d > wanted][:1]
    return " or ".join(str(d) for d in below + above)

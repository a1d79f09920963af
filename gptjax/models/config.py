"""The decoder's settings: every published variant is a value of one of these fields."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import gptjax.models.mixers  # noqa: F401 they register the choices
from gptjax.fields import section, setting
from gptjax.models.dropout import DropoutConfig
from gptjax.models.experts import ExpertsConfig
from gptjax.models.mixers.attention import QK_NORMS
from gptjax.models.mixers.config import MixerConfig
from gptjax.models.mixers.mixer import MIXERS, mixer_named
from gptjax.models.mlp import MLPS
from gptjax.models.norms import NORMS
from gptjax.models.remat import POLICIES
from gptjax.models.rope import RopeConfig
from gptjax.models.vision.config import PictureConfig
from gptjax.ops import FEED_FORWARD


@dataclasses.dataclass(frozen=True)
class ModelFamily:
    """One choice of `model.family`.

    Attributes:
      module: linen module with the field `config`, called as `Decoder` is.
      sizes: (config, active) → (parameters of its embedding, all others), as `param_count.sizes`.
    """

    module: Any
    sizes: Callable[..., tuple[int, int]]


BIAS_PLACES = ("qkv", "out", "mlp", "norm")
"""Projections to heads and back, feed-forwards, and layer norms."""

FAMILIES: dict[str, ModelFamily] = {}
"""The choices of `model.family`."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """The two sublayers of one layer.

    Attributes:
      mixer: an element of `ModelConfig.layer_pattern`.
      mlp: an element of `ModelConfig.mlp_pattern`.
    """

    mixer: str = "global"
    mlp: str = "dense"

    @property
    def mixer_name(self) -> str:
        """Where the mixer's parameters are; most kinds of attention have the same."""
        return mixer_named(self.mixer).name

    @property
    def structure(self) -> str:
        """Layers of one structure have the same parameters, and are stacked."""
        return f"{self.mixer_name}_{self.mlp}"


TRAINS_ROUTERS = (
    "router_noise",
    "capacity_factor",
    "balance_loss",
    "router_z_loss",
    "importance_loss",
    "load_loss",
)
"""Settings that act on experts in training only."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer. `validate` checks its fields against each other."""

    family: str = setting("decoder", "the kind of model", choices=FAMILIES)
    preset: str = setting("", "a published model whose values replace the defaults below")
    vocab_size: int = setting(0, "number of tokens; 0: the tokenizer's", minimum=0)
    depth: int = setting(4, "number of blocks", minimum=1)
    width: int = setting(128, "width of the residual stream", minimum=1)
    num_heads: int = setting(4, "query heads", minimum=1)
    num_kv_heads: int = setting(0, "key and value heads; 0: as many as queries", minimum=0)
    head_dim: int = setting(0, "width of a head; 0: width / num_heads", minimum=0)
    mlp_width: int = setting(0, "hidden width of the feed-forward; 0: 4 x width", minimum=0)
    seq_len: int = setting(128, "context in tokens", minimum=1)
    norm: str = setting("layernorm", "normalisation", choices=NORMS)
    norm_place: str = setting(
        "pre",
        "norm before each sublayer, after its sum with the residual stream, or around it (Gemma 2)",
        choices=("pre", "post", "both"),
    )
    norm_eps: float = setting(1e-5, "added to the variance", above=0.0)
    norm_plus_one: bool = setting(False, "norms multiply by 1 + scale (Gemma)")
    block: str = setting(
        "sequential",
        "feed-forward after attention, in parallel with its own norm (GPT-NeoX), or in parallel "
        "with "
        "attention's norm (Command R)",
        choices=("sequential", "parallel", "parallel_shared_norm"),
    )
    layer_pattern: tuple[str, ...] = setting(
        ("global",),
        "mixer of tokens in each layer, repeated over depth; local: within model.window; ssm: "
        "Mamba's selective state space; the others leave pairs of tokens out (docs/models.md)",
        choices=MIXERS,
    )
    mlp_pattern: tuple[str, ...] = setting(
        ("dense",),
        "feed-forward of each layer, repeated over depth after model.dense_layers",
        choices=MLPS,
    )
    dense_layers: int = setting(
        0, "first layers whose feed-forward is dense all the same (DeepSeek)", minimum=0
    )
    window: int = setting(
        0, "tokens that a local or longformer layer sees, its own included", minimum=0
    )
    positions: str = setting(
        "learned",
        "encoding of positions",
        choices=("learned", "sinusoidal", "rotary", "alibi", "none"),
    )
    mlp: str = setting(
        "gelu_tanh",
        "feed-forward kind; those with glu in their name, and gegelu (Phi-3-small: a sigmoid's "
        "GELU times 1 + the other), are gated and have three matrices",
        choices=FEED_FORWARD,
    )
    mlp_limit: float = setting(
        0.0,
        "gated feed-forwards: the largest gate, and the largest magnitude of the gated values "
        "(Phi-3-small: 20); 0: none",
        minimum=0.0,
    )
    qk_norm: str = setting(
        "none",
        "norm of each query's and key's head, with one scale for all heads (Qwen3) or one each "
        "(Command R+)",
        choices=QK_NORMS,
    )
    attention_scale: float = setting(
        0.0, "multiplies the scores; 0: 1/√head_dim", minimum=0.0, maximum=1e30
    )
    attention_soft_cap: float = setting(
        0.0, "c in c·tanh(score/c) before the softmax (Gemma 2: 50); 0: none", minimum=0.0
    )
    attention_sinks: bool = setting(
        False, "a learned score of each head that takes weight and has no value (GPT-OSS)"
    )
    attention_gate: bool = setting(
        False, "attention's output times a sigmoid of a projection of its input"
    )
    logit_soft_cap: float = setting(0.0, "c in c·tanh(logit/c) (Gemma 2: 30); 0: none", minimum=0.0)
    softmaxes: int = setting(
        1,
        "softmaxes of the head, mixed with weights that depend on the token (Yang et al. 2018)",
        minimum=1,
        maximum=64,
    )
    logit_scale: float = setting(1.0, "multiplies the logits (Command R+: 0.8333)", above=0.0)
    embedding_scale: float = setting(
        1.0, "multiplies token embeddings; 0: √width (Gemma)", minimum=0.0
    )
    residual_scale: float = setting(
        1.0, "multiplies the output of each sublayer before its residual sum (Granite)", above=0.0
    )
    rope: RopeConfig = section(RopeConfig, "rotary positions")
    mixer: MixerConfig = section(MixerConfig, "mixers of tokens")
    experts: ExpertsConfig = section(ExpertsConfig, "mixtures of experts")
    dropout: DropoutConfig = section(DropoutConfig, "dropout in training")
    vision: PictureConfig = section(PictureConfig, "pictures before texts")
    use_bias: bool = setting(True, "biases at model.bias_places")
    bias_places: tuple[str, ...] = setting(
        BIAS_PLACES,
        "where there are biases if model.use_bias; Qwen2.5 has qkv only",
        choices=BIAS_PLACES,
    )
    tied_head: bool = setting(True, "the head is the token embedding, transposed")
    init_scale: float = setting(0.02, "standard deviation of the initial weights", above=0.0)
    hidden_init_scale: float = setting(
        0.0, "the same for the matrices inside blocks; 0: model.init_scale", minimum=0.0
    )
    layers: str = setting(
        "auto",
        "one compiled block scanned over depth, or all blocks unrolled; the numbers are the same",
        choices=("auto", "scan", "unroll"),
    )
    attention_impl: str = setting(
        "auto",
        "dense scores, or blocks of them in memory linear in the context; auto: dense up to 1024 "
        "tokens, blockwise above, the backend's own kernel where it has one that fits",
        choices=("auto", "dense", "blockwise"),
    )
    compute_dtype: str = setting(
        "float32",
        "type of activations and products; sums, norms, softmax and loss stay float32; auto, for "
        "job=train: bfloat16 on accelerators and, from width 256 on, on processors with AMX, else "
        "float32",
        choices=("float32", "bfloat16", "float16", "auto"),
    )
    remat: str = setting(
        "none",
        "recomputation in the backward pass, to save memory: nothing, all but products with "
        "parameters, each block, segments of √L blocks, all but products that lie on the host; "
        "auto: the cheapest that fits train.memory_gb",
        choices=(*POLICIES, "auto"),
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

    @property
    def rotary_width(self) -> int:
        """Columns of a head that are rotated."""
        return int(self.head_width * self.rope.fraction)

    @property
    def expert_hidden_width(self) -> int:
        """Hidden width of an expert after the default."""
        return self.experts.width or self.hidden_width

    @property
    def block_tokens(self) -> int:
        """Tokens of a block of the kinds that have blocks, after the default."""
        return self.mixer.sparse.block or math.ceil(math.sqrt(self.seq_len))

    @property
    def feature_count(self) -> int:
        """Performer's random features of a head after the default (its theorem 4)."""
        H = self.head_width
        return self.mixer.performer.features or max(1, math.ceil(H * math.log(H)))

    @property
    def bucket_count(self) -> int:
        """Reformer's buckets after the default (its section 2.3)."""
        return self.mixer.reformer.buckets or max(
            2, -(-2 * self.seq_len // self.mixer.reformer.chunk)
        )

    @property
    def value_width(self) -> int:
        """Width of a value in latent attention after the default."""
        return self.mixer.latent.value_dim or self.head_width

    @property
    def ssm_width(self) -> int:
        """Mamba's channels."""
        return self.mixer.ssm.expand * self.width

    @property
    def ssm_step_rank(self) -> int:
        """Rank of Mamba's step size after the default."""
        return self.mixer.ssm.rank or -(-self.width // 16)

    @property
    def period(self) -> int:
        """Layers after which both patterns begin again."""
        return math.lcm(len(self.layer_pattern), len(self.mlp_pattern))

    @property
    def layers_of_depth(self) -> tuple[Layer, ...]:
        """The patterns repeated over the depth."""
        kinds, mlps = self.layer_pattern, self.mlp_pattern
        return tuple(
            Layer(
                kinds[i % len(kinds)],
                "dense" if i < self.dense_layers else mlps[(i - self.dense_layers) % len(mlps)],
            )
            for i in range(self.depth)
        )

    @property
    def stacks(self) -> dict[str, tuple[Layer, ...]]:
        """Layers by structure, in their order."""
        layers = self.layers_of_depth
        names = dict.fromkeys(layer.structure for layer in layers)
        return {name: tuple(x for x in layers if x.structure == name) for name in names}

    @property
    def at_rest(self) -> "ModelConfig":
        """The model outside of training: no noise, no dropout, and no token dropped."""
        quiet = dataclasses.replace(
            self.experts, router_noise=False, capacity_factor=0.0, load_loss=0.0
        )
        return dataclasses.replace(self, experts=quiet, dropout=DropoutConfig())

    def has_bias(self, place: str) -> bool:
        """Whether there are biases at `place`, one of `bias_places`."""
        return self.use_bias and place in self.bias_places

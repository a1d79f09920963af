"""The decoder's settings: every published variant is a value of one of these fields."""

import dataclasses
import math

import gptjax.models.experts
import gptjax.models.mixers  # noqa: F401 they register the choices
from gptjax.fields import setting
from gptjax.models.mixers.mixer import MIXERS, mixer_named
from gptjax.models.mlp import MLPS
from gptjax.ops import FEED_FORWARD


@dataclasses.dataclass(frozen=True)
class Layer:
    """What one layer is.

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
    norm_place: str = setting(
        "pre",
        "norm before each sublayer, after its sum with the stream, or around it (Gemma 2)",
        choices=("pre", "post", "both"),
    )
    norm_eps: float = setting(1e-5, "added to the variance", above=0.0)
    norm_plus_one: bool = setting(False, "norms multiply by 1 + scale (Gemma)")
    block: str = setting(
        "sequential",
        "feed-forward after attention, beside it with its own norm (GPT-NeoX), or beside it with "
        "attention's norm (Command R)",
        choices=("sequential", "parallel", "parallel_shared_norm"),
    )
    layer_pattern: tuple[str, ...] = setting(
        ("global",),
        "what mixes tokens in each layer, repeated over depth; local: within model.window; ssm: "
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
    sparse_block: int = setting(
        0,
        "strided: the stride; fixed, linformer, blocksparse: tokens of a block; 0: √seq_len, "
        "upwards",
        minimum=0,
    )
    sparse_summary: int = setting(
        4,
        "fixed: last tokens of a block, and linformer: summaries of it, that later blocks see",
        minimum=1,
    )
    sparse_local_blocks: int = setting(
        2,
        "blocksparse: last blocks that all heads see, the own included (Phi-3-small: 16)",
        minimum=1,
    )
    sparse_stride: int = setting(
        4, "blocksparse: of so many earlier blocks a head sees one (Phi-3-small: 8)", minimum=1
    )
    global_tokens: int = setting(
        1,
        "longformer: first tokens, which all see and which have projections of their own",
        minimum=1,
    )
    random_features: int = setting(
        0, "performer: random features of a head; 0: head_dim·ln(head_dim), upwards", minimum=0
    )
    lsh_rounds: int = setting(4, "reformer: rounds of hashing", minimum=1)
    lsh_chunk: int = setting(
        64, "reformer: tokens of its own bucket that a query sees in a round", minimum=1
    )
    lsh_buckets: int = setting(0, "reformer: buckets; 0: 2 x seq_len / lsh_chunk", minimum=0)
    positions: str = setting(
        "learned",
        "how a token knows where it is",
        choices=("learned", "sinusoidal", "rotary", "alibi", "none"),
    )
    rope_base: float = setting(10_000.0, "base of the rotary wavelengths", above=1.0)
    rope_layout: str = setting(
        "half",
        "pairs that turn together are half a head apart (Llama) or neighbours (Command R)",
        choices=("half", "interleaved"),
    )
    rope_fraction: float = setting(
        1.0, "share of a head's columns that turn (GPT-NeoX: 0.25)", above=0.0, maximum=1.0
    )
    rope_scaling: str = setting(
        "none",
        "frequencies for texts beyond the trained length",
        choices=("none", "linear", "ntk", "dynamic", "yarn", "longrope", "llama3"),
    )
    rope_factor: float = setting(1.0, "the longest text over the trained length", minimum=1.0)
    rope_trained_len: int = setting(
        0, "positions before the extension; 0: model.seq_len", minimum=0
    )
    rope_slow: float = setting(
        1.0, "llama3: low_freq_factor; yarn: beta_slow, turns below which a pair is interpolated"
    )
    rope_fast: float = setting(
        32.0, "llama3: high_freq_factor (4 there); yarn: beta_fast, turns above which one is kept"
    )
    rope_attention_factor: float = setting(
        0.0, "yarn, longrope: multiplies rotated columns; 0: the paper's", minimum=0.0
    )
    rope_mscale: float = setting(0.0, "yarn: DeepSeek's mscale; 0: not used", minimum=0.0)
    rope_mscale_all_dim: float = setting(0.0, "yarn: DeepSeek's mscale_all_dim", minimum=0.0)
    rope_short_factors: tuple[float, ...] = setting(
        (), "longrope: divisor of each pair up to the trained length", above=0.0
    )
    rope_long_factors: tuple[float, ...] = setting(
        (), "longrope: divisor of each pair beyond it", above=0.0
    )
    mlp: str = setting(
        "gelu_tanh",
        "feed-forward kind; those with glu in their name, and gegelu (Phi-3-small: a sigmoid's "
        "GELU times 1 + the other), are gated and have three matrices",
        choices=FEED_FORWARD,
    )
    mlp_limit: float = setting(
        0.0,
        "gated feed-forwards: the largest gate, and the largest size of what it multiplies "
        "(Phi-3-small: 20); 0: none",
        minimum=0.0,
    )
    qk_norm: str = setting(
        "none",
        "norm of each query's and key's head, with one scale for all heads (Qwen3) or one each "
        "(Command R+)",
        choices=("none", "shared", "per_head"),
    )
    attention_scale: float = setting(0.0, "multiplies the scores; 0: 1/√head_dim", minimum=0.0)
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
    logit_scale: float = setting(1.0, "multiplies the logits (Command R+: 0.8333)", above=0.0)
    embedding_scale: float = setting(
        1.0, "multiplies token embeddings; 0: √width (Gemma)", minimum=0.0
    )
    residual_scale: float = setting(
        1.0, "multiplies what a sublayer adds to the stream (Granite)", above=0.0
    )
    num_experts: int = setting(0, "experts of a layer that has them", minimum=0)
    experts_per_token: int = setting(2, "experts that a token passes", minimum=1)
    expert_width: int = setting(
        0, "hidden width of an expert; 0: that of the feed-forward", minimum=0
    )
    shared_experts: int = setting(0, "experts that every token passes besides", minimum=0)
    router: str = setting(
        "renormalised",
        "an expert's weight: its probability over the sum of those chosen (Mixtral), or its "
        "probability (DeepSeek)",
        choices=("renormalised", "softmax"),
    )
    router_scale: float = setting(1.0, "multiplies the weights (DeepSeek-V2: 16)", above=0.0)
    router_groups: int = setting(1, "groups of experts; a token looks into few", minimum=1)
    router_top_groups: int = setting(1, "groups that a token looks into", minimum=1)
    router_noise: bool = setting(
        False, "learned noise on the router's logits in training (Shazeer 2017)"
    )
    capacity_factor: float = setting(
        0.0,
        "slots of an expert in a training sequence, over an even share of its choices; what does "
        "not fit is dropped (Switch: 1.25); 0: no limit",
        minimum=0.0,
    )
    balance_loss: float = setting(
        0.0, "weight of E·Σ f·P in the training loss, each layer (Switch: 0.01)", minimum=0.0
    )
    router_z_loss: float = setting(
        0.0, "weight of (log Σ exp logit)² of the routers (ST-MoE: 0.001)", minimum=0.0
    )
    importance_loss: float = setting(
        0.0, "weight of CV² of the experts' summed weights (Shazeer 2017: 0.1)", minimum=0.0
    )
    load_loss: float = setting(
        0.0, "weight of CV² of the experts' expected loads, with noise (the same: 0.1)", minimum=0.0
    )
    balance_over: str = setting(
        "batch",
        "tokens over which experts shall be even: those of a micro-batch (Switch), or of each "
        "sequence (DeepSeek-V2)",
        choices=("batch", "sequence"),
    )
    kv_rank: int = setting(
        0, "multi-head latent attention: width of the cached vector; 0: ordinary heads", minimum=0
    )
    q_rank: int = setting(0, "latent attention: rank of the queries; 0: full", minimum=0)
    rope_dim: int = setting(
        64, "latent attention: columns that turn, besides model.head_dim that do not", minimum=2
    )
    value_dim: int = setting(0, "latent attention: width of a value; 0: that of a head", minimum=0)
    ssm_state: int = setting(16, "mamba: states of a channel", minimum=1)
    ssm_expand: int = setting(2, "mamba: channels over model.width", minimum=1)
    ssm_conv: int = setting(4, "mamba: taps of the convolution", minimum=2)
    ssm_rank: int = setting(0, "mamba: rank of the step size; 0: width / 16, upwards", minimum=0)
    ssm_scan: str = setting(
        "auto",
        "mamba: all tokens at once, or one after the other; auto: the latter on a CPU; the numbers "
        "are the same",
        choices=("auto", "associative", "in_turn"),
    )
    use_bias: bool = setting(True, "biases at model.bias_places")
    bias_places: tuple[str, ...] = setting(
        ("qkv", "out", "mlp", "norm"),
        "where there are biases if model.use_bias; Qwen2.5 has qkv only",
        choices=("qkv", "out", "mlp", "norm"),
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
        "type of activations and products; sums, norms, softmax and loss stay float32",
        choices=("float32", "bfloat16", "float16"),
    )
    remat: str = setting(
        "none",
        "what the backward pass computes again to save memory: nothing, each block, segments of √L "
        "blocks, all but products with parameters, the same with those on the host; auto: the "
        "cheapest that fits train.memory_gb",
        choices=("none", "block", "sqrt", "dots", "offload", "auto"),
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
        """Columns of a head that turn."""
        return int(self.head_width * self.rope_fraction)

    @property
    def expert_hidden_width(self) -> int:
        """Hidden width of an expert after the default."""
        return self.expert_width or self.hidden_width

    @property
    def block_tokens(self) -> int:
        """Tokens of a block of the kinds that have blocks, after the default."""
        return self.sparse_block or math.ceil(math.sqrt(self.seq_len))

    @property
    def feature_count(self) -> int:
        """Performer's random features of a head after the default (its theorem 4)."""
        H = self.head_width
        return self.random_features or max(1, math.ceil(H * math.log(H)))

    @property
    def bucket_count(self) -> int:
        """Reformer's buckets after the default (its section 2.3)."""
        return self.lsh_buckets or max(2, -(-2 * self.seq_len // self.lsh_chunk))

    @property
    def value_width(self) -> int:
        """Width of a value in latent attention after the default."""
        return self.value_dim or self.head_width

    @property
    def ssm_width(self) -> int:
        """Mamba's channels."""
        return self.ssm_expand * self.width

    @property
    def ssm_step_rank(self) -> int:
        """Rank of Mamba's step size after the default."""
        return self.ssm_rank or -(-self.width // 16)

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
        """The model outside of training: no noise, and no token dropped."""
        return dataclasses.replace(self, router_noise=False, capacity_factor=0.0, load_loss=0.0)

    def has_bias(self, place: str) -> bool:
        """Whether there are biases at `place`, one of `bias_places`."""
        return self.use_bias and place in self.bias_places

"""The table of variants in docs/models.md: what each costs, and how far it is from its oracle.

    python tests/models/variants.py [WORD ...]    measures rows that have such a word, or all
    python tests/models/variants.py --write       measures, and rewrites the table
    python tests/models/variants.py --costs       rewrites the costs alone

Needs the extra `test`, and `parity` for rows whose oracle is `transformers`: without it those are
named as skipped and keep the error that the page has. A new row is a line of ROWS.
"""

import dataclasses
import functools
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gptjax import config as configs
from gptjax import experiment, models
from gptjax.cost import flop_formulas, flops

sys.path.insert(0, str(Path(__file__).parent))
import variant_errors as errors

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- variants: tests/models/variants.py -->", "<!-- end of variants -->"
REFERENCE = (
    "preset=gpt2 seq_len=4096 positions=rotary norm=rmsnorm use_bias=false compute_dtype=bfloat16"
)
"""GPT-2 small with 4,096 tokens of context: what the settings of a row change."""

LIMIT = 1e-4

Cost = tuple[float | None, float | None]


@dataclasses.dataclass(frozen=True)
class Row:
    """One variant.

    Attributes:
      settings: of `model`, as flags without its name; or a function of the library, which has none.
      oracle: what the outputs were compared with; HF: `transformers`.
      error: measures ‖ours − theirs‖/‖theirs‖; raises ImportError where the oracle is missing.
      above: why the error may be above LIMIT, where it may.
      cost: (training FLOPs, cache bytes) of a token, where they are not those of the settings.
    """

    variant: str
    paper: str
    settings: str
    oracle: str
    error: Callable[[], float]
    above: str = ""
    cost: Callable[[], Cost] | None = None

    @property
    def is_function(self) -> bool:
        """Whether it is reached in Python only."""
        return self.settings.startswith(("ops.", "models."))


def model_of(settings: str) -> models.ModelConfig:
    """The reference model with the settings of a row, checked as those of a user are."""
    words = [word.partition("=") for word in f"{REFERENCE} {settings}".split()]
    flags = [(f"model.{name}", value) for name, _, value in words]
    setup = configs.make_config(experiment.override(configs.default_config().to_dict(), flags))
    model = models.resolve(setup.model)
    models.validate(model)
    return model


def counted(model: models.ModelConfig) -> Cost:
    """(training FLOPs, cache bytes) of a token, as gptjax counts them."""
    T = model.seq_len
    return flops.training_flops_per_token(model), models.cache_bytes(model, T) / T


def cost_of(row: Row) -> Cost:
    if row.cost is not None:
        return row.cost()
    return (None, None) if row.is_function else counted(model_of(row.settings))


def of_a_patch(config: models.VisionConfig | None = None) -> Cost:
    """Its blocks for each patch, over the whole square; an encoder keeps nothing."""
    blocks = (config or models.VisionConfig()).blocks
    return flops.training_flops_per_token(
        dataclasses.replace(blocks, layer_pattern=("global",))
    ), None


def of_a_tile() -> Cost:
    """Llama 3.2 Vision's tower: its blocks for each token of four tiles, which see each other."""
    tower = models.TileConfig()
    blocks = dataclasses.replace(
        tower.blocks,
        depth=tower.depth + tower.global_depth,
        layer_pattern=("global",),
        seq_len=tower.max_tiles * tower.tokens,
    )
    return flops.training_flops_per_token(blocks), None


def crossing(keys: int, layers: int = 3) -> Cost:
    """The reference with so many blocks of cross-attention to the patches of one image.

    A token has queries, scores and a feed-forward there; the keys and values are the image's.
    """
    model = model_of("")
    N, H = model.num_heads, model.head_width
    block = 4.0 * model.width * H * N + 4.0 * keys * N * H
    block += 4.0 * model.width * model.hidden_width
    work, kept = counted(model)
    patches = layers * keys * 2 * 2 * N * H / model.seq_len
    return work + flop_formulas.TRAINING_OVER_FORWARD * layers * block, kept + patches


family = errors.family
_EIGHT = "mlp_pattern=experts experts.count=8"
_LONG = "rope.factor=4 rope.trained_len=1024"
_PAIRS = (",".join(f"{1 + scale * i / 32:g}" for i in range(32)) for scale in (0.1, 3))
_FACTORS = "rope.short_factors={} rope.long_factors={}".format(*_PAIRS)

ROWS = (
    # Embedding and positions
    Row("tied head", "Press 2017", "tied_head=true", "HF GPT-2", partial(family, "gpt2")),
    Row("untied head", "Llama 2023", "tied_head=false", "HF Llama", partial(family, "llama")),
    Row(
        "learned positions", "GPT-2 2019", "positions=learned", "HF GPT-2", partial(family, "gpt2")
    ),
    Row(
        "sinusoidal positions",
        "Vaswani 2017",
        "positions=sinusoidal",
        "HF GPT-2, its table sines by hand",
        errors.sinusoidal,
    ),
    Row(
        "no positions",
        "Haviv 2022",
        "positions=none",
        "HF GPT-2, its table zero",
        errors.no_positions,
    ),
    Row(
        "rotary, halves of a head",
        "Su 2021",
        "positions=rotary",
        "HF Llama",
        partial(family, "llama"),
    ),
    Row(
        "rotary, neighbours", "Su 2021", "rope.layout=interleaved", "HF Cohere", errors.like_cohere
    ),
    Row(
        "rotary, some columns",
        "GPT-NeoX 2022",
        "rope.fraction=0.25",
        "HF GPT-NeoX",
        partial(errors.like_gpt_neox, rope_fraction=0.5),
    ),
    Row(
        "position interpolation",
        "Chen 2023",
        "rope.scaling=linear rope.factor=4",
        "HF Llama",
        partial(family, "linear"),
    ),
    Row(
        "NTK-aware",
        "bloc97 2023",
        "rope.scaling=ntk rope.factor=4",
        "HF Llama, its base stretched by hand",
        errors.ntk,
    ),
    Row(
        "NTK-aware, by the input's length",
        "emozilla 2023",
        f"rope.scaling=dynamic {_LONG}",
        "HF Llama",
        partial(family, "dynamic"),
    ),
    Row("YaRN", "Peng 2023", f"rope.scaling=yarn {_LONG}", "HF Llama", partial(family, "yarn")),
    Row(
        "YaRN with mscale",
        "DeepSeek-V2 2024",
        f"rope.scaling=yarn {_LONG} rope.mscale=0.7 rope.mscale_all_dim=0.4",
        "HF Llama",
        partial(family, "yarn-mscale"),
    ),
    Row(
        "LongRoPE beyond the trained length",
        "Ding 2024",
        f"rope.scaling=longrope {_LONG} {_FACTORS}",
        "HF Phi-3",
        partial(family, "longrope"),
    ),
    Row(
        "LongRoPE within it",
        "Ding 2024",
        f"rope.scaling=longrope rope.trained_len=4096 {_FACTORS}",
        "HF Phi-3",
        partial(family, "longrope-short"),
    ),
    Row(
        "Llama 3.1's scaling",
        "AI@Meta 2024",
        f"rope.scaling=llama3 {_LONG} rope.slow=1 rope.fast=4",
        "HF Llama",
        partial(family, "llama3"),
    ),
    Row("ALiBi", "Press 2021", "positions=alibi", "HF MPT", partial(family, "mpt")),
    # Attention
    Row(
        "multi-head attention",
        "Vaswani 2017",
        "num_kv_heads=12",
        "HF GPT-2",
        partial(family, "gpt2"),
    ),
    Row(
        "grouped-query attention",
        "Ainslie 2023",
        "num_kv_heads=4",
        "HF Llama",
        partial(family, "llama"),
    ),
    Row(
        "multi-query attention",
        "Shazeer 2019",
        "num_kv_heads=1",
        "HF Llama",
        partial(family, "llama-geglu"),
    ),
    Row(
        "exact attention in blocks, as in FlashAttention",
        "Dao 2022",
        "attention_impl=blockwise",
        "JAX's dense attention, output and gradients",
        errors.blockwise,
    ),
    Row(
        "the TPU's kernel of it, interpreted",
        "Dao 2022",
        "ops.splash_attention",
        "JAX's dense attention",
        errors.splash,
    ),
    Row(
        "sliding window",
        "Mistral 2023",
        "layer_pattern=local window=256",
        "HF Mistral",
        partial(family, "mistral"),
    ),
    Row(
        "alternating local and global layers",
        "Gemma 2 2024",
        "layer_pattern=local,global window=256",
        "HF Gemma 2",
        partial(errors.like_gemma2, window=4),
    ),
    Row(
        "alternating dense and banded layers",
        "GPT-3 2020",
        "layer_pattern=global,local window=256",
        "JAX's dense attention with the mask",
        errors.banded,
    ),
    Row("sinks", "GPT-OSS 2025", "attention_sinks=true", "HF GPT-OSS's attention", errors.sinks),
    Row(
        "gated attention, σ(x·W) ⊙ attention",
        "Qiu 2025",
        "attention_gate=true",
        "the definition in NumPy",
        errors.gated_attention,
    ),
    Row(
        "norm of queries and keys, one scale",
        "Qwen3 2025",
        "qk_norm=shared",
        "HF Qwen3",
        partial(family, "qwen3"),
    ),
    Row(
        "norm of queries and keys, a scale a head",
        "Command R+ 2024",
        "qk_norm=per_head",
        "HF Cohere",
        partial(errors.like_cohere, qk_norm="per_head"),
    ),
    Row(
        "soft cap of scores",
        "Gemma 2 2024",
        "attention_soft_cap=50",
        "HF Gemma 2",
        partial(errors.like_gemma2, attention_soft_cap=2.0),
    ),
    Row(
        "soft cap of logits",
        "Gemma 2 2024",
        "logit_soft_cap=30",
        "HF Gemma 2",
        partial(errors.like_gemma2, logit_soft_cap=3.0),
    ),
    Row(
        "multi-head latent attention",
        "DeepSeek-V2 2024",
        "mixer.latent.kv_rank=256 mixer.latent.rope_dim=32",
        "HF DeepSeek-V2",
        errors.like_deepseek,
    ),
    Row(
        "latent attention, low-rank queries",
        "DeepSeek-V2 2024",
        "mixer.latent.kv_rank=256 mixer.latent.q_rank=384 mixer.latent.rope_dim=32",
        "HF DeepSeek-V2",
        partial(errors.like_deepseek, q_rank=9),
    ),
    # Attention that leaves pairs out
    Row(
        "strided pattern",
        "Child 2019",
        "layer_pattern=strided",
        "JAX's dense attention with the mask, and without one",
        partial(errors.pattern, "strided", "long stride"),
    ),
    Row(
        "fixed pattern",
        "Child 2019",
        "layer_pattern=fixed",
        "JAX's dense attention with the mask",
        partial(errors.pattern, "fixed"),
    ),
    Row(
        "last blocks, and earlier ones by head",
        "Phi-3 2024",
        "layer_pattern=blocksparse mixer.sparse.block=64 "
        "mixer.blocksparse.local_blocks=4 mixer.blocksparse.stride=8",
        "mlx-lm's Phi-3-small",
        errors.phi3_small,
    ),
    Row(
        "window and global tokens",
        "Longformer 2020",
        "layer_pattern=longformer window=256",
        "JAX's dense attention with the mask",
        errors.longformer,
    ),
    Row(
        "the same, of an encoder",
        "Longformer 2020",
        "ops.longformer_attention",
        "HF Longformer's layer",
        partial(errors.in_transformers, "longformer"),
    ),
    Row(
        "summaries of blocks",
        "after Linformer 2020",
        "layer_pattern=linformer",
        "row by row over JAX's dense attention",
        errors.linformer,
    ),
    Row(
        "the same at full rank",
        "Linformer 2020",
        "layer_pattern=linformer mixer.sparse.summary=64",
        "JAX's dense attention",
        errors.linformer_full_rank,
    ),
    Row(
        "the same over all positions, of an encoder",
        "Linformer 2020",
        "ops.linformer_attention",
        "JAX's dense attention, at full rank",
        errors.linformer_of_encoders,
    ),
    Row(
        "positive random features",
        "Performer 2020",
        "layer_pattern=performer",
        "the ratio of sums in NumPy",
        errors.performer,
    ),
    Row(
        "the same, many features",
        "Performer 2020",
        "layer_pattern=performer mixer.performer.features=8192",
        "JAX's dense attention",
        errors.performer_of_many_features,
        "random: falls like 1/√features",
    ),
    Row(
        "hashed buckets",
        "after Reformer 2020",
        "layer_pattern=reformer",
        "JAX's dense attention over what the rounds show",
        errors.reformer,
    ),
    Row(
        "the same in published chunks",
        "Reformer 2020",
        "ops.lsh_attention",
        "HF Reformer's layer",
        partial(errors.in_transformers, "reformer"),
    ),
    # State spaces
    Row(
        "selective state spaces",
        "Mamba 2023",
        "layer_pattern=ssm mlp_pattern=none depth=24",
        "HF Mamba",
        partial(family, "mamba"),
    ),
    Row(
        "its scans, and its recurrence of decoding",
        "Mamba 2023",
        "layer_pattern=ssm mlp_pattern=none depth=24 mixer.ssm.scan=associative",
        "the recurrence in NumPy",
        errors.recurrence,
    ),
    # Feed-forward, norms, blocks, scales
    Row("ReLU", "Vaswani 2017", "mlp=relu", "HF GPT-2", partial(family, "gpt2-relu")),
    Row("GELU, exact", "Hendrycks 2016", "mlp=gelu", "HF GPT-2", partial(family, "gpt2-gelu")),
    Row("GELU by tanh", "GPT-2 2019", "mlp=gelu_tanh", "HF GPT-2", partial(family, "gpt2")),
    Row(
        "SiLU",
        "Elfwing 2017",
        "mlp=silu",
        "HF GPT-2",
        partial(errors.parity, "gpt2", errors.gpt2(mlp="silu")),
    ),
    Row(
        "GELU by a sigmoid",
        "CLIP 2021",
        "mlp=quick_gelu",
        "HF GPT-2",
        partial(errors.parity, "gpt2", errors.gpt2(mlp="quick_gelu")),
    ),
    Row("SwiGLU", "Shazeer 2020", "mlp=swiglu", "HF Llama", partial(family, "llama")),
    Row("GeGLU", "Shazeer 2020", "mlp=geglu", "HF Llama", partial(family, "llama-geglu")),
    Row(
        "GeGLU by tanh",
        "Gemma 2 2024",
        "mlp=geglu_tanh",
        "HF Llama",
        partial(errors.parity, "llama", errors.llama(mlp="geglu_tanh")),
    ),
    Row(
        "ReGLU",
        "Shazeer 2020",
        "mlp=reglu",
        "HF Llama",
        partial(errors.parity, "llama", errors.llama(mlp="reglu")),
    ),
    Row(
        "limited gates, quick GELU, times 1 + the other",
        "Phi-3 2024",
        "mlp=gegelu mlp_limit=20",
        "mlx-lm's Phi-3-small",
        errors.phi3_small,
    ),
    Row(
        "LayerNorm before",
        "Xiong 2020",
        "norm=layernorm norm_place=pre",
        "HF GPT-2",
        partial(family, "gpt2"),
    ),
    Row(
        "LayerNorm after",
        "Vaswani 2017",
        "norm=layernorm norm_place=post",
        "HF GPT-1",
        partial(family, "gpt1"),
    ),
    Row(
        "norms around, 1 + scale",
        "Gemma 2 2024",
        "norm_place=both norm_plus_one=true",
        "HF Gemma 2",
        errors.like_gemma2,
    ),
    Row("RMSNorm", "Zhang 2019", "norm=rmsnorm", "HF Llama", partial(family, "llama")),
    Row(
        "parallel block, two norms",
        "GPT-NeoX 2022",
        "block=parallel",
        "HF GPT-NeoX",
        errors.like_gpt_neox,
    ),
    Row(
        "parallel block, one norm",
        "Command R 2024",
        "block=parallel_shared_norm",
        "HF Cohere",
        errors.like_cohere,
    ),
    Row(
        "scale of embeddings",
        "Granite 2024",
        "embedding_scale=12",
        "HF Granite",
        partial(errors.like_granite, embedding_scale=1.7),
    ),
    Row(
        "scale of residuals",
        "Granite 2024",
        "residual_scale=0.22",
        "HF Granite",
        partial(errors.like_granite, residual_scale=0.6),
    ),
    Row(
        "scale of scores",
        "Granite 2024",
        "attention_scale=0.0156",
        "HF Granite",
        partial(errors.like_granite, attention_scale=0.3),
    ),
    Row(
        "scale of logits",
        "Command R 2024",
        "logit_scale=0.0625",
        "HF Cohere",
        partial(errors.like_cohere, logit_scale=0.4),
    ),
    Row(
        "biases everywhere",
        "GPT-2 2019",
        "norm=layernorm use_bias=true",
        "HF GPT-2",
        partial(family, "gpt2"),
    ),
    Row(
        "biases of queries, keys and values",
        "Qwen2 2024",
        "use_bias=true bias_places=qkv",
        "HF Qwen2",
        partial(family, "qwen2"),
    ),
    Row(
        "initial sizes, 1/√(2·layers) before the stream",
        "GPT-2 2019",
        "init_scale=0.02",
        "standard deviations of a fresh HF GPT-2",
        errors.initial_sizes,
        "both are random draws",
    ),
    # Experts
    Row(
        "experts: two, renormalised",
        "Mixtral 2024",
        f"{_EIGHT} experts.per_token=2",
        "HF Mixtral",
        partial(family, "mixtral"),
    ),
    Row(
        "experts: fine-grained and shared ones",
        "DeepSeekMoE 2024",
        "mlp_pattern=experts experts.count=64 experts.per_token=6 experts.width=384 "
        "experts.shared=2 experts.router=softmax dense_layers=1",
        "HF DeepSeek-V2",
        partial(family, "deepseek2-lite"),
    ),
    Row(
        "experts: chosen within groups",
        "DeepSeek-V2 2024",
        "mlp_pattern=experts experts.count=64 experts.per_token=6 experts.width=384 "
        "experts.shared=2 experts.router=softmax dense_layers=1 experts.router_groups=8 "
        "experts.router_top_groups=3 experts.router_scale=16",
        "HF DeepSeek-V2",
        partial(family, "deepseek2"),
    ),
    Row(
        "experts: one, with capacity and drops",
        "Switch 2021",
        f"{_EIGHT} experts.per_token=1 experts.router=softmax experts.capacity_factor=1.25",
        "HF Switch's layer",
        errors.switch,
    ),
    Row(
        "experts: all, with room",
        "Shazeer 2017",
        f"{_EIGHT} experts.per_token=8 experts.router=softmax experts.capacity_factor=1",
        "the dense sum in NumPy",
        errors.all_experts,
    ),
    Row(
        "experts: noisy top-k",
        "Shazeer 2017",
        f"{_EIGHT} experts.per_token=2 experts.router_noise=true",
        "equations 3 to 5 in NumPy, same draws",
        errors.noisy_routing,
    ),
    Row(
        "router losses: balance, z",
        "Switch 2021, ST-MoE 2022",
        f"{_EIGHT} experts.per_token=2 experts.balance_loss=0.01 experts.router_z_loss=0.001",
        "HF Switch's and Mixtral's",
        errors.router_losses,
    ),
    Row(
        "router loss: importance",
        "Shazeer 2017",
        f"{_EIGHT} experts.per_token=2 experts.importance_loss=0.1",
        "equations 6 and 7 in NumPy",
        errors.importance,
    ),
    Row(
        "router loss: load",
        "Shazeer 2017",
        f"{_EIGHT} experts.per_token=2 experts.router_noise=true experts.load_loss=0.1",
        "100,000 draws of the noise",
        errors.expected_load,
        "a count of random draws",
    ),
    # Vision
    Row(
        "vision transformer",
        "Dosovitskiy 2021",
        "models.VisionConfig",
        "HF ViT",
        partial(errors.seen_in_a_folder, "vit-classes"),
        cost=of_a_patch,
    ),
    Row(
        "its pooler",
        "Dosovitskiy 2021",
        "models.pool_images",
        "HF ViT",
        partial(errors.seen_in_a_folder, "vit"),
    ),
    Row(
        "CLIP's: a first norm, patches without biases",
        "Radford 2021",
        'models.vision_preset("clip-vit-l14-336")',
        "HF CLIP",
        partial(errors.seen_in_a_folder, "clip"),
        cost=lambda: of_a_patch(models.vision_preset("clip-vit-l14-336")),
    ),
    Row(
        "patches as tokens, projected",
        "Llava 2023",
        "models.ProjectedVision",
        "HF Llava",
        partial(errors.seen_in_a_folder, "llava"),
        cost=lambda: counted(model_of("")),
    ),
    Row(
        "gated cross-attention to patches",
        "Flamingo 2022",
        "models.GatedVision",
        "HF Idefics' layer",
        errors.gates,
        cost=partial(crossing, models.VisionConfig().patches),
    ),
    Row(
        "tower of tiles",
        "Llama 3.2 2024",
        "models.TileConfig",
        "HF Mllama's tower",
        errors.tower_of_tiles,
        cost=of_a_tile,
    ),
    Row(
        "cross-attention layers, tiles of an image",
        "Llama 3.2 2024",
        "models.TiledVision",
        "HF Mllama",
        errors.tiles,
        cost=lambda: crossing(4 * models.TileConfig().tokens),
    ),
)

HEADER = (
    "| variant | paper | settings | training GFLOPs a token | cache, bytes a token | oracle | "
    "error |\n|---|---|---|---|---|---|---|"
)


def shown(settings: str) -> str:
    """In backticks, long lists cut short."""
    words = []
    for word in settings.split():
        name, _, value = word.partition("=")
        items = value.split(",")
        words.append(f"{name}={','.join(items[:2])},…" if len(items) > 4 else word)
    return f"`{' '.join(words)}`"


def start_of(row: Row) -> str:
    """The row up to its error."""
    work, kept = cost_of(row)
    costs = "–" if work is None else f"{work / 1e9:.3f}", "–" if kept is None else f"{kept:,.0f}"
    return f"| {row.variant} | {row.paper} | {shown(row.settings)} | {' | '.join(costs)} | " + (
        f"{row.oracle} | "
    )


def end_of(row: Row, error: float | None) -> str:
    number = "not measured" if error is None else f"{error:.1e}".replace("e-0", "e-")
    return f"{number} ({row.above}) |" if row.above else f"{number} |"


def table_of_the_page() -> list[str]:
    """The lines of the table, without its header."""
    text = PAGE.read_text(encoding="utf-8")
    return text[text.index(BEGIN) : text.index(END)].splitlines()[4:-1]


def errors_of_the_page() -> dict[str, float]:
    """variant -> the error that the table has."""
    found = {}
    for line in table_of_the_page():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        number = re.match(r"[0-9.]+e-?[0-9]+", cells[-1])
        if number:
            found[cells[0]] = float(number.group())
    return found


def measure(rows: tuple[Row, ...]) -> dict[str, float]:
    """variant -> error; rows of one measurement are measured once. Prints as it goes."""
    found, skipped = {}, []
    for row in rows:
        try:
            found[row.variant] = _measured(row.error)
        except ImportError as missing:
            skipped.append(f"{row.variant} ({missing.name})")
            continue
        print(f"{found[row.variant]:8.1e}  {row.variant}: {row.oracle}", flush=True)
    if skipped:
        print(f"skipped, not installed: {'; '.join(skipped)}")
    return found


@functools.cache
def _by_key(function: Callable[..., float], args: tuple, options: tuple) -> float:
    return function(*args, **dict(options))


def _measured(error: Callable[[], float]) -> float:
    if isinstance(error, partial):
        return _by_key(error.func, error.args, tuple(error.keywords.items()))
    return _by_key(error, (), ())


def write(found: dict[str, float]) -> None:
    """The table with these errors, and those that the page has for other rows."""
    known = {**errors_of_the_page(), **found}
    lines = [start_of(row) + end_of(row, known.get(row.variant)) for row in ROWS]
    text = PAGE.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    table = "\n".join([HEADER, *lines])
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{after}", encoding="utf-8")


def main() -> None:
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    rows = tuple(
        row for row in ROWS if not words or any(w in f"{row.variant} {row.settings}" for w in words)
    )
    found = {} if "--costs" in sys.argv else measure(rows)
    if {"--write", "--costs"} & set(sys.argv):
        write(found)


if __name__ == "__main__":
    main()

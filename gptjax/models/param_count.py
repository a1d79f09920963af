"""Parameter counts, from the settings alone."""

from gptjax.models import heads
from gptjax.models.config import ModelConfig
from gptjax.models.mixers.mixer import mixer_of
from gptjax.models.mlp import MLPS
from gptjax.models.vision.config import JOINS


def sizes(config: ModelConfig, *, active: bool = False) -> tuple[int, int]:
    """(parameters of the embedding, all others but an untied head), without tracing the modules.

    A plan counts hundreds of shapes, and tracing one takes a tenth of a second.

    Args:
      active: of the experts, count only those that one token passes.
    """
    D = config.width
    norm = D * (1 + (config.norm == "layernorm" and config.has_bias("norm")))
    total = 0
    for layer in config.layers_of_depth:
        mlp = MLPS[layer.mlp]
        sublayers = 1 + (mlp.module is not None)
        norms = sublayers * (2 if config.norm_place == "both" else 1)
        norms -= config.block == "parallel_shared_norm"
        mixer = mixer_of(config, layer.mixer).params(config)
        total += norms * norm + mixer + mlp.params(config, active)
    positions = config.seq_len if config.positions == "learned" else 0
    last = norm * (config.norm_place != "post")
    vision = JOINS[config.vision.join].params(config)
    inside = total + last + vision + heads.size(config)
    return (config.vocab_size + positions) * D, inside

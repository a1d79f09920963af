"""Settings of the mixers, each declared in the file of its mixer."""

import dataclasses

from gptjax.fields import section
from gptjax.models.mixers.blocksparse import BlocksparseConfig
from gptjax.models.mixers.latent import LatentConfig
from gptjax.models.mixers.longformer import LongformerConfig
from gptjax.models.mixers.mamba import SsmConfig
from gptjax.models.mixers.pattern import SparseConfig
from gptjax.models.mixers.performer import PerformerConfig
from gptjax.models.mixers.reformer import ReformerConfig


@dataclasses.dataclass(frozen=True)
class MixerConfig:
    """Settings of the elements of model.layer_pattern, by kind."""

    latent: LatentConfig = section(LatentConfig, "latent attention")
    ssm: SsmConfig = section(SsmConfig, "ssm layers")
    sparse: SparseConfig = section(SparseConfig, "layers with blocks")
    blocksparse: BlocksparseConfig = section(BlocksparseConfig, "blocksparse layers")
    longformer: LongformerConfig = section(LongformerConfig, "longformer layers")
    performer: PerformerConfig = section(PerformerConfig, "performer layers")
    reformer: ReformerConfig = section(ReformerConfig, "reformer layers")

"""Settings of fine-tuning: the section `config.finetune`."""

import dataclasses

from gptjax.align.lora import LoraConfig
from gptjax.align.methods import METHODS
from gptjax.align.preferences import DpoConfig
from gptjax.align.reward_model import RewardConfig
from gptjax.data.chat import FORMATS
from gptjax.fields import section, setting


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """How examples become batches, and what is minimised on them."""

    method: str = setting(
        "sft",
        "sft: the answers' cross-entropy, prompts left out; dpo: of two answers the preferred one "
        "becomes likelier; reward: a scalar head scores it higher",
        choices=METHODS,
    )
    chat: str = setting(
        "", "format of messages; empty: that of the model's folder", choices=("", *FORMATS)
    )
    packing: bool = setting(True, "sft: several examples in a row, none of which sees another")
    row_tokens: int = setting(
        0, "tokens of a row, and most of an example; 0: the model's context", minimum=0
    )
    dpo: DpoConfig = section(DpoConfig, "direct preference optimisation")
    reward: RewardConfig = section(RewardConfig, "the reward model")
    lora: LoraConfig = section(LoraConfig, "low-rank adapters in place of whole matrices")
    drop_long: bool = setting(False, "leave out examples that are longer than a row")

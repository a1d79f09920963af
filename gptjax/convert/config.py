"""The `convert` section of a config."""

import dataclasses

from gptjax.fields import setting


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """Weights between a workdir and a Hugging Face folder, for job=convert."""

    direction: str = setting(
        "to_huggingface",
        "from the workdir of a trained or imported model, or into a new workdir",
        choices=("to_huggingface", "from_huggingface"),
    )
    folder: str = setting("", "the Hugging Face folder: config.json and safetensors")
    model_type: str = setting(
        "", "family to write, as `transformers` names it; empty: the first that fits the model"
    )
    dtype: str = setting(
        "float32", "type of the written weights", choices=("float32", "bfloat16", "float16")
    )
    shard_gb: float = setting(5.0, "a written file holds at most this much, in GB", above=0.0)

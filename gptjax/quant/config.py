"""The `quantize` section of a config."""

import dataclasses

from gptjax.fields import setting
from gptjax.quant.methods import METHODS, SCALES


@dataclasses.dataclass(frozen=True)
class QuantizeConfig:
    """Weights made small, for job=quantize."""

    model: str = setting("", "folder of the model to quantize, as every loader of models takes it")
    method: str = setting(
        "affine",
        "affine: round to nearest; gptq: rounding errors made up for by later weights, from "
        "calibration text; nf4: QLoRA's four bits with double quantization",
        choices=METHODS,
    )
    bits: int = setting(8, "bits of a weight: 2 to 8, and 4 for nf4", minimum=2, maximum=8)
    scales: str = setting(
        "group",
        "what shares a scale: a tensor, the inputs of one output (channel), or quantize.group of "
        "them",
        choices=SCALES,
    )
    group: int = setting(64, "inputs of a group with one scale", minimum=1)
    activations: int = setting(
        0, "8: products in integers, activations quantized as they come (W8A8)", choices=(0, 8)
    )
    embedding_bits: int = setting(
        8,
        "bits of the embedding and the head, by method affine; 16 = bfloat16",
        choices=(4, 8, 16, 32),
    )
    rules: tuple[str, ...] = setting(
        (),
        "EXPRESSION=BITS for paths such as blocks/3/mlp/down, the first that is found counts; 16 = "
        "bfloat16, 32 = as it is",
    )
    budget_mb: float = setting(
        0.0,
        "MB that all weights may take: bits of each matrix by measured sensitivity, from "
        "quantize.budget_bits; 0 = quantize.bits",
        minimum=0.0,
    )
    budget_bits: tuple[int, ...] = setting(
        (3, 4, 6, 8), "bits to choose from under a budget", choices=(2, 3, 4, 5, 6, 7, 8, 16)
    )
    calibration_tokens: int = setting(
        32768, "tokens of data's train part that gptq and a budget look at", minimum=0
    )
    calibration_seed: int = setting(0, "which windows of it", minimum=0)
    damping: float = setting(
        0.01, "gptq: added to the Hessian's diagonal, in units of its mean", above=0.0
    )
    activation_order: bool = setting(
        True, "gptq: inputs with the largest activations first, scales of groups fixed beforehand"
    )
    heldout_tokens: int = setting(
        0, "tokens of the held-out part that losses are measured on; 0 = all", minimum=0
    )

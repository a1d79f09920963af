"""Weights made small: rounding to nearest, GPTQ, NF4, and mixed precision by rule or budget."""

from gptjax.quant.config import QuantizeConfig
from gptjax.quant.matrices import Matrix, matrices
from gptjax.quant.methods import METHODS
from gptjax.quant.quantize import (
    Quantized,
    Row,
    check_plain,
    dequantized,
    nbytes,
    quantize,
    ruled_bits,
    uniform_bits,
)
from gptjax.quant.sensitivity import choose_bits

__all__ = [
    "METHODS",
    "Matrix",
    "QuantizeConfig",
    "Quantized",
    "Row",
    "check_plain",
    "choose_bits",
    "dequantized",
    "matrices",
    "nbytes",
    "quantize",
    "ruled_bits",
    "uniform_bits",
]

"""A model folder with smaller weights: INT8, GPTQ, NF4, or mixed precision within a budget.

    python -m gptjax.main --config=experiments/quantize.py --config.quantize.model=runs/RUN \\
        --config.quantize.method=gptq --config.quantize.bits=4 --workdir=runs/small

Reads whatever folder the other commands read, writes one that they read too, and prints bytes, bits
a weight and held-out loss before and after, on the text of `data` in the tokens of the model. GPTQ
of 350,000 weights took 33 seconds of processor time, with both scorings (AMD EPYC).
docs/quantization.md has the methods and what was measured.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """INT8 with a scale for each 64 inputs."""
    config = default_config()
    config.experiment = "quantized"
    config.job = "quantize"
    return config

"""gptjax: GPT scaling experiments in JAX, from a text to a fitted law in one command."""

__version__ = "0.1.0"

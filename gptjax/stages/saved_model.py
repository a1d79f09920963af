"""A saved model and the text that a config names: reading it in the model's tokens, and scoring."""

import dataclasses
from typing import Any

import jax
import numpy as np

from gptjax import convert, data
from gptjax.config import Config
from gptjax.data import Corpus
from gptjax.errors import UserError
from gptjax.fields import flat, replaced
from gptjax.models import ModelConfig
from gptjax.train import Evaluation, RunSpec
from gptjax.train.evaluate import held_out_windows, summarise, window_losses
from gptjax.train.feed import TokenFeed

OF_THE_TEXT = {"source", "path", "text_field", "heldout_fraction", "deduplicate", "cache_dir"}
"""Settings of `data` that say which text there is, and nothing of its tokenizer."""


def corpus_for(config: Config, model: convert.Model, field: str) -> Corpus:
    """The text of `config.data` in the tokens of a model.

    Args:
      field: the setting that names the model's folder.

    Raises:
      UserError: for a model that reads no text, or has fewer ids than the tokenizer.
    """
    if not isinstance(model.config, ModelConfig):
        raise UserError(f"{field} holds a {type(model.config).__name__}, which predicts no text")
    if model.config.vision.join:
        raise UserError(
            f"{field} holds a model of captioned pictures, and this job scores text; use "
            "job=caption"
        )
    settings = config.data
    if model.kept is not None:
        own = flat(model.kept.data) | {"tokenizer_path": str(model.kept.file or "")}
        names = (name for name in own if name.startswith(convert.TOKENIZER_SETTINGS))
        settings = replaced(settings, {name: own[name] for name in names})
    corpus = data.load(settings, seq_len=model.config.seq_len)
    if corpus.vocab_size > model.config.vocab_size:
        raise UserError(
            f"data.tokenizer={settings.tokenizer} has {corpus.vocab_size} ids and the model of "
            f"{field} {model.config.vocab_size}; give the tokenizer that it was trained with"
        )
    return corpus


def spec_of(config: Config, model: ModelConfig, corpus: Corpus) -> RunSpec:
    """The run whose evaluation scores a model: nothing is trained."""
    train = dataclasses.replace(config.train, loss_chunk=0)
    masked = corpus.mask_end_of_document
    return RunSpec.of(train, model=model, optim=config.optim, steps=1, mask_end_of_document=masked)


def held_out(
    config: Config, model: ModelConfig, corpus: Corpus, params: Any, tokens: int = 0
) -> Evaluation:
    """Loss on the held-out part, or on its first `tokens`."""
    spec, feed = spec_of(config, model, corpus), TokenFeed(corpus)
    windows = held_out_windows(corpus, model.seq_len, config.train.eval_batch_size)
    if tokens:
        windows = windows[: max(1, tokens // (windows.shape[1] * model.seq_len))]
    losses = jax.jit(lambda params, windows: window_losses(spec, feed, params, windows))
    sums, counts = losses(params, windows)
    return summarise(spec, corpus, np.asarray(sums), np.asarray(counts))

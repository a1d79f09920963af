"""A model to generate with: config, parameters by layer, tokenizer."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gptjax import convert, models, quant
from gptjax.data.tokenizers import Tokenizer
from gptjax.errors import UserError
from gptjax.files import user_path
from gptjax.infer.adapters import NO_ADAPTERS, Adapters, read_adapters
from gptjax.models.output_first import Embedding, OutputFirst
from gptjax.quant.matrices import EMBEDDING, inside


@dataclasses.dataclass(frozen=True)
class Model:
    """What texts are generated with.

    Attributes:
      config: the decoder's.
      params: its parameters, those of the blocks in a tuple (`models.unstacked`).
      tokenizer: None: prompts are token ids.
      chat: a name of `gptjax.data.chat.FORMATS`, or "".
      name: what errors and servers call it.
      others: further members, whose parameters follow the first one's in `params`.
      combine: of `Plan`; None: the model is one.
      stream: how caches forget old tokens; None: they do not.
      adapters: that requests choose by name, one row of a batch this and one that.
      begins: tokens before a text, of a published model whose tokenizer puts them there.
    """

    config: models.ModelConfig
    params: Any
    tokenizer: Tokenizer | None = None
    chat: str = ""
    name: str = "model"
    others: tuple["Model", ...] = ()
    combine: Any = None
    stream: models.Stream | None = None
    adapters: Adapters = NO_ADAPTERS
    begins: tuple[int, ...] = ()

    @functools.cached_property
    def context(self) -> int:
        """Tokens of the longest text, prompt and answer; 0: no limit, without attention."""
        if self.stream is not None:
            return 0
        own = self._own_context
        limits = [n for n in (own, *(other.context for other in self.others)) if n]
        return min(limits, default=0)

    @property
    def _own_context(self) -> int:
        layers = self.config.layers_of_depth
        attends = any(models.mixer_of(self.config, layer.mixer).attends for layer in layers)
        return self.config.seq_len if attends or self.config.positions == "learned" else 0

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end every answer."""
        return () if self.tokenizer is None else (self.tokenizer.end_of_document,)

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Raises:
          UserError: without a tokenizer, or for a text that it has no ids for.
        """
        if self.tokenizer is None:
            raise UserError(
                f"{self.name} has no tokenizer, so prompts cannot be text; give token ids, or put "
                "the tokenizer's file into its folder"
            )
        try:
            (ids,) = self.tokenizer.encode([text.encode()])
        except UnicodeEncodeError as error:
            raise UserError(
                f"a prompt has half a surrogate pair as character {error.start + 1}; mend the text"
            ) from error
        return np.asarray(ids).tolist()

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a text from its beginning, after `begins`.

        Raises:
          UserError: as `encode`.
        """
        return [*self.begins, *self.encode(text)]

    def decode(self, ids: Sequence[int]) -> bytes:
        """The bytes of tokens; none without a tokenizer."""
        return b"" if self.tokenizer is None else self.tokenizer.decode(ids)


def load(folder: str | Path) -> Model:
    """The model of a folder, ready to generate: ours, a run's, a checkpoint's or Hugging Face's.

    Raises:
      UserError: where the folder holds no model, or one that cannot decode.
    """
    found = convert.load(folder)
    if not isinstance(found.config, models.ModelConfig):
        raise UserError(
            f"{folder} holds a {type(found.config).__name__}, and generation reads text alone; "
            "give a folder with a decoder"
        )
    if found.config.vision.join:
        raise UserError(
            f"{folder} holds a model of captioned pictures, and this job gives it none; use "
            "job=caption"
        )
    return prepare(found, name=user_path(folder).resolve().name)


def prepare(
    found: convert.Model, *, name: str = "model", tokenizer: Tokenizer | None = None
) -> Model:
    """A loaded model with its parameters on the device, those of each layer apart.

    Args:
      tokenizer: in the place of the folder's.

    Raises:
      UserError: where a layer cannot go on from a cache.
    """
    models.check_decodes(found.config)
    params = _by_layer(found.config, found.params)
    begins = found.begins if tokenizer is None else ()
    tokenizer = tokenizer or found.tokenizer
    return Model(found.config, params, tokenizer, found.chat, name, begins=begins)


_by_layer = jax.jit(models.unstacked, static_argnums=0)


def with_adapters(model: Model, folders: Mapping[str, str | Path]) -> Model:
    """The model with LoRA adapters that requests choose by name (`Sampling.adapter`).

    The base is there once; a batch may have a row for each adapter and for none.

    Args:
      folders: of PEFT adapters, ours or others', by name. A model that is kept for few rows must be
        so before (`for_few_rows`).

    Raises:
      UserError: for an adapter of another base, a matrix that is not multiplied row by row, and
        joined models.
    """
    if model.others:
        raise UserError(f"{model.name} joins models, which have no adapters; serve one of them")
    if not folders:
        return model
    if model.name in folders:
        raise UserError(
            f"the adapter {model.name!r} has the name of the base; give another to one of them"
        )
    paths = {name: user_path(folder) for name, folder in folders.items()}
    return dataclasses.replace(model, adapters=read_adapters(model.config, model.params, paths))


LARGE = 1 << 16
"""Weights from which a matrix is turned: smaller ones cost little either way."""


def for_few_rows(model: Model) -> Model:
    """The model with its large matrices kept for products of few tokens (`OutputFirst`), on a CPU.

    Answers of up to 32 at a time are made faster, with other last digits. Other devices, joined
    models and leaves that are no arrays stay as they are; adapters are attached afterwards.
    """
    if jax.default_backend() != "cpu" or model.others:
        return model
    return dataclasses.replace(model, params=_turned(model.config, model.params))


@functools.partial(jax.jit, static_argnums=0)
def _turned(config: models.ModelConfig, params: Any) -> Any:
    blocks = list(params["blocks"])
    for matrix in quant.matrices(config):
        layer = matrix.layer
        tree, path = (params, matrix.name) if layer is None else (blocks[layer], matrix.inner)
        leaf = inside(tree, path)
        if matrix.lead or matrix.size < LARGE or not jax.tree_util.all_leaves([leaf]):
            continue
        kept: Any = OutputFirst.of(leaf, len(matrix.inputs))
        if matrix.name == EMBEDDING:
            kept = Embedding(leaf)
        if layer is None:
            params = inside(params, path, kept)
        else:
            blocks[layer] = inside(tree, path, kept)
    return {**params, "blocks": tuple(blocks)}

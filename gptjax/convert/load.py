"""Loader of model folders: one value from ours and from Hugging Face's.

Everything that uses a model (sampling, scores, fine-tuning, export) starts here, so that it works
on a run of job=train, on a checkpoint of one, on a converted folder and on a downloaded one alike.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gptjax.convert import checkpoint, own_folder, peft, tensor_files
from gptjax.convert.chat_template import format_of
from gptjax.convert.huggingface import from_huggingface
from gptjax.convert.own_folder import MODEL, KeptTokenizer
from gptjax.data import DataConfig, tokenizers
from gptjax.data.tokenizers import Tokenizer
from gptjax.data.tokenizers.base import kind_of
from gptjax.errors import UserError
from gptjax.files import check_plain, read_json, user_path

BEGINNING = 4096
"""Bytes by which the kind of a tokenizer's file is told."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A model and what its texts are made of.

    Attributes:
      config: ModelConfig, or the config of a model with vision.
      params: float32 parameters, in the tree that the config's `init` makes; of a quantized model
        some are leaves of `gptjax.models.quantized`.
      chat: a name of `gptjax.data.chat.FORMATS`, or "" where it is not known.
      kept: the file of the tokenizer and how it is read; None where the folder has none.
      recipe: how a quantized model was made; empty where it is none.
    """

    config: Any
    params: Any
    chat: str = ""
    kept: KeptTokenizer | None = None
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer | None:
        """Text to ids and back; None where the folder has no tokenizer.

        Raises:
          UserError: for a file that cannot be read.
        """
        return self.kept.read() if self.kept else None

    @property
    def begins(self) -> tuple[int, ...]:
        """Tokens before a text, of a published model whose tokenizer puts them there."""
        published = self.kept is not None and self.kept.published
        return getattr(self.tokenizer, "begins", ()) if published else ()


def load(folder: str | Path, *, shardings: Any = None) -> Model:
    """The model in a folder.

    Args:
      folder: a run of job=train (its best parameters on held-out text if it kept them, else its
        last), `checkpoints` in it or a part of that, a folder that job=convert made, one of
        Hugging Face's, or a PEFT adapter, which is merged into the base that it names.
      shardings: a tree like the parameters, for folders of Hugging Face's.

    Raises:
      UserError: where the folder holds no model, or one that is damaged.
    """
    place = user_path(folder)
    for is_there, read in READERS:
        if is_there(place):
            return read(place, shardings)
    raise UserError(_nothing(place))


def _is_own(place: Path) -> bool:
    return (place / own_folder.CONFIG).exists() and own_folder.has_params(place)


def _is_run(place: Path) -> bool:
    return (place / MODEL / own_folder.CONFIG).exists()


def _is_part_of_run(place: Path) -> bool:
    return any(_is_run(above) for above in place.parents) and place.is_dir()


def _is_huggingface(place: Path) -> bool:
    path = place / "config.json"
    if not path.exists():
        return False
    said = read_json(path)
    return isinstance(said, dict) and "model_type" in said


def _own(place: Path, shardings: Any) -> Model:
    said = own_folder.read_description(place)
    return _described(said, own_folder.read_params(place, said))


def _run(place: Path, shardings: Any) -> Model:
    if own_folder.has_params(place / MODEL):
        return _own(place / MODEL, shardings)
    return _checkpoint(place, place / "checkpoints")


def _part_of_run(place: Path, shardings: Any) -> Model:
    run = next(above for above in place.parents if _is_run(above))
    return _checkpoint(run, place)


def _checkpoint(run: Path, place: Path) -> Model:
    said = own_folder.read_description(run / MODEL)
    return _described(said, checkpoint.read_params(place, said))


def _adapter(place: Path, shardings: Any) -> Model:
    """The base that an adapter names, with the adapter merged into it."""
    base = peft.base_of(place)
    found = load(base, shardings=shardings)
    if found.recipe:
        raise UserError(
            f"{place} is an adapter of {base}, whose weights are quantized and have no room for "
            "it; dequantize that folder with job=convert, or tune it with finetune.lora.adapter"
        )
    adapter = peft.read_adapter(place, found.config)
    return dataclasses.replace(found, params=peft.merged(found.params, adapter))


def _described(said: own_folder.Description, params: Any) -> Model:
    recipe = said.quantized.get("recipe", {})
    return Model(said.config, params, said.chat, said.tokenizer, recipe)


def _huggingface(place: Path, shardings: Any) -> Model:
    config, params = from_huggingface(place, shardings=shardings)
    return Model(config, params, format_of(place), _their_tokenizer(place))


def _their_tokenizer(place: Path) -> KeptTokenizer | None:
    """tokenizer.json before tokenizer.model, as `transformers` has it.

    The latter is SentencePiece's; Llama 3's are ranks under that name.
    """
    for kind in ("bpe", "sentencepiece"):
        path = place / tokenizers.TOKENIZERS[kind].file
        if path.exists():
            check_plain(path)
            with path.open("rb") as file:
                kind = kind_of(file.read(BEGINNING), kind)
            data = DataConfig(tokenizer=kind, tokenizer_path=str(path))
            return KeptTokenizer(data, path, published=True)
    return None


def _nothing(place: Path) -> str:
    if not place.is_dir():
        return f"{place} is no folder; give a folder that holds a model"
    if any((place / name).exists() for name in ("records", "runs.csv")):
        return (
            f"{place} holds a sweep, whose cells keep no parameters; train the one that you want "
            "with job=train"
        )
    return (
        f"{place} holds no model; give a run of job=train, a folder that job=convert made, or one "
        f"with config.json and {tensor_files.ONE}"
    )


READERS: tuple[tuple[Callable[[Path], bool], Callable[[Path, Any], Model]], ...] = (
    (_is_own, _own),
    (peft.is_adapter, _adapter),
    (_is_run, _run),
    (_is_part_of_run, _part_of_run),
    (_is_huggingface, _huggingface),
)

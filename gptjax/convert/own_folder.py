"""Model folder in our own format: model.json, safetensors and the tokenizer's file.

model.json says what the parameters are: the config, the settings that reopen the tokenizer, and the
chat format. Tensors are named by the paths of our parameters. A training run writes model.json and
its tokenizer when it begins and the parameters when it ends.
"""

import dataclasses
import shutil
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gptjax.convert import quantized_leaves, tensor_files
from gptjax.convert.registry import KINDS, kind_of
from gptjax.convert.tensor_map import by_path, shapes_of
from gptjax.data import Corpus, DataConfig, tokenizers
from gptjax.data.tokenizers import Tokenizer, end_of_document
from gptjax.errors import UserError
from gptjax.fields import flat, make, nested, upgraded
from gptjax.files import check_plain, read_json, refuse_pointer, write_json

CONFIG, ORBAX_PARAMS = "model.json", "params"
PUBLISHED = "published_tokenizer"
"""Key of model.json for `KeptTokenizer.published`."""
MODEL = "model"
"""The folder inside a run of job=train."""
MAX_SHARD_BYTES = 5_000_000_000
TOKENIZER_SETTINGS = (
    "tokenizer",
    "tiktoken",
    "bpe",
    "sentencepiece",
    "normalize",
    "end_of_document",
)
"""Beginnings of the `data` settings that say how a tokenizer's file is read."""


@dataclasses.dataclass(frozen=True)
class KeptTokenizer:
    """A tokenizer's file and the settings of `data` by which it is read.

    Attributes:
      data: the settings.
      file: None for a kind that needs no file.
      published: whether the model is another's, which reads texts after the tokens that its
        tokenizer puts before them. Ours are trained on texts after the end of a document.
    """

    data: DataConfig
    file: Path | None = None
    published: bool = False

    def read(self) -> Tokenizer:
        """The tokenizer.

        Raises:
          UserError: for a file that is none of its kind.
        """
        if self.file:
            check_plain(self.file)
            refuse_pointer(self.file)
        content = self.file.read_bytes() if self.file else b""
        return tokenizers.read(self.data, content, str(self.file or ""))


@dataclasses.dataclass(frozen=True)
class Description:
    """What model.json says beside the parameters.

    Attributes:
      kind: a name of KINDS.
      config: ModelConfig, VisionConfig and so on.
      tokenizer: None where there is none.
      chat: a name of `gptjax.data.chat.FORMATS`, or "".
      quantized: `recipe` and `leaves` of a quantized model, as `quantized_leaves` describes them.
    """

    kind: str
    config: Any
    tokenizer: KeptTokenizer | None = None
    chat: str = ""
    quantized: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def save_model(
    folder: Path,
    config: Any,
    params: Any,
    tokenizer: KeptTokenizer | None = None,
    chat: str = "",
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Write parameters and then model.json.

    Args:
      config: of a type in `KINDS`.
      recipe: how quantized parameters were made.

    Raises:
      UserError: where the folder holds a model already.
    """
    if (folder / CONFIG).exists():
        raise UserError(f"{folder} holds a model already; choose another --workdir or delete it")
    save_params(folder, params)
    leaves = quantized_leaves.describe_leaves(params)
    quantized = {"recipe": recipe or {}, "leaves": leaves} if leaves else {}
    describe(folder, config, tokenizer, chat, quantized)


def describe(
    folder: Path,
    config: Any,
    tokenizer: KeptTokenizer | None = None,
    chat: str = "",
    quantized: Mapping[str, Any] | None = None,
) -> None:
    """Write model.json and a copy of the tokenizer's file."""
    folder.mkdir(parents=True, exist_ok=True)
    (kind,) = (name for name, kind in KINDS.items() if kind is kind_of(config))
    said: dict[str, Any] = {"kind": kind, **dataclasses.asdict(config)}
    if tokenizer is not None:
        copy_tokenizer(tokenizer, folder)
        said["data"] = _tokenizer_settings(tokenizer.data)
        said |= {PUBLISHED: True} if tokenizer.published else {}
    if chat:
        said["chat"] = chat
    if quantized:
        said["quantized"] = quantized
    write_json(folder / CONFIG, said)


def describe_run(run: Path, config: Any, data: DataConfig, corpus: Corpus) -> None:
    """Write what `load` must know of a training run beside its parameters."""
    describe(run / MODEL, config, of_corpus(data, corpus))


def copy_tokenizer(tokenizer: KeptTokenizer, folder: Path) -> None:
    """Put the tokenizer's file, if it has one, and what lies beside it into a folder."""
    name = tokenizers.TOKENIZERS[tokenizer.data.tokenizer].file
    if tokenizer.file is not None and tokenizer.file != folder / name:
        shutil.copyfile(tokenizer.file, folder / name)
        for beside in end_of_document.SIDECARS:
            found = (tokenizer.file.parent / beside).is_file()
            if found and not (folder / beside).exists():
                shutil.copyfile(tokenizer.file.parent / beside, folder / beside)


def of_corpus(data: DataConfig, corpus: Corpus) -> KeptTokenizer | None:
    """The tokenizer of a corpus; None for a generated one, which no file describes."""
    name = tokenizers.TOKENIZERS[data.tokenizer].file
    path = corpus.folder / name if name else None
    if path is not None and not path.exists():
        return None
    kept = KeptTokenizer(data, path)
    return kept if type(kept.read()) is type(corpus.tokenizer) else None


def _tokenizer_settings(data: DataConfig) -> dict[str, Any]:
    plain = flat(DataConfig())
    return {
        key: value
        for key, value in flat(data).items()
        if key.startswith(TOKENIZER_SETTINGS)
        and key != "tokenizer_path"
        and (value != plain[key] or key == "tokenizer")
    }


def save_params(folder: Path, params: Any) -> None:
    """Write parameters as safetensors, each named by its path."""
    folder.mkdir(parents=True, exist_ok=True)
    named = ((path, np.asarray(leaf)) for path, leaf in by_path(params).items())
    tensor_files.write_folder(folder, named, max_shard_bytes=MAX_SHARD_BYTES)


def read_description(folder: Path) -> Description:
    """What `describe` wrote, by this or an earlier version.

    Raises:
      UserError: where it is missing or damaged.
    """
    said = read_json(folder / CONFIG)
    if not isinstance(said, dict) or said.get("kind", "decoder") not in KINDS:
        raise UserError(f"{folder / CONFIG} describes no model; convert or train it again")
    kind = said.pop("kind", "decoder")
    data, chat = said.pop("data", None), said.pop("chat", "")
    published = bool(said.pop(PUBLISHED, False))
    quantized = said.pop("quantized", {})
    if not isinstance(quantized, dict) or (quantized and not isinstance(_leaves(quantized), dict)):
        raise UserError(
            f"{folder / CONFIG} describes no quantized parameters; quantize the model again"
        )
    config = _config(KINDS[kind].config, said, "model")
    return Description(kind, config, _kept(folder, data, published), chat, quantized)


def _leaves(quantized: Mapping[str, Any]) -> Any:
    return quantized.get("leaves")


def _kept(folder: Path, said: Mapping[str, Any] | None, published: bool) -> KeptTokenizer | None:
    if said is None:
        return None
    data = make(DataConfig, upgraded(DataConfig, nested(said)), "data")
    file = tokenizers.TOKENIZERS[data.tokenizer].file
    return KeptTokenizer(data, folder / file if file else None, published)


def has_params(folder: Path) -> bool:
    """Whether parameters lie beside model.json."""
    names = (tensor_files.ONE, tensor_files.INDEX, ORBAX_PARAMS)
    return any((folder / name).exists() for name in names)


def read_params(folder: Path, said: Description) -> Any:
    """The parameters beside model.json.

    Raises:
      UserError: for a parameter that is missing or has another shape.
    """
    shapes = shapes_of(KINDS[said.kind].init, said.config)
    if (folder / ORBAX_PARAMS).exists():  # folders of earlier versions
        import orbax.checkpoint as ocp

        with ocp.StandardCheckpointer() as reader:
            return reader.restore((folder / ORBAX_PARAMS).absolute(), shapes)
    stored = tensor_files.open_folder(folder)
    leaves, small = [], _leaves(said.quantized) or {}
    for path, wanted in by_path(shapes).items():
        if path in small:
            entry = small[path]
            place = str(folder / CONFIG)
            leaves.append(quantized_leaves.read_leaf(stored, path, entry, wanted.shape, place))
            continue
        if path not in stored or stored[path].shape != wanted.shape:
            raise UserError(
                f"{folder} has no parameter {path} of shape {wanted.shape}, which its {CONFIG} "
                "asks for; convert or train it again"
            )
        leaves.append(np.array(stored[path].read(), wanted.dtype))
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _config(cls: type, fields: Mapping[str, Any], section: str) -> Any:
    """The dataclass that was written, with those in its fields."""
    if not isinstance(fields, Mapping):
        raise UserError(
            f"{CONFIG} has {section}={fields!r}, where a group of settings is; convert or train "
            "the model again"
        )
    parts = {
        name: _config(hint, fields[name], f"{section}.{name}")
        for name, hint in typing.get_type_hints(cls).items()
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and name in fields
    }
    return make(cls, upgraded(cls, {**fields, **parts}), section)

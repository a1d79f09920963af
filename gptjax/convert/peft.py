"""Adapters in PEFT's file layout: adapter_config.json and adapter_model.safetensors.

Read, an adapter is two thin matrices for each of our leaves; a model folder may also be an adapter
whose adapter_config.json names its base, and is then read merged.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from gptjax.convert import registry, tensor_files
from gptjax.convert.tensor_map import Source, by_path, shapes_of
from gptjax.errors import UserError
from gptjax.files import read_json, write_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


@dataclasses.dataclass(frozen=True)
class Adapter:
    """LoRA of some leaves.

    Attributes:
      rank, alpha: R and α; what is added is (α/R)·A·B.
      matrices: path → (A [L, I, R], B [L, R, O]), L the layers of the leaf's stack.
      base: where the base model is, as the adapter says.
    """

    rank: int
    alpha: float
    matrices: Mapping[str, tuple[np.ndarray, np.ndarray]]
    base: str = ""

    @property
    def scale(self) -> float:
        """α/R."""
        return self.alpha / self.rank


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / CONFIG).exists() and (folder / WEIGHTS).exists()


def base_of(folder: Path) -> Path:
    """The folder of the base that an adapter names.

    Raises:
      UserError: where there is none on this machine.
    """
    named = str(_said(folder).get("base_model_name_or_path") or "")
    place = Path(named).expanduser()
    if not named or not place.is_dir():
        raise UserError(
            f"{folder / CONFIG} has base_model_name_or_path={named!r}, which is no folder here; "
            "write the folder of the base there"
        )
    return place


def write_adapter(folder: Path, config: Any, adapter: Adapter) -> None:
    """Write an adapter as `PeftModel.from_pretrained` loads it.

    Leaves that no family of `transformers` has as one tensor get names by our own paths, which PEFT
    does not load.
    """
    names = _names(config)
    tensors = {}
    for path, (a_LIR, b_LRO) in adapter.matrices.items():
        for layer, (a_IR, b_RO) in enumerate(zip(a_LIR, b_LRO, strict=True)):
            name = PREFIX + names[path][layer]
            tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(a_IR.T)
            tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(b_RO.T)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    modules = {names[path][0].rpartition(".")[2] for path in adapter.matrices}
    write_json(
        folder / CONFIG,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": adapter.base,
            "r": adapter.rank,
            "lora_alpha": adapter.alpha,
            "lora_dropout": 0.0,
            "target_modules": sorted(modules),
            "bias": "none",
            "fan_in_fan_out": False,
            "use_rslora": False,
            "use_dora": False,
            "inference_mode": True,
        },
    )


def read_adapter(folder: Path, config: Any) -> Adapter:
    """The adapter of a folder for a model with this config.

    Raises:
      UserError: for another kind of adapter, and for one of another base, by leaf and shapes.
    """
    said = _said(folder)
    stored = {tensor.name: tensor for tensor in tensor_files.tensors_of(folder / WEIGHTS)}
    shapes = by_path(shapes_of(registry.kind_of(config).init, config))
    left, matrices = set(stored), {}
    for path, names in _names(config).items():
        keys = [tuple(f"{PREFIX}{name}.lora_{part}.weight" for part in "AB") for name in names]
        found = [pair for pair in keys if pair[0] in stored or pair[1] in stored]
        if not found:
            continue
        if len(found) < len(keys):
            raise UserError(
                f"{folder} adapts {len(found)} of the {len(keys)} layers of {path}; adapters of "
                "all layers are read"
            )
        missing = [name for pair in found for name in pair if name not in stored]
        if missing:
            raise UserError(f"{folder} has no tensor {missing[0]}; fetch the whole adapter")
        parts = [[stored[name].read().T for name in pair] for pair in keys]
        matrices[path] = tuple(np.stack(side) for side in zip(*parts, strict=True))
        _check_shapes(folder, path, matrices[path], shapes[path].shape, said["r"])
        left -= {name for pair in keys for name in pair}
    if left:
        raise UserError(
            f"{folder} adapts {sorted(left)[0]}, which the model has no matrix of its own for; it "
            "is an adapter of another base, or of matrices that are joined here"
        )
    alpha, base = float(said["lora_alpha"]), str(said.get("base_model_name_or_path") or "")
    if said.get("use_rslora"):
        alpha *= said["r"] ** 0.5  # α/√R (Kalajdzievski 2023)
    return Adapter(int(said["r"]), alpha, matrices, base)  # type: ignore[arg-type]


def _said(folder: Path) -> dict[str, Any]:
    said = read_json(folder / CONFIG)
    place = folder / CONFIG
    if not isinstance(said, dict) or said.get("peft_type") != "LORA":
        raise UserError(f"{place} describes no LoRA, and no other adapter is read; give one")
    for name in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern"):
        if said.get(name):
            raise UserError(f"{place} has {name}={said[name]!r}, which is not read; leave it out")
    if said.get("bias", "none") != "none":
        raise UserError(f"{place} has bias={said['bias']!r}, and adapters of weights are read")
    numbers = said.get("r"), said.get("lora_alpha")
    if not all(isinstance(n, int | float) and n > 0 for n in numbers):
        raise UserError(
            f"{place} has r={numbers[0]!r} and lora_alpha={numbers[1]!r}; both must be above 0"
        )
    return said


def _check_shapes(folder: Path, path: str, pair: Any, shape: tuple[int, ...], rank: int) -> None:
    """Refuse matrices whose product is none of the leaf's."""
    a_LIR, b_LRO = pair
    size = int(np.prod(shape[1:]))
    fits = a_LIR.shape[2] == b_LRO.shape[1] == rank
    if not fits or a_LIR.shape[1] * b_LRO.shape[2] != size or a_LIR.shape[0] != shape[0]:
        raise UserError(
            f"{folder} has for {path} matrices of {a_LIR.shape[1:]} and {b_LRO.shape[1:]} with "
            f"r={rank}, and the base has {shape[1:]} there; it is an adapter of another base"
        )


def merged(params: Any, adapter: Adapter) -> Any:
    """The parameters with (α/R)·A·B added to the leaves that are adapted, in float32."""

    def add(path: tuple, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name not in adapter.matrices:
            return leaf
        a_LIR, b_LRO = adapter.matrices[name]
        more = adapter.scale * np.einsum("LIR,LRO->LIO", a_LIR, b_LRO)
        return np.asarray(leaf, np.float32) + more.reshape(leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(add, params)


def _names(config: Any) -> dict[str, list[str]]:
    """For each leaf with layers the name of each layer's module.

    Theirs where a family of `transformers` has the leaf as one tensor; else by our own path, as in
    families whose query, key and value are one tensor.
    """
    shapes = by_path(shapes_of(registry.kind_of(config).init, config))
    try:
        sources = registry.write_map(config, "")[1].sources
    except UserError:
        sources = {}

    def names(path: str, layers: int) -> list[str]:
        some = sources.get(path, [])
        if some and all(map(_alone, some)):
            return [source.name.removesuffix(".weight") for source in some]
        return [path.replace("/", f".{i}.", 1).replace("/", ".") for i in range(layers)]

    stacked = {path: leaf for path, leaf in shapes.items() if path.startswith("blocks/")}
    return {path: names(path, leaf.shape[0]) for path, leaf in stacked.items()}


def _alone(source: Source) -> bool:
    """Whether a tensor holds one leaf of one layer, so that its adapter is the leaf's."""
    return len(source.paths) == 1 and len(source.at) == 1 and source.name.endswith(".weight")

"""Adapters in PEFT's file layout: adapter_config.json and adapter_model.safetensors.

Read, an adapter is two thin matrices for each of our leaves; a model folder may also be an adapter
whose adapter_config.json names its base, and is then read merged. A module that joins leaves, as
GPT-2's `c_attn` joins query, key and value, gives each of them A whole and its columns of B.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from gptjax.convert import registry, tensor_files
from gptjax.convert.families import FAMILIES, Tensor
from gptjax.convert.huggingface import join, split
from gptjax.convert.tensor_map import Source, Sources, by_path, shapes_of
from gptjax.errors import UserError
from gptjax.files import read_json, user_path, write_json

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX, CAUSAL = "base_model.model.", "CAUSAL_LM"
READ = ("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias")
"""Keys of adapter_config.json that are read here."""
FREE = frozenset(
    [
        *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "target_modules", "target_parameters", "exclude_modules"),
        *("lora_dropout", "fan_in_fan_out", "layers_to_transform", "layers_pattern"),
        *("megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config"),
        *("lora_ga_config", "runtime_config", "qalora_group_size", "ensure_weight_tying"),
        "init_lora_weights",
    ]
)
"""Keys that change no output of a trained adapter, or that its tensors show by themselves."""
KEEPS_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base as it is; others, such as PiSSA, change it."""


@dataclasses.dataclass(frozen=True)
class Adapter:
    """LoRA of some leaves.

    Attributes:
      rank, alpha: R and α; what is added is (α/R)·A·B.
      matrices: path → (A [L, I, R], B [L, R, O]), L the layers of the leaf's stack. A leaf's own R
        may be another where the file says so; B then holds what is left of its scale.
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


@dataclasses.dataclass(frozen=True)
class _Module:
    """A module that PEFT adapts: the leaves that it joins, of one layer.

    Attributes:
      name: the module's.
      layer: which of the stack.
      paths: our leaves, in the order in which the module has them.
      tensor: how it has them; None for a leaf that has a module of our own name.
      outputs: axes of each leaf that are its outputs; with our own name all axes.
    """

    name: str
    layer: int
    paths: tuple[str, ...]
    tensor: Tensor | None
    outputs: tuple[tuple[int, ...], ...]

    @property
    def short(self) -> str:
        """The name inside of its layer, `attn.c_attn`."""
        return re.split(r"\.\d+\.", self.name)[-1]

    def split(self, b_OR: np.ndarray) -> list[np.ndarray]:
        """B of the module as B [R, O] of each leaf."""
        rank = b_OR.shape[1]
        if self.tensor is None:
            return [b_OR.T]
        parts = split(b_OR, self._thin, [(rank, *axes) for axes in self.outputs], self.name)
        return [part.reshape(rank, -1) for part in parts]

    def join(self, parts: list[np.ndarray]) -> np.ndarray:
        """B [O, R] of the module from B [R, O] of each leaf."""
        rank = len(parts[0])
        if self.tensor is None:
            return parts[0].T
        shapes = [(rank, *axes) for axes in self.outputs]
        cut = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        return join(cut, self._thin)

    @property
    def _thin(self) -> Tensor:
        """B is a Linear of R inputs, whatever the module is."""
        assert self.tensor is not None
        return dataclasses.replace(self.tensor, transposed=True, inputs=1)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / CONFIG).exists() and any((folder / f).exists() for f in (WEIGHTS, PICKLE))


def base_of(folder: Path) -> Path:
    """The folder of the base that an adapter names.

    Raises:
      UserError: where there is none on this machine.
    """
    named = str(_said(folder).get("base_model_name_or_path") or "")
    place = user_path(named)
    if not named or not place.is_dir():
        raise UserError(
            f"{folder / CONFIG} has base_model_name_or_path={named!r}, which is no folder here; "
            "write the folder of the base there"
        )
    return place


def write_adapter(folder: Path, config: Any, adapter: Adapter) -> None:
    """Write an adapter as `PeftModel.from_pretrained` loads it.

    Leaves that one module joins share its A where theirs are the same; else the module's rank is
    the sum of theirs, which is the same function. Leaves that no family of `transformers` has get
    names by our own paths, which PEFT does not load.
    """
    modules = _modules(config, _sources(config, "")).values()
    adapted = [module for module in modules if set(module.paths) & set(adapter.matrices)]
    tensors, ranks = {}, {}
    for module in adapted:
        a_IR, b_OR = _joined(module, adapter)
        name = PREFIX + module.name
        tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(a_IR.T)
        tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(b_OR)
        if a_IR.shape[1] != adapter.rank:
            ranks[module.short] = a_IR.shape[1]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    write_json(
        folder / CONFIG,
        {
            "peft_type": "LORA",
            "task_type": CAUSAL,
            "base_model_name_or_path": adapter.base,
            "r": adapter.rank,
            "lora_alpha": adapter.alpha,
            "rank_pattern": {re.escape(short): rank for short, rank in ranks.items()},
            "alpha_pattern": {re.escape(s): adapter.scale * rank for s, rank in ranks.items()},
            "lora_dropout": 0.0,
            "target_modules": _targets(modules, adapted),
            "bias": "none",
            "fan_in_fan_out": False,
            "use_rslora": False,
            "use_dora": False,
            "inference_mode": True,
        },
    )


def _joined(module: _Module, adapter: Adapter) -> tuple[np.ndarray, np.ndarray]:
    """(A [I, R], B [O, R]) of a module from those of its leaves."""
    pairs = [adapter.matrices.get(path) for path in module.paths]
    there = [(a[module.layer], b[module.layer]) for a, b in filter(None, pairs)]
    first = there[0][0]
    same = all(np.array_equal(a, first) for a, _ in there)
    rank = first.shape[1] if same else sum(a.shape[1] for a, _ in there)
    left, parts = 0, []
    for pair, axes in zip(pairs, module.outputs, strict=True):
        b_RO = np.zeros((0, math.prod(axes))) if pair is None else pair[1][module.layer]
        part = np.zeros((rank, b_RO.shape[1]), np.float32)
        if pair is not None:
            part[left : left + len(b_RO)] = b_RO
            left += 0 if same else len(b_RO)
        parts.append(part)
    return first if same else np.concatenate([a for a, _ in there], axis=1), module.join(parts)


def _targets(modules: Any, adapted: list[_Module]) -> list[str]:
    """The last words of the adapted modules' names, or more where others end in the same word."""
    ours = {module.short for module in adapted}
    others = {module.short.rpartition(".")[2] for module in modules if module.short not in ours}
    return sorted({s if (w := s.rpartition(".")[2]) in others else w for s in ours})


def read_adapter(folder: Path, config: Any) -> Adapter:
    """The adapter of a folder for a model with this config.

    Layers and leaves of a module that the adapter leaves alone get zeros.

    Raises:
      UserError: for another kind of adapter, and for one of another base, by leaf and shapes.
    """
    said = _said(folder)
    if not (folder / WEIGHTS).exists():
        raise UserError(f"{folder / PICKLE} is a pickle, which is not read; save it as safetensors")
    stored = {tensor.name: tensor for tensor in tensor_files.tensors_of(folder / WEIGHTS)}
    modules = _known(folder, config, stored)
    shapes = by_path(shapes_of(registry.kind_of(config).init, config))
    alpha, base = float(said["lora_alpha"]), str(said.get("base_model_name_or_path") or "")
    if said.get("use_rslora"):
        alpha *= said["r"] ** 0.5  # α/√R (Kalajdzievski 2023)
    found: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    for name, module in modules.items():
        a_RI, b_OR = (
            _tensor(folder, stored, f"{PREFIX}{name}.lora_{part}.weight") for part in "AB"
        )
        rank, of_module = _pattern(said, name)
        _check_shapes(folder, module, a_RI, b_OR, shapes, rank)
        more = of_module / (alpha / said["r"])
        parts = module.split(b_OR if more == 1 else more * b_OR)
        for path, b_RO, used_R in zip(module.paths, parts, _used(parts), strict=True):
            found.setdefault(path, {})[module.layer] = a_RI.T[:, used_R], b_RO[used_R]
    matrices = {path: _stacked(layers, shapes[path].shape[0]) for path, layers in found.items()}
    return Adapter(int(said["r"]), alpha, matrices, base)


def _known(folder: Path, config: Any, stored: Mapping[str, Any]) -> dict[str, _Module]:
    """The modules that a file adapts, by the names of the first family that has all of them.

    Raises:
      UserError: where no family of the config has them all.
    """
    ends = tuple(f".lora_{part}.weight" for part in "AB")
    names = {n.removeprefix(PREFIX).removesuffix(e) for n in stored for e in ends if n.endswith(e)}
    strange = sorted(name for name in stored if not name.endswith(ends))
    fewest = sorted(names)
    for family in ("", *FAMILIES):
        modules = _modules(config, _sources(config, family))
        left = sorted(names - set(modules))
        if not left and not strange:
            _check_whole(folder, modules, names)
            return {name: modules[name] for name in sorted(names)}
        fewest = min(fewest, left, key=len)
    raise UserError(
        f"{folder} adapts {(strange + fewest)[0]}, which the model has no matrix of its own for; "
        f"{_made_for(_said(folder).get('task_type'))}"
    )


def _made_for(task: Any) -> str:
    if task in (None, CAUSAL):
        return "it is an adapter of another base"
    return f"its task_type={task} is that of another head: adapt the base with task_type={CAUSAL}"


def _check_whole(folder: Path, modules: Mapping[str, _Module], names: set[str]) -> None:
    """Refuse a file without a module that its adapter_config.json names: the base is deeper."""
    said = _said(folder)
    missing = [name for name in modules if name not in names and _is_targeted(said, name)]
    if missing:
        raise UserError(
            f"{folder} has no tensors for {missing[0]}, which its target_modules name; fetch the "
            "whole adapter, or take the base that it was made for"
        )


def _is_targeted(said: Mapping[str, Any], name: str) -> bool:
    """Whether PEFT adapts a module, by the attributes that choose modules."""
    layers = said.get("layers_to_transform")
    layer = re.search(r"\.(\d+)\.", name)
    some = layers if isinstance(layers, list) else [layers]
    if layers is not None and layer is not None and int(layer[1]) not in some:
        return False
    if said.get("target_modules") == "all-linear":
        return False  # which are linear depends on the class: what is stored is believed
    return _named_by(said.get("target_modules"), name) and not _named_by(
        said.get("exclude_modules"), name
    )


def _named_by(wanted: Any, name: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(f".{name}".endswith(f".{each}") for each in wanted or ())


def _tensor(folder: Path, stored: Mapping[str, Any], name: str) -> np.ndarray:
    if name not in stored:
        raise UserError(f"{folder} has no tensor {name}; fetch the whole adapter")
    return np.asarray(stored[name].read(), np.float32)


def _used(parts: list[np.ndarray]) -> list[np.ndarray]:
    """Which of the R of a module each of its leaves keeps: not those of other leaves alone."""
    some = [np.any(b_RO != 0, axis=1) for b_RO in parts]
    return [mine | ~np.any(some, axis=0) for mine in some]


def _pattern(said: Mapping[str, Any], name: str) -> tuple[int, float]:
    """R and the scale of a module, where a pattern may give it others than the adapter's."""

    def of(key: str, default: Any) -> Any:
        some = (said.get(key) or {}).items()
        return next((v for k, v in some if re.match(rf"(.*\.)?({k})$", name)), default)

    rank, alpha = of("rank_pattern", said["r"]), of("alpha_pattern", said["lora_alpha"])
    return rank, alpha / (rank**0.5 if said.get("use_rslora") else rank)


def _stacked(
    layers: Mapping[int, tuple[np.ndarray, np.ndarray]], depth: int
) -> tuple[np.ndarray, np.ndarray]:
    """(A [L, I, R], B [L, R, O]): ranks filled up with zeros, and layers that have none."""
    a_IR, b_RO = next(iter(layers.values()))
    rank = max(a.shape[1] for a, _ in layers.values())
    a_LIR = np.zeros((depth, len(a_IR), rank), np.float32)
    b_LRO = np.zeros((depth, rank, b_RO.shape[1]), np.float32)
    for layer, (a, b) in layers.items():
        a_LIR[layer, :, : a.shape[1]], b_LRO[layer, : len(b)] = a, b
    return a_LIR, b_LRO


def _said(folder: Path) -> dict[str, Any]:
    said = read_json(folder / CONFIG)
    place = folder / CONFIG
    if not isinstance(said, dict) or said.get("peft_type") != "LORA":
        raise UserError(f"{place} describes no LoRA, and no other adapter is read; give one")
    if said.get("bias", "none") != "none":
        raise UserError(f"{place} has bias={said['bias']!r}, and adapters of weights are read")
    start = said.get("init_lora_weights", True)
    if (start.lower() if isinstance(start, str) else start) not in KEEPS_BASE:
        raise UserError(
            f"{place} has init_lora_weights={start!r}, which changes the base too; let PEFT save "
            "it with path_initial_model_for_weight_conversion, as a plain LoRA"
        )
    for name, value in said.items():
        if value and name not in FREE and name not in READ:
            raise UserError(f"{place} has {name}={value!r}, which is not read; merge it with PEFT")
    chosen = (said.get(name) for name in ("target_modules", "exclude_modules"))
    _check_expressions(place, [each for each in chosen if isinstance(each, str)])
    numbers = said.get("r"), said.get("lora_alpha"), *_pattern_numbers(place, said)
    if not all(_is_positive(number) for number in numbers):
        raise UserError(
            f"{place} has r={numbers[0]!r}, lora_alpha={numbers[1]!r} and patterns of "
            f"{list(numbers[2:])}; all must be numbers above 0"
        )
    return said


def _pattern_numbers(place: Path, said: Mapping[str, Any]) -> Iterator[Any]:
    for name in ("rank_pattern", "alpha_pattern"):
        patterns = said.get(name) or {}
        if not isinstance(patterns, dict):
            raise UserError(f"{place} has {name}={patterns!r}, which is no object of patterns")
        _check_expressions(place, patterns)
        yield from patterns.values()


def _check_expressions(place: Path, patterns: Iterable[str]) -> None:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"{place} has the pattern {pattern!r}: {error}") from None


def _is_positive(number: Any) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and number > 0


def _check_shapes(
    folder: Path, module: _Module, a_RI: Any, b_OR: Any, shapes: Mapping[str, Any], rank: int
) -> None:
    """Refuse matrices whose product is none of the module's."""
    size = math.prod(shapes[module.paths[0]].shape[1:])
    if module.tensor is None:  # where its inputs end is not known: any product that fits is right
        inputs, outputs = a_RI.shape[1], size // a_RI.shape[1]
    else:
        inputs = size // math.prod(module.outputs[0])
        outputs = sum(map(math.prod, module.outputs))
    if a_RI.shape != (rank, inputs) or b_OR.shape != (outputs, rank):
        raise UserError(
            f"{folder} has for {module.name} matrices of {a_RI.shape} and {b_OR.shape} with "
            f"r={rank}, and the base has [{inputs}, {outputs}] there; it is an adapter of another "
            "base"
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


def _sources(config: Any, family: str) -> Sources:
    """Where a family of `transformers` has our leaves; empty where it has no such model."""
    try:
        return registry.write_map(config, family)[1].sources
    except UserError:
        return {}


def _modules(config: Any, sources: Sources) -> dict[str, _Module]:
    """All modules of the layers, by name; those of our own paths where no tensor has a leaf."""
    shapes = by_path(shapes_of(registry.kind_of(config).init, config))
    stacked = {p: leaf.shape for p, leaf in shapes.items() if p.startswith("blocks/")}
    found: dict[str, _Module] = {}
    for path, shape in stacked.items():
        if len(shape) < 3:
            continue
        for source in filter(_is_matrix, sources.get(path, [])):
            name = source.name.removesuffix(".weight")
            outputs = tuple(stacked[p][1 + source.tensor.inputs :] for p in source.paths)
            found[name] = _Module(name, source.at[0], source.paths, source.tensor, outputs)
    taken = {path for module in found.values() for path in module.paths}
    return found | {
        module.name: module
        for path, shape in stacked.items()
        if path not in taken
        for module in _of_our_path(path, shape)
    }


def _of_our_path(path: str, shape: tuple[int, ...]) -> Iterator[_Module]:
    for layer in range(shape[0]):
        name = path.replace("/", f".{layer}.", 1).replace("/", ".")
        yield _Module(name, layer, (path,), None, (shape[1:],))


def _is_matrix(source: Source) -> bool:
    """Whether a tensor holds matrices of one layer, side by side."""
    tensor = source.tensor
    other = tensor.patch or tensor.squeezed or tensor.below or tensor.flat or tensor.leading
    return len(source.at) == 1 and source.name.endswith(".weight") and not other

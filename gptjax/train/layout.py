"""Layout of a run over several devices, and the checks that mesh and model fit each other."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax

from gptjax import models
from gptjax.errors import UserError
from gptjax.parallel import Cut, Layout, MeshConfig, check_cuts, make_mesh, resolve
from gptjax.parallel.context import HEADS
from gptjax.parallel.mesh import BATCH
from gptjax.train.config import RunSpec
from gptjax.train.state import TrainState


def make_layout(
    config: MeshConfig, spec: RunSpec, devices: Sequence[Any] | None = None
) -> Layout | None:
    """The mesh of a config and the sharding of this run's arrays over it; None for one device.

    Raises:
      UserError: when the sizes do not fit the devices, or do not divide the model or the batch.
    """
    devices = tuple(jax.devices() if devices is None else devices)
    sizes = resolve(config, len(devices))
    if all(size == 1 for size in sizes.values()):
        return None
    return layout_over(config, spec, devices)


def layout_over(config: MeshConfig, spec: RunSpec, devices: Sequence[Any]) -> Layout:
    """The same for any devices, one included.

    Raises:
      UserError: as `make_layout`.
    """
    sizes = check_mesh(config, spec, len(devices))
    return _layout(config, spec.layout, tuple(sizes.items()), tuple(devices))


def check_mesh(config: MeshConfig, spec: RunSpec, devices: int) -> dict[str, int]:
    """The sizes of a mesh's axes over so many devices.

    Raises:
      UserError: as `make_layout`.
    """
    sizes = resolve(config, devices)
    check_cuts(sizes, cuts(spec, config))
    for axis in ("seq", "pipe"):
        if sizes[axis] > 1 and spec.model.vision.join:
            raise UserError(
                f"mesh.{axis}={sizes[axis]} is not built for model.vision.join="
                f"{spec.model.vision.join}, whose pictures stand before whole texts; set "
                f"mesh.{axis}=1"
            )
    if sizes["seq"] > 1:
        _check_sequence(config, spec, sizes["seq"])
    if sizes["expert"] > 1:
        _check_experts(spec, sizes)
    if sizes["pipe"] > 1:
        _check_pipeline(config, spec, sizes["pipe"])
    return sizes


@functools.lru_cache(maxsize=64)
def _layout(config: MeshConfig, spec: RunSpec, sizes: tuple, devices: tuple) -> Layout:
    return Layout(make_mesh(dict(sizes), devices), config, models.logical_axes(spec.model))


def cuts(spec: RunSpec, config: MeshConfig) -> list[Cut]:
    """What the axes of a mesh must divide."""
    model = spec.model
    found = [
        Cut("train.batch_size", spec.batch_size, BATCH, spec.micro_batches),
        Cut("train.batch_size", spec.batch_size, BATCH, 2**spec.batch_doublings, "first batches"),
        Cut("model.num_heads", model.num_heads, ("tensor",)),
        Cut("model.num_kv_heads", model.kv_heads, ("tensor",)),
        Cut("model.mlp_width", model.hidden_width, ("tensor",)),
        Cut("model.vocab_size", model.vocab_size, ("tensor",)),
    ]
    if config.pipe != 1:
        found.append(Cut("model.depth", model.depth, ("pipe",), config.chunks, "chunks"))
    if config.zero:
        found.append(Cut("model.width", model.width, ("fsdp",)))
    if config.sequence_parallel:
        found.append(Cut("model.seq_len", model.seq_len, ("seq", "tensor")))
    if model.experts.count:
        found.append(Cut("model.experts.count", model.experts.count, ("expert",)))
        found.append(Cut("model.experts.width", model.expert_hidden_width, ("tensor",)))
    return found + _sequence_cuts(spec, config)


def _sequence_cuts(spec: RunSpec, config: MeshConfig) -> list[Cut]:
    """What mesh.seq must divide."""
    model = spec.model
    if config.context == "ring":
        return [Cut("model.seq_len", model.seq_len, ("seq",), 2, "halves")]
    return [
        Cut("model.seq_len", model.seq_len, ("seq",)),
        Cut("model.num_heads", model.num_heads, HEADS),
        Cut("model.num_kv_heads", model.kv_heads, HEADS),
    ]


def _check_sequence(config: MeshConfig, spec: RunSpec, parts: int) -> None:
    """Refuse what needs whole sequences when their tokens are sharded over devices."""
    model = spec.model
    whole = [kind for kind in model.layer_pattern if kind not in ("global", "local")]
    if whole:
        raise UserError(
            f"mesh.seq={parts} cuts sequences, which {whole[0]} in model.layer_pattern needs "
            "whole; set mesh.seq=1"
        )
    if config.context == "ring" and models.beyond_blockwise(model):
        raise UserError(
            f"mesh.context=ring has no {models.beyond_blockwise(model)}; set "
            "mesh.context=all_to_all, or mesh.seq=1"
        )
    if config.context == "ring" and (model.experts.capacity_factor or model.experts.router_noise):
        raise UserError(
            "mesh.context=ring changes the order of tokens, on which "
            "model.experts.capacity_factor and "
            "model.experts.router_noise depend; set mesh.context=all_to_all, or both of them off"
        )
    if model.dropout.is_on:
        raise UserError(
            f"mesh.seq={parts} cuts sequences, and model.dropout draws masks of whole ones; "
            "set mesh.seq=1, or model.dropout to 0"
        )
    if config.context == "ring" and config.pipe > 1:
        # Stages do different things in one tick, and a permutation waits for all devices.
        raise UserError(
            f"mesh.context=ring does not go with mesh.pipe={config.pipe}; set "
            "mesh.context=all_to_all, or mesh.pipe=1"
        )


def _check_experts(spec: RunSpec, sizes: dict[str, int]) -> None:
    """Tokens travel in slots, so there has to be a number of them, counted in whole sequences."""
    model, parts = spec.model, sizes["expert"]
    if not model.experts.count:
        raise UserError(
            f"mesh.expert={parts} cuts experts, and this model has none; set mesh.expert=1 and "
            f"mesh.data={parts}, or model.experts.count"
        )
    if not model.experts.capacity_factor:
        whole = model.experts.count / model.experts.per_token
        raise UserError(
            f"mesh.expert={parts} sends tokens in slots, and model.experts.capacity_factor=0 "
            "gives their "
            f"number no limit; set model.experts.capacity_factor=1.25, or {whole:g} to drop no "
            "token"
        )
    if sizes["seq"] > 1:
        raise UserError(
            f"mesh.expert={parts} counts slots in a sequence, which mesh.seq={sizes['seq']} cuts; "
            "set mesh.seq=1"
        )


def _check_pipeline(config: MeshConfig, spec: RunSpec, stages: int) -> None:
    """What a pipeline needs besides equal stages."""
    if len(spec.model.stacks) > 1:
        raise UserError(
            f"mesh.pipe={stages} needs layers with the same parameters, and this model has "
            f"{len(spec.model.stacks)} kinds; set mesh.pipe=1"
        )
    if spec.model.experts.count:
        raise UserError(
            f"model.experts.count={spec.model.experts.count} has routers, whose losses mesh.pipe="
            f"{stages} does not collect; set mesh.pipe=1"
        )
    if spec.model.compute_dtype == "float16":
        raise UserError(
            f"model.compute_dtype=float16 scales the loss, which mesh.pipe={stages} does not; set "
            "model.compute_dtype=bfloat16, or mesh.pipe=1"
        )
    period = spec.model.period
    layers = spec.model.depth // (stages * config.chunks)
    if layers % period:
        raise UserError(
            f"mesh.pipe={stages} gives each stage {layers} layers in a part, and "
            f"their pattern repeats after {period}; set model.depth="
            f"{stages * config.chunks * period}, or another mesh.pipe"
        )
    if config.schedule == "interleaved" and spec.micro_batches % stages:
        up = -(-spec.micro_batches // stages) * stages
        raise UserError(
            f"train.micro_batches={spec.micro_batches} is not a multiple of mesh.pipe={stages}, "
            f"which mesh.schedule=interleaved needs; set train.micro_batches={up}, or "
            "mesh.schedule=1f1b"
        )
    for name, value, off in _not_on_a_pipeline(spec):
        if value != off:
            raise UserError(
                f"{name}={value} is not computed on a pipeline's stages; set {name}={off}, or "
                "mesh.pipe=1"
            )


def _not_on_a_pipeline(spec: RunSpec) -> list[tuple[str, Any, Any]]:
    """(name, value, what it must be) of settings that look at the whole model at once."""
    train = {
        "z_loss": 0.0,
        "label_smoothing": 0.0,
        "loss_chunk": 0,
        "noise_scale": False,
        "batch_doublings": 0,
    }
    dropout = dataclasses.asdict(spec.model.dropout)
    return [
        *((f"model.dropout.{name}", rate, 0.0) for name, rate in dropout.items()),
        ("optim.adversarial_epsilon", spec.optim.adversarial_epsilon, 0.0),
        ("optim.frozen", spec.optim.frozen, ()),
        *((f"train.{name}", getattr(spec, name, off), off) for name, off in train.items()),
    ]


def state_shardings(layout: Layout, state: TrainState) -> TrainState:
    """The sharding of every leaf of a state (arrays or shapes)."""
    return dataclasses.replace(
        jax.tree.map(lambda leaf: layout.replicated, state),
        params=layout.params(state.params),
        opt_state=layout.opt_state(state.opt_state),
    )

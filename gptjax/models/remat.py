"""Rematerialisation: what the backward pass keeps of the forward pass, and what it recomputes.

With L blocks, A bytes of activations inside one and a residual stream of X bytes: `none` keeps L·A,
`block` L·X + A (one forward pass more), `sqrt` 2·√L·X + A (two forward passes more: segments are
computed again, and inside one its blocks; Chen et al., 2016, section 4.3), `dots` the products with
parameters (no product is done again but attention's), `offload` the same in the host's memory.

XLA's CPU compiler finds that unrolled blocks compute the same twice and keeps it; loops it leaves
alone. So these numbers are those of scanned blocks there.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from gptjax.ops.linear import PRODUCT

_policies = jax.checkpoint_policies


@dataclasses.dataclass(frozen=True)
class Policy:
    """One choice of `model.remat`.

    Attributes:
      again: forward passes over the blocks that the backward pass does again; None: only the scores
        of attention.
      kept: (layers, elements of a block, of its products and its input, of its input alone) →
        elements of one token that are kept for the backward pass.
      saved: the policy of `jax.checkpoint`.
      on_device: whether all that is kept lies on the device.
    """

    again: float | None
    kept: Callable[[float, float, float, float], float]
    saved: Any = None
    on_device: bool = True


POLICIES = {
    "none": Policy(0.0, lambda layers, block, products, stream: layers * block),
    "dots": Policy(
        None,
        lambda layers, block, products, stream: layers * products,
        _policies.save_only_these_names(PRODUCT),
    ),
    "block": Policy(1.0, lambda layers, block, products, stream: layers * stream),
    "sqrt": Policy(2.0, lambda layers, block, products, stream: 2 * math.sqrt(layers) * stream),
    "offload": Policy(
        None,
        lambda layers, block, products, stream: layers * stream,
        _policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[PRODUCT],
            offload_src="device",
            offload_dst="pinned_host",
        ),
        on_device=False,
    ),
}
"""The choices of `model.remat`; those on the device from the least to the most computed again."""

ON_DEVICE = tuple(name for name, policy in POLICIES.items() if policy.on_device)
"""Those whose cost is known: no time is for the way to the host and back."""


def recomputed(policy: str, block: Callable) -> Callable:
    """A block whose backward pass keeps what the policy says; `none` changes nothing."""
    return block if policy == "none" else jax.checkpoint(block, policy=POLICIES[policy].saved)


def recomputed_module(policy: str, module: Any) -> Any:
    """The same of a linen module that is scanned."""
    if policy == "none":
        return module
    return nn.remat(module, prevent_cse=False, policy=POLICIES[policy].saved)


def segment_length(policy: str, depth: int, *, period: int = 1) -> int:
    """Blocks between two kept streams: about √depth under `sqrt`, in whole periods; 0: no segments.

    >>> segment_length("sqrt", 30), segment_length("sqrt", 30, period=4), segment_length("dots", 30)
    (5, 4, 0)
    """
    return period * max(1, round(math.sqrt(depth) / period)) if policy == "sqrt" else 0


def in_segments(
    apply: Callable[[Any, Any, jax.Array], tuple[jax.Array, list]],
    layers: tuple,
    params: list,
    x_BTD: jax.Array,
    length: int,
) -> tuple[jax.Array, list]:
    """x after `apply(some layers, their parameters, x)`, at once or segment by segment.

    Also the list of what the layers report.
    """
    if not length:
        return apply(layers, params, x_BTD)
    reports: list = []
    for start in range(0, len(layers), length):
        some = slice(start, start + length)
        segment = jax.checkpoint(functools.partial(apply, layers[some]))
        x_BTD, found = segment(params[some], x_BTD)
        reports += found
    return x_BTD, reports


def scan_in_segments(
    body: Callable[[jax.Array, Any], tuple[jax.Array, Any]],
    x_BTD: jax.Array,
    slices: Any,
    length: int,
) -> tuple[jax.Array, list]:
    """x after a scan of `body` over `slices`, at once or in segments of so many slices.

    A segment is recomputed as a whole: then it has the streams between its own slices, and all
    others have nothing but their inputs. Also what the slices report, in a list of one or two
    trees whose leaves have the slices' reports one after another on their first axis.
    """
    reports = []
    count = jax.tree.leaves(slices)[0].shape[0]
    segments = count // length if length else 0
    cut = segments * length
    if segments:
        inside = jax.tree.map(
            lambda leaf: leaf[:cut].reshape(segments, length, *leaf.shape[1:]), slices
        )
        segment = jax.checkpoint(functools.partial(jax.lax.scan, body), prevent_cse=False)
        x_BTD, found = jax.lax.scan(segment, x_BTD, inside)
        reports.append(jax.tree.map(lambda y: y.reshape(-1, *y.shape[3:]), found))
    if cut < count:
        x_BTD, found = jax.lax.scan(body, x_BTD, jax.tree.map(lambda leaf: leaf[cut:], slices))
        reports.append(jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), found))
    return x_BTD, reports

"""Settings of pictures in a decoder: the section `model.vision`, and the table of its joins.

A text has one picture, before its first token. The functions of a join are in `joins.py`, because
they need the decoder's own blocks.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from gptjax.fields import setting


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Seen:
    """What texts see of their pictures, computed once for a text of any length.

    Attributes:
      vectors_BPD: stand at the first P positions of a text; None: no position is the picture's.
      keys: (k_BSKH, v_BSKH) of each cross-attention block.
    """

    vectors_BPD: jax.Array | None = None
    keys: tuple[tuple[jax.Array, jax.Array], ...] = ()


def _nothing(config: Any, *rest: Any) -> Any:
    """Of a decoder without pictures."""
    return 0


@dataclasses.dataclass(frozen=True)
class Join:
    """One choice of `model.vision.join`; every function takes the model's config first.

    Attributes:
      init: (config, key) → fresh parameters, which are params["vision"].
      see: (config, params["vision"], pictures_BYXC) → Seen; pictures are uint8, or already scaled
        to −1…1.
      between: (config, params["vision"], Seen) → blocks (x_BTD → x_BTD) by the number of the
        decoder's layer before which they come.
      places: positions of a text that its picture takes.
      params: parameters.
      flops: matmul FLOPs of one picture's forward pass, and of what is done for each token.
      check: raises UserError where other settings do not fit.
    """

    init: Callable[[Any, jax.Array], Any] = _nothing
    see: Callable[[Any, Any, jax.Array], Seen] = lambda config, params, pictures_BYXC: Seen()
    between: Callable[[Any, Any, Seen], Mapping[int, Callable]] = lambda config, params, seen: {}
    places: Callable[[Any], int] = _nothing
    params: Callable[[Any], int] = _nothing
    flops: Callable[[Any], tuple[float, float]] = lambda config: (0.0, 0.0)
    check: Callable[[Any], None] = _nothing


JOINS: dict[str, Join] = {"": Join()}
"""The choices of `model.vision.join`; "" is a decoder of text alone."""


@dataclasses.dataclass(frozen=True)
class PictureConfig:
    """The vision tower and how the decoder sees its patches."""

    join: str = setting(
        "",
        "projected: patches stand before the text (Llava); gated: cross-attention to them before "
        "some layers (Flamingo); tiled: the same with Llama 3.2's tower and normed heads; empty: "
        "no pictures",
        choices=JOINS,
    )
    image_size: int = setting(32, "side of the square pictures in pixels", minimum=1)
    patch_size: int = setting(8, "side of a patch in pixels", minimum=1)
    channels: int = setting(3, "numbers of a pixel", minimum=1)
    tower_width: int = setting(64, "width of the vision transformer", minimum=1)
    tower_depth: int = setting(2, "its blocks", minimum=1)
    tower_heads: int = setting(4, "its heads", minimum=1)
    tower_mlp_width: int = setting(
        0, "hidden width of its feed-forward; 0: 4 x tower_width", minimum=0
    )
    projector_layers: int = setting(
        2, "projected: matrices from patches to the decoder's width, GELU between", minimum=1
    )
    every: int = setting(
        1, "gated, tiled: layers from one cross-attention to the next; the first has one", minimum=1
    )
    global_depth: int = setting(1, "tiled: gated blocks of the tower after the others", minimum=1)

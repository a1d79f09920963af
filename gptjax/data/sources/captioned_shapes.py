"""The source `captioned-shapes`: generated pictures of one shape each, and what they show in words.

A caption is a function of what was drawn, so that a model's captions can be checked word for word.
Size, place and grey of the background vary within what a caption says.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from gptjax.data.sources.base import Pictured, Source
from gptjax.fields import setting

if TYPE_CHECKING:
    from gptjax.data.config import DataConfig

COLORS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (230, 210, 40),
    "white": (245, 245, 245),
}
SHAPES = {
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 0.9,
    "circle": lambda x, y: x**2 + y**2 <= 1.0,
    "triangle": lambda x, y: (abs(x) <= (y + 1) / 2) & (abs(y) <= 1),
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 1),
}
RADII = {"small": 0.13, "large": 0.22}
"""Half the side of a shape, of the picture's."""
CORNERS = {"top": 0.27, "bottom": 0.73, "left": 0.27, "right": 0.73}
CHANNELS = 3


VERSION = 1
"""Of the drawing: other pictures for the same settings get another one."""


@dataclasses.dataclass(frozen=True)
class CaptionedShapesConfig:
    """The settings of the source `captioned-shapes`."""

    pictures: int = setting(4096, "pictures to draw", minimum=2, maximum=1 << 20)
    pixels: int = setting(24, "pixels a side", minimum=8, maximum=512)
    shapes_seed: int = setting(0, "seed of the pictures", minimum=0, maximum=2**32 - 1)


def draw(config: CaptionedShapesConfig) -> Iterator[tuple[bytes, np.ndarray]]:
    """(caption, uint8 picture [size, size, 3]) of each."""
    rng = np.random.default_rng(config.shapes_seed)
    grid = (np.arange(config.pixels) + 0.5) / config.pixels
    kinds = list(itertools.product(RADII, COLORS, SHAPES, ("top", "bottom"), ("left", "right")))
    for _ in range(config.pictures):
        size, color, shape, row, column = kinds[rng.integers(len(kinds))]
        y, x = (CORNERS[side] + rng.uniform(-0.03, 0.03) for side in (row, column))
        radius = RADII[size] * rng.uniform(0.9, 1.1)
        inside = SHAPES[shape]((grid[None, :] - x) / radius, (grid[:, None] - y) / radius)
        ground = rng.integers(0, 90) + rng.integers(0, 24, (config.pixels, config.pixels, 1))
        picture = np.where(inside[..., None], np.array(COLORS[color]), ground)
        caption = f"a {size} {color} {shape} at the {row} {column}"
        yield caption.encode(), picture.astype(np.uint8)


def _open(own: CaptionedShapesConfig, config: "DataConfig", seq_len: int) -> Pictured:
    return Pictured(
        stamp={"captioned-shapes": {**dataclasses.asdict(own), "version": VERSION}},
        read=lambda: draw(own),
        field="data.source='captioned-shapes'",
    )


SOURCE = Source("captioned-shapes", _open, CaptionedShapesConfig)

"""Rotary frequencies for texts longer than those a model was trained on.

Every function gives (angles of one step [C], attention factor) of C = width/2 pairs, in NumPy:
they depend on the config and on the length of the input, both known when a program is compiled.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """The settings that the kinds of scaling take; each reads those that its paper has.

    Attributes:
      factor: the longest text over the trained length.
      trained_len: positions of the model before it was extended.
      slow, fast: Llama 3's low and high frequency factors; YaRN's β of slow and fast rotations.
      attention_factor: multiplies rotated queries and keys; 0: the paper's function of `factor`.
      mscale, mscale_all_dim: DeepSeek's weights in YaRN's attention factor; 0: not used.
      short_factors, long_factors: LongRoPE's divisors of each pair.
    """

    factor: float = 1.0
    trained_len: int = 0
    slow: float = 1.0
    fast: float = 32.0
    attention_factor: float = 0.0
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()


Frequencies = tuple[np.ndarray, float]


def plain(width: int, base: float, length: int, scaling: RopeScaling) -> Frequencies:
    """base^(−2i/width) (Su et al., 2021)."""
    return base ** (-np.arange(0, width, 2, dtype=np.float64) / width), 1.0


def linear(width: int, base: float, length: int, scaling: RopeScaling) -> Frequencies:
    """Position interpolation: every angle divided by the factor (Chen et al., 2023)."""
    return plain(width, base, length, scaling)[0] / scaling.factor, 1.0


def ntk(width: int, base: float, length: int, scaling: RopeScaling) -> Frequencies:
    """NTK-aware: base·factor^(d/(d−2)) (bloc97, 2023; Peng et al., 2023, equation 16)."""
    stretched = base * scaling.factor ** (width / (width - 2))
    return plain(width, stretched, length, scaling)


def dynamic(width: int, base: float, length: int, scaling: RopeScaling) -> Frequencies:
    """NTK-aware with the factor that the input's own length asks for (emozilla, 2023).

    base·(factor·T/L − (factor − 1))^(d/(d−2)) for an input of T > L tokens, as in `transformers`.
    """
    longer = max(length, scaling.trained_len)
    stretch = scaling.factor * longer / scaling.trained_len - (scaling.factor - 1)
    return plain(width, base * stretch ** (width / (width - 2)), length, scaling)


def yarn(width: int, base: float, length: int, scaling: RopeScaling) -> Frequencies:
    """Interpolate slow pairs, keep fast ones, a ramp between (Peng et al., 2023, section 3.4).

    The ramp runs between the pairs that rotate `fast` and `slow` times in the trained length; its
    ends are rounded outwards, as the authors' code does. Factor: 0.1·ln(factor) + 1.
    """
    kept = plain(width, base, length, scaling)[0]

    def pair_with(turns: float) -> float:
        length_of_turn = scaling.trained_len / (turns * 2 * math.pi)
        return width * math.log(length_of_turn) / (2 * math.log(base))

    low = max(math.floor(pair_with(scaling.fast)), 0)
    high = min(math.ceil(pair_with(scaling.slow)), width - 1)
    ramp = (np.arange(width // 2) - low) / ((high - low) or 0.001)
    interpolated = np.clip(ramp, 0, 1)
    mixed = kept / scaling.factor * interpolated + kept * (1 - interpolated)
    return mixed, scaling.attention_factor or _yarn_factor(scaling)


def longrope(width: int, base: float, length: int, scaling: RopeScaling) -> Frequencies:
    """Searched divisors, one set up to the trained length and one beyond (Ding et al., 2024).

    Factor: √(1 + ln(factor)/ln(trained length)).
    """
    beyond = length > scaling.trained_len
    divisors = np.asarray(scaling.long_factors if beyond else scaling.short_factors)
    factor = scaling.attention_factor
    if not factor:
        grown = math.log(scaling.factor) / math.log(scaling.trained_len)
        factor = math.sqrt(1 + grown) if scaling.factor > 1 else 1.0
    return plain(width, base, length, scaling)[0] / divisors, factor


def llama3(width: int, base: float, length: int, scaling: RopeScaling) -> Frequencies:
    """Divide wavelengths above trained/slow, keep those below trained/fast, blend between.

    AI@Meta, "The Llama 3 Herd of Models" (2024), and the released code of Llama 3.1.
    """
    kept = plain(width, base, length, scaling)[0]
    turns = scaling.trained_len * kept / (2 * math.pi)
    share = np.clip((turns - scaling.slow) / (scaling.fast - scaling.slow), 0, 1)
    return (1 - share) * kept / scaling.factor + share * kept, 1.0


def _yarn_factor(scaling: RopeScaling) -> float:
    def grown(weight: float) -> float:
        return 0.1 * weight * math.log(scaling.factor) + 1 if scaling.factor > 1 else 1.0

    if scaling.mscale and scaling.mscale_all_dim:
        return grown(scaling.mscale) / grown(scaling.mscale_all_dim)
    return grown(1.0)


ROPE_SCALINGS: dict[str, Callable[[int, float, int, RopeScaling], Frequencies]] = {
    "none": plain,
    "linear": linear,
    "ntk": ntk,
    "dynamic": dynamic,
    "yarn": yarn,
    "longrope": longrope,
    "llama3": llama3,
}

"""Numbers as people write them: plain text, no mathtext, the same in figures and page."""

import math

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_NBSP = "\xa0"  # a space at which no line breaks
_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def power_text(value: float, digits: int = 1) -> str:
    """A number as text, with powers of ten outside .001 to 9999.

    >>> power_text(1e12), power_text(3.16e12), power_text(2500.0), power_text(-math.inf)
    ('10¹²', '3.2×10¹²', '2500', '−∞')
    """
    odd = _odd_text(value)
    if odd:
        return odd
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}".replace("-", "−")
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPT)
    number = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return (power if number == "1" else f"{number}×{power}").replace("-", "−")


def count_text(value: float, digits: int = 3) -> str:
    """A count of parameters or tokens.

    >>> count_text(1.3e9), count_text(12500), count_text(640), count_text(999999)
    ('1.30B', '12.5k', '640', '1.00M')
    """
    if not math.isfinite(value) or abs(value) >= 1e16:
        return power_text(value)
    for size, unit in _UNITS:
        if abs(value) >= size * (1 - 0.5 * 10.0**-digits):
            return f"{fixed_text(value / size, digits)}{unit}"
    return fixed_text(value, digits)


def fixed_text(value: float, digits: int = 4) -> str:
    """A measured number to `digits` significant digits, zeros at the end included.

    >>> fixed_text(0.52349, 3), fixed_text(1.32), fixed_text(1234.5, 3), fixed_text(math.nan)
    ('0.523', '1.320', '1230', '–')
    """
    odd = _odd_text(value)
    if odd:
        return odd
    text = f"{value:#.{digits}g}".removesuffix(".")
    if "e" in text:
        text = f"{float(text):.0f}" if 1 <= abs(value) < 1e7 else power_text(value, digits - 1)
    return text.replace("-", "−")


def exact_text(value: float, digits: int = 6) -> str:
    """A setting or a count, which is exact: no zeros at the end.

    >>> exact_text(4000.0), exact_text(0.01)
    ('4000', '0.01')
    """
    return _odd_text(value) or f"{value:.{digits}g}".replace("-", "−")


def tick_text(value: float) -> str:
    """A count at an axis tick.

    >>> tick_text(1e6), tick_text(30000)
    ('1M', '30k')
    """
    for size, unit in _UNITS:
        if abs(value) >= size and value < 1e15:
            return f"{value / size:.4g}{unit}"
    return power_text(value)


def interval_text(low: float, high: float, text=fixed_text) -> str:
    """'[0.48, 0.56]', which no line break splits; empty where neither bound is known.

    >>> interval_text(0.48, math.inf).replace("\xa0", " "), interval_text(math.nan, math.nan)
    ('[0.4800, ∞]', '')
    """
    if math.isnan(low) and math.isnan(high):
        return ""
    return f"[{text(low)}, {text(high)}]".replace(" ", _NBSP)


def duration_text(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration_text(0.42), duration_text(42.4), duration_text(75), duration_text(7320)
    ('0.42 s', '42 s', '1 min 15 s', '2 h 02 min')
    """
    if not math.isfinite(seconds):
        return "–"
    if 0 < seconds < 9.95:
        return f"{fixed_text(seconds, 2)} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def percent_text(share: float, digits: int = 2) -> str:
    """A share as a percentage; the space before the sign does not break.

    >>> percent_text(0.0123), percent_text(-0.2)
    ('1.2\\xa0%', '−20\\xa0%')
    """
    return f"{fixed_text(100 * share, digits)}{_NBSP}%" if math.isfinite(share) else "–"


def _odd_text(value: float) -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return ""

"""Second-order jets: arrays that carry their derivatives through a form's equation.

Evaluated with jets in place of parameters, an equation gives its value, its gradient and its
Hessian by NumPy alone, so that a fit compiles nothing. Derivatives that are zero are not stored:
the term of size knows nothing of the exponent of data.
"""

from typing import Any, Self

import numpy as np


class Jet:
    """A value with its first and second derivatives by numbered variables.

    Attributes:
      value: any array.
      first: derivative by variable i, for those that are not zero; shapes broadcast with `value`.
      second: derivative by i and j, i <= j.

    >>> x = Jet.variable(2.0, 0)
    >>> cube = x * x * x
    >>> cube.value, cube.first[0], cube.second[0, 0]
    (8.0, 12.0, 12.0)
    """

    __slots__ = ("first", "second", "value")
    __array_ufunc__ = None  # an array times a jet is the jet's product

    def __init__(self, value: Any, first: dict[int, Any], second: dict[tuple[int, int], Any]):
        self.value, self.first, self.second = value, first, second

    @classmethod
    def variable(cls, value: Any, number: int) -> Self:
        return cls(value, {number: 1.0}, {})

    def chain(self, value: Any, slope: Any, bend: Any) -> "Jet":
        """A function of the jet with its derivatives there: f, f' and f''."""
        second = {key: slope * part for key, part in self.second.items()}
        names = sorted(self.first)
        for place, i in enumerate(names):
            for j in names[place:]:
                _add(second, (i, j), bend * (self.first[i] * self.first[j]))
        return Jet(value, {i: slope * part for i, part in self.first.items()}, second)

    def __add__(self, other: Any) -> "Jet":
        if not isinstance(other, Jet):
            return Jet(self.value + other, self.first, self.second)
        first, second = dict(self.first), dict(self.second)
        for i, part in other.first.items():
            _add(first, i, part)
        for key, part in other.second.items():
            _add(second, key, part)
        return Jet(self.value + other.value, first, second)

    def __neg__(self) -> "Jet":
        return self * -1.0

    def __sub__(self, other: Any) -> "Jet":
        return self + -other

    def __rsub__(self, other: Any) -> "Jet":
        return -self + other

    def __mul__(self, other: Any) -> "Jet":
        if isinstance(other, Jet):
            return self._product(other)
        first = {i: part * other for i, part in self.first.items()}
        return Jet(self.value * other, first, {k: part * other for k, part in self.second.items()})

    __radd__, __rmul__ = __add__, __mul__

    def _product(self, other: "Jet") -> "Jet":
        first: dict[int, Any] = {}
        second: dict[tuple[int, int], Any] = {}
        for one, rest in ((self, other), (other, self)):
            for i, part in one.first.items():
                _add(first, i, part * rest.value)
            for key, part in one.second.items():
                _add(second, key, part * rest.value)
        for i, left in self.first.items():
            for j, right in other.first.items():
                both = left * right
                _add(second, (min(i, j), max(i, j)), 2 * both if i == j else both)
        return Jet(self.value * other.value, first, second)

    def inverse(self) -> "Jet":
        share = 1 / self.value
        return self.chain(share, -(share**2), 2 * share**3)

    def __truediv__(self, other: Any) -> "Jet":
        return self * (other.inverse() if isinstance(other, Jet) else 1 / np.asarray(other))

    def __rtruediv__(self, other: Any) -> "Jet":
        return self.inverse() * other

    def __pow__(self, exponent: Any) -> "Jet":
        if isinstance(exponent, Jet):
            return (exponent * self.log()).exp()
        c, x = exponent, self.value
        return self.chain(x**c, c * x ** (c - 1), c * (c - 1) * x ** (c - 2))

    def __rpow__(self, base: Any) -> "Jet":
        return (self * np.log(base)).exp()

    def exp(self) -> "Jet":
        value = np.exp(self.value)
        return self.chain(value, value, value)

    def log(self) -> "Jet":
        share = 1 / self.value
        return self.chain(np.log(self.value), share, -(share**2))

    def where(self, keep: Any, other: Any) -> "Jet":
        """The jet where `keep` is true, else the other."""
        if not isinstance(other, Jet):
            other = Jet(other, {}, {})
        first = {
            i: np.where(keep, self.first.get(i, 0.0), other.first.get(i, 0.0))
            for i in {*self.first, *other.first}
        }
        second = {
            key: np.where(keep, self.second.get(key, 0.0), other.second.get(key, 0.0))
            for key in {*self.second, *other.second}
        }
        return Jet(np.where(keep, self.value, other.value), first, second)


def _add(sums: dict, key: Any, part: Any) -> None:
    sums[key] = sums[key] + part if key in sums else part


def value_of(x: Any) -> Any:
    """The value of a jet, or what is none itself."""
    return x.value if isinstance(x, Jet) else x

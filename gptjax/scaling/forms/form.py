"""The interface of a law form, for ours and for a user's.

A form is an equation with named parameters over named columns. The engine needs nothing else: it
differentiates the equation itself, chooses the starting points from the data, and keeps positive
parameters positive by fitting their logarithms.

A form of one's own takes five lines:

>>> mine = Form(
...     name="mine", equation="L = E + A N^-alpha", columns=("params",),
...     parameters=(positive("E"), positive("A"), exponent("alpha")), linear=("E", "A"),
...     loss=lambda p, x: p["E"] + p["A"] * x["params"] ** -p["alpha"],
... )
>>> mine.loss({"E": 1.0, "A": 8.0, "alpha": 1.0}, {"params": 4.0})
3.0
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.errors import UserError, nearest
from gptjax.scaling.forms.jets import Jet, value_of

Values = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One unknown of a form.

    Attributes:
      name: as in the equation.
      positive: fitted as its logarithm.
      low, high: sanity limits (of the centred value where `scale` is given).
      start: range of the starting points, where the form is not linear in it.
      scale: terms (column, exponent name, sign): the value multiplies column^(-sign exponent), so
        the fit works with its value at the column's geometric mean, where it barely correlates.
        An exponent name of '1' stands for one: the value is a multiple of that mean.
    """

    name: str
    positive: bool = True
    low: float = 1e-10
    high: float = 1e10
    start: tuple[float, float] = (0.1, 10.0)
    scale: tuple[tuple[str, str, float], ...] = ()


def positive(name: str, start: tuple[float, float] = (0.1, 10.0), **limits) -> Parameter:
    """A parameter that must stay above zero, started log-uniformly in `start`."""
    return Parameter(name, True, start=start, **limits)


def exponent(name: str, start: tuple[float, float] = (0.05, 1.0)) -> Parameter:
    """A positive exponent between 1e-4 and 10."""
    return Parameter(name, True, 1e-4, 10.0, start)


def free(name: str, start: tuple[float, float] = (-1.0, 1.0), limit: float = 1e6) -> Parameter:
    """A parameter of either sign, started uniformly in `start`."""
    return Parameter(name, False, -limit, limit, start)


def amplitude(name: str, column: str, power: str, sign: float = 1.0) -> Parameter:
    """A positive factor of column^(-sign power), centred on the column's geometric mean."""
    return Parameter(name, True, scale=((column, power, sign),))


def threshold(
    name: str, column: str, start: tuple[float, float] = (0.05, 20.0), high: float = 1e10
) -> Parameter:
    """A positive value on the scale of a column, started as a multiple of its geometric mean."""
    return Parameter(name, True, 1e-10, high, start, ((column, "1", 1.0),))


@dataclasses.dataclass(frozen=True)
class Form:
    """A law: an equation, its parameters and the columns that it reads.

    Attributes:
      name: short name, the key in laws.json.
      equation: in plain letters.
      columns: columns that the equation reads; `params`, `tokens`, `flops` are always there.
      parameters: the unknowns, in order.
      loss: (values by name, columns by name) -> predicted loss; written with operators and
        the functions `power`, `exp`, `log` here (or jnp's).
      linear: the names of parameters in which the loss is linear, solved for at every start.
      paper, units, differs: source; units; where the popular version differs from the paper.
      loose: columns that may be zero, or the same in every run.
      of_loss: what is predicted is a loss, so that a budget has an optimum; not a score or a rate.
      two_powers: the compute-optimal split has the closed form of A N^-alpha + B D^-beta.
      curves: (a, g, b, column) of every a X^g + b; fitted as its level b + a X0^g and its tilt
        a g X0^g at the column's geometric mean X0 (Box and Cox 1964): a, g and b trade against
        each other along a bent valley, and g may pass through zero. Starts of a and b are then
        ranges of the tilt and the level.
      ties, held: parameters forced equal to another, or held at a value; see `tie` and `fix`.
    """

    name: str
    equation: str
    columns: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    loss: Callable[[Values, Values], Any]
    linear: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    of_loss: bool = True
    ties: tuple[tuple[str, str], ...] = ()
    paper: str = ""
    units: str = "loss in nats per token"
    differs: str = ""
    two_powers: bool = False
    curves: tuple[tuple[str, str, str, str], ...] = ()
    held: tuple[tuple[str, float], ...] = ()

    @property
    def tied(self) -> dict[str, str]:
        return dict(self.ties)

    @property
    def constants(self) -> dict[str, float]:
        return dict(self.held)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def splits_compute(self) -> bool:
        """Whether a budget alone determines an optimum: a loss of params and tokens only."""
        return self.of_loss and set(self.columns) == {"params", "tokens"}

    @property
    def fitted(self) -> tuple[Parameter, ...]:
        """The parameters that are neither fixed nor tied to another."""
        return tuple(
            p for p in self.parameters if p.name not in self.tied and p.name not in self.constants
        )

    @property
    def bent(self) -> tuple[tuple[str, str, str, str], ...]:
        """The curves none of whose parameters is fixed or tied."""
        apart = {*self.tied, *self.tied.values(), *self.constants}
        return tuple(curve for curve in self.curves if apart.isdisjoint(curve[:3]))

    @property
    def centred(self) -> tuple[str, ...]:
        """Columns whose geometric mean the coordinates need."""
        used = {column for p in self.parameters for column, _, _ in p.scale}
        return tuple(sorted(used | {column for _, _, _, column in self.curves}))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickled by name where the registry has it: an equation is code, not data."""
        from gptjax.scaling.forms import FORMS

        known = FORMS.get(self.name)
        if known is None or known.loss is not self.loss:
            return super().__reduce_ex__(protocol)
        names = [field.name for field in dataclasses.fields(self) if field.name != "loss"]
        return _registered, (self.name, {name: getattr(self, name) for name in names})

    def fix(self, **constants: float) -> "Form":
        """The same form with some parameters held at known values."""
        self._known(constants)
        for name, value in constants.items():
            if not math.isfinite(value):
                raise UserError(f"{self.name}: {name}={value} is not finite; give a number")
        return dataclasses.replace(self, held=tuple({**self.constants, **constants}.items()))

    def tie(self, **names: str) -> "Form":
        """The same form with some parameters forced equal: `tie(beta="alpha")`."""
        self._known(names)
        self._known(names.values())
        return dataclasses.replace(self, ties=tuple({**self.tied, **names}.items()))

    def start_at(self, **ranges: tuple[float, float]) -> "Form":
        """The same form with other ranges of starting points."""
        self._known(ranges)
        changed = tuple(
            dataclasses.replace(p, start=ranges[p.name]) if p.name in ranges else p
            for p in self.parameters
        )
        return dataclasses.replace(self, parameters=changed)

    def _known(self, names) -> None:
        for name in names:
            if name not in self.names:
                raise UserError(f"{self.name} has no parameter {name}; {nearest(name, self.names)}")


def _registered(name: str, changed: dict[str, Any]) -> Form:
    """The registered form of that name with other parameters, ties or held values."""
    from gptjax.scaling.forms import form_named

    return dataclasses.replace(form_named(name), **changed)


def exp(x: Any) -> Any:
    """e^x of a jet, a traced array, or by NumPy: nothing is compiled for a mere prediction."""
    if isinstance(x, Jet):
        return x.exp()
    return jnp.exp(x) if isinstance(x, jax.Array) else np.exp(x)


def log(x: Any) -> Any:
    """ln x of a jet, a traced array, or by NumPy."""
    if isinstance(x, Jet):
        return x.log()
    return jnp.log(x) if isinstance(x, jax.Array) else np.log(x)


def minimum(x: Any, y: Any) -> Any:
    """The smaller of two jets, traced arrays, or NumPy's."""
    if isinstance(x, Jet) or isinstance(y, Jet):
        first = x if isinstance(x, Jet) else Jet(x, {}, {})
        return first.where(value_of(x) <= value_of(y), y)
    traced = isinstance(x, jax.Array) or isinstance(y, jax.Array)
    return jnp.minimum(x, y) if traced else np.minimum(x, y)


def power(base: Any, exponent: Any) -> Any:
    """base^exponent for a positive base; a third of the cost of `**` in a vectorised fit."""
    return exp(exponent * log(base))

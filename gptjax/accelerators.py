"""Accelerators: which Python packages and drivers each kind needs, without starting JAX."""

import dataclasses
import importlib.util
import os
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A kind of device beside the CPU.

    Attributes:
      plugins: modules by which JAX computes on it; one is enough.
      compilers: modules that compile for it where it is not there; one is enough.
      extra: the extra of this package that installs them.
      vendor: its compiler's name in a sentence.
      drivers: device files of which a machine that has it has one; none where that is not known.
    """

    plugins: tuple[str, ...]
    compilers: tuple[str, ...]
    extra: str
    vendor: str
    drivers: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether JAX has a plugin for it."""
        return any(map(_installed, self.plugins))

    @property
    def compiles(self) -> bool:
        """Whether programs can be compiled for it here."""
        return any(map(_installed, self.compilers))

    @property
    def has_driver(self) -> bool:
        """Whether its driver is there, or nothing is known of drivers."""
        return not self.drivers or any(Path(path).exists() for path in self.drivers)


ACCELERATORS = {
    "gpu": Accelerator(
        plugins=("jax_cuda13_plugin", "jax_cuda12_plugin", "jax_rocm7_plugin", "jax_rocm60_plugin"),
        compilers=("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12"),
        extra="cuda",
        vendor="GPU",
        drivers=("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"),
    ),
    "tpu": Accelerator(plugins=("libtpu",), compilers=("libtpu",), extra="tpu", vendor="TPU"),
}


def computes_on_cpu(device: str) -> bool:
    """Whether JAX will compute on the CPU when it is started for `config.device`."""
    if device in ACCELERATORS:
        return False
    if device == "cpu" or os.environ.get("JAX_PLATFORMS") == "cpu":
        return True
    return not any(kind.usable for kind in ACCELERATORS.values())


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False

"""What can be known in a moment, before a corpus is read or anything is written."""

import importlib.util
import os
from pathlib import Path

from gptjax.config import Config
from gptjax.errors import UserError

READ_ONLY = ("plan", "predict")
TRAINING = ("sweep", "work", "train", "compare", "tune", "compare_sweeps")
PLUGINS = {
    "gpu": ("jax_cuda13_plugin", "jax_cuda12_plugin", "jax_rocm7_plugin", "jax_rocm60_plugin"),
    "tpu": ("libtpu",),
}
DRIVERS = {"gpu": ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")}
EXTRAS = {"gpu": "cuda", "tpu": "tpu"}


def check_before(config: Config, folder: Path) -> None:
    """Refuse what cannot work here, in the order in which a user would mend it.

    Raises:
      UserError: for folders that cannot be written, a missing device, a missing extra.
    """
    general = config.general
    if general.job not in READ_ONLY:
        _check_folder(f"--workdir={folder}", folder)
    if general.job in TRAINING:
        _check_device(general.device)
        _check_offload(config)
        if general.compilation_cache not in ("auto", "off"):
            place = Path(general.compilation_cache)
            _check_folder(f"config.compilation_cache={place}", place)
    if config.train.wandb and general.job == "train" and not _installed("wandb"):
        raise UserError(
            "train.wandb=True needs Weights & Biases; pip install 'gptjax[wandb]' or set "
            "train.wandb=false"
        )


def _check_folder(flag: str, folder: Path) -> None:
    """Whether `folder` is a folder that can be written, or can be made."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{flag} is a file; give a folder")
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not parent.is_dir():
        raise UserError(f"{flag} cannot be made, {parent} is a file; give another folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{flag} cannot be written, {parent} is not yours; give another folder")


def _check_device(device: str) -> None:
    """Whether the device can be there at all, judged without starting JAX."""
    if device not in PLUGINS:
        return
    if not any(_installed(name) for name in PLUGINS[device]):
        raise UserError(
            f"config.device={device} is not usable here (its JAX plugin is not installed); "
            f"pip install 'gptjax[{EXTRAS[device]}]' or set --config.device=cpu"
        )
    drivers = DRIVERS.get(device, ())
    if drivers and not any(Path(path).exists() for path in drivers):
        raise UserError(
            f"config.device={device} is not usable here (no driver: none of {', '.join(drivers)}); "
            "set --config.device=cpu"
        )


def _check_offload(config: Config) -> None:
    """Offloading needs a memory beside the host's."""
    device = config.general.device
    usable = [name for name in PLUGINS if any(map(_installed, PLUGINS[name]))]
    if config.model.remat == "offload" and (device == "cpu" or not usable):
        raise UserError(
            "model.remat=offload moves activations from a GPU or TPU to the host and this is a "
            "CPU; set model.remat=sqrt"
        )


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None

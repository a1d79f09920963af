"""Checks of a machine that take a moment, before a corpus is read or a file written."""

import os
from pathlib import Path

from gptjax.accelerators import ACCELERATORS
from gptjax.config import Config
from gptjax.engines import task_scores
from gptjax.errors import UserError
from gptjax.files import user_path
from gptjax.job import Job


def check_before(config: Config, job: Job, folder: Path) -> None:
    """Refuse what cannot work here, in the order in which a user would mend it.

    Raises:
      UserError: for folders that cannot be written, a missing device, a missing extra.
    """
    if job.many_runs and config.sweep.tasks:
        task_scores.check(config)
    if job.writes:
        _check_folder(f"--workdir={folder}", folder)
    if job.trains:
        _check_device(config.general.device)
        _check_offload(config)
        if config.general.compilation_cache not in ("auto", "off"):
            place = user_path(config.general.compilation_cache)
            _check_folder(f"config.compilation_cache={place}", place)


def _check_folder(flag: str, folder: Path) -> None:
    """Whether `folder` is a folder that can be written, or can be made."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{flag} is a file; give a folder")
    above = (folder, *folder.absolute().parents)
    lost = next((path for path in above if path.is_symlink() and not path.exists()), None)
    if lost:
        raise UserError(f"{flag} cannot be made, {lost} is a link to nothing; give another folder")
    parent = next(path for path in above if path.exists())
    if not parent.is_dir():
        raise UserError(f"{flag} cannot be made, {parent} is a file; give another folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{flag} cannot be written, {parent} is not yours; give another folder")


def _check_device(device: str) -> None:
    """Whether the device can be there at all, judged without starting JAX."""
    if device not in ACCELERATORS:
        return
    kind = ACCELERATORS[device]
    if not kind.usable:
        raise UserError(
            f"config.device={device} is not usable here (its JAX plugin is not installed); "
            f"pip install 'gptjax[{kind.extra}]' or set --config.device=cpu"
        )
    if not kind.has_driver:
        raise UserError(
            f"config.device={device} is not usable here (no driver: none of "
            f"{', '.join(kind.drivers)}); set --config.device=cpu"
        )


def _check_offload(config: Config) -> None:
    """Offloading needs a memory beside the host's."""
    nowhere = not any(kind.usable for kind in ACCELERATORS.values())
    if config.model.remat == "offload" and (config.general.device == "cpu" or nowhere):
        raise UserError(
            "model.remat=offload moves activations from a GPU or TPU to the host and this is a "
            "CPU; set model.remat=sqrt"
        )

"""Wall time and money of runs on a number of devices.

Amdahl 1967: of a step that takes t on one device, a share s is not shortened by further devices,
t_n = t (s + (1 - s) / n). The rate of one device is a measured one, so that everything the device
does beside matrix products is in it.
"""

import dataclasses
import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.fields import setting


@dataclasses.dataclass(frozen=True)
class MachineConfig:
    """Another machine than this one, for whose hours and money job=plan asks."""

    flops_per_s: float = setting(
        0.0,
        "measured training FLOP/s of one of its devices; 0: only this machine is predicted",
        minimum=0.0,
    )
    devices: int = setting(1, "how many devices it has", minimum=1)
    devices_per_run: int = setting(1, "how many of them one run uses", minimum=1)
    serial_fraction: float = setting(
        0.0,
        "share of a one-device step that more devices do not shorten (Amdahl)",
        minimum=0.0,
        maximum=1.0,
    )


@dataclasses.dataclass(frozen=True)
class Bill:
    """Total of a list of runs: seconds by the clock, hours times devices, money."""

    wall_seconds: float
    device_hours: float
    money: float


def speedup(devices: int, serial_fraction: float) -> float:
    """How much faster a step is on several devices than on one.

    >>> round(speedup(8, 0.05), 3), speedup(8, 0.0), speedup(8, 1.0)
    (5.926, 8.0, 1.0)
    """
    return 1 / (serial_fraction + (1 - serial_fraction) / devices)


def step_seconds(flops_per_step: Any, machine: MachineConfig) -> Any:
    """Seconds of a training step of so many FLOPs on the devices of one run.

    >>> machine = MachineConfig(flops_per_s=1e14, devices_per_run=4, devices=4)
    >>> step_seconds(8e14, machine)
    2.0
    """
    one = flops_per_step / machine.flops_per_s
    return one / speedup(machine.devices_per_run, machine.serial_fraction)


def bill(flops: Sequence[float], machine: MachineConfig, price_per_device_hour: float) -> Bill:
    """Hours and money of runs that share a machine, the longest first onto free devices.

    Raises:
      UserError: for a machine without a rate, or with fewer devices than a run uses.
    """
    if not machine.flops_per_s > 0:
        raise UserError("machine.flops_per_s=0.0 gives no time; give the FLOP/s of one device")
    if machine.devices_per_run > machine.devices:
        raise UserError(
            f"machine.devices_per_run={machine.devices_per_run} is more than machine.devices="
            f"{machine.devices}; lower it"
        )
    free = [0.0] * (machine.devices // machine.devices_per_run)
    for cost in sorted(flops, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + float(step_seconds(cost, machine)))
    wall = max(free)
    hours = wall / 3600 * machine.devices
    return Bill(wall, hours, hours * price_per_device_hour)


def measured_rate(flops: Any, seconds: Any) -> float:
    """FLOP/s of one device from finished runs: all their FLOPs over all their seconds."""
    return float(np.sum(flops) / np.sum(seconds))


def fit_amdahl(devices: Any, seconds: Any) -> tuple[float, float]:
    """(seconds on one device, serial fraction) from step times at several device counts.

    Least squares of t = a + b / n, relative to the times, a and b not below zero.

    >>> one, serial = fit_amdahl([1, 2, 4, 8], [10.0, 5.5, 3.25, 2.125])
    >>> round(one, 6), round(serial, 6)
    (10.0, 0.1)

    Raises:
      UserError: for fewer than two device counts.
    """
    count, time = np.asarray(devices, np.float64), np.asarray(seconds, np.float64)
    if len(np.unique(count)) < 2:
        raise UserError("an Amdahl fraction needs step times at two device counts or more")
    design = np.stack([np.ones_like(count), 1 / count], axis=1) / time[:, None]
    (fixed, shared), *_ = np.linalg.lstsq(design, np.ones_like(time), rcond=None)
    if fixed < 0:
        fixed, shared = 0.0, float(np.mean(time * count))
    if shared < 0:
        fixed, shared = float(np.mean(time)), 0.0
    return float(fixed + shared), float(fixed / (fixed + shared))

"""Hours and money by hand."""

import numpy as np
import pytest

from gptjax.cost import walltime
from gptjax.cost.walltime import MachineConfig
from gptjax.errors import UserError


def test_a_bill_by_hand():
    machine = MachineConfig(flops_per_s=1e15, devices=8, devices_per_run=4, serial_fraction=0.1)
    # Two at a time; a run of 3.6e18 FLOPs takes 3600 s * (0.1 + 0.9 / 4) = 1170 s.
    found = walltime.bill([3.6e18, 3.6e18, 3.6e18], machine, 2.5)
    assert found.wall_seconds == pytest.approx(2 * 1170)
    assert found.device_hours == pytest.approx(2 * 1170 / 3600 * 8)
    assert found.money == pytest.approx(found.device_hours * 2.5)


def test_the_longest_run_goes_first():
    machine = MachineConfig(flops_per_s=1.0, devices=2)
    assert walltime.bill([1.0, 1.0, 2.0], machine, 0.0).wall_seconds == pytest.approx(2.0)


def test_more_devices_never_beat_the_serial_share():
    steps = [
        walltime.step_seconds(1e15, MachineConfig(1e15, n, n, 0.05)) for n in (1, 10, 100, 10_000)
    ]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] == pytest.approx(1.0) and steps[-1] > 0.05


def test_an_amdahl_fraction_out_of_noisy_step_times():
    count = np.array([1, 2, 4, 8, 16, 32])
    noise = 1 + 0.01 * np.random.default_rng(0).standard_normal(6)
    one, serial = walltime.fit_amdahl(count, 4.0 * (0.03 + 0.97 / count) * noise)
    assert one == pytest.approx(4.0, rel=0.02) and serial == pytest.approx(0.03, rel=0.1)
    assert walltime.fit_amdahl([1, 2], [1.0, 0.4])[1] == 0.0  # better than linear: no serial part


def test_the_rate_is_that_of_the_runs_together():
    assert walltime.measured_rate([1e12, 3e12], [1.0, 1.0]) == 2e12


def test_a_machine_that_cannot_be_is_one_sentence():
    with pytest.raises(UserError, match="gives no time"):
        walltime.bill([1.0], MachineConfig(), 0.0)
    with pytest.raises(UserError, match=r"devices_per_run=4 is more than machine.devices=2"):
        walltime.bill([1.0], MachineConfig(1.0, 2, 4), 0.0)
    with pytest.raises(UserError, match="two device counts"):
        walltime.fit_amdahl([4, 4], [1.0, 1.0])

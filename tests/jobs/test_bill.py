"""job=plan on another machine: hours, device-hours and money as its model says."""

import re
from pathlib import Path

import pytest

from gptjax.main import main

SWEEP = Path(__file__).parents[2] / "experiments" / "chinchilla_sweep.py"
SETTINGS = {
    "job": "plan",
    "data.source": "zipf-facts",
    "data.zipf_facts.tokens": "200000",
    "data.zipf_facts.heldout_tokens": "4096",
    "sweep.budgets": "1e11,3e11",
    "sweep.sizes": "3",
}


def plan(tmp_path, capsys, **machine):
    settings = SETTINGS | {"data.cache_dir": str(tmp_path)} | machine
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    status = main(["gptjax", f"--config={SWEEP}", f"--workdir={tmp_path / 'run'}", *flags])
    return status, capsys.readouterr()


def test_the_plan_prints_hours_and_money_of_another_machine(tmp_path, capsys):
    machine = {
        "machine.flops_per_s": "1e9",
        "machine.devices": "2",
        "machine.devices_per_run": "2",
        "machine.serial_fraction": "0.25",
        "sweep.price_per_device_hour": "3",
    }
    status, output = plan(tmp_path, capsys, **machine)
    assert status == 0
    text = " ".join(output.out.split())
    flops = float(re.search(r"cells, (\S+) FLOPs in all", text)[1])
    hours = flops / 1e9 * (0.25 + 0.75 / 2) / 3600
    found = re.search(r"on 2 devices at 1e\+09 .*: (.+), (\S+) device-hours, (\S+) at 3 a", text)
    assert float(found[2]) == pytest.approx(2 * hours, rel=0.01)
    assert float(found[3]) == pytest.approx(6 * hours, abs=0.01)


def test_without_its_rate_no_other_machine_is_spoken_of(tmp_path, capsys):
    status, output = plan(tmp_path, capsys)
    assert status == 0 and "device-hours" not in output.out


def test_more_devices_a_run_than_there_are_is_one_sentence(tmp_path, capsys):
    machine = {"machine.flops_per_s": "1e9", "machine.devices_per_run": "4"}
    status, output = plan(tmp_path, capsys, **machine)
    assert status == 2 and "machine.devices_per_run=4 is more than machine.devices=1" in output.err

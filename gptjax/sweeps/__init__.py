"""Sweeps: cells, plans, records, claims and the workers that share them."""

from gptjax.sweeps.bundles import Bundle, make_bundles
from gptjax.sweeps.claims import Claims
from gptjax.sweeps.compare import CompareConfig, Member, make_comparison
from gptjax.sweeps.config import SweepConfig
from gptjax.sweeps.environment import differences, environment, kinds
from gptjax.sweeps.plan import Cell, make_plan, make_run
from gptjax.sweeps.records import (
    failures,
    open_cells,
    read_record,
    read_records,
    record_path,
    set_failed_aside,
    write_tables,
)
from gptjax.sweeps.rules import RULES, Rule, Scale
from gptjax.sweeps.submesh import devices_for, session_on, sizes_of
from gptjax.sweeps.tuning import Trial, Tuned, make_trials

__all__ = [
    "RULES",
    "Bundle",
    "Cell",
    "Claims",
    "CompareConfig",
    "Member",
    "Rule",
    "Scale",
    "SweepConfig",
    "Trial",
    "Tuned",
    "devices_for",
    "differences",
    "environment",
    "failures",
    "kinds",
    "make_bundles",
    "make_comparison",
    "make_plan",
    "make_run",
    "make_trials",
    "open_cells",
    "read_record",
    "read_records",
    "record_path",
    "session_on",
    "set_failed_aside",
    "sizes_of",
    "write_tables",
]

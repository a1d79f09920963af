"""Meshes, the rules that lay arrays over them, pipeline schedules."""

from gptjax.parallel.chips import Chip, Target, parse_target
from gptjax.parallel.config import MeshConfig
from gptjax.parallel.hlo import Collective, collectives
from gptjax.parallel.mesh import AXES, Cut, abstract_mesh, check_cuts, make_mesh, resolve
from gptjax.parallel.rules import Layout
from gptjax.parallel.schedules import Schedule, make_schedule

__all__ = [
    "AXES",
    "Chip",
    "Collective",
    "Cut",
    "Layout",
    "MeshConfig",
    "Schedule",
    "Target",
    "abstract_mesh",
    "check_cuts",
    "collectives",
    "make_mesh",
    "make_schedule",
    "parse_target",
    "resolve",
]

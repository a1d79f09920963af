"""Meshes, the rules that lay arrays over them, pipeline schedules."""

from gptjax.parallel.config import MeshConfig
from gptjax.parallel.hlo import Collective, collectives
from gptjax.parallel.mesh import AXES, Cut, abstract_mesh, check_cuts, make_mesh, resolve
from gptjax.parallel.schedules import Schedule, make_schedule
from gptjax.parallel.sharding_rules import Layout

__all__ = [
    "AXES",
    "Collective",
    "Cut",
    "Layout",
    "MeshConfig",
    "Schedule",
    "abstract_mesh",
    "check_cuts",
    "collectives",
    "make_mesh",
    "make_schedule",
    "resolve",
]

"""Cells x stages: what has to run, in which order, where, and what became of it.

Knows the stages by name only and imports none of them before it runs one, so that ``status``, ``--dry-run`` and
``--help`` need no torch. ``stages`` the cells of each stage, ``work`` running them in this process, ``command`` the
command line of a stage.
"""

from pipeline.launch.command import guarded, stage_command
from pipeline.launch.stages import MODULES, StageName, ddal_cell, pin, stage_cells, stage_config
from pipeline.launch.work import Outcome, canary, led, run_stage

__all__ = [
    "MODULES",
    "Outcome",
    "StageName",
    "canary",
    "ddal_cell",
    "guarded",
    "led",
    "pin",
    "run_stage",
    "stage_cells",
    "stage_command",
    "stage_config",
]

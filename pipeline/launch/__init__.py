"""Cells x stages: what has to run, in which order, where, and what became of it.

Knows the stages by name only and imports none of them before it runs one, so that ``status``, ``--dry-run`` and
submission need no torch. In the order of a grid's way through it:

``stages``      the cells of each stage
``running``     cells run in this process; ``command`` the command line of a stage, ``here`` all stages
``plan``        what is missing -> arrays, and what each waits for; ``dry_run`` says it and submits nothing
``submission``  array index -> cells, and a copy of the code, written down before anybody is asked to run it
``submitter``   an experiment handed over: to ``slurm`` (through submitit) or ``local`` processes (``forks`` of one,
                where they can be); ``cancel`` taken back
``element``     what a job runs; ``requeue`` how it puts itself back; ``finish`` the last two jobs
``scheduler``   what SLURM knows of our jobs, ``outputs`` what they printed; ``status`` the truth about every cell;
                ``display`` how it is shown
``sbatch``      plain scripts; ``doctor`` is this node fit; ``prune`` what can be removed, ``known`` what is wanted
"""

from pipeline.launch.command import stage_command
from pipeline.launch.running import led, run_stage
from pipeline.launch.stages import MODULES, StageName, learning_cell, pin, stage_cells
from pipeline.launch.submitter import submit

__all__ = [
    "MODULES",
    "StageName",
    "learning_cell",
    "led",
    "pin",
    "run_stage",
    "stage_cells",
    "stage_command",
    "submit",
]

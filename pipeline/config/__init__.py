"""Frozen typed models of an experiment; every default lives here and nowhere else.

``schema`` what all share, ``data`` stage 1, ``methods`` stage 2, ``protocols`` stage 3, ``experiment`` YAML -> grid of
cells, ``problems`` errors as sentences.
"""

from pipeline.config.data import Model, Prepare, Task
from pipeline.config.experiment import Experiment, Report, load
from pipeline.config.methods import DDAL, Distill, FullData, Majority, Outer, RandomReal, Runtime, Validation
from pipeline.config.protocols import AlwaysMajority, Evaluate, FineTune, GradientSteps

__all__ = [
    "DDAL",
    "AlwaysMajority",
    "Distill",
    "Evaluate",
    "Experiment",
    "FineTune",
    "FullData",
    "GradientSteps",
    "Majority",
    "Model",
    "Outer",
    "Prepare",
    "RandomReal",
    "Report",
    "Runtime",
    "Task",
    "Validation",
    "load",
]

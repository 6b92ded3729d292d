"""Frozen typed models of an experiment; every default lives here and nowhere else.

``schema`` what all share, ``data`` stage 1, ``methods`` stage 2, ``protocols`` stage 3, ``experiment`` YAML -> grid of
cells, ``problems`` errors as sentences.
"""

from pipeline.config.data import Model, Prepare, Task
from pipeline.config.experiment import Experiment, Report, load
from pipeline.config.methods import (
    DDAL,
    AdamSteps,
    Distill,
    FullData,
    InnerOptimizer,
    Majority,
    MomentumSteps,
    Outer,
    PlainSteps,
    Precision,
    RandomReal,
    Runtime,
    Validation,
    on_real_text,
)
from pipeline.config.protocols import AlwaysMajority, Evaluate, FineTune, GradientSteps

__all__ = [
    "DDAL",
    "AdamSteps",
    "AlwaysMajority",
    "Distill",
    "Evaluate",
    "Experiment",
    "FineTune",
    "FullData",
    "GradientSteps",
    "InnerOptimizer",
    "Majority",
    "Model",
    "MomentumSteps",
    "Outer",
    "PlainSteps",
    "Precision",
    "Prepare",
    "RandomReal",
    "Report",
    "Runtime",
    "Task",
    "Validation",
    "load",
    "on_real_text",
]

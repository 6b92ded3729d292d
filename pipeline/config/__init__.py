"""Frozen typed models of an experiment; every default lives here and nowhere else.

``schema`` what all share, ``data`` stage 1, ``methods`` stage 2, ``protocols`` stage 3, ``experiment`` YAML -> grid of
cells, ``cluster`` another YAML -> what a job of each cell asks for (``resources``; ``where`` which cells), ``problems``
errors as sentences.
"""

from pipeline.config.cluster import Cluster, JobName, RetryReason, load_cluster
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
from pipeline.config.resources import Request

__all__ = [
    "DDAL",
    "AdamSteps",
    "AlwaysMajority",
    "Cluster",
    "Distill",
    "Evaluate",
    "Experiment",
    "FineTune",
    "FullData",
    "GradientSteps",
    "InnerOptimizer",
    "JobName",
    "Majority",
    "Model",
    "MomentumSteps",
    "Outer",
    "PlainSteps",
    "Precision",
    "Prepare",
    "RandomReal",
    "Report",
    "Request",
    "RetryReason",
    "Runtime",
    "Task",
    "Validation",
    "load",
    "load_cluster",
    "on_real_text",
]

"""Frozen typed models of an experiment; every default lives here and nowhere else.

``schema`` what all share, ``data`` stage 1, ``methods`` stage 2 (``real`` those that choose sentences, ``vectors``
those that learn vectors, ``text`` those that end with text, ``dilm`` those by a language model, ``imported`` what
others published, ``composed`` sets put together of others, ``ensemble`` students of several encoders, ``outer`` the
outer loop on text, ``loops`` and ``imbalance`` what all that learn have, ``making`` what all say of themselves,
``files`` what they read), ``protocols`` stage 3 (``on_vectors`` those of students on vectors, ``prompting`` those of a
language model), ``training`` AdamW in both, ``students`` those on vectors in both, ``chain`` what a config reads,
``experiment`` YAML -> grid of cells (``loader`` its syntax, ``completed`` configs inside configs), ``cluster_file``
another YAML -> ``cluster``, what a job of each cell asks for (``resources``; ``where`` which cells), ``problems``
errors as sentences, ``typed`` what to type about an experiment.
"""

from pipeline.config.chain import Stage, inputs, language_model, language_source, upstream
from pipeline.config.cluster import Cluster, JobName, RetryReason
from pipeline.config.cluster_file import load_cluster
from pipeline.config.composed import Composed, Part
from pipeline.config.data import Model, Prepare, Task, Vectors
from pipeline.config.dilm import (
    LM,
    AtRandom,
    ByCentres,
    ByHerding,
    ByRank,
    DiLM,
    Generated,
    GeneratorTraining,
    LoRA,
    Rank,
    Sampling,
    TextSelection,
    Unselected,
)
from pipeline.config.experiment import Experiment, Report, load
from pipeline.config.imbalance import ClassWeights, CrossEntropy, LogitAdjustment, RealLoss, Selection
from pipeline.config.imported import Imported
from pipeline.config.loops import AdamSteps, InnerOptimizer, Learned, MomentumSteps, PlainSteps, Validation
from pipeline.config.making import Budget, Making, SmallSet
from pipeline.config.methods import (
    DDAL,
    Distill,
    Method,
    Runtime,
)
from pipeline.config.on_vectors import (
    BestCheck,
    LearningFromVectors,
    OnVectors,
    PublishedMlp,
    PublishedTransformer,
    RobustOnVectors,
)
from pipeline.config.outer import Outer, Precision, on_real_text
from pipeline.config.prompting import DiLMPrompting, Prompted, Prompting
from pipeline.config.protocols import AlwaysMajority, Evaluate, FineTune, GradientSteps, Protocol, Robust
from pipeline.config.real import (
    EL2N,
    ByScores,
    ByVectors,
    Coreset,
    Empty,
    FullData,
    Herding,
    KCentres,
    LossRank,
    Majority,
    Moderate,
    RandomReal,
)
from pipeline.config.resources import Request
from pipeline.config.students import Mlp, Transformer, VectorStudentConfig
from pipeline.config.text import (
    ADMM,
    Beginning,
    Mixture,
    Project,
    Projected,
    Sentences,
    StraightThrough,
    Swaps,
    Text,
    TextValidation,
)
from pipeline.config.training import BestEpoch, Training
from pipeline.config.vectors import BPTT, VectorOuter, VectorValidation

__all__ = [
    "ADMM",
    "BPTT",
    "DDAL",
    "EL2N",
    "LM",
    "AdamSteps",
    "AlwaysMajority",
    "AtRandom",
    "Beginning",
    "BestCheck",
    "BestEpoch",
    "Budget",
    "ByCentres",
    "ByHerding",
    "ByRank",
    "ByScores",
    "ByVectors",
    "ClassWeights",
    "Cluster",
    "Composed",
    "Coreset",
    "CrossEntropy",
    "DiLM",
    "DiLMPrompting",
    "Distill",
    "Empty",
    "Evaluate",
    "Experiment",
    "FineTune",
    "FullData",
    "Generated",
    "GeneratorTraining",
    "GradientSteps",
    "Herding",
    "Imported",
    "InnerOptimizer",
    "JobName",
    "KCentres",
    "Learned",
    "LearningFromVectors",
    "LoRA",
    "LogitAdjustment",
    "LossRank",
    "Majority",
    "Making",
    "Method",
    "Mixture",
    "Mlp",
    "Model",
    "Moderate",
    "MomentumSteps",
    "OnVectors",
    "Outer",
    "Part",
    "PlainSteps",
    "Precision",
    "Prepare",
    "Project",
    "Projected",
    "Prompted",
    "Prompting",
    "Protocol",
    "PublishedMlp",
    "PublishedTransformer",
    "RandomReal",
    "Rank",
    "RealLoss",
    "Report",
    "Request",
    "RetryReason",
    "Robust",
    "RobustOnVectors",
    "Runtime",
    "Sampling",
    "Selection",
    "Sentences",
    "SmallSet",
    "Stage",
    "StraightThrough",
    "Swaps",
    "Task",
    "Text",
    "TextSelection",
    "TextValidation",
    "Training",
    "Transformer",
    "Unselected",
    "Validation",
    "VectorOuter",
    "VectorStudentConfig",
    "VectorValidation",
    "Vectors",
    "inputs",
    "language_model",
    "language_source",
    "load",
    "load_cluster",
    "on_real_text",
    "upstream",
]

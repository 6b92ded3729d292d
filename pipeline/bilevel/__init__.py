"""Differentiable training: tensors, sizes and callables in, tensors out.

In the order of the mathematics:

``losses``         the two terms of the inner loss: soft-label cross-entropy and the attention loss; the outer loss
``inner``          what one inner step trains on, its loss, and what a student is
``derivatives``    what the recursion has to know of a student: ∂ℓ/∂θ, its derivatives along a direction, ∂L/∂θ_T
``autograd``       … of any student, by autograd
``fused``          … of post-norm encoders, by hand-derived passes
``optimisers``     gradient descent, momentum, Adam: one step and its pullback
``descent``        the inner loop: one implementation, used to distil, to evaluate and by the loader
``snapshots``      where the θ_t wait: device, host, disk, or run again; ``memory`` says how much is free
``unroll``         the hypergradient with the graph of all steps: the reference
``adjoint``        the exact recursion, one step at a time
``hypergradient``  the one interface to both
``check``          is it right? against the unroll and finite differences

Nothing here knows of text, files of the project, configs or schedulers.
"""

from pipeline.bilevel.descent import descend
from pipeline.bilevel.hypergradient import Estimator, choose, hypergradient
from pipeline.bilevel.inner import Dropping, InnerBatch, Parameters, RealBatch, Student, inner_loss
from pipeline.bilevel.losses import CROSS_ENTROPY, OuterLoss, attention_loss, soft_cross_entropy
from pipeline.bilevel.optimisers import Adam, GradientDescent, Momentum, Optimiser
from pipeline.bilevel.snapshots import Snapshots

__all__ = [
    "CROSS_ENTROPY",
    "Adam",
    "Dropping",
    "Estimator",
    "GradientDescent",
    "InnerBatch",
    "Momentum",
    "Optimiser",
    "OuterLoss",
    "Parameters",
    "RealBatch",
    "Snapshots",
    "Student",
    "attention_loss",
    "choose",
    "descend",
    "hypergradient",
    "inner_loss",
    "soft_cross_entropy",
]

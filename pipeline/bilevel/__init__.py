"""Differentiable training: tensors, sizes and callables in, tensors out.

In the order of the mathematics:

``losses``         the inner loss: soft-label cross-entropy and the attention loss
``inner``          T gradient-descent steps on it: one implementation, used to distil, to evaluate and by the loader
``hypergradient``  the gradient of the outer loss through those steps: ``unroll`` and ``adjoint``

Nothing here knows of text, files, configs or schedulers.
"""

from pipeline.bilevel.hypergradient import hypergradient
from pipeline.bilevel.inner import Forward, InnerBatch, descend, inner_loss
from pipeline.bilevel.losses import attention_loss, soft_cross_entropy

__all__ = ["Forward", "InnerBatch", "attention_loss", "descend", "hypergradient", "inner_loss", "soft_cross_entropy"]

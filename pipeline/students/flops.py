"""Estimated FLOPs of what students do: the encoder's matrix products, from its sizes and the lengths of its sequences.

A product of [n, k] and [k, m] counts 2 n k m (a multiplication and an addition each). With L layers, H hidden, I in the
feed-forward, one forward pass over a sequence of S tokens takes, as Kaplan et al. ("Scaling laws for neural language
models", 2020, table 1) count, but with the feed-forward's own size and without an output vocabulary::

    linear     2 S L (4 H² + 2 H I) + 2 (H² + H C)      query, key, value, output; up, down; the head on one token
    attention  4 S² L H                                 q kᵀ and p v

Backward passes take twice the forward pass (gradients of activations and of weights). Embeddings, normalisation,
activations, softmax and the optimiser are not counted: they are a few percent. torch's own counter agrees within 5 % on
the quickstart's encoder (tests/students/test_flops.py). Some products are left out where the hand-derived passes leave
them out: of the last layer only the first token's output is read, so that queries, output and feed-forward are those of
one token, and there is no padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.bilevel.fused.attention import keeps_maps

Lengths = Sequence[int] | np.ndarray[Any, np.dtype[np.int64]]
Way = Literal["unroll", "adjoint", "fused"]


@dataclass(frozen=True)
class Sizes:
    """An encoder with a classifier.

    Attributes:
        layers: L.
        hidden: H.
        intermediate: I.
        heads: of attention.
        classes: C.
        embedding: E, the width of the embedding table; one more product where it is not H.

    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    classes: int
    embedding: int

    @property
    def layer(self) -> int:
        """Weights in the matrices of one layer: 4 H² + 2 H I."""
        return 4 * self.hidden * self.hidden + 2 * self.hidden * self.intermediate


def forward(sizes: Sizes, lengths: Lengths, *, fused: bool) -> float:
    """FLOPs of one forward pass over sequences of these lengths."""
    return sum(linear_and_attention(sizes, lengths, fused=fused))


def training(sizes: Sizes, lengths: Lengths, *, fused: bool) -> float:
    """FLOPs of one forward and backward pass over sequences of these lengths."""
    return 3 * forward(sizes, lengths, fused=fused)


def hypergradient(
    sizes: Sizes, samples: int, length: int, steps: int, way: Way, *, window: int | None = None, rows: bool = False
) -> float:
    """FLOPs of the hypergradient through the inner loop; the real batch, one :func:`training`, is not in it.

    In units of F and A, a forward pass of the linear layers and of attention on the batch of an inner step:

    * ``unroll``: a step's forward, backward, and backward through both, 3 + 6 = 9 (F + A) (each of the three products
      of a linear layer has two gradients); 2 F less at the first step, whose θ nothing asks for.
    * ``adjoint``: 3 more per step, as each is computed again on the way back.
    * ``fused``: 3 on the way down; back, 2 to have the activations again (not at the last step), and the tangent along
      v, 2 forward, 2 for activations, 2 for weights (not at the first step): T = 1 takes 7 F, longer loops 9 at the
      first step, 11 between, 9 at the last. Attention has two operands and no weights: 9 A at T = 1, 12 A more per
      step. Sequences longer than four times the size of a head do not keep their attention maps, and compute what
      hangs on them again: 3 A, and 3.5 A more per step (counted; the test says so).

    Args:
        sizes: the encoder.
        samples: in the batch of one inner step.
        length: S, tokens of each.
        steps: T.
        way: the estimator, ``auto`` resolved.
        window: only so many of the last steps are differentiated; the others take 3 (F + A).
        rows: attention labels for all rows, which need all rows of the last layer.

    """
    linear, attention = linear_and_attention(sizes, [length] * samples, fused=way == "fused" and not rows)
    back = min(steps, window or steps)
    if way == "fused":
        of_linear, of_attention = fused_units(back)
        again = 0.0 if keeps_maps(length, sizes.hidden // sizes.heads) else 3 + 3.5 * (back - 1)
        units = of_linear * linear + (of_attention + again) * attention
    else:
        each = 9 if way == "unroll" else 12
        units = each * back * (linear + attention) - 2 * linear
    return units + 3 * (steps - back) * (linear + attention)


def fused_units(steps: int) -> tuple[int, int]:
    """F and A that T steps of the hand-derived passes take, with attention maps kept: see :func:`hypergradient`."""
    return 7 if steps == 1 else 9 + 11 * (steps - 2) + 9, 9 + 12 * (steps - 1)


def linear_and_attention(sizes: Sizes, lengths: Lengths, *, fused: bool) -> tuple[float, float]:
    """:func:`forward` of the linear layers, with the head, and of attention."""
    L, H, I, C, E = sizes.layers, sizes.hidden, sizes.intermediate, sizes.classes, sizes.embedding  # noqa: E741
    found = np.asarray(lengths, dtype=np.float64)
    rows, tokens, squares = len(found), found.sum(), np.square(found).sum()
    project = tokens * E * H if E != H else 0.0
    head = rows * (H * H + H * C)
    if fused:
        last = tokens * 2 * H * H + rows * (2 * H * H + 2 * H * I)
        linear = (L - 1) * tokens * sizes.layer + last
        attention = 2 * H * ((L - 1) * squares + tokens)
    else:
        linear, attention = L * tokens * sizes.layer, 2 * H * L * squares
    return 2.0 * (linear + project + head), 2.0 * attention

"""How fast one outer step could be: the matrix products that no exact algorithm can do without, at this machine's rate.

The count is of floating-point operations in products of the encoder; element-wise work, copies and the products that a
memory-saving algorithm repeats are not in it. The rate is that of the model's own linear layers, measured on the spot.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Sizes:
    """An encoder's sizes: L layers, H hidden, I in the feed-forward, and C classes."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    classes: int = 2

    @property
    def parameters(self) -> int:
        """Trained parameters, the word-embedding table and other small tensors left out."""
        H, I = self.hidden, self.intermediate  # noqa: E741  (the paper's names)
        return self.layers * (4 * H * H + 2 * H * I)


def forward_flop(sizes: Sizes, rows: int, length: int) -> tuple[float, float]:
    """FLOP of one forward pass over ``rows`` × ``length`` tokens: (linear layers, attention).

    Of the last layer only the first token's output is used: queries, attention, output projection and feed-forward for
    one token per row, keys and values for all.
    """
    H, I, n = sizes.hidden, sizes.intermediate, rows * length  # noqa: E741
    whole = n * (4 * H * H + 2 * H * I)  # query, key, value, output projection; up, down
    last = n * 2 * H * H + rows * (2 * H * H + 2 * H * I)
    head = rows * (H * H + H * sizes.classes)
    scores = n * length * H  # q kᵀ; the same again for p v
    linear = (sizes.layers - 1) * whole + last + head
    attention = (sizes.layers - 1) * 2 * scores + 2 * rows * length * H
    return 2.0 * linear, 2.0 * attention


def step_flop(sizes: Sizes, size: tuple[int, int, int], real: tuple[int, int]) -> float:
    """FLOP of one exact outer step with M samples of S tokens and T inner steps; ``real`` is rows and tokens.

    In units of F, a forward pass of the linear layers on the synthetic samples, each of the T inner steps takes

    * 3 F on the way down: forward, gradients of activations, gradients of weights;
    * on the way back first 2 F to have its activations and their gradients again, which the last step (the one before
      the real batch) still has;
    * then the tangent along v: 2 F forward (W ẋ + V x), 2 F for the activations' gradients, and 2 F for H v, the
      weights' gradients, which nothing asks for at the first step.

    So T = 1 takes 7 F; longer loops 9 F at the first step, 11 F in the middle, 9 F at the last. Attention has two
    operands and no weights: with A its forward pass, 3 A on the way down, 3 A to have it again, and for the tangent 2 A
    forward and 4 A backward at every step. The real batch is one forward and backward pass at θ_T: 3 F and 3 A of its
    own.
    """
    M, S, T = size
    synthetic, attention = forward_flop(sizes, M, S)
    passes = 7 if T == 1 else 9 + 11 * (T - 2) + 9
    return passes * synthetic + (9 + 12 * (T - 1)) * attention + 3 * sum(forward_flop(sizes, *real))


def gemm_rate(sizes: Sizes, rows: int, device: torch.device, seconds: float = 1.0) -> float:
    """FLOP per second of the products of one layer over ``rows`` tokens: forward and both gradients.

    Through oneDNN for float32 on a CPU, torch's own elsewhere. The median over sweeps of about ``seconds`` in all.
    """
    H, I = sizes.hidden, sizes.intermediate  # noqa: E741
    product = _onednn if device.type == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise") else F.linear
    operands = []
    for inner, outer in ((H, 3 * H), (H, H), (H, I), (I, H)):
        x, y = torch.randn(rows, inner, device=device), torch.randn(rows, outer, device=device)
        weight = torch.randn(outer, inner, device=device)
        operands += [(x, weight), (y, weight.t()), (y.t(), x.t())]
    flop = sum(2.0 * left.shape[0] * left.shape[1] * right.shape[0] for left, right in operands)

    def sweep() -> None:
        for left, right in operands:
            product(left, right)

    _timed(sweep, device)
    taken = [_timed(sweep, device)]
    while sum(taken) < seconds or len(taken) < 3:
        taken.append(_timed(sweep, device))
    return flop / statistics.median(taken)


def _timed(run: Callable[[], None], device: torch.device) -> float:
    synchronise(device)
    began = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - began


def synchronise(device: torch.device) -> None:
    """Waits for a GPU's queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _onednn(left: Tensor, right: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return product

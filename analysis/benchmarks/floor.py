"""How fast one outer step could be: the matrix products that no exact algorithm can do without, at this machine's rate.

The count is of floating-point operations in products of the encoder; element-wise work, copies and the products that a
memory-saving algorithm repeats are not in it. The rate is that of the model's own linear layers, measured on the spot.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.students.flops import Sizes, fused_units, linear_and_attention, training


def step_flop(sizes: Sizes, size: tuple[int, int, int], real: tuple[int, int]) -> float:
    """FLOP of one exact outer step with M samples of S tokens and T inner steps; ``real`` is rows and tokens.

    As :func:`pipeline.students.flops.hypergradient` counts the fused passes, all attention maps kept, however long the
    samples are; and the real batch, one forward and backward pass at θ_T.
    """
    (M, S, T), (rows, length) = size, real
    linear, attention = linear_and_attention(sizes, [S] * M, fused=True)
    of_linear, of_attention = fused_units(T)
    return of_linear * linear + of_attention * attention + training(sizes, [length] * rows, fused=True)


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

"""A linear layer's four passes, and the products of attention.

On a CPU, float32 products go through oneDNN, which reaches twice the rate of torch's default there
(analysis/benchmarks/linear.py). Weights in bfloat16 make a layer compute in bfloat16; what goes in and comes out is
float32.

In all passes: x [n, in], W [out, in], b [out], y = x Wᵀ + b; a name that ends in ``_t`` is a tangent; ``dy`` is the
derivative of the loss with respect to y; ``plus`` is added to the result (the residual connection).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_SMALL = 8  # rows below which the overhead of a oneDNN call is more than what it saves


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, plus: Tensor | None = None) -> Tensor:
    """Forward: x Wᵀ + b."""
    if weight.dtype == torch.bfloat16:
        y = F.linear(x.bfloat16(), weight).float()
        y = y if bias is None else y.add_(bias)
    elif _onednn(x):
        operation: Any = torch.ops.mkldnn._linear_pointwise
        if plus is None:
            product: Tensor = operation(x, weight, bias, "none", [], "")
        else:
            product = operation.binary(x, plus, weight, bias, "add")
        return product
    else:
        y = F.linear(x, weight, bias)
    return y if plus is None else y.add_(plus)


def linear_back(dy: Tensor, weight: Tensor, plus: Tensor | None = None) -> Tensor:
    """Backward: dx = dy W."""
    return linear(dy, weight.t(), None, plus)


def linear_tangent(
    x: Tensor, x_t: Tensor, weight: Tensor, weight_t: Tensor, bias_t: Tensor, plus: Tensor | None = None
) -> Tensor:
    """Tangent: y_t = x_t Wᵀ + x W_tᵀ + b_t."""
    return linear(x, weight_t, bias_t, linear(x_t, weight, None, plus))


def linear_back_tangent(
    dy: Tensor, dy_t: Tensor, weight: Tensor, weight_t: Tensor, plus: Tensor | None = None
) -> Tensor:
    """Tangent of the backward: dx_t = dy_t W + dy W_t."""
    return linear_back(dy, weight_t, linear_back(dy_t, weight, plus))


def rows_by_rows(dy: Tensor, x: Tensor, plus: Tensor | None = None) -> Tensor:
    """The weight's gradient: dyᵀ x (+ plus) [out, in]."""
    if _onednn(dy):
        return linear(dy.t(), x.t(), None, plus)
    return dy.t() @ x if plus is None else torch.addmm(plus, dy.t(), x)


def nt(a: Tensor, b: Tensor) -> Tensor:
    """A Bᵀ of matrices, or of equally many matrices on both sides."""
    return linear(a, b) if a.ndim == 2 else a @ b.transpose(-1, -2)


def nn(a: Tensor, b: Tensor, plus: Tensor | None = None) -> Tensor:
    """A B (+ plus)."""
    if a.ndim == 2:
        return linear(a, b.t(), None, plus)
    return a @ b if plus is None else torch.baddbmm(plus, a, b)


def tn(a: Tensor, b: Tensor, plus: Tensor | None = None) -> Tensor:
    """Aᵀ B (+ plus)."""
    if a.ndim == 2:  # (Bᵀ A)ᵀ: oneDNN is faster with the large matrix on the weight's side
        return linear(b.t(), a.t(), None, None if plus is None else plus.t()).t()
    return a.transpose(-1, -2) @ b if plus is None else torch.baddbmm(plus, a.transpose(-1, -2), b)


def _onednn(x: Tensor) -> bool:
    return _HAS_ONEDNN and x.dtype == torch.float32 and x.device.type == "cpu" and min(x.shape) >= _SMALL

"""Linear layers through oneDNN on the CPU: the same products, about twice as fast where MKL lacks fast kernels.

torch sends float32 products to MKL, which on CPUs of other makers runs at about half of what oneDNN reaches
(``python analysis/benchmarks/linear.py`` prints both rates on your machine).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def use_onednn(model: nn.Module) -> None:
    """Makes the linear layers of a model on the CPU compute through oneDNN; first derivatives only.

    Does nothing where torch was built without it.
    """
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.device.type == "cpu":
            module.__class__ = OneDnnLinear


class OneDnnLinear(nn.Linear):
    """``nn.Linear`` whose float32 products go through oneDNN; other types and autocast take the usual way."""

    def forward(self, input: Tensor) -> Tensor:
        """[…, in] -> […, out]."""
        if input.dtype != torch.float32 or self.weight.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return F.linear(input, self.weight, self.bias)
        product: Tensor = _Product.apply(input, self.weight, self.bias)
        return product


class _Product(torch.autograd.Function):
    """x Wᵀ + b and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        upstream = upstream.contiguous()
        rows = upstream.flatten(end_dim=-2)
        return (
            _onednn(upstream, weight.t()) if needs_x else None,
            _onednn(rows.t(), x.flatten(end_dim=-2).t()) if needs_weight else None,
            rows.sum(dim=0) if needs_bias else None,
        )


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product

"""Layer norm and activations: value, backward, tangent, tangent of the backward.

A name that ends in ``_t`` is a tangent. All arguments are [n, width] unless said otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.bilevel.fused.structure import Activation

_HALF_LOG2_E = 0.5 * math.log2(math.e)
_INVERSE_SQRT_2_PI = 1 / math.sqrt(2 * math.pi)


@dataclass
class Norm:
    """What a layer norm keeps: x̂ = (z − mean) / std [n, H], and 1 / std [n, 1]."""

    hat: Tensor
    rstd: Tensor

    def output(self, weight: Tensor, bias: Tensor) -> Tensor:
        """y = x̂ · γ + β."""
        return torch.addcmul(bias, self.hat, weight)


def norm(z: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Norm]:
    """y, and what the other passes need."""
    hat, _, rstd = torch.native_layer_norm(z, [z.shape[1]], None, None, epsilon)
    kept = Norm(hat, rstd)
    return kept.output(weight, bias), kept


def norm_back(dy: Tensor, kept: Norm, weight: Tensor) -> Tensor:
    """dz = (a − mean a − x̂ · mean(a x̂)) / std with a = dy · γ."""
    centred, _ = _without_mean_and(kept.hat, dy * weight)
    return centred.mul_(kept.rstd)


@dataclass
class NormTangent:
    """x̂_t [n, H] and (1 / std)_t · std [n, 1]."""

    hat_t: Tensor
    ratio: Tensor


def norm_tangent(
    z_t: Tensor, kept: Norm, weight: Tensor, weight_t: Tensor, bias_t: Tensor
) -> tuple[Tensor, NormTangent]:
    """y_t; ``z_t`` is overwritten."""
    hat_t, mean = _without_mean_and(kept.hat, z_t)
    hat_t.mul_(kept.rstd)
    y_t = torch.addcmul(bias_t, hat_t, weight).addcmul_(kept.hat, weight_t)
    return y_t, NormTangent(hat_t, mean.mul_(kept.rstd).neg_())


def norm_back_tangent(
    dy: Tensor, dy_t: Tensor, dz: Tensor, kept: Norm, tangent: NormTangent, weight: Tensor, weight_t: Tensor
) -> Tensor:
    """dz_t, given dz = norm_back(dy)."""
    a = dy * weight
    a_t = (dy_t * weight).addcmul_(dy, weight_t)
    mean = (a * kept.hat).mean(-1, keepdim=True)
    product = (a_t * kept.hat).addcmul_(a, tangent.hat_t)
    a_t.sub_(a_t.mean(-1, keepdim=True)).addcmul_(tangent.hat_t, mean, value=-1)
    a_t.addcmul_(kept.hat, product.mean(-1, keepdim=True), value=-1)
    return a_t.mul_(kept.rstd).addcmul_(dz, tangent.ratio)


def _without_mean_and(hat: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """x − mean x − x̂ · mean(x x̂), written into x, and mean(x x̂) [n, 1]."""
    mean = (x * hat).mean(-1, keepdim=True)
    return x.sub_(x.mean(-1, keepdim=True)).addcmul_(hat, mean, value=-1), mean


def activate(u: Tensor, kind: Activation) -> Tensor:
    """f(u); gelu is the exact one, u Φ(u)."""
    if kind == "gelu":
        return torch.nn.functional.gelu(u)
    return u.relu() if kind == "relu" else u.tanh()


def slope(u: Tensor, kind: Activation) -> Tensor:
    """f′(u), by which backward and tangent multiply alike."""
    if kind == "gelu":
        return times_slope(torch.ones((), dtype=u.dtype, device=u.device).expand_as(u), u, kind)
    return (u > 0).to(u.dtype) if kind == "relu" else 1 - u.tanh().square_()


def times_slope(x: Tensor, u: Tensor, kind: Activation) -> Tensor:
    """x · f′(u)."""
    if kind == "gelu":
        product: Tensor = torch.ops.aten.gelu_backward(x, u)
        return product
    return x * slope(u, kind)


def bend(u: Tensor, kind: Activation) -> Tensor | None:
    """f″(u), or ``None`` where it is 0: φ(u) (2 − u²) for gelu."""
    if kind == "relu":
        return None
    if kind == "tanh":
        value = u.tanh()
        return (1 - value.square()).mul_(value).mul_(-2)
    square = u * u
    # exp2 is vectorised on the CPU, exp is not
    density = torch.exp2(square * -_HALF_LOG2_E)
    return square.neg_().add_(2).mul_(density).mul_(_INVERSE_SQRT_2_PI)


def back_and_tangent(dg: Tensor, dg_t: Tensor, u: Tensor, u_t: Tensor, kind: Activation) -> tuple[Tensor, Tensor]:
    """du = dg f′(u) and du_t = dg_t f′(u) + dg f″(u) u_t; ``dg_t`` is overwritten."""
    first, second = slope(u, kind), bend(u, kind)
    du_t = dg_t.mul_(first)
    if second is not None:
        du_t.addcmul_(second.mul_(u_t), dg)
    return first.mul_(dg), du_t

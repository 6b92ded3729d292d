"""Attention of many heads: forward, backward, tangent, tangent of the backward, with the attention loss.

All heads of all samples stand in one leading dimension G: queries [G, Q, d], already divided by √d; keys and values
[G, S, d]; p = softmax(q kᵀ). Q is S, or 1 in the last layer, of which only the first token is used. Short sequences are
computed for all G at once and keep p; long ones one head at a time, which stays in the cache, and compute p again.

The attention loss (DDAL, equation 5) enters the backward pass as what it adds to ∂ℓ/∂p in the first R rows:
e = −κ A / (p + ε), with κ = λ / (samples · layers · heads · R).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.bilevel.fused.products import nn, nt, tn
from pipeline.bilevel.losses import TINY

_ONE_BY_ONE = 256  # keys from which a head alone is worth a product of its own (on a CPU)
_KEEP_MAPS = 4  # times the memory of the hidden states that p may take where it is kept


def keeps_maps(queries: int, head: int) -> bool:
    """Whether p of so many queries is kept, with heads of this size; where not, it is computed again when needed."""
    return queries <= _KEEP_MAPS * head


@dataclass
class Heads:
    """Queries (scaled), keys, values, the mask as a bias [G, 1, S], and p where it is kept."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None = None
    p: Tensor | None = None

    @property
    def blocks(self) -> Sequence[int | slice]:
        """Indices that together are all heads: each alone, or all at once."""
        alone = self.k.shape[1] >= _ONE_BY_ONE and self.k.device.type == "cpu" and self.q.shape[1] > 1
        return range(len(self.k)) if alone else (slice(None),)

    def empty_maps(self) -> Tensor | None:
        """Room for p [G, Q, S], or ``None`` where it is too large to be kept."""
        Q, (G, S, d) = self.q.shape[1], self.k.shape
        return self.q.new_empty(G, Q, S) if keeps_maps(Q, d) else None

    def probabilities(self, i: int | slice) -> Tensor:
        """p of a block [(g,) Q, S]."""
        if self.p is not None:
            return self.p[i]
        scores = nt(self.q[i], self.k[i])
        return torch.softmax(scores if self.bias is None else scores.add_(self.bias[i]), dim=-1)


@dataclass(frozen=True)
class AttentionLabels:
    """A of one layer [G, R, S] and κ."""

    labels: Tensor
    weight: float

    def pull(self, p: Tensor, i: int | slice) -> Tensor:
        """e of a block, for its first R rows."""
        return self.labels[i].div(p + TINY).mul_(-self.weight)


def attend(heads: Heads, *, keep: bool) -> Tensor:
    """The context p v [G, Q, d]; with ``keep``, p stays in ``heads`` where it is small."""
    context = torch.empty_like(heads.q)
    maps = heads.empty_maps() if keep else None
    for i in heads.blocks:
        p = heads.probabilities(i)
        context[i] = nn(p, heads.v[i])
        if maps is not None:
            maps[i] = p
    heads.p = maps
    return context


def attend_back(heads: Heads, d_context: Tensor, labels: AttentionLabels | None) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv from d_context [G, Q, d]."""
    dq, dk, dv = torch.empty_like(heads.q), torch.empty_like(heads.k), torch.empty_like(heads.v)
    for i in heads.blocks:
        p = heads.probabilities(i)
        dp = nt(d_context[i], heads.v[i])
        if labels is not None:
            R = labels.labels.shape[1]
            dp[..., :R, :] += labels.pull(p[..., :R, :], i)
        ds = _softmax_jacobian(dp, p)
        dq[i], dk[i], dv[i] = nn(ds, heads.k[i]), tn(ds, heads.q[i]), tn(p, d_context[i])
    return dq, dk, dv


@dataclass
class HeadsTangent:
    """Tangents of queries, keys and values, and of p where p is kept."""

    q: Tensor
    k: Tensor
    v: Tensor
    p: Tensor | None = None


def attend_tangent(heads: Heads, tangent: HeadsTangent, labels: AttentionLabels | None) -> tuple[Tensor, Tensor | None]:
    """Tangent of the context [G, Q, d], and −κ p_t / (p + ε) of the first R rows [G, R, S] (the tangent of ∂ℓ/∂A)."""
    context_t = torch.empty_like(heads.q)
    pushed = None if labels is None else torch.empty_like(labels.labels)
    q2, k2 = torch.cat([tangent.q, heads.q], -1), torch.cat([heads.k, tangent.k], -1)
    tangent.p = heads.empty_maps() if heads.p is not None else None
    for i in heads.blocks:
        p = heads.probabilities(i)
        p_t = _softmax_jacobian(nt(q2[i], k2[i]), p)
        context_t[i] = nn(p_t, heads.v[i], nn(p, tangent.v[i]))
        if tangent.p is not None:
            tangent.p[i] = p_t
        if labels is not None and pushed is not None:
            R = labels.labels.shape[1]
            pushed[i] = p_t[..., :R, :].div(p[..., :R, :] + TINY).mul_(-labels.weight)
    return context_t, pushed


def attend_back_tangent(
    heads: Heads,
    tangent: HeadsTangent,
    d_context: Tensor,
    d_context_t: Tensor,
    rows: tuple[Tensor, Tensor],
    labels: AttentionLabels | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """dq_t, dk_t, dv_t.

    Args:
        heads: as left by the forward pass.
        tangent: as left by the tangent pass.
        d_context: [G, Q, d].
        d_context_t: its tangent.
        rows: Σ p ∘ dp over keys, equal to ⟨d_context, context⟩ per row [G, Q, 1], and its tangent; overwritten.
        labels: as in the backward pass.

    """
    dq_t, dk_t, dv_t = torch.empty_like(heads.q), torch.empty_like(heads.k), torch.empty_like(heads.v)
    q2, k2 = torch.cat([tangent.q, heads.q], -1), torch.cat([heads.k, tangent.k], -1)
    dc2, v2 = torch.cat([d_context_t, d_context], -1), torch.cat([heads.v, tangent.v], -1)
    D, D_t = rows
    for i in heads.blocks:
        p = heads.probabilities(i)
        p_t = tangent.p[i] if tangent.p is not None else _softmax_jacobian(nt(q2[i], k2[i]), p)
        dp, dp_t = nt(d_context[i], heads.v[i]), nt(dc2[i], v2[i])
        if labels is not None:
            R = labels.labels.shape[1]
            e, p_R, p_t_R = labels.pull(p[..., :R, :], i), p[..., :R, :], p_t[..., :R, :]
            e_t = -e * p_t_R / (p_R + TINY)
            dp[..., :R, :] += e
            dp_t[..., :R, :] += e_t
            D[i][..., :R, :] += (p_R * e).sum(-1, keepdim=True)
            D_t[i][..., :R, :] += (p_t_R * e + p_R * e_t).sum(-1, keepdim=True)
        dp.sub_(D[i])
        ds_t = p * dp_t.sub_(D_t[i])
        ds_t.addcmul_(p_t, dp)
        ds = dp.mul_(p)
        dq_t[i] = nn(ds_t, heads.k[i], nn(ds, tangent.k[i]))
        dk_t[i] = tn(ds_t, heads.q[i], tn(ds, tangent.q[i]))
        dv_t[i] = tn(p, d_context_t[i], tn(p_t, d_context[i]))
    return dq_t, dk_t, dv_t


def _softmax_jacobian(x: Tensor, p: Tensor) -> Tensor:
    """p ∘ (x − Σ p ∘ x): the softmax's tangent along x, and, being symmetric, its backward pass."""
    return torch._softmax_backward_data(x, p, -1, x.dtype)

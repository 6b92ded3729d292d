"""One encoder layer: forward, backward, tangent, tangent of the backward.

    x → attention → + x → norm → middle → up → f → down → + middle → norm → y

``query`` is the grid of the tokens that are computed: all of them, or, in the last layer, of which only the first token
is used, that one; keys and values are always those of all tokens. n tokens, r of them queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from pipeline.bilevel.fused.attention import (
    AttentionLabels,
    Heads,
    HeadsTangent,
    attend,
    attend_back,
    attend_back_tangent,
    attend_tangent,
)
from pipeline.bilevel.fused.elementwise import (
    Norm,
    NormTangent,
    activate,
    back_and_tangent,
    norm,
    norm_back,
    norm_back_tangent,
    norm_tangent,
    times_slope,
)
from pipeline.bilevel.fused.grid import Grid
from pipeline.bilevel.fused.products import (
    linear,
    linear_back,
    linear_back_tangent,
    linear_tangent,
)
from pipeline.bilevel.fused.structure import PostNorm
from pipeline.bilevel.fused.sums import Sums

Weights = dict[str, Tensor]


@dataclass
class Primal:
    """Values of the forward pass: x [n, H], then [r, ·]; ``up`` is before the activation [r, I].

    What is cheap to compute again (``middle``, the activation) is not kept; nor is x where it was dropped (``None``) to
    keep the rest for longer, being the output of the layer before.
    """

    x: Tensor | None
    heads: Heads
    context: Tensor
    attention_norm: Norm
    up: Tensor
    output_norm: Norm

    def middle(self, w: Weights) -> Tensor:
        """The output of the first norm [r, H]."""
        return self.attention_norm.output(w["attention_norm.weight"], w["attention_norm.bias"])

    def output(self, w: Weights) -> Tensor:
        """y [r, H]."""
        return self.output_norm.output(w["output_norm.weight"], w["output_norm.bias"])


@dataclass
class Cotangent:
    """Derivatives of the loss with respect to the values in between; those before the norms are computed again.

    So is that after the activation, the largest of all, where it was dropped (``None``) to keep the rest for longer.
    """

    d_output: Tensor
    d_active: Tensor | None
    d_middle: Tensor
    d_context: Tensor
    d_query: Tensor
    d_key_value: Tensor


@dataclass
class Tangent:
    """Tangents of the values of the forward pass."""

    x: Tensor
    heads: HeadsTangent
    context: Tensor
    attention_norm: NormTangent
    middle: Tensor
    up: Tensor
    output_norm: NormTangent


def forward(
    w: Weights, x: Tensor, grid: Grid, query: Grid, structure: PostNorm, *, keep: bool
) -> tuple[Tensor, Primal | None]:
    """y [r, H]."""
    count, scale = structure.heads, _scale(structure)
    x_q = grid.take(x, query)
    q = query.to_heads(linear(x_q, w["query.weight"], w["query.bias"]).mul_(scale), count)
    k, v = linear(x, w["key_value.weight"], w["key_value.bias"]).chunk(2, dim=1)
    heads = Heads(q, grid.to_heads(k, count), grid.to_heads(v, count), grid.bias(count, x))
    context = query.to_tokens(attend(heads, keep=keep), heads=count)
    attended = linear(context, w["context.weight"], w["context.bias"], x_q)
    middle, norm1 = norm(attended, w["attention_norm.weight"], w["attention_norm.bias"], structure.epsilon)
    up = linear(middle, w["up.weight"], w["up.bias"])
    total = linear(activate(up, structure.activation), w["down.weight"], w["down.bias"], middle)
    y, norm2 = norm(total, w["output_norm.weight"], w["output_norm.bias"], structure.epsilon)
    return y, Primal(x, heads, context, norm1, up, norm2) if keep else None


def backward(
    w: Weights,
    kept: Primal,
    dy: Tensor,
    grid: Grid,
    query: Grid,
    structure: PostNorm,
    labels: AttentionLabels | None,
    gradient: Sums | None,
) -> tuple[Tensor, Cotangent]:
    """dx [n, H]; adds the parameters' gradients where ``gradient`` is given."""
    count, x = structure.heads, kept.x
    assert x is not None
    d_sum2 = norm_back(dy, kept.output_norm, w["output_norm.weight"])
    d_active = linear_back(d_sum2, w["down.weight"])
    d_up = times_slope(d_active, kept.up, structure.activation)
    d_middle = linear_back(d_up, w["up.weight"], d_sum2)
    d_sum = norm_back(d_middle, kept.attention_norm, w["attention_norm.weight"])
    d_context = linear_back(d_sum, w["context.weight"])
    dq, dk, dv = attend_back(kept.heads, query.to_heads(d_context, count), labels)
    d_query = query.to_tokens(dq, heads=count).mul_(_scale(structure))
    d_key_value = grid.to_tokens(dk, dv, heads=count)
    through_query = linear_back(d_query, w["query.weight"], d_sum)
    dx = linear_back(d_key_value, w["key_value.weight"], grid.spread(through_query, query, len(x)))
    if gradient is not None:
        gradient.norm("output_norm", dy, kept.output_norm)
        gradient.linear("down", d_sum2, activate(kept.up, structure.activation))
        gradient.linear("up", d_up, kept.middle(w))
        gradient.norm("attention_norm", d_middle, kept.attention_norm)
        gradient.linear("context", d_sum, kept.context)
        gradient.linear("query", d_query, grid.take(x, query))
        gradient.linear("key_value", d_key_value, x)
    return dx, Cotangent(dy, d_active, d_middle, d_context, d_query, d_key_value)


def tangent(
    w: Weights,
    w_t: Weights,
    kept: Primal,
    x_t: Tensor,
    grid: Grid,
    query: Grid,
    structure: PostNorm,
    labels: AttentionLabels | None,
) -> tuple[Tensor, Tangent, Tensor | None]:
    """y_t [r, H], the tangents, and the tangent of ∂ℓ/∂A [G, R, S] where there are attention labels."""
    assert kept.x is not None
    count, x_q, x_q_t = structure.heads, grid.take(kept.x, query), grid.take(x_t, query)
    q_t = linear_tangent(x_q, x_q_t, w["query.weight"], w_t["query.weight"], w_t["query.bias"])
    kv_t = linear_tangent(kept.x, x_t, w["key_value.weight"], w_t["key_value.weight"], w_t["key_value.bias"])
    k_t, v_t = kv_t.chunk(2, dim=1)
    heads_t = HeadsTangent(
        query.to_heads(q_t.mul_(_scale(structure)), count), grid.to_heads(k_t, count), grid.to_heads(v_t, count)
    )
    context_heads, pushed = attend_tangent(kept.heads, heads_t, labels)
    context_t = query.to_tokens(context_heads, heads=count)
    sum_t = linear_tangent(
        kept.context, context_t, w["context.weight"], w_t["context.weight"], w_t["context.bias"], x_q_t
    )
    middle_t, norm1_t = norm_tangent(
        sum_t, kept.attention_norm, w["attention_norm.weight"], w_t["attention_norm.weight"], w_t["attention_norm.bias"]
    )
    up_t = linear_tangent(kept.middle(w), middle_t, w["up.weight"], w_t["up.weight"], w_t["up.bias"])
    active = activate(kept.up, structure.activation)
    active_t = times_slope(up_t, kept.up, structure.activation)
    sum2_t = linear_tangent(active, active_t, w["down.weight"], w_t["down.weight"], w_t["down.bias"], middle_t)
    y_t, norm2_t = norm_tangent(
        sum2_t, kept.output_norm, w["output_norm.weight"], w_t["output_norm.weight"], w_t["output_norm.bias"]
    )
    return y_t, Tangent(x_t, heads_t, context_t, norm1_t, middle_t, up_t, norm2_t), pushed


def backward_tangent(
    w: Weights,
    w_t: Weights,
    kept: Primal,
    d: Cotangent,
    t: Tangent,
    dy_t: Tensor,
    grid: Grid,
    query: Grid,
    structure: PostNorm,
    labels: AttentionLabels | None,
    gradient_t: Sums | None,
) -> Tensor:
    """dx_t [n, H]; adds the tangents of the parameters' gradients where ``gradient_t`` is given."""
    count, kind, x = structure.heads, structure.activation, kept.x
    assert x is not None
    d_sum2 = norm_back(d.d_output, kept.output_norm, w["output_norm.weight"])
    d_active = linear_back(d_sum2, w["down.weight"]) if d.d_active is None else d.d_active
    d_sum2_t = norm_back_tangent(
        d.d_output, dy_t, d_sum2, kept.output_norm, t.output_norm, w["output_norm.weight"], w_t["output_norm.weight"]
    )
    d_active_t = linear_back_tangent(d_sum2, d_sum2_t, w["down.weight"], w_t["down.weight"])
    d_up, d_up_t = back_and_tangent(d_active, d_active_t, kept.up, t.up, kind)
    d_middle_t = linear_back_tangent(d_up, d_up_t, w["up.weight"], w_t["up.weight"], d_sum2_t)
    d_sum = norm_back(d.d_middle, kept.attention_norm, w["attention_norm.weight"])
    d_sum_t = norm_back_tangent(
        d.d_middle, d_middle_t, d_sum, kept.attention_norm, t.attention_norm,
        w["attention_norm.weight"], w_t["attention_norm.weight"],
    )  # fmt: skip
    d_context_t = linear_back_tangent(d_sum, d_sum_t, w["context.weight"], w_t["context.weight"])
    # Σ p ∘ dp over the keys of a row is ⟨d_context, context⟩ of that row and head
    products = (d.d_context * kept.context, (d_context_t * kept.context).addcmul_(d.d_context, t.context))
    per_row, per_row_t = (query.to_heads(product, count).sum(-1, keepdim=True) for product in products)
    dq_t, dk_t, dv_t = attend_back_tangent(
        kept.heads,
        t.heads,
        query.to_heads(d.d_context, count),
        query.to_heads(d_context_t, count),
        (per_row, per_row_t),
        labels,
    )
    d_query_t = query.to_tokens(dq_t, heads=count).mul_(_scale(structure))
    d_key_value_t = grid.to_tokens(dk_t, dv_t, heads=count)
    through_query_t = linear_back_tangent(d.d_query, d_query_t, w["query.weight"], w_t["query.weight"], d_sum_t)
    dx_t = linear_back_tangent(
        d.d_key_value, d_key_value_t, w["key_value.weight"], w_t["key_value.weight"],
        grid.spread(through_query_t, query, len(x)),
    )  # fmt: skip
    if gradient_t is not None:
        g, take = gradient_t, grid.take
        active, active_t = activate(kept.up, kind), times_slope(t.up, kept.up, kind)
        g.norm_tangent("output_norm", d.d_output, dy_t, kept.output_norm, t.output_norm)
        g.linear_tangent("down", d_sum2, d_sum2_t, active, active_t)
        g.linear_tangent("up", d_up, d_up_t, kept.middle(w), t.middle)
        g.norm_tangent("attention_norm", d.d_middle, d_middle_t, kept.attention_norm, t.attention_norm)
        g.linear_tangent("context", d_sum, d_sum_t, kept.context, t.context)
        g.linear_tangent("query", d.d_query, d_query_t, take(x, query), take(t.x, query))
        g.linear_tangent("key_value", d.d_key_value, d_key_value_t, x, t.x)
    return dx_t


def _scale(structure: PostNorm) -> float:
    return 1 / math.sqrt(structure.hidden // structure.heads)

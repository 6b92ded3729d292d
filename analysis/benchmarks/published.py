"""The two baselines of the benchmarks, written from the paper's description: DDAL's outer step and its evaluation.

*As published* (``lean=False``): the Hugging Face module called with all its parameters, the graph kept through all T
inner steps, eager attention whose maps of all layers are returned and stacked before the [CLS] row is taken, torch's
own products, the real batch through the same module, ``.backward()`` into every leaf; test rows in the order they come
in, 256 at a time, padded to the longest of the batch.

*Lean* (``lean=True``): the same without what is merely wasteful. Linear layers go through oneDNN where that is faster
(float32 on the CPU), of the attention maps only the [CLS] rows are kept, the word-embedding table gets no gradient, and
test rows come sorted by length, 64 at a time. What is left is the graph of the stock module itself, with everything
that autograd computes in it (the gradient with respect to θ_0 too, which nothing uses).

Both compute the hypergradient of ``pipeline.bilevel`` and share no code with it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, eager_mask

Parameters = dict[str, Tensor]
Leaves = Mapping[str, Tensor]
Batch = dict[str, Tensor]

TINY = 1e-12  # added to probabilities before the logarithm
CLS_ROW = "eager_cls_row"  # the lean baseline's attention, by the name it is registered under


class Baseline:
    """One outer step and one evaluation, as published or lean.

    Args:
        model: a ``…ForSequenceClassification`` with eager attention; not changed.
        lean: leave out what is merely wasteful.
        outer_bf16: real text in bf16 autocast.

    """

    def __init__(self, model: PreTrainedModel, *, lean: bool, outer_bf16: bool = False) -> None:
        self.lean = lean
        self._outer = torch.bfloat16 if outer_bf16 else None
        self.batch_size = 64 if lean else 256
        table = model.get_input_embeddings().weight
        frozen = {name for name, parameter in model.named_parameters() if parameter is table} if lean else set()
        self._trained = [name for name, _ in model.named_parameters() if name not in frozen]
        self._module = (_lean(model) if lean else model).eval()

    def hypergradient(self, theta_0: Parameters, leaves: Leaves, real: Batch) -> Tensor:
        """Adds the gradient of the outer loss to ``.grad`` of every leaf; returns the outer loss.

        Args:
            theta_0: parameters by name; not changed.
            leaves: ``inputs`` [M, S, E], ``labels`` [M, C] unrestricted, ``rates`` [T] before softplus and, with
                attention labels, ``attention`` [M, L, heads, 1, S] before softmax.
            real: a batch of the model's inputs with ``labels`` [rows].

        """
        theta = {name: value.detach().requires_grad_(name in self._trained) for name, value in theta_0.items()}
        rates = F.softplus(leaves["rates"])
        for rate in rates:
            gradients = torch.autograd.grad(
                self._inner_loss(theta, leaves), self._wanted(theta), create_graph=True, allow_unused=True
            )
            theta = self._moved(theta, gradients, rate)
        loss = F.cross_entropy(self.logits(theta, real), real["labels"])
        loss.backward()
        return loss.detach()

    def train(self, theta_0: Parameters, leaves: Leaves) -> Parameters:
        """θ_T without a graph: evaluation's inner steps."""
        theta, fixed = theta_0, {name: leaf.detach() for name, leaf in leaves.items()}
        for rate in F.softplus(fixed["rates"]):
            theta = {name: value.detach().requires_grad_(name in self._trained) for name, value in theta.items()}
            gradients = torch.autograd.grad(self._inner_loss(theta, fixed), self._wanted(theta), allow_unused=True)
            with torch.no_grad():
                theta = self._moved(theta, gradients, rate)
        return {name: value.detach() for name, value in theta.items()}

    def batches(self, rows: Sequence[Mapping[str, Sequence[int]]], padding: int) -> list[tuple[Tensor, Batch]]:
        """(positions, batch) of a whole split: unsorted 256s as published, sorted 64s where lean.

        Args:
            rows: the tokenizer's output per row, without padding.
            padding: the padding token.

        """
        order = list(range(len(rows)))
        if self.lean:
            order.sort(key=lambda row: len(rows[row]["input_ids"]))
        chunks = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        return [(torch.tensor(chunk), pad([rows[row] for row in chunk], padding)) for chunk in chunks]

    @torch.no_grad()
    def score(self, theta: Parameters, batches: Sequence[tuple[Tensor, Batch]]) -> Tensor:
        """[rows, C] logits in the order of the split."""
        positions = torch.cat([chunk for chunk, _ in batches])
        return torch.cat([self.logits(theta, batch) for _, batch in batches])[positions.argsort()]

    def logits(self, theta: Parameters, batch: Batch) -> Tensor:
        """[rows, C] for real text, through the same module as the synthetic samples (maps are asked for there too)."""
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        with torch.autocast(next(iter(theta.values())).device.type, self._outer, enabled=self._outer is not None):
            logits: Tensor = self._call(theta, **inputs).logits
        return logits if self._outer is None else logits.float()

    def _inner_loss(self, theta: Parameters, leaves: Leaves) -> Tensor:
        """Cross-entropy + KL(attention label ‖ attention), summed over keys and averaged over all else."""
        output = self._call(theta, inputs_embeds=leaves["inputs"])
        loss: Tensor = -(leaves["labels"] * output.logits.log_softmax(dim=-1)).sum(dim=-1).mean()
        if "attention" not in leaves:
            return loss
        wanted = leaves["attention"].softmax(dim=-1)
        maps = torch.stack(output.attentions, dim=1)  # [M, L, heads, S, S], or [M, L, heads, 1, S] where lean
        rows = maps[..., :1, :]
        return loss + (wanted * (wanted.log() - (rows + TINY).log())).sum(dim=-1).mean()

    def _call(self, theta: Parameters, **inputs: Tensor) -> Any:
        return functional_call(self._module, theta, kwargs={**inputs, "output_attentions": True})

    def _wanted(self, theta: Parameters) -> list[Tensor]:
        return [theta[name] for name in self._trained]

    def _moved(self, theta: Parameters, gradients: Sequence[Tensor | None], rate: Tensor) -> Parameters:
        """θ − η g; what the inner loss does not depend on (the word embeddings) stays."""
        pairs = zip(self._trained, gradients, strict=True)
        return theta | {name: theta[name] - rate * gradient for name, gradient in pairs if gradient is not None}


def pad(rows: Sequence[Mapping[str, Sequence[int]]], padding: int) -> Batch:
    """[rows, length] tensors, padded to the longest row, rounded up to a multiple of 8."""
    length = -(-max(len(row["input_ids"]) for row in rows) // 8) * 8
    fill = {"input_ids": padding, "attention_mask": 0, "token_type_ids": 0}
    return {
        name: torch.tensor([[*row[name], *[value] * (length - len(row[name]))] for row in rows])
        for name, value in fill.items()
    }


def _lean(model: PreTrainedModel) -> PreTrainedModel:
    """A second view of the same parameters: oneDNN's products, [CLS] rows of the attention maps."""
    lean = type(model)._from_config(copy.deepcopy(model.config), attn_implementation=CLS_ROW)
    lean.load_state_dict(model.state_dict(), assign=True)
    for module in lean.modules():
        if type(module) is nn.Linear:
            module.__class__ = TwiceLinear
    return lean


def _attention_with_cls_row(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, Tensor]:
    """Eager attention without dropout. Of its probabilities [M, heads, S, S] only row 0 is returned, [M, heads, 1, S].

    The row is a slice: computing it again from the first query was slower (1.6 s against 1.45 s at M = 4, S = 128).
    """
    scores = query @ key.transpose(2, 3) * scaling
    probabilities = (scores if mask is None else scores + mask).softmax(dim=-1)
    return (probabilities @ value).transpose(1, 2).contiguous(), probabilities[:, :, :1]


AttentionInterface.register(CLS_ROW, _attention_with_cls_row)
AttentionMaskInterface.register(CLS_ROW, eager_mask)


class TwiceLinear(nn.Linear):
    """``nn.Linear`` through oneDNN that can be differentiated any number of times; torch's own product elsewhere."""

    def forward(self, input: Tensor) -> Tensor:
        """[…, in] -> […, out]."""
        single = input.dtype == self.weight.dtype == torch.float32 and input.device.type == "cpu"
        if not single or torch.is_autocast_enabled("cpu") or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            return F.linear(input, self.weight, self.bias)
        product: Tensor = _Product.apply(input.reshape(-1, input.shape[-1]), self.weight, self.bias)
        return product.view(*input.shape[:-1], -1)


class _Product(torch.autograd.Function):
    """x [n, k], W [m, k], b [m] -> x Wᵀ + b. Its gradients are products of the same kind, so it has all derivatives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(_dense(x), _dense(weight), bias, "none", [], "")
        return product

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _Product.apply(upstream, weight.t(), None) if needs_x else None,
            _Product.apply(upstream.t(), x.t(), None) if needs_weight else None,
            upstream.sum(dim=0) if needs_bias else None,
        )


def _dense(matrix: Tensor) -> Tensor:
    """Contiguous, or the transpose of what is: with other strides oneDNN falls back to a very slow kernel."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()

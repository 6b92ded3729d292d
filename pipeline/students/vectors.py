"""Students on frozen sentence vectors, K of them at once.

Every parameter has a leading axis of K members, and every product is one batched product, so that K small students
cost little more than one. A member never sees the others: what it computes does not depend on K, up to rounding.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config.students import Mlp, Transformer, VectorNetwork
from pipeline.errors import InputError
from pipeline.randomness import derive, seeded

Parameters = dict[str, Tensor]
_Drop = Callable[[Tensor], Tensor]


class VectorStudent:
    """K classifiers of vectors as pure functions of their parameters; twice differentiable.

    Args:
        config: which network.
        features: D, the width of a vector.
        classes: C.
        device: where the parameters are.
        dtype: of the parameters.

    Raises:
        InputError: the vectors cannot be cut into the config's pseudo-tokens.

    """

    def __init__(
        self,
        config: VectorNetwork,
        features: int,
        classes: int,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if isinstance(config, Transformer) and features % config.tokens:
            raise InputError(
                f"tokens: {config.tokens} do not divide the {features} features of a vector; give a divisor of it"
            )
        self.config, self.features, self.classes = config, features, classes
        self.device, self.dtype = torch.device(device), dtype
        self._masks: _Masks | None = None
        self._drops_real = False

    def initial(self, seed: int, indices: Sequence[int]) -> Parameters:
        """θ_0 of K = len(indices) members, each drawn by (seed, its index) alone, as torch initialises its modules.

        The draw is made on the CPU, so that every device gets the same.
        """
        drawn = []
        for index in indices:
            with seeded(seed, "vector student", index):
                drawn.append(dict(network(self.config, self.features, self.classes).named_parameters()))
        return {
            name: torch.stack([member[name].detach() for member in drawn]).to(self.device, self.dtype)
            for name in drawn[0]
        }

    def __call__(
        self, parameters: Parameters, inputs: Tensor, rows: Literal["none", "cls", "all"] = "none"
    ) -> tuple[Tensor, None]:
        """Logits [K, m, C] of synthetic samples, with dropout inside :meth:`dropping`; there are no attention labels.

        Args:
            parameters: θ by name, [K, …] each.
            inputs: [m, D], the same for all members, or [K, m, D].
            rows: ``none``.

        """
        assert rows == "none"
        return self._forward(parameters, inputs, self._masks), None

    def logits(self, parameters: Parameters, batch: Mapping[str, Tensor]) -> Tensor:
        """[K, B, C] of real ``vectors`` [B, D] (or [K, B, D]), without dropout unless :meth:`training` says so."""
        return self._forward(parameters, batch["vectors"], self._masks if self._drops_real else None)

    @contextlib.contextmanager
    def dropping(self, seed: int, *steps: int, members: Sequence[int] | None = None) -> Iterator[None]:
        """Inside the block, members drop by masks drawn by (seed, the member's number, steps); not outside of it.

        Args:
            seed: of the draw.
            steps: of the draw.
            members: numbers of the K members, by default from 0.

        """
        before = self._masks
        self._masks = _Masks(self.config.dropout, seed, steps, members) if self.config.dropout else None
        try:
            yield
        finally:
            self._masks = before

    def training(self, on: bool) -> None:
        """Whether :meth:`logits`, too, drops inside :meth:`dropping`."""
        self._drops_real = on

    def module(self, parameters: Parameters, member: int = 0) -> nn.Module:
        """One member as a torch module in eval mode: vectors [B, D] -> logits [B, C]."""
        made = network(self.config, self.features, self.classes)
        made.load_state_dict({name: tensor[member].detach() for name, tensor in parameters.items()})
        return made.to(self.device, self.dtype).eval()

    def _forward(self, parameters: Parameters, inputs: Tensor, masks: _Masks | None) -> Tensor:
        drop = (lambda x: x) if masks is None else masks.start(len(next(iter(parameters.values()))))
        inputs = inputs.to(self.dtype)
        if isinstance(self.config, Mlp):
            return _mlp(self.config, parameters, inputs, drop)
        return _transformer(self.config, parameters, inputs, drop)


def network(config: VectorNetwork, features: int, classes: int) -> nn.Module:
    """One student as a torch module, whose names the parameters have.

    Unlike those of ``nn.TransformerEncoder``, which are copies of one, layers are drawn one by one.
    """
    if isinstance(config, Mlp):
        return _MlpModule(config, features, classes)
    return _Tokens(config, features, classes)


class _MlpModule(nn.Module):
    def __init__(self, config: Mlp, features: int, classes: int) -> None:
        super().__init__()
        sizes = [features, *[config.width] * config.hidden_layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.width, classes)

    def forward(self, vectors: Tensor) -> Tensor:
        for layer in self.hidden:
            vectors = self.dropout(layer(vectors).relu())
        logits: Tensor = self.head(vectors)
        return logits


class _Tokens(nn.Module):
    def __init__(self, config: Transformer, features: int, classes: int) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.project = nn.Linear(features // config.tokens, config.width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.width, config.heads, config.feed_forward, config.dropout, batch_first=True
            )
            for _ in range(config.layers)
        )
        self.head = nn.Linear(config.width, classes)

    def forward(self, vectors: Tensor) -> Tensor:
        hidden = self.project(vectors.unflatten(-1, (self.tokens, -1)))
        for layer in self.layers:
            hidden = layer(hidden)
        logits: Tensor = self.head(hidden.mean(dim=-2))
        return logits


class _Masks:
    """Dropout of one forward pass; every member draws from a generator of its own."""

    def __init__(self, share: float, seed: int, steps: tuple[int, ...], members: Sequence[int] | None) -> None:
        self._share, self._seed, self._steps, self._members = share, seed, steps, members

    def start(self, members: int) -> _Drop:
        """The first masks of the block again, whichever forward pass of it this is."""
        numbers = range(members) if self._members is None else self._members
        assert len(numbers) == members
        seeds = [derive(self._seed, "dropout", number, *self._steps) for number in numbers]
        generators: list[torch.Generator] = []

        def drop(x: Tensor) -> Tensor:
            """[K, …] with a share of it zero, the rest larger."""
            if not generators:
                generators.extend(torch.Generator(x.device).manual_seed(seed) for seed in seeds)
            with torch.no_grad():
                mask = torch.empty(x.shape, device=x.device, dtype=x.dtype)
                for of_member, generator in zip(mask, generators, strict=True):
                    of_member.bernoulli_(1 - self._share, generator=generator)
            return x * mask.div_(1 - self._share)

        return drop


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[K, n, out] of x [K, n, in], or [n, in] for all members, and weight [K, out, in]."""
    if x.ndim == 2:
        members, out, _ = weight.shape
        together: Tensor = F.linear(x, weight.flatten(end_dim=1), bias.flatten())
        return together.view(len(x), members, out).transpose(0, 1)
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)


def _mlp(config: Mlp, parameters: Parameters, inputs: Tensor, drop: _Drop) -> Tensor:
    x = inputs
    for layer in range(config.hidden_layers):
        x = drop(_linear(x, parameters[f"hidden.{layer}.weight"], parameters[f"hidden.{layer}.bias"]).relu())
    return _linear(x, parameters["head.weight"], parameters["head.bias"])


def _transformer(config: Transformer, parameters: Parameters, inputs: Tensor, drop: _Drop) -> Tensor:
    """Activations are [K, rows · tokens, width]; attention in plain products, which have second derivatives."""
    tokens = inputs.unflatten(-1, (config.tokens, -1)).flatten(-3, -2)
    x = _linear(tokens, parameters["project.weight"], parameters["project.bias"])
    for layer in range(config.layers):
        own = {n.removeprefix(f"layers.{layer}."): p for n, p in parameters.items() if n.startswith(f"layers.{layer}.")}
        x = _norm(x + drop(_attention(config, own, x, drop)), own["norm1.weight"], own["norm1.bias"])
        inner = drop(_linear(x, own["linear1.weight"], own["linear1.bias"]).relu())
        x = x + drop(_linear(inner, own["linear2.weight"], own["linear2.bias"]))
        x = _norm(x, own["norm2.weight"], own["norm2.bias"])
    pooled = x.unflatten(1, (-1, config.tokens)).mean(dim=2)
    return _linear(pooled, parameters["head.weight"], parameters["head.bias"])


def _attention(config: Transformer, own: Parameters, x: Tensor, drop: _Drop) -> Tensor:
    size = config.width // config.heads
    together = _linear(x, own["self_attn.in_proj_weight"], own["self_attn.in_proj_bias"])
    # [K, rows · tokens, 3 · width] -> three of [K, rows, heads, tokens, size]
    split = together.unflatten(-1, (3, config.heads, size)).unflatten(1, (-1, config.tokens))
    query, key, value = split.permute(3, 0, 1, 4, 2, 5)
    weights = drop((query @ key.mT / math.sqrt(size)).softmax(dim=-1))
    mixed = (weights @ value).transpose(2, 3).flatten(-2).flatten(1, 2)
    return _linear(mixed, own["self_attn.out_proj.weight"], own["self_attn.out_proj.bias"])


def _norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    normal: Tensor = F.layer_norm(x, x.shape[-1:]) * weight.unsqueeze(1) + bias.unsqueeze(1)
    return normal

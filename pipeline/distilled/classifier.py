"""A classifier of text from a set of sentence vectors: the frozen encoder, and a small student that learned from it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from pipeline.config import OnVectors, VectorStudentConfig
from pipeline.config.students import VectorNetwork
from pipeline.errors import InputError
from pipeline.students.vector_training import Samples, learn
from pipeline.students.vectors import VectorStudent

_STUDENT: TypeAdapter[VectorNetwork] = TypeAdapter(VectorStudentConfig)


class TextClassifier(nn.Module):
    """Token ids -> frozen encoder -> vector -> student -> logits; called as a Hugging Face sequence classifier.

    Args:
        encoder: a loaded encoder, with or without a classifier of its own, which is not read.
        student: vectors [B, D] -> logits [B, C].
        pooling: which vector: the first token's last hidden state, or the mean over tokens.
        mean: [D] subtracted from every vector, where those that the student learned from are centred.

    """

    def __init__(
        self, encoder: PreTrainedModel, student: nn.Module, pooling: Literal["cls", "mean"], mean: Tensor | None = None
    ) -> None:
        super().__init__()
        self.mean = None if mean is None else nn.Buffer(mean.to(encoder.device))
        self.encoder, self.student, self.pooling = encoder.base_model.eval(), student, pooling
        self.name_or_path: str = encoder.name_or_path

    @property
    def device(self) -> torch.device:
        """Where it is."""
        found: torch.device = self.encoder.device
        return found

    def forward(self, attention_mask: Tensor, **inputs: Any) -> SequenceClassifierOutput:
        """``logits`` [B, C] of a tokenizer's batch, padded on the right for ``cls``."""
        hidden = self.encoder(attention_mask=attention_mask, **inputs).last_hidden_state
        vectors = hidden[:, 0]
        if self.pooling == "mean":
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            vectors = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return SequenceClassifierOutput(logits=self.student(vectors if self.mean is None else vectors - self.mean))


def learned(
    samples: Samples,
    about: dict[str, Any],
    encoder: PreTrainedModel,
    student: VectorNetwork | None,
    recipe: OnVectors,
    seed: int,
    mean: Tensor | None,
) -> TextClassifier:
    """A student that learned from vectors, behind the encoder that they are of.

    Raises:
        InputError: the set does not say for which student it was made, and none is given.

    """
    given = about.get("config", {}).get("method", {}).get("student")
    if student is None and given is None:
        raise InputError("the set does not say for which student it was made; give one: student=Mlp(name='mlp')")
    network = VectorStudent(
        student or _STUDENT.validate_python(given), samples.vectors.shape[1], samples.labels.shape[1], encoder.device
    )
    ((_, theta),) = learn(network, samples.to(encoder.device), recipe, seed, [0], (recipe.steps_on(len(samples)),))
    return TextClassifier(encoder, network.module(theta), about["vectors"]["pooling"], mean)

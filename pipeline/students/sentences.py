"""A vector per sentence: the last hidden states of an encoder, frozen or trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.data.tokenised import Batch
from pipeline.students.encoder import Parameters, Student

Pooling = Literal["cls", "mean"]


@torch.no_grad()
def embed(
    student: Student, parameters: Parameters, batches: Iterable[tuple[Tensor, Batch]], pooling: Pooling
) -> Iterator[tuple[Tensor, Tensor]]:
    """Row positions and vectors [rows, H] on the CPU, batch by batch.

    By the hand-derived passes, without padding, where the student has them.

    Args:
        student: the model as a function.
        parameters: θ; the classifier's are not read.
        batches: (row positions, batch) of a split.
        pooling: the first token's state, or the mean over tokens.

    """
    passes = student.passes()
    if isinstance(passes, str):
        for positions, batch in batches:
            vectors = student.vectors(parameters, batch, "first" if pooling == "cls" else "mean")
            yield positions, vectors.cpu()
        return
    here = passes.at(passes.pack(parameters))
    of_chunk = here.first_tokens if pooling == "cls" else here.means
    for positions, batch in batches:
        chunks = student.packed(batch, parameters)
        order = torch.cat([chunk.order for chunk in chunks])
        vectors = torch.cat([of_chunk(chunk) for chunk in chunks])
        yield positions, vectors[order.argsort()].cpu()


def encoder_hash(model: PreTrainedModel) -> str:
    """SHA-256 of an encoder's weights in float32, its pooler and its head left out: what its vectors are bound to."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.base_model.named_parameters()):
        if not name.startswith("pooler."):
            digest.update(name.encode())
            digest.update(parameter.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()

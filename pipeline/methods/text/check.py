"""The hypergradient of a ``text`` cell against its references, on a slice of it, for ``gradient_check``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.bilevel import Estimator, InnerBatch
from pipeline.bilevel.check import Agreement, agreements
from pipeline.config import Text
from pipeline.data.prepared import Prepared
from pipeline.methods.imbalance import counts_of, outer_loss
from pipeline.methods.text.set import LearnedText, Vocabulary
from pipeline.methods.vectors.check import blunted
from pipeline.randomness import derive, numpy_generator
from pipeline.students.encoder import Student


def part_of(method: Text, samples: int | None, positions: int | None, steps: int | None) -> Text:
    """The method on so much, without what would need equal draws in all evaluations or hides errors (autocast)."""
    T = min(method.steps, steps or method.steps)
    change: dict[str, Any] = {
        "steps": T,
        "window": None if method.window is None else min(T, method.window),
        "sequence_length": min(method.sequence_length, positions or method.sequence_length),
        "inner_optimizer": blunted(method.inner_optimizer),
        "dropout": False,
        "precision": "fp32",
        "outer": method.outer.model_copy(update={"precision": None}),
    }
    return method.model_copy(update=change | ({} if samples is None else {"shots": 1}))


def agreements_on_text(
    method: Text, prepared: Prepared, seed: int, estimator: Estimator, dtype: torch.dtype, **how: Any
) -> list[Agreement]:
    """Per tensor that proposals and steps follow: embeddings of drawn tokens, labels where learned, samples' weights.

    The embeddings are moved freely, as ``swaps`` and ``straight_through`` take their derivative, not the tokens.
    ``how`` is for :func:`~pipeline.bilevel.check.agreements`, with ``rows`` of a real batch and the ``device``.
    """
    C, rows = len(prepared.classes), how.pop("rows") or method.outer.batch_size
    student = Student.load(prepared.model_folder, prepared.manifest["fresh_parameters"], how.pop("device"), dtype=dtype)
    matrix = student.embedding_matrix.detach().to(dtype)
    drawn = numpy_generator(seed, "gradient check").integers(
        len(matrix), size=(C * method.shots, method.sequence_length)
    )
    learned = LearnedText(method, C, torch.from_numpy(drawn), Vocabulary(matrix, [], []))
    leaves = learned.tensors | {"weights": learned.weights}
    train = prepared.split("train")

    def build(tensors: dict[str, Tensor]) -> list[InnerBatch]:
        learned.tensors = {name: tensor for name, tensor in tensors.items() if name != "weights"}
        return learned.of(tensors["inputs_embeds"], learned.labels * tensors["weights"]).inner_batches(seed)

    return agreements(
        estimator,
        student,
        student.initial(derive(seed, "gradient check"), 0),
        {name: leaf.detach().to(dtype) for name, leaf in leaves.items()},
        build,
        [train.batch(range(min(rows, len(train))), student.device)],
        optimiser=learned.view().recipe.optimiser,
        window=method.window,
        loss=outer_loss(method.outer.loss, counts_of(train.labels, C)),
        **how,
    )

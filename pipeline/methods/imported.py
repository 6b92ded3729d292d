"""A set that others published, for the recipes of stage 3."""

from __future__ import annotations

from pipeline.config import Distill, Imported
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.distilled.published import published
from pipeline.errors import InputError
from pipeline.store import locate


def read(config: Distill, prepared: Prepared) -> DistilledSet:
    """The published set, as one of this task and encoder.

    Raises:
        InputError: it is not there, holds something else than the config says, or see
            :func:`~pipeline.distilled.published.published`.

    """
    method = config.method
    assert isinstance(method, Imported)
    path = locate(method.file.path)
    if path is None:
        raise InputError(f"{method.file.path}: no such file; give the published set's")
    found = published(path, prepared, len(config.source.task.text))
    held = {"text": found.token_ids, "embeddings": found.inputs_embeds, "vectors": found.vectors}
    kind = next(name for name, tensor in held.items() if tensor is not None)
    shots, C = len(found) / len(prepared.classes), len(prepared.classes)
    if (kind, shots) != (method.kind, method.shots):
        raise InputError(
            f"{path}: holds {kind}, {shots:g} samples for each of {C} classes on average; write kind: {kind}, "
            f"shots: {shots:g}"
        )
    return found

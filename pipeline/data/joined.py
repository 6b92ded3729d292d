"""The rows of a prepared task: of one source, or of several tasks whose classes stand side by side."""

from __future__ import annotations

from typing import Any

from datasets import Dataset, concatenate_datasets

from pipeline.config import Prepare
from pipeline.data.loading import load_raw
from pipeline.data.splits import carve


def load_splits(config: Prepare) -> tuple[dict[str, Dataset], list[str], list[dict[str, Any]]]:
    """Train, dev and test rows, and what their labels mean.

    Every joined task is carved as it is alone, by the same seed: what a set of one of them was distilled from is never
    a dev or test row here.

    Returns:
        Splits with the task's text columns and ``label``; the C class names in label order, those of joined tasks
        behind the task's name; and of each joined task its ``name``, the number of its ``classes`` and its ``sizes``.

    Raises:
        InputError: see :func:`~pipeline.data.loading.load_raw` and :func:`~pipeline.data.splits.carve`.

    """
    task = config.task
    if not task.parts:
        raw = load_raw(task)
        return carve(raw, config), raw.classes, []
    classes: list[str] = []
    parts: list[dict[str, Any]] = []
    found: dict[str, list[Dataset]] = {}
    for one in task.parts:
        raw = load_raw(one)
        splits = carve(raw, config.model_copy(update={"task": one}))
        for name, rows in splits.items():
            labels = [label + len(classes) for label in rows["label"][:]]
            texts = {ours: rows[theirs][:] for ours, theirs in zip(task.text, one.text, strict=True)}
            found.setdefault(name, []).append(Dataset.from_dict({**texts, "label": labels}))
        sizes = {name: len(rows) for name, rows in splits.items()}
        parts.append({"name": one.name, "classes": len(raw.classes), "sizes": sizes})
        classes += [f"{one.name}: {name}" for name in raw.classes]
    return {name: concatenate_datasets(rows) for name, rows in found.items()}, classes, parts

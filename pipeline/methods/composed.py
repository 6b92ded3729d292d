"""Sets put together of others: of several tasks, of old and new data, of what is kept and what replaces the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import Composed, Part
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet, load
from pipeline.errors import InputError

_PADDING = {"token_ids": -1, "token_type_ids": 0}


def compose(method: Composed, prepared: Prepared, folders: Sequence[Path]) -> DistilledSet:
    """The parts as one set, in their order; samples, soft labels and step sizes stay what they are.

    ``about["composed"]`` has of each part its task, how many samples it gave, and how it was selected.

    Args:
        method: which parts, and what of them.
        prepared: the task whose classes the set has; of joined tasks each part's stand where that task's do.
        folders: of the cells that made the parts.

    Raises:
        InputError: a part has no such classes, nothing is left of it, or parts cannot be learned from together.

    """
    parts = [
        _taken(load(folder / "distilled.h5"), part, prepared, f"parts.{number}")
        for number, (part, folder) in enumerate(zip(method.parts, folders, strict=True))
    ]
    first = parts[0]
    for number, part in enumerate(parts):
        _check_alike(f"parts.{number}", part, first)
    phases = [part.phase for part in method.parts]
    steps = _in_turn(parts, phases) if first.steps else {}
    names = ("inputs_embeds", "attention_labels", "token_ids", "token_type_ids")
    optional: dict[str, Any] = {name: _joined(name, parts) for name in names}
    return DistilledSet(
        labels=torch.cat([part.labels for part in parts]),
        label_ids=torch.cat([part.label_ids for part in parts]),
        recipe=first.recipe,
        phases=_phases(parts, phases) if max(phases) > 1 else None,
        about={"composed": [_facts(part, one) for part, one in zip(method.parts, parts, strict=True)]},
        **optional,
        **steps,
    )


def _taken(found: DistilledSet, part: Part, prepared: Prepared, place: str) -> DistilledSet:
    """What is taken of a part, with labels [n, C] of the composed set."""
    own, C = found.labels.shape[1], len(prepared.classes)
    columns = prepared.classes_of(part.of.source.task.name)
    if columns.stop - columns.start != own:
        raise InputError(f"{place}: has {own} classes, its task {columns.stop - columns.start}; make its set anew")
    unknown = [label for label in part.classes or () if label >= own]
    if unknown:
        raise InputError(f"{place}.classes: {unknown[0]}, and its set has {own} classes; allowed: 0 to {own - 1}")
    rows = found.first_rows(part.shots, part.classes)
    if not rows:
        raise InputError(f"{place}: its set has no sample of classes {part.classes}; take others")
    taken = found if len(rows) == len(found) else found.of_rows(rows)
    if found.steps and taken is not found:
        taken = replace(taken, learning_rates=found.learning_rates, batch_order=_kept(found, rows, place))
    if part.repeat > 1:
        taken = taken.of_rows(list(range(len(taken))) * part.repeat)
    labels = F.pad(taken.labels, (columns.start, C - columns.stop))
    return replace(taken, labels=labels, label_ids=taken.label_ids + columns.start)


def _kept(found: DistilledSet, rows: Sequence[int], place: str) -> Tensor:
    """[T, batch] the samples of every step that are among ``rows``, by their new numbers."""
    assert found.batch_order is not None
    number = {row: at for at, row in enumerate(rows)}
    steps = [[number[row] for row in step if row in number] for step in found.batch_order.tolist()]
    if not all(steps):
        raise InputError(f"{place}: a step of its set sees none of the samples that are taken; take more of them")
    return _stacked([torch.tensor([step]) for step in steps], -1)


def _check_alike(place: str, part: DistilledSet, first: DistilledSet) -> None:
    """Refuses samples of other shapes, or learned from in another way, than those of the first part."""
    for name in ("inputs_embeds", "attention_labels"):
        shapes = [
            None if tensor is None else list(tensor.shape[1:]) for tensor in (vars(part)[name], vars(first)[name])
        ]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"{place}: its {name} are {shapes[0]} each, those of the first part {shapes[1]}; take sets of one shape"
            )
    if part.recipe != first.recipe:
        raise InputError(
            f"{place}: students learn from it by {part.recipe}, from the first part by {first.recipe}; take sets with "
            f"one recipe"
        )
    if part.recipe.order != "fixed":
        raise InputError(f"{place}: its steps draw their samples at random; take sets with order: fixed")


def _in_turn(parts: Sequence[DistilledSet], phases: Sequence[int]) -> dict[str, Tensor]:
    """Step sizes and rows of all steps: phase after phase, within one the first step of each part, then the second."""
    starts = torch.tensor([0, *(len(part) for part in parts)]).cumsum(0).tolist()
    steps: list[tuple[tuple[int, int, int], Tensor, Tensor]] = []
    for number, part in enumerate(parts):
        assert part.learning_rates is not None
        assert part.batch_order is not None
        for step, (rate, rows) in enumerate(zip(part.learning_rates, part.batch_order, strict=True)):
            moved = torch.where(rows >= 0, rows + starts[number], rows)
            steps.append(((phases[number], step, number), rate, moved[None]))
    steps.sort(key=lambda each: each[0])
    order = _stacked([rows for _, _, rows in steps], -1)
    return {"learning_rates": torch.stack([rate for _, rate, _ in steps]), "batch_order": order}


def _phases(parts: Sequence[DistilledSet], phases: Sequence[int]) -> Tensor:
    return torch.cat([torch.full((len(part),), phase) for part, phase in zip(parts, phases, strict=True)])


def _joined(name: str, parts: Sequence[DistilledSet]) -> Tensor | None:
    """A tensor of all parts, one after the other, padded to the widest.

    Sets without segment ids get zeros beside those that have some, which is what encoders take none for.
    """
    tensors = [getattr(part, name) for part in parts]
    if all(tensor is None for tensor in tensors):
        return None
    if name == "token_type_ids":
        zeros = [torch.zeros_like(part.token_ids) for part in parts if part.token_ids is not None]
        tensors = [zero if tensor is None else tensor for zero, tensor in zip(zeros, tensors, strict=True)]
    return _stacked(tensors, _PADDING[name]) if name in _PADDING else torch.cat(tensors)


def _stacked(tensors: Sequence[Tensor], padding: int) -> Tensor:
    """[rows of all, the widest] of tensors [rows, width]."""
    widest = max(tensor.shape[1] for tensor in tensors)
    return torch.cat([F.pad(tensor, (0, widest - tensor.shape[1]), value=padding) for tensor in tensors])


def _facts(part: Part, taken: DistilledSet) -> dict[str, Any]:
    """Where samples are from; plain JSON values."""
    return {
        "task": part.of.source.task.name,
        "method": part.of.method.name,
        "seed": part.of.seed,
        "samples": len(taken),
        "phase": part.phase,
        "selection": taken.about["selection"],
    }

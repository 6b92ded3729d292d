"""Sets put together of others: of several tasks, of old and new data, of what is kept and what replaces the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import Composed, Part
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet, load
from pipeline.distilled.selection import selected_on
from pipeline.distilled.text import texts
from pipeline.errors import InputError

_PADDING = {"token_ids": -1, "token_type_ids": 0}


def compose(method: Composed, prepared: Prepared, folders: Sequence[Path]) -> DistilledSet:
    """The parts as one set, in their order; samples, soft labels and step sizes stay what they are.

    ``about["composed"]`` has of each part its task, how many samples it gave, and how it was selected;
    ``about["selection"]`` the split that says most of the whole, see
    :func:`~pipeline.distilled.selection.selected_on`.

    Args:
        method: which parts, and what of them.
        prepared: the task whose classes the set has; of joined tasks each part's stand where that task's do.
        folders: of the cells that made the parts.

    Raises:
        InputError: a part has no such classes, nothing is left of it, or parts cannot be learned from together.

    """
    whole = [load(folder / "distilled.h5") for folder in folders]
    parts = [
        _taken(found, part, prepared, f"parts.{number}")
        for number, (part, found) in enumerate(zip(method.parts, whole, strict=True))
    ]
    first = parts[0]
    for number, part in enumerate(parts):
        _check_alike(f"parts.{number}", part, first)
    phases = [part.phase for part in method.parts]
    steps = _steps(parts, [_sizes(found) for found in whole], phases) if first.steps else {}
    names = ("inputs_embeds", "attention_labels", "token_ids", "token_type_ids")
    optional: dict[str, Any] = {name: _joined(name, parts) for name in names}
    made_of = [_facts(part, one) for part, one in zip(method.parts, parts, strict=True)]
    return DistilledSet(
        labels=torch.cat([part.labels for part in parts]),
        label_ids=torch.cat([part.label_ids for part in parts]),
        recipe=first.recipe,
        phases=_phases(parts, phases) if max(phases) > 1 else None,
        about={"composed": made_of, "selection": {"split": selected_on({"composed": made_of})}}
        | _words(method, parts, prepared),
        **optional,
        **steps,
    )


def _words(method: Composed, parts: Sequence[DistilledSet], prepared: Prepared) -> dict[str, Any]:
    """What other encoders are given in place of decoded tokens: the parts' texts as written, or their training rows."""
    if any("texts" in part.about for part in parts):
        return {"texts": [list(text) for part in parts for text in texts(part, prepared.tokenizer)]}
    sources = {part.of.source.model_dump_json(): part.of.source.task.name for part in method.parts}
    if all("chosen" in part.about for part in parts) and list(sources.values()) == [prepared.manifest["task"]]:
        return {"chosen": {"rows": [row for part in parts for row in part.about["chosen"]["rows"]]}}
    return {}


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
    return _padded([torch.tensor([step]) for step in steps], -1)


def _sizes(found: DistilledSet) -> list[int]:
    assert found.batch_order is not None
    return (found.batch_order >= 0).sum(dim=1).tolist()


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
    if part.batch_weights is not None or part.phases is not None:
        raise InputError(f"{place}: is composed in phases or of steps itself; name its own parts instead")
    if part.recipe.order != "fixed":
        raise InputError(f"{place}: its steps draw their samples at random; take sets with order: fixed")


class _Step(NamedTuple):
    """One inner step: its samples, and how far each of them moves a student, its step size over its step's size."""

    rows: list[int]
    moves: list[float]


def _steps(parts: Sequence[DistilledSet], sizes: Sequence[Sequence[int]], phases: Sequence[int]) -> dict[str, Tensor]:
    """The inner steps: phase after phase, in each the first steps of its parts as one, then their second ones, …

    Every sample moves the student as far as in its own set, η_k / m_k times the gradient of its loss. A step of m
    samples with the step size η = Σ_i η_k(i) / m_k(i) does that with weights m · (η_k / m_k) / η, whose mean is 1.

    Args:
        parts: what is taken of each.
        sizes: m_k: how many samples each step of the whole set has.
        phases: of each part.

    """
    together: dict[tuple[int, int], _Step] = {}
    first = 0
    for part, of_steps, phase in zip(parts, sizes, phases, strict=True):
        assert part.learning_rates is not None
        assert part.batch_order is not None
        each = zip(part.learning_rates.tolist(), part.batch_order.tolist(), of_steps, strict=True)
        for number, (rate, rows, size) in enumerate(each):
            step = together.setdefault((phase, number), _Step([], []))
            own = [first + row for row in rows if row >= 0]
            step.rows.extend(own)
            step.moves.extend([rate / size] * len(own))
        first += len(part)
    steps = [together[key] for key in sorted(together)]
    weights = [[len(step.rows) * move / sum(step.moves) for move in step.moves] for step in steps]
    return {
        "learning_rates": torch.tensor([sum(step.moves) for step in steps]),
        "batch_order": _padded([torch.tensor([step.rows]) for step in steps], -1),
        "batch_weights": _padded([torch.tensor([found]) for found in weights], 0),
    }


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
    return _padded(tensors, _PADDING[name]) if name in _PADDING else torch.cat(tensors)


def _padded(tensors: Sequence[Tensor], padding: int) -> Tensor:
    """[rows of all, the widest] of tensors [rows, width]."""
    widest = max(tensor.shape[1] for tensor in tensors)
    return torch.cat([F.pad(tensor, (0, widest - tensor.shape[1]), value=padding) for tensor in tensors])


def _facts(part: Part, taken: DistilledSet) -> dict[str, Any]:
    """Where samples are from; plain JSON values."""
    of_parts = {"composed": taken.about["composed"]} if "composed" in taken.about else {}
    return {
        "task": part.of.source.task.name,
        "method": part.of.method.name,
        "seed": part.of.seed,
        "samples": len(taken),
        "phase": part.phase,
        "selection": taken.about.get("selection", {"split": "none"}),
        **of_parts,
    }

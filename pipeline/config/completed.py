"""The sections of an experiment -> one cell: what configs inside configs leave out, and distillation seeds.

``distill.parent`` is a section like ``distill``, with a ``source`` of its own of which only what differs from
``prepare`` is written (``{model: gpt2}``); it inherits ``runtime``, and ``seed`` unless it names one. ``evaluate.data``
is what differs from ``prepare``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.config.methods import Distill
from pipeline.config.protocols import Evaluate

Raw = dict[str, Any]


def cells_of(raw: Mapping[str, Any], seeds: int | list[int] | None) -> Iterable[Evaluate]:
    """The cell of raw sections, with each of its distillation seeds.

    Parents are made anew with the child, unless they name their seed or do not depend on it.

    Raises:
        ValidationError: the sections are no cell.

    """
    cell, given = Evaluate.model_validate(completed(raw)), raw["distill"]
    if seeds is None or not _follows(cell.source, given):
        return [cell]
    first = cell.source.seed
    found = range(first, first + seeds) if isinstance(seeds, int) else seeds
    return [cell.model_copy(update={"source": _reseeded(cell.source, given, seed)}) for seed in found]


def completed(raw: Mapping[str, Any]) -> Raw:
    """The config of stage 3, as nested mappings, of the sections ``prepare``, ``distill`` and ``evaluate``."""
    prepare, distill, evaluate = raw["prepare"], raw["distill"], raw["evaluate"]
    whole = {**evaluate, "source": _with_parent({**distill, "source": prepare}, prepare)}
    return whole | ({"data": merged(prepare, evaluate["data"])} if isinstance(evaluate.get("data"), dict) else {})


def merged(old: Any, new: Any) -> Any:
    """``new``, with what a mapping leaves out taken from ``old``, unless it names another ``name`` or ``kind``."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return copy.deepcopy(new)
    if any(tag in new and new[tag] != old.get(tag) for tag in ("name", "kind")):
        return copy.deepcopy(new)
    return {key: merged(old.get(key), new[key]) if key in new else old[key] for key in {**old, **new}}


def told_once(found: Iterable[str]) -> dict[str, None]:
    """Sentences without those about what was written in ``prepare`` and only completed other configs."""
    sentences = dict.fromkeys(found)
    return {one: None for one in sentences if (at := _as_of_prepare(one)) == one or at not in sentences}


def _as_of_prepare(sentence: str) -> str:
    place, _, rest = sentence.partition(".source." if sentence.startswith("distill.parent.") else "evaluate.data.")
    inside = sentence.startswith("evaluate.data.") or set(place.split(".")[1:]) == {"parent"}
    return f"prepare.{rest}" if rest and inside else sentence


def _with_parent(distill: Raw, prepare: Any) -> Raw:
    given = distill.get("parent")
    if not isinstance(given, dict):
        return distill
    inherited = {key: distill[key] for key in ("seed", "runtime") if key in distill}
    source = merged(prepare, given.get("source", {}))
    return distill | {"parent": _with_parent(merged(inherited, given) | {"source": source}, prepare)}


def _follows(config: Distill, given: Mapping[str, Any]) -> bool:
    """Whether another seed makes another set of a config, of which ``given`` is what was written."""
    return config.method.is_drawn or _parent_follows(config, given)


def _parent_follows(config: Distill, given: Mapping[str, Any]) -> bool:
    parent = config.parent
    return parent is not None and "seed" not in given["parent"] and _follows(parent, given["parent"])


def _reseeded(config: Distill, given: Mapping[str, Any], seed: int) -> Distill:
    change: Raw = {"seed": seed}
    if config.parent is not None and _parent_follows(config, given):
        change["parent"] = _reseeded(config.parent, given["parent"], seed)
    return config.model_copy(update=change)

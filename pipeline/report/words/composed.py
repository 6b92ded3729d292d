"""What tables and cards call sets that are put together of others, and the splits of joined tasks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from pipeline.config import Composed, Evaluate, FineTune, FullData, GradientSteps, Part, Prepare
from pipeline.config.data import FileSource, JoinedSource, Task

if TYPE_CHECKING:
    from pipeline.distilled import DistilledSet
    from pipeline.report.row import Row


def composed_name(method: Composed, row_of: Callable[[Evaluate], Row]) -> str:
    """Such as ``sst2 SL, 1 shot + ag_news SL, 1 shot``; ``, then`` stands between phases.

    Args:
        method: what is put together.
        row_of: the row of a part by itself.

    """
    several = len({part.of.source.task.name for part in method.parts}) > 1
    named = [(part.phase, _part_name(part, row_of, several=several)) for part in method.parts]
    named.sort(key=lambda each: each[0])
    phases = [" + ".join(name for _, name in found) for _, found in groupby(named, key=lambda each: each[0])]
    return ", then ".join(phases)


def is_small(method: Composed) -> bool:
    """Whether no part is all of a task's rows."""
    return not any(isinstance(part.of.method, FullData) for part in method.parts)


def _part_name(part: Part, row_of: Callable[[Evaluate], Row], *, several: bool) -> str:
    made = part.of
    recipe = GradientSteps(name="ddal") if made.method.has_steps else FineTune(name="finetune")
    row = row_of(Evaluate(source=made, protocol=recipe))
    shots = row.shots if part.shots is None else part.shots
    words = [
        f"{made.source.task.name} {row.method}" if several else row.method,
        "" if shots is None else f"{shots} shot{'' if shots == 1 else 's'}",
        f"{row.steps} steps" if row.steps is not None and row.steps > 1 else "",
        "" if part.classes is None else f"classes {' '.join(map(str, part.classes))}",
    ]
    name = ", ".join(word for word in words if word)
    return name if part.repeat == 1 else f"{part.repeat} × ({name})"


def composition(method: Composed, distilled: DistilledSet) -> str:
    """What a card says of the parts."""
    found = [
        f"{facts['samples']} samples by `{facts['method']}` of {facts['task']} (seed {facts['seed']}"
        + (f", phase {facts['phase']})" if distilled.phases is not None else ")")
        for facts in distilled.about["composed"]
    ]
    turns = (
        "" if distilled.phases is None else " Students learn from one phase after another, each by the whole recipe."
    )
    steps = " In a phase the steps of its parts are taken as one." if method.has_steps else ""
    return f"Put together of {'; '.join(found)}.{turns}{steps}"


def published_split(prepare: Prepare, split: Literal["dev", "test"]) -> str | None:
    """The source's own name of a split, or None where it is carved from train; of joined tasks all of their names."""
    names = [_published(task, split) for task in prepare.task.parts or (prepare.task,)]
    return None if None in names else ", ".join(dict.fromkeys(name for name in names if name is not None))


def _published(task: Task, split: Literal["dev", "test"]) -> str | None:
    source = task.source
    assert not isinstance(source, JoinedSource)
    named: str | None = getattr(source if isinstance(source, FileSource) else source.splits, split)
    return named

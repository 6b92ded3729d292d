"""What to submit: arrays of cells, what each array waits for, and what is left alone and why.

Element i of an array of the stage ``evaluate`` may start when element i of an array of the stage ``distill`` has ended
well (SLURM's ``aftercorr``), so that a finished set is evaluated at once; likewise a set that starts from another one.
That holds only between arrays of the same indices: an element whose parent has no such index starts immediately. An
array that waits therefore *mirrors* its parent, index by index, and an index that has nothing to do is empty. Where
that would take more arrays than there are parents, and where there is one parent alone, the children of each are an
array that waits for that one element. Prepared data are few and read by many: for them an array waits as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline.config import Distill, Experiment
from pipeline.config.cluster import Cluster, Request
from pipeline.config.resources import written
from pipeline.launch.stages import StageName, graph, name_of, stage_of
from pipeline.store import Cell, Store
from pipeline.store.cells import State

T = TypeVar("T")
Element = tuple[Cell, ...]  # what one element of an array computes, one cell after the other


@dataclass(frozen=True)
class Place:
    """An element of an array: by the array's name in this submission, or by the job id of an earlier one."""

    array: str
    index: int


@dataclass(frozen=True)
class Earlier:
    """An array of an earlier submission that is not over: its job id and how many elements it has."""

    job: str
    size: int


@dataclass
class Array:
    """Elements that are submitted together.

    Attributes:
        name: unique in a submission.
        stage: of all its cells.
        request: what each element asks for.
        elements: by index; empty ones have nothing to do.
        mirrors: the array whose element i must have ended well before element i starts: a name or a job id.
        behind: the one element of that array which all of them wait for instead.
        after: jobs that must have ended, in whatever way, before any element starts.

    """

    name: str
    stage: StageName
    request: Request
    elements: list[Element]
    mirrors: str | None = None
    after: tuple[str, ...] = ()
    behind: int | None = None

    @property
    def cells(self) -> list[Cell]:
        """All cells of all elements."""
        return [cell for element in self.elements for cell in element]


@dataclass
class Plan:
    """The arrays of one submission in the order in which they can be submitted, and what is not submitted.

    Attributes:
        arrays: parents before children.
        done: cells found done, per stage.
        live: cells that jobs of earlier submissions have, per stage.
        left: cell -> why it is not submitted.
        sizes: array -> elements, also of earlier submissions' arrays that are waited for.

    """

    arrays: list[Array] = field(default_factory=list)
    done: dict[StageName, int] = field(default_factory=dict)
    live: dict[StageName, int] = field(default_factory=dict)
    left: dict[Cell, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text()

    def text(self, requests: bool = True) -> str:
        """A line per array, with what each element asks for where ``requests``; then what is not submitted."""
        lines = []
        for array in self.arrays:
            one = "" if array.behind is None else f"[{array.behind}]"
            waits = f", behind {array.mirrors}{one}" if array.mirrors else ""
            waits += "".join(f", after {name}" for name in array.after)
            asked = " ".join(written(option, value) for option, value in array.request.resources().items())
            jobs = f"{len(array.elements)} job{'s' if len(array.elements) > 1 else ''}"
            lines.append(f"{array.name}: {len(array.cells)} cells in {jobs}{waits}" + f": {asked}" * requests)
        counts = [f"{stage}: {n} done" for stage, n in self.done.items() if n]
        counts += [f"{stage}: {n} in the queue" for stage, n in self.live.items() if n]
        lines += [", ".join(counts)] if counts else []
        lines += [f"left alone: {name_of(cell)}: {why}" for cell, why in self.left.items()]
        return "\n".join(lines) or "nothing to submit"

    def of(self, stage: StageName) -> list[Array]:
        """The arrays of one stage."""
        return [array for array in self.arrays if array.stage == stage]


@dataclass(frozen=True)
class Live:
    """What jobs of earlier submissions have: cell folder -> place, and the arrays that places are in."""

    places: Mapping[str, Place] = field(default_factory=dict)
    arrays: Mapping[str, Earlier] = field(default_factory=dict)


def plan(
    experiment: Experiment,
    store: Store,
    cluster: Cluster,
    live: Live,
    *,
    stages: Sequence[StageName] = ("prepare", "distill", "evaluate"),
    limit: int | None = None,
) -> Plan:
    """Every cell that is neither done, nor in a job, nor given up, in an array.

    Args:
        experiment: with hub revisions resolved.
        store: where the artifacts are.
        cluster: what elements ask for, and after how many equal failures a cell is left alone.
        live: jobs of earlier submissions.
        stages: those that become jobs.
        limit: elements that an array can have at most.

    """
    maker = _Maker(experiment, store, cluster, live, limit)
    for stage in stages:
        maker.add(stage)
    return maker.plan


class _Maker:
    def __init__(self, experiment: Experiment, store: Store, cluster: Cluster, live: Live, limit: int | None) -> None:
        self.cluster, self.live, self.limit = cluster, live, limit
        self.plan = Plan()
        self._at: dict[str, Place] = dict(live.places)
        self._nodes = graph(experiment, store)
        self._states: dict[str, State] = {}

    def add(self, stage: StageName) -> None:
        """The arrays of one stage, after those of the stage before: level by level, parents first."""
        names = [name for name, node in self._nodes.items() if stage_of(node.cell.config) == stage]
        left = dict.fromkeys(name for name in names if not self._done(name))
        self.plan.done[stage], self.plan.live[stage] = len(names) - len(left), 0
        while left:
            level = [name for name in left if not any(one in left for one in self._nodes[name].inputs)]
            self._add(stage, list(self._open(stage, level)))
            for name in level:
                del left[name]

    def _add(self, stage: StageName, cells: Sequence[Cell]) -> None:
        """The arrays of cells that do not wait for one another."""
        free: dict[tuple[Request, tuple[str, ...]], list[Cell]] = {}
        waiting: dict[tuple[str, Request, tuple[str, ...]], dict[int, list[Cell]]] = {}
        for cell in cells:
            parent, after = self._waits(cell)
            request = self.cluster.request(cell.config, stage, cell.failures())
            if parent is None:
                free.setdefault((request, after), []).append(cell)
            else:
                waiting.setdefault((parent.array, request, after), {}).setdefault(parent.index, []).append(cell)
        for (request, after), found in free.items():
            elements = [tuple(group) for group in _parts(found, request.cells_per_job)]
            for part in _parts(elements, self.limit or len(elements)):
                self._put(Array("", stage, request, list(part), after=after))
        for (parent_name, request, after), by_index in waiting.items():
            each = request.cells_per_job
            groups = {index: [tuple(one) for one in _parts(cells, each)] for index, cells in by_index.items()}
            layers = max(map(len, groups.values()))
            size = self._size(parent_name)
            if layers > len(groups) or len(groups) == 1 < size:
                for index, elements in groups.items():
                    for part in _parts(elements, self.limit or len(elements)):
                        self._put(Array("", stage, request, list(part), parent_name, after, behind=index))
                continue
            for layer in range(layers):
                of_layer = (groups.get(index, [])[layer : layer + 1] for index in range(size))
                self._put(Array("", stage, request, [one[0] if one else () for one in of_layer], parent_name, after))

    def _open(self, stage: StageName, names: Iterable[str]) -> Iterator[Cell]:
        """The cells that have to be submitted; the others are counted or named in the plan."""
        for name in names:
            cell = self._nodes[name].cell
            if name in self.live.places:
                self.plan.live[stage] += 1
            elif (why := self._obstacle(name)) is not None:
                self.plan.left[cell] = why
            else:
                yield cell

    def _done(self, name: str) -> bool:
        if name not in self._states:
            self._states[name] = self._nodes[name].cell.state
        return self._states[name] == "done"

    def _obstacle(self, name: str) -> str | None:
        cell = self._nodes[name].cell
        if (who := cell.holder()) is not None:
            return f"{who} is at it"
        if cell.exhausted(self.cluster.attempts):
            return f"failed {self.cluster.attempts} times in the same way: {cell.failure()}"
        for one in reversed(self._nodes[name].inputs):  # a set first: what that waits for is said of it
            if not self._done(one) and one not in self._at:
                return f"waits for {one}, which is {self._states[one]} and not submitted"
        return None

    def _waits(self, cell: Cell) -> tuple[Place | None, tuple[str, ...]]:
        """The element that makes the set which ``cell`` reads, and the arrays of other inputs, where not there yet.

        Of the several sets that one is composed of, the first; for those of the others it waits as for data.
        """
        missing = [name for name in self._nodes[name_of(cell)].inputs if not self._done(name)]
        sets = [name for name in missing if isinstance(self._nodes[name].cell.config, Distill)]
        theirs = {name for one in sets for name in self._upstream(one)}  # which are there before the set is
        others = [name for name in missing if name not in sets[:1] and name not in theirs]
        return self._at[sets[0]] if sets else None, tuple(dict.fromkeys(self._at[name].array for name in others))

    def _upstream(self, name: str) -> Iterator[str]:
        for one in self._nodes[name].inputs:
            yield one
            yield from self._upstream(one)

    def _size(self, name: str) -> int:
        if name in self.live.arrays:
            self.plan.sizes[name] = self.live.arrays[name].size
        return self.plan.sizes[name]

    def _put(self, array: Array) -> None:
        array.name = f"{array.stage}-{len(self.plan.of(array.stage))}"
        for index, element in enumerate(array.elements):
            self._at |= {name_of(cell): Place(array.name, index) for cell in element}
        self.plan.arrays.append(array)
        self.plan.sizes[array.name] = len(array.elements)


def _parts(things: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """``things`` in runs of ``size``, the last one shorter."""
    return (things[start : start + size] for start in range(0, len(things), max(1, size)))

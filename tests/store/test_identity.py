"""What moves an address and what does not."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from pipeline.config import DDAL, Distill, Evaluate, FullData, Majority, Outer, Prepare, RandomReal
from pipeline.config.schema import Frozen, canonical, introduced_value
from pipeline.errors import InputError
from pipeline.store import Store

Make = Callable[..., Evaluate]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A whole config over a real local file and a model folder."""
    (tmp_path / "data.csv").write_text("text,label\na,0\nb,1\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")

    def make(
        prepare: dict[str, Any] | None = None,
        method: dict[str, Any] | None = None,
        distill: dict[str, Any] | None = None,
        evaluate: dict[str, Any] | None = None,
    ) -> Evaluate:
        task = {"name": "mine", "source": {"kind": "files", "train": str(tmp_path / "data.csv")}, "text": ["text"]}
        first = {"task": task, "model": str(tmp_path / "model")} | (prepare or {})
        second = {"source": first, "method": {"name": "ddal"} | (method or {})} | (distill or {})
        return Evaluate.model_validate({"source": second, "protocol": {"name": "ddal"}} | (evaluate or {}))

    return make


def test_an_address_is_stage_slug_and_eight_hex_digits(store: Store, make: Make) -> None:
    config = make()
    cell = store.cell(config.source)
    assert cell.folder.parent == store.root / "distill"
    slug, _, digits = cell.folder.name.rpartition("-")
    assert slug == "mine.model.ddal-hard-none.1shot.1step.seed42"
    assert digits == cell.digest[:8]
    assert len(digits) == 8
    assert not store.root.exists()


def test_revisions_and_names_are_always_part_of_it(store: Store, make: Make) -> None:
    whole = store.identity(make())["config"]
    assert whole["revision"] == whole["source"]["revision"] == whole["source"]["source"]["revision"] == 1
    assert whole["protocol"] == {"name": "ddal", "revision": 2}
    assert whole["source"]["method"] == {"name": "ddal", "revision": 1}


def test_writing_a_default_out_moves_nothing(store: Store, make: Make) -> None:
    written = make(
        {"dev": 0.1, "seed": 42, "max_length": None},
        {"shots": 1, "outer": {"lr": 0.01, "epochs": 30, "loss": "cross_entropy"}, "validation": {}},
        {"seed": 42},
        {"initialisations": 100, "splits": ["dev", "test"]},
    )
    assert store.cell(written).digest == store.cell(make()).digest


def test_runtime_moves_nothing(store: Store, make: Make) -> None:
    other = make(
        distill={"runtime": {"device": "cuda:3", "threads": 7, "save_seconds": 1}}, evaluate={"runtime": {"threads": 2}}
    )
    assert store.cell(other).folder == store.cell(make()).folder
    assert store.cell(other.source).folder == store.cell(make().source).folder
    assert "runtime" not in str(store.identity(other))


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("prepare", {"seed": 1}),
    ("prepare", {"dev": 0.2}),
    ("prepare", {"test": 0.2}),
    ("prepare", {"max_length": 9}),
    ("prepare", {"revision": 2}),
    ("method", {"shots": 2, "steps": 2}),
    ("method", {"steps": 2}),
    ("method", {"outer": {"lr": 0.5}}),
    ("method", {"outer": {"bucket_by_length": True}}),
    ("method", {"outer": {"sampling": "balanced"}}),
    ("method", {"outer": {"loss": "class_weights"}}),
    ("method", {"outer": {"loss": {"name": "class_weights", "beta": 0.9}}}),
    ("method", {"outer": {"loss": "logit_adjustment"}}),
    ("method", {"validation": {"by": "mcc"}}),
    ("method", {"budget": "prior"}),
    ("method", {"validation": {"split": "test"}}),
    ("method", {"revision": 2}),
    ("distill", {"seed": 1}),
    ("distill", {"revision": 2}),
    ("evaluate", {"seed": 1}),
    ("evaluate", {"initialisations": 3}),
    ("evaluate", {"splits": ["test"]}),
    ("evaluate", {"protocol": {"name": "finetune"}}),
    ("evaluate", {"protocol": {"name": "ddal", "revision": 1}}),
]


def test_every_changed_value_is_an_address_of_its_own(store: Store, make: Make) -> None:
    digests = [store.cell(make()).digest, *(store.cell(make(**{part: change})).digest for part, change in CHANGES)]
    assert len(set(digests)) == len(CHANGES) + 1


@pytest.mark.parametrize(("part", "change"), CHANGES)
def test_a_change_moves_its_own_stage_and_the_later_ones(
    store: Store, make: Make, part: str, change: dict[str, Any]
) -> None:
    def addresses(config: Evaluate) -> list[str]:
        return [store.cell(stage).digest for stage in (config.source.source, config.source, config)]

    first = {"prepare": 0, "method": 1, "distill": 1, "evaluate": 2}[part]
    moved = [old != new for old, new in zip(addresses(make()), addresses(make(**{part: change})), strict=True)]
    assert moved == [stage >= first for stage in range(3)]


def test_methods_never_collide(store: Store, make: Make) -> None:
    methods = [DDAL(name="ddal"), RandomReal(name="random"), FullData(name="full"), Majority(name="majority")]
    configs = [make().source.model_copy(update={"method": method}) for method in methods]
    assert len({store.cell(config).digest for config in configs}) == len(methods)


OUTER = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.integers(1, 3),
        "lr": st.sampled_from([0.01, 0.1]),
        "optimizer": st.sampled_from(["adamw", "sgd"]),
    },
)
METHODS = st.one_of(
    st.fixed_dictionaries(
        {"name": st.just("ddal")},
        optional={"steps": st.integers(1, 2), "labels": st.sampled_from(["hard", "soft"]), "outer": OUTER},
    ),
    st.fixed_dictionaries({"name": st.sampled_from(["random"])}, optional={"shots": st.integers(1, 2)}),
    st.fixed_dictionaries({"name": st.sampled_from(["full", "majority"])}),
)
TASK = {"name": "t", "source": {"kind": "hub", "id": "a/b"}, "text": ["x"]}


@settings(max_examples=150, deadline=None)
@given(methods=st.lists(METHODS, min_size=2, max_size=6), seeds=st.lists(st.integers(0, 1), min_size=6, max_size=6))
def test_equal_addresses_are_equal_configs(methods: list[dict[str, Any]], seeds: list[int]) -> None:
    store = Store("/nonexistent")
    configs = [
        Distill.model_validate({"source": {"task": TASK, "model": "a/b"}, "method": method, "seed": seed})
        for method, seed in zip(methods, seeds, strict=False)
    ]
    for one, other in itertools.combinations(configs, 2):
        assert (store.cell(one).digest == store.cell(other).digest) == (one == other)


# --- new fields ----------------------------------------------------------------------------------------------------


class OuterLater(Outer):
    """The outer loop of a later version, with a new field."""

    momentum: float = 0.9


class DDALLater(DDAL):
    """The method of a later version."""

    outer: OuterLater = OuterLater()
    ensemble: int = 1


class PrepareLater(Prepare):
    """Stage 1 of a later version."""

    lowercase: bool = False


def test_a_new_field_with_a_default_moves_no_address(make: Make) -> None:
    for given_values in ({}, {"outer": {"lr": 0.5}}, {"shots": 2, "steps": 2}):
        now = DDAL.model_validate({"name": "ddal", **given_values})
        later = DDALLater.model_validate({"name": "ddal", **given_values})
        assert canonical(later) == canonical(now)
    assert canonical(DDALLater(name="ddal", ensemble=2)) != canonical(DDAL(name="ddal"))
    old = make().source.source
    assert canonical(PrepareLater.model_validate(old.model_dump())) == canonical(old)


# --- references ----------------------------------------------------------------------------------------------------


def test_files_count_by_their_content(store: Store, make: Make, tmp_path: Path) -> None:
    def at(path: Path) -> str:
        task = {"name": "mine", "source": {"kind": "files", "train": str(path)}, "text": ["text"]}
        return store.cell(make({"task": task})).digest

    here = at(tmp_path / "data.csv")
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.copy(tmp_path / "data.csv", tmp_path / "elsewhere" / "other.csv")
    assert at(moved) == here
    moved.write_text("text,label\na,0\nb,1\nc,1\n")
    assert at(moved) != here
    moved.write_text("text,label\na,0\nb,1\n")
    assert at(moved) == here
    # The same size, another content: seen by its time of change, also by a new process.
    before = moved.stat()
    moved.write_text("text,label\na,0\nb,2\n")
    os.utime(moved, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert at(moved) != here
    store.places = Store(store.root).places
    assert at(moved) != here


def test_digests_are_remembered_where_there_is_a_store(
    store: Store, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.root.mkdir()
    first = store.cell(make()).digest

    def read_again(*_: object) -> None:
        raise AssertionError("read a file whose digest was known")

    monkeypatch.setattr("pipeline.store.places.hashlib.file_digest", read_again)
    again = Store(store.root)
    assert again.cell(make()).digest == first
    (tmp_path / "data.csv").write_text("text,label\nz,0\n")
    with pytest.raises(AssertionError, match="was known"):
        again.cell(make())


def test_the_same_file_as_another_split_is_another_dataset(store: Store, make: Make, tmp_path: Path) -> None:
    data = str(tmp_path / "data.csv")
    sources = [{"kind": "files", "train": data, split: data} for split in ("dev", "test")]
    tasks = [{"name": "mine", "source": source, "text": ["text"]} for source in sources]
    assert len({store.cell(make({"task": task})).digest for task in tasks}) == 2


def test_model_folders_count_by_their_content(store: Store, make: Make, tmp_path: Path) -> None:
    def at(path: Path, **more: Any) -> str:
        return store.cell(make({"model": {"name": str(path), **more}})).digest

    here = at(tmp_path / "model")
    moved = shutil.copytree(tmp_path / "model", tmp_path / "copy" / "model")
    assert at(moved) == here
    assert at(moved, pretrained=False) != here
    (moved / "weights").write_text("w")
    assert at(moved) != here
    (moved / "weights").rename(moved / "config.txt")
    (tmp_path / "model" / "weights").write_text("w")
    assert at(moved) != at(tmp_path / "model"), "the names of files count too"


def test_a_packaged_file_counts_by_its_content(store: Store, make: Make, tmp_path: Path) -> None:
    import yaml

    copy = shutil.copy(Path(yaml.__file__), tmp_path / "x.py")
    names = ["package:yaml/__init__.py", str(copy)]
    tasks = [{"name": "mine", "source": {"kind": "files", "train": name}, "text": ["text"]} for name in names]
    assert len({store.cell(make({"task": task})).digest for task in tasks}) == 1


def test_hub_ids_count_with_their_recorded_revision(store: Store, make: Make) -> None:
    def at(**more: Any) -> str:
        return store.cell(make({"task": TASK, "model": {"name": "a/b", **more}})).digest

    unresolved = at()
    store.places.record("model", "a/b", None, "1" * 40)
    recorded = at()
    assert recorded != unresolved
    assert at(revision="1" * 40) == recorded, "pinned by hand or by the record: the same commit"
    assert at(revision="2" * 40) != recorded
    store.places.record("model", "a/b", "v1.0", "2" * 40)
    assert at(revision="v1.0") == at(revision="2" * 40)
    store.places.record("dataset", "a/b", None, "3" * 40)
    assert at() != recorded, "a dataset of the same name is another repository"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./nowhere", [f"./nowhere: no such file or folder, seen from {Path.cwd()};", "package:NAME/path", "hub id"]),
        ("/nowhere/model", ["/nowhere/model: no such file or folder;"]),
        ("~/nowhere-at-all", ["~/nowhere-at-all: no such file or folder"]),
        ("a/b/c", ["a/b/c: no such file or folder"]),
        ("package:no_such_thing/x", ["package 'no_such_thing' is not installed", "pip install no-such-thing"]),
        ("package:yaml/x", ["package:yaml/x: no such file or folder"]),
    ],
)
def test_models_that_are_not_there(store: Store, make: Make, name: str, words: list[str]) -> None:
    with pytest.raises(InputError) as refusal:
        store.cell(make({"model": name}))
    for word in words:
        assert word in str(refusal.value)
    assert not store.root.exists()


def test_introduced_values() -> None:
    class Changed(Frozen):
        one: int = 1
        two: int = Field(2, json_schema_extra={"introduced": 20})

    assert [introduced_value(field) for field in Changed.model_fields.values()] == [1, 20]
